"""Scores: Fréchet distance, Inception features, and two folders of PNG files from the command to the score.

Both sides work on the same images and the same weights (seeded ones: their values mean nothing, their cost is that
of the published).
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

import page
from nacgen.data.image_sets import open_folder
from nacgen.functional.frechet import frechet_distance
from nacgen.metrics import evaluate
from nacgen.metrics.extractors.inception import NAME, InceptionExtractor, build_inception
from timing import Row, Size, agree, in_turns, missing, noise


def time_frechet(size: Size) -> list[Row]:
    """Two Gaussians whose covariances have full rank, of 2,048 dimensions at full size."""
    d = size.of(64, 2048, 2048)
    what = f"Fréchet distance, {d:,} dimensions"
    if reason := missing("pytorch-fid"):
        return [Row(what=what, peer="pytorch-fid", skipped=reason)]
    from pytorch_fid.fid_score import calculate_frechet_distance

    def gaussian(seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(2 * d, d, generator=generator, dtype=torch.float64)
        rows = (rows * torch.linspace(0.1, 1, d, dtype=torch.float64)).clamp(min=0) + seed
        return rows.mean(dim=0), rows.mT.cov()

    moments = (*gaussian(0), *gaussian(1))
    arrays = [part.numpy() for part in moments]

    def theirs() -> Tensor:
        return torch.tensor(float(calculate_frechet_distance(*arrays)), dtype=torch.float64)

    def ours() -> Tensor:
        return torch.tensor(float(frechet_distance(*moments).value), dtype=torch.float64)

    there, here = theirs(), ours()
    agreement = agree(there / there, here / there, 1e-6, "relative values")
    return [
        in_turns(what, "pytorch-fid", theirs, ours, size.turns, agreement=agreement, at_least=5)
    ]


def time_features(size: Size) -> list[Row]:
    """Images of 32 px through the network, resize included; batches of 50 as pytorch-fid's default."""
    n = size.of(2, 20, 50)
    what = f"Inception features of {n} images"
    if reason := missing("pytorch-fid"):
        return [Row(what=what, peer="pytorch-fid", skipped=reason)]
    state = seeded_state()
    their_network = their_inception(state)
    network = build_inception()
    network.load_state_dict(state)
    extractor = InceptionExtractor(network, is_published=False)
    images = noise(n, 32)

    def theirs() -> Tensor:
        with torch.no_grad():
            parts = [their_network(part.float() / 255)[0].flatten(1) for part in images.split(50)]
        return torch.cat(parts)

    def ours() -> Tensor:
        return torch.cat([extractor(part).pooled for part in images.split(50)])

    there = theirs()
    agreement = f"{agree(there, ours(), 1e-4, 'features')} (deviation {there.std():.2g})"
    return [
        in_turns(
            what,
            "pytorch-fid",
            theirs,
            ours,
            size.turns,
            agreement=agreement,
            items=(n, "images"),
            at_least=1.3,
        )
    ]


def time_folders(size: Size) -> list[Row]:
    """Two folders of PNG files, start-up included."""
    n = size.of(2, 50, 100)
    what = f"two folders of {n} PNG files, end to end"
    if reason := missing("pytorch-fid"):
        return [Row(what=what, peer="pytorch-fid", skipped=reason)]
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        weights = room / "hub" / "checkpoints" / f"{NAME}.pth"
        weights.parent.mkdir(parents=True)
        torch.save(seeded_state(), weights)
        images = noise(2 * n, 32)
        smooth = torch.nn.functional.avg_pool2d(images[n:].float(), 3, 1, 1).to(torch.uint8)
        for folder, part in (("a", images[:n]), ("b", smooth)):
            (room / folder).mkdir()
            for i, image in enumerate(part):
                picture = Image.fromarray(rearrange(image, "c h w -> h w c").numpy())
                picture.save(room / folder / f"{i:05}.png")
        folders = [str(room / "a"), str(room / "b")]

        def started(*command: str) -> Tensor:
            environment = {**os.environ, "TORCH_HOME": str(room)}
            done = subprocess.run(
                [sys.executable, *command],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            found = re.search(r"FID:\s+(\S+)", done.stdout)
            if found is None:
                raise SystemExit(f"{command} gave no score:\n{done.stderr[-2000:]}")
            return torch.tensor(float(found[1]), dtype=torch.float64)

        def theirs() -> Tensor:
            return started("-m", "pytorch_fid", *folders, "--device", "cpu")

        def ours() -> Tensor:
            return started(__file__, "--score", str(weights), *folders)

        there, here = theirs(), ours()
        agreement = agree(there / there, here / there, 1e-3, "relative scores")
        turns = min(size.turns, 2)  # each takes half a minute
        return [in_turns(what, "pytorch-fid", theirs, ours, turns, agreement=agreement, at_least=2)]


def score_folders(weights: Path, reference: Path, generated: Path) -> float:
    """What recipes/evaluate_images.py does, but with weights that are not the published ones."""
    network = build_inception()
    network.load_state_dict(torch.load(weights, weights_only=True))
    extractor = InceptionExtractor(network, is_published=False)
    images = open_folder(generated)
    result = evaluate(
        images.read,
        open_folder(reference),
        extractor=extractor,
        num_samples=len(images),
        batch_size=100,
    )
    return result.scores[extractor.score_name].value


def seeded_state() -> dict[str, Tensor]:
    """Weights that keep features alive; freshly initialised ones give features near 1e-7."""
    generator = torch.Generator().manual_seed(0)
    network = build_inception()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
    return network.state_dict()


def their_inception(state: dict[str, Tensor]) -> nn.Module:
    """pytorch-fid's network with given weights in place of a download."""
    from pytorch_fid import inception

    download, inception.load_state_dict_from_url = (
        inception.load_state_dict_from_url,
        lambda *args, **options: state,
    )
    try:
        return inception.InceptionV3().eval()
    finally:
        inception.load_state_dict_from_url = download


PARTS = {"frechet": time_frechet, "features": time_features, "folders": time_folders}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--score"]:
        print(f"FID: {score_folders(*map(Path, sys.argv[2:]))}")
    else:
        page.main(__doc__, __file__, PARTS, ("pytorch-fid", "scipy", "numpy", "pillow"))
