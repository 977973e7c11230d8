"""What can be scored, by what names it: images on disk, statistics of images, a run's generator."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from nacgen.data.image_sets import FolderImages, ImageSet, holds_statistics, open_images
from nacgen.errors import ConfigurationError, DataNotFoundError
from nacgen.models.folder import CONFIG_FILE
from nacgen.models.gan import Generator
from nacgen.models.sampling import sample_images
from nacgen.system.documents import read_yaml

GENERATOR = "generator"


@dataclass(frozen=True, eq=False)
class RunImages:
    """Images of a run's averaged generator, image `i` from seed `i`: those that the run was scored on.

    Args:
        name: The run's folder.
        generator: In evaluation mode, on its device.
        num_samples: How many are asked for.
        split: Which weights made them.
    """

    name: str
    generator: Generator
    num_samples: int
    split: str = "ema"

    def __len__(self) -> int:
        """Number of images."""
        return self.num_samples

    def read(self, indices: Int64[Tensor, " b"]) -> UInt8[Tensor, "b 3 h w"]:
        """Make some images.

        Args:
            indices: Which; any number, zero or above.

        Returns:
            Pixels, on the generator's device.
        """
        return sample_images(self.generator, indices, self.generator.first.weight.device)


def find_images(
    source: str,
    *,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    num_samples: int | None = None,
    device: torch.device | str = "cpu",
) -> ImageSet | Path:
    """Find images by what names them.

    Args:
        source: A run's folder, a folder of images, an `.npz` archive of images or of statistics, or a dataset's
            name and split, `"digits/test"` say.
        data_dir: As in `open_images`.
        image_size: As in `open_images`; runs make images of their own size.
        num_samples: As in `open_run`.
        device: Where runs make images.

    Returns:
        The images, or the path of an archive of statistics.

    Raises:
        ConfigurationError: As `open_images` and `open_run`.
        DataError: As `open_images` and `open_run`.
        CheckpointError: As `open_run`.
    """
    path = Path(source)
    if holds_statistics(path):
        return path
    if (path / "config.yaml").is_file():
        return open_run(path, num_samples, device)
    return open_images(source, data_dir=data_dir, image_size=image_size)


def describe(images: ImageSet | Path) -> Iterator[str]:
    """What a reader of the score should know of the images, line by line."""
    if isinstance(images, Path):
        yield f"{images}: statistics"
        return
    height, width = images.read(torch.arange(1)).shape[2:]
    yield f"{images.name}/{images.split}: {len(images)} images, {width}x{height} px"
    if isinstance(images, FolderImages):
        yield from images.notes


def open_run(
    path: Path, num_samples: int | None = None, device: torch.device | str = "cpu"
) -> RunImages:
    """Load the averaged generator of a run.

    Args:
        path: The run's folder.
        num_samples: How many images to make; absent, as many as the run itself is scored on.
        device: Where they are made.

    Returns:
        The images.

    Raises:
        ConfigurationError: `num_samples` is below two.
        DataNotFoundError: The run has no generator, or not yet.
        CheckpointError: The generator is damaged.
    """
    folder = path / GENERATOR
    if not (folder / CONFIG_FILE).is_file():
        raise DataNotFoundError(
            f"{path} is a run without a folder {GENERATOR}, which runs of a generator write when they are "
            "evaluated. Wait for the first evaluation, or give a run of recipes/train_gan.py."
        )
    if num_samples is None:
        num_samples = read_yaml(path / "config.yaml").get("score", {}).get("num_samples", 2_000)
    if num_samples < 2:
        raise ConfigurationError(f"num_samples must be two or more, got {num_samples}.")
    return RunImages(str(path), Generator.from_pretrained(folder).to(device), num_samples)
