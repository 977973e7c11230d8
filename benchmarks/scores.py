"""Time scores against pytorch-fid: Fréchet distance, Inception features, and two folders end to end.

    python benchmarks/scores.py --quick

Needs `pip install pytorch-fid "scipy<1.18"`. Both sides work in turns on the same images and the same weights
(seeded ones: their values mean nothing, their cost is that of the published). Values are compared before anything
is timed. Prints one table as Markdown; a ratio above 1 means that we are faster.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from nacgen.data.image_sets import open_folder
from nacgen.functional.frechet import frechet_distance
from nacgen.metrics import evaluate
from nacgen.metrics.inception import NAME, InceptionExtractor, build_inception

Work = Callable[[], float]


class Cost(NamedTuple):
    """Seconds on the clock, and seconds of processors over all threads and child processes."""

    wall: float
    cpu: float


class Row(NamedTuple):
    """One comparison: the costs of each side in the order of the turns, and how far their values differ."""

    name: str
    target: float
    theirs: list[Cost]
    ours: list[Cost]
    difference: str


def main() -> None:
    """Run what was asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1000, help="in each folder, end to end")
    parser.add_argument(
        "--features", type=int, default=100, help="images through Inception, a turn"
    )
    parser.add_argument("--repeats", type=int, default=3, help="turns of each side")
    parser.add_argument("--quick", action="store_true", help="100 images a folder, one turn")
    parser.add_argument("--only", choices=("frechet", "features", "folders"), help="one comparison")
    parser.add_argument("--score", nargs=3, metavar="PATH", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.score:
        print(f"FID: {score_folders(*map(Path, options.score))}")
        return
    if options.quick:
        options.images, options.features, options.repeats = 100, 20, 1
    comparisons = {
        "frechet": lambda: time_frechet(options.repeats),
        "features": lambda: time_features(options.features, options.repeats),
        "folders": lambda: time_folders(options.images, options.repeats),
    }
    print(table([run() for name, run in comparisons.items() if options.only in (None, name)]))


def time_frechet(repeats: int) -> Row:
    """Two Gaussians of 2,048 dimensions whose covariances have full rank."""
    from pytorch_fid.fid_score import calculate_frechet_distance

    def gaussian(seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(4096, 2048, generator=generator, dtype=torch.float64)
        rows = (rows * torch.linspace(0.1, 1, 2048, dtype=torch.float64)).clamp(min=0) + seed
        return rows.mean(dim=0), rows.mT.cov()

    moments = (*gaussian(0), *gaussian(1))
    arrays = [part.numpy() for part in moments]

    def theirs() -> float:
        return float(calculate_frechet_distance(*arrays))

    def ours() -> float:
        return float(frechet_distance(*moments).value)

    return in_turns("Fréchet distance, 2,048 dimensions", 5.0, theirs, ours, repeats, 1e-6)


def time_features(n: int, repeats: int) -> Row:
    """Images of 32 px through the network, resize included; batches of 50 as pytorch-fid's default."""
    state = seeded_state()
    their_network = their_inception(state)
    network = build_inception()
    network.load_state_dict(state)
    extractor = InceptionExtractor(network, is_published=False)
    images = noise(n, 32)
    features: dict[str, Tensor] = {}

    def theirs() -> float:
        with torch.no_grad():
            parts = [their_network(part.float() / 255)[0].flatten(1) for part in images.split(50)]
        features["theirs"] = torch.cat(parts)
        return 0.0

    def ours() -> float:
        features["ours"] = torch.cat([extractor(part).pooled for part in images.split(50)])
        return 0.0

    row = in_turns(f"Inception features of {n} images", 1.3, theirs, ours, repeats, 0)
    largest = float((features["theirs"] - features["ours"]).abs().max())
    if not largest <= 1e-4:
        raise SystemExit(f"features must agree to 1e-4, got a difference of {largest:.3g}")
    return row._replace(difference=f"{largest:.1e} (deviation {features['theirs'].std():.2g})")


def time_folders(n: int, repeats: int) -> Row:
    """Two folders of PNG files, from the command to the score, start-up included."""
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

        def started(*command: str) -> float:
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
            return float(found[1])

        def theirs() -> float:
            return started("-m", "pytorch_fid", *folders, "--device", "cpu")

        def ours() -> float:
            return started(__file__, "--score", str(weights), *folders)

        return in_turns(
            f"two folders of {n} PNG files, end to end", 2.0, theirs, ours, repeats, 1e-3
        )


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


def in_turns(
    name: str, target: float, theirs: Work, ours: Work, repeats: int, tolerance: float
) -> Row:
    """Both sides once to compare values and warm up, then in turns with the clock running."""
    there, here = theirs(), ours()
    if not abs(there - here) <= tolerance * abs(there):
        raise SystemExit(f"{name}: values must agree to {tolerance:g}, got {there} and {here}")
    costs: dict[Work, list[Cost]] = {theirs: [], ours: []}
    for turn in range(repeats):
        for work in (theirs, ours) if turn % 2 == 0 else (ours, theirs):
            start, cpu = time.perf_counter(), sum(os.times()[:4])
            work()
            spent = Cost(time.perf_counter() - start, sum(os.times()[:4]) - cpu)
            costs[work].append(spent)
        print(f"{name}: turn {turn + 1} of {repeats}", file=sys.stderr)
    relative = f"{abs(there - here) / abs(there):.1e} relative" if there else ""
    return Row(name, target, costs[theirs], costs[ours], relative)


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| what | pytorch-fid | nacgen | ratio (lowest to highest) | of CPU time | target | values differ by |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        pairs = list(zip(row.theirs, row.ours, strict=True))
        ratios = [there.wall / here.wall for there, here in pairs]
        cpu = median(there.cpu / here.cpu for there, here in pairs)
        theirs, ours = (median(cost.wall for cost in side) for side in (row.theirs, row.ours))
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(
            f"| {row.name} | {theirs:.2f} s | {ours:.2f} s | {spread} | {cpu:.2f} | {row.target:g} | "
            f"{row.difference} |"
        )
    packages = ("torch", "pytorch-fid", "scipy", "numpy", "pillow")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    load = os.getloadavg()[0]
    lines += [
        "",
        f"{versions}; {torch.get_num_threads()} threads on {os.cpu_count()} cores, {processor()}; load of the "
        f"last minute {load:.1f}; {len(rows[0].ours)} turns, medians.",
    ]
    return "\n".join(lines)


def processor() -> str:
    """Name of the processor, where the system tells."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def noise(n: int, size: int) -> Tensor:
    """Seeded uint8 images."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, 3, size, size), generator=generator).to(torch.uint8)


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


if __name__ == "__main__":
    main()
