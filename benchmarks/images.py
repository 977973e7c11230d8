"""Image files: opening folders of small ones for the first and the second time, and decoding large ones.

Opening is finding the files, decoding them into memory, and the fingerprint by which a run knows them; the second
time pixels and fingerprint come from the cache. The peer is torchvision's `ImageFolder`, read into one tensor.
Large files are decoded, resized (bicubic) and cropped to 224 px as they are read, an epoch a turn, by as many
threads as the peer, a torch DataLoader, has worker processes. Pixels equal the peers' exactly.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

import page
from nacgen.data.datasets import Dataset, ImageDataset, load_dataset
from nacgen.data.decoders import Decoders
from nacgen.data.provenance import dataset_fingerprint
from nacgen.data.stream import ImageStream
from timing import Row, Size, agree, in_turns

SIDE, BATCH = 224, 32


@contextmanager
def pictures(n: int, size: tuple[int, int], suffix: str) -> Iterator[Path]:
    """A folder of so many noisy pictures in ten classes."""
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        for i in range(n):
            coarse = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
            noisy = pixels + draw.normal(0, 8, pixels.shape)
            path = Path(place, "images", f"class{i % 10}", f"{i:05d}.{suffix}")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        yield Path(place, "images")


def opening(size: Size) -> list[Row]:
    """Small files."""
    rows = []
    n = size.of(1100, 5000, 50_000)
    for suffix in ("png", "jpg"):
        with pictures(n, (32, 32), suffix) as folder:
            caches = (folder.parent / f"cache{i}" for i in count())
            filled = folder.parent / "cache"

            def theirs(folder: Path = folder) -> Tensor:
                files = ImageFolder(str(folder), transforms.PILToTensor())
                images = torch.empty(len(files), 3, 32, 32, dtype=torch.uint8)
                for i in range(len(files)):
                    images[i] = files[i][0]
                return images

            def ours(cache: Path = filled, folder: Path = folder) -> Dataset:
                dataset = load_dataset("folder", "train", folder, cache=cache)
                dataset_fingerprint(dataset)
                return dataset

            agreement = compared(theirs(), ours())
            compared(theirs(), ours())  # from the cache
            for when, work, limit in (
                ("first", lambda ours=ours, caches=caches: ours(next(caches)), None),
                ("second", ours, 1.0),
            ):
                row = in_turns(
                    f"{when} opening of {n:,} {suffix.upper()} files of 32 px",
                    "ImageFolder, read in a loop",
                    theirs,
                    work,
                    min(size.turns, 3),
                    agreement=agreement,
                )
                rows.append(replace(row, at_most=limit))
    return rows


def compared(theirs: Tensor, ours: Dataset) -> str:
    """A phrase for the table; images are in memory."""
    if not isinstance(ours, ImageDataset):
        raise SystemExit(f"images must fit into memory, got {type(ours).__name__}.")
    return agree(theirs, ours.images, 0, "pixels")


def large(size: Size) -> list[Row]:
    """Files that are decoded as they are read."""
    n = size.of(64, 320, 608)  # of whole batches
    with pictures(n, (500, 376), "jpg") as folder:
        dataset = load_dataset("folder", "train", folder, SIDE, max_bytes=0)
        # torchvision would round the width down.
        resize = transforms.Resize((SIDE, 298), transforms.InterpolationMode.BICUBIC)
        view = transforms.Compose([resize, transforms.CenterCrop(SIDE), transforms.PILToTensor()])
        files = ImageFolder(str(folder), view)
        loader = DataLoader(
            files, BATCH, shuffle=True, num_workers=Decoders.num_threads, persistent_workers=True
        )
        few = range(0, n, max(1, n // 16))
        agreement = agree(
            torch.stack([files[i][0] for i in few]), dataset.read(torch.tensor(few)), 0, "pixels"
        )

        def ours() -> None:
            stream = ImageStream(dataset, BATCH, seed=0)
            for position in range(0, n, BATCH):
                stream.batch(position)
            for ahead in stream._pending.values():  # or they would be ready in the next turn
                ahead.cancel()

        return [
            in_turns(
                f"decoding JPEG files of 500 x 376 to {SIDE} px in {Decoders.num_threads} threads",
                f"DataLoader, {Decoders.num_threads} workers",
                lambda: [images for images, _ in loader],
                ours,
                size.turns,
                agreement=agreement,
                items=(n, "images"),
                at_least=1.0,
            )
        ]


PARTS = {"opening": opening, "large": large}

if __name__ == "__main__":
    page.main(__doc__, __file__, PARTS, ("pillow", "torchvision"))
