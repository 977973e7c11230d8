"""Growth: how time and memory rise with images, runs, files, a batch and processes, beside what theory allows.

Every size is measured in a process of its own, on one thread. Time is processor time; memory is the peak above
what was held before the work, and counts as 4 MB where it is less. An exponent is the slope, by least squares over
the last three doublings, of the logarithm over that of the size: 1 is linear, 2 quadratic. A line is within its
theory where neither exponent exceeds it by more than 0.1. Features have 16 numbers, codes 64 bits, and no network
is part of the work.
"""

import json
import math
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

import page
import scale
from nacgen.comparison.comparison_report import comparison_text, write_comparison_report
from nacgen.comparison.paired_comparison import compare_arms
from nacgen.data.datasets import load_dataset
from nacgen.data.provenance import dataset_fingerprint
from nacgen.functional.codes import effective_codes
from nacgen.functional.kernel_distance import kernel_distance, kernel_distance_of_subsets
from nacgen.functional.nac import nac_bound, nac_loss
from nacgen.functional.neighbors import (
    nearest_neighbor_memorization,
    precision_recall_density_coverage,
)
from nacgen.metrics import evaluate
from nacgen.metrics.extractors.base import CallableExtractor
from nacgen.probes.knn import knn_probe
from nacgen.probes.linear import linear_probe
from nacgen.probes.retrieval.evaluate import evaluate_retrieval
from timing import Growth, Size, Work, cost, noise, peak_memory

DIM, CODE_DIM, NUM_CLASSES = 16, 64, 10
LONG_ENOUGH = 0.3  # seconds of measuring, after which the least of several turns is taken
Build = Callable[[int], AbstractContextManager[Work]]


class Case(NamedTuple):
    """A work of any size, and the powers of the size by which its time and memory may grow."""

    what: str
    unit: str
    build: Callable[[int], Work] | Build
    time: float
    memory: float


def grow(size: Size, sizes: list[int], *cases: Case) -> list[Growth]:
    """Measure the cases at every size; in the smoke run in this process."""
    rows = []
    for case in cases:
        run, costs = measured, []
        if size.name != "smoke":
            run = in_a_fork
            measured(case.build, sizes[0], 0)  # imports what the forks then have
        for n in sizes:
            costs.append(run(case.build, n, size.of(0, sizes[0], sizes[0])))
            seconds, megabytes = costs[-1]
            told = f"{case.what}: {n:,} {case.unit}, {seconds:.3g} s, {megabytes:.3g} MB"
            print(told, file=sys.stderr)
        seconds, megabytes = (list(part) for part in zip(*costs, strict=True))
        rows.append(Growth(case.what, case.unit, sizes, seconds, megabytes, case.time, case.memory))
    return rows


def in_a_fork(build: Callable[[int], Any], n: int, smallest: int) -> tuple[float, float]:
    """The same in a process that has imported what this one has, and computed nothing."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(measured(build, n, smallest)))
    child.start()
    child.join()
    if child.exitcode:
        raise SystemExit(f"the process failed at size {n}; its error stands above.")
    found: tuple[float, float] = queue.get()
    return found


def measured(build: Callable[[int], Any], n: int, smallest: int) -> tuple[float, float]:
    """Processor seconds of one call, the least of some, and megabytes of the first after a small one, if any."""
    if smallest:
        with opened(build, smallest) as work:
            work()
    spent: list[float] = []
    with opened(build, n) as work:
        megabytes = peak_memory(lambda: spent.append(cost(work).cpu))
        while smallest and sum(spent) < LONG_ENOUGH and len(spent) < 20:
            spent.append(cost(work).cpu)
    return min(spent), megabytes


def opened(build: Callable[[int], Any], n: int) -> AbstractContextManager[Work]:
    """The work of a size, with its files while it is open."""
    made = build(n)
    return made if isinstance(made, AbstractContextManager) else nullcontext(made)


def doubled(first: int, last: int) -> list[int]:
    """Sizes from the first to the last, each twice the one before."""
    return [first << i for i in range(int(math.log2(last / first)) + 1)]


def rows_of(n: int, seed: int = 0) -> Tensor:
    """Features, (n, 16)."""
    return torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed))


def labeled(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features around the centers of ten classes, and the classes."""
    labels = torch.arange(n) % NUM_CLASSES
    return rows_of(NUM_CLASSES)[labels] + rows_of(n, seed), labels


def codes_of(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Codes, (n, 64), and classes."""
    bits = torch.rand(n, CODE_DIM, generator=torch.Generator().manual_seed(seed)) < 0.5
    return bits, torch.arange(n) % NUM_CLASSES


class Pictures:
    """Images of 8 px that exist only while they are read."""

    name, split = "noise", "all"

    def __init__(self, n: int) -> None:
        self.n, self.pool = n, noise(1024, 8)

    def __len__(self) -> int:
        """Number of images."""
        return self.n

    def read(self, indices: Tensor) -> Tensor:
        """Some of them."""
        return self.pool[indices % len(self.pool)]


def extractor() -> CallableExtractor:
    """Means over some pixels."""
    return CallableExtractor(
        lambda images: images[..., ::4].float().flatten(1)[:, :DIM],
        name="pixels",
        feature_dim=DIM,
        version="1",
    )


def scores(n: int) -> Work:
    """As many generated as reference images, batch by batch."""
    return lambda: evaluate(Pictures(n), Pictures(n), extractor=extractor(), batch_size=256)


def scores_of_a_stream(n: int) -> Work:
    """Images that come one by one, as many as are asked for."""
    pool = noise(1024, 8)

    def work() -> None:
        images = (pool[i % len(pool)] for i in range(2 * n))
        evaluate(images, Pictures(1024), extractor=extractor(), num_samples=n)

    return work


def scoring(size: Size) -> list[Growth]:
    """Fréchet distance with its statistics; a set that is numbered, and one that comes image by image."""
    sizes = doubled(*size.of((64, 128), (2048, 16_384), (1024, 65_536)))
    return grow(
        size,
        sizes,
        Case("a Fréchet distance of two sets, in batches", "images", scores, 1, 0),
        Case("the same of images that come one by one", "images", scores_of_a_stream, 1, 1),
    )


def linear(n: int) -> Work:
    """As many test as training images."""
    train, test = labeled(n, 1), labeled(n, 2)
    return lambda: linear_probe(*train, *test)


def neighbors(n: int) -> Work:
    """A quarter as many test images."""
    train, test = labeled(n, 1), labeled(n // 4, 2)
    return lambda: knn_probe(*train, *test, num_neighbors=(20,))


def probing(size: Size) -> list[Growth]:
    """Classifiers of frozen features."""
    sizes = doubled(*size.of((64, 128), (2048, 16_384), (1024, 65_536)))
    return grow(
        size,
        sizes,
        Case("a linear probe", "images", linear, 1, 1),
        Case("a k-NN probe, a quarter as many test images", "images", neighbors, 2, 1),
    )


def gallery(n: int) -> Work:
    """Among more and more items, always 64 queries."""
    queries, items = codes_of(64, 1), codes_of(n, 2)
    return lambda: evaluate_retrieval(*queries, *items)


def queries(n: int) -> Work:
    """Each image's code among all of them."""
    codes = codes_of(n, 1)
    return lambda: evaluate_retrieval(*codes, *codes)


def retrieval(size: Size) -> list[Growth]:
    """All figures of a retrieval, mean average precision among them."""
    galleries = doubled(*size.of((64, 128), (8192, 65_536), (1024, 65_536)))
    images = doubled(*size.of((64, 128), (1024, 8192), (1024, 16_384)))
    return [
        *grow(size, galleries, Case("retrieval, 64 queries", "gallery items", gallery, 1, 1)),
        *grow(size, images, Case("retrieval of each image among all", "images", queries, 2, 1)),
    ]


def subsets(n: int) -> Work:
    """KID as it is published."""
    real, fake = rows_of(n, 1), rows_of(n, 2)
    options = {"num_subsets": 100, "subset_size": min(n, 1000) // 4}
    return lambda: kernel_distance_of_subsets(real, fake, **options)


def kernels(n: int) -> Work:
    """KID over all pairs, with its standard error."""
    real, fake = rows_of(n, 1), rows_of(n, 2)
    return lambda: kernel_distance(real, fake)


def neighborhoods(n: int) -> Work:
    """Precision, recall, density and coverage."""
    real, fake = rows_of(n, 1), rows_of(n, 2)
    return lambda: precision_recall_density_coverage(real, fake)


def copies(n: int) -> Work:
    """As many generated, training and test images."""
    parts = [rows_of(n, seed) for seed in range(3)]
    return lambda: nearest_neighbor_memorization(*parts)


def pairs(size: Size) -> list[Growth]:
    """Scores that look at pairs of images."""
    images = doubled(*size.of((64, 128), (1024, 8192), (1024, 65_536)))
    return grow(
        size,
        images,
        Case("KID, 100 subsets of 250", "images", subsets, 1, 1),
        Case("KID over all pairs", "images", kernels, 2, 1),
        Case("precision, recall, density, coverage", "images", neighborhoods, 2, 1),
        Case("memorization", "images", copies, 2, 1),
    )


def write_run(folder: Path, arm: str, seed: int, num_scores: int) -> Path:
    """A finished run folder with invented scores."""
    path = folder / f"{arm}-seed{seed}"
    path.mkdir()
    config = {"seed": seed, "init": arm, "dataset": "digits", "total_images": num_scores}
    (path / "config.yaml").write_text(json.dumps(config))  # YAML, too
    rows = []
    for seen in range(1, num_scores + 1):
        score = {"fd_pixels": {"value": 20 + 30 / seen + seed % 3 + len(arm) % 5, "bias": 0.1}}
        evaluation = {"scores": score, "protocol": {"extractor": "pixels", "num_samples": 2000}}
        rows += [
            {"images_seen": seen, "loss": 0.7},
            {"images_seen": seen, "evaluation": evaluation},
        ]
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    summary = {"images_seen": num_scores, "seconds": 60.0, "pretraining": None}
    (path / "summary.json").write_text(json.dumps(summary))
    return path


@contextmanager
def report_of(num_arms: int, num_seeds: int, num_scores: int) -> Iterator[Work]:
    """Report of a comparison, from the run folders to its files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arms = {
            f"arm{i}": [write_run(folder, f"arm{i}", seed, num_scores) for seed in range(num_seeds)]
            for i in range(num_arms)
        }

        def work() -> None:
            comparisons = compare_arms(arms)
            write_comparison_report(comparisons, folder)
            comparison_text(comparisons)

        yield work


def report(size: Size) -> list[Growth]:
    """Runs are two arms of up to four seeds, then more arms of four; a log has one score after another."""
    runs = size.of([2, 4], doubled(8, 64), [*doubled(2, 128), 200])
    logs = doubled(*size.of((4, 8), (128, 1024), (64, 4096)))
    return [
        *grow(
            size,
            runs,
            Case(
                "report of a comparison, 16 scores a run",
                "runs",
                lambda n: report_of(max(2, n // 4), n // max(2, n // 4), 16),
                1,
                1,
            ),
        ),
        *grow(
            size,
            logs,
            Case("report of four runs", "scores a run", lambda n: report_of(2, 2, n), 1, 1),
        ),
    ]


@contextmanager
def folder_of(n: int) -> Iterator[Work]:
    """A folder of classes with a thousand files each, links to one file of each class."""
    with tempfile.TemporaryDirectory() as name:
        for i in range(n):
            path = Path(name, f"{i // 1000:03}", f"{i % 1000:03}.png")
            if i % 1000 == 0:
                path.parent.mkdir()
                Image.fromarray(noise(1, 8, seed=i)[0].permute(1, 2, 0).numpy()).save(path)
                first = path
            else:
                path.hardlink_to(first)

        def work() -> None:
            images = load_dataset("folder", "train", name, image_size=8, max_bytes=0)
            dataset_fingerprint(images)

        yield work


def folder(size: Size) -> list[Growth]:
    """Listing and fingerprint, without decoding."""
    sizes = size.of([16, 32], [100_000 >> i for i in (6, 5, 4, 3)], None)
    sizes = sizes or [100_000 >> i for i in range(6, -1, -1)]
    return grow(size, sizes, Case("opening a folder", "files", folder_of, 1, 1))


def batch(n: int) -> Work:
    """Both views of so many images, codes of 64 bits: loss, gradient, and what a step logs."""
    draw = torch.Generator().manual_seed(n)
    code, posterior, uniform = (torch.rand(2 * n, CODE_DIM, generator=draw) for _ in range(3))
    code = (code - 0.5).requires_grad_()

    def work() -> None:
        loss = nac_loss(code, posterior, uniform, 0.3, "marginal").mean()
        torch.autograd.grad(loss, code)
        with torch.no_grad():
            nac_bound(code, posterior, 0.3)
            effective_codes(code >= 0)

    return work


def loss(size: Size) -> list[Growth]:
    """Beyond 1,024 images the products of all pairs are computed block by block."""
    sizes = doubled(*size.of((64, 128), (512, 4096), (512, 8192)))
    return grow(size, sizes, Case("NAC's loss with its gradient", "images", batch, 2, 1))


def processes(size: Size) -> list[Growth]:
    """A step of pretraining, 64 images a process; the time of all processes, the memory of one."""
    counts = size.of([1, 2], [1, 2], [1, 2, 4])
    batch_size, turns = size.of(4, 64, 64), size.of(1, 2, 5)
    found = [scale.measure(n, n * batch_size, 32, 0, turns) for n in counts]
    seconds = [n * each["cpu"] for n, each in zip(counts, found, strict=True)]
    memory = [each["memory"] for each in found]
    what = "a step of pretraining, 64 images a process"
    return [Growth(what, "processes", counts, seconds, memory, 1, 0)]


PARTS = {
    "scoring": scoring,
    "probing": probing,
    "retrieval": retrieval,
    "pairs": pairs,
    "report": report,
    "folder": folder,
    "loss": loss,
    "processes": processes,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    page.main(__doc__, __file__, PARTS, ("numpy", "matplotlib"))
