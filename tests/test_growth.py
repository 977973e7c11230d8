"""Nothing grows faster than its theory allows; operations and numbers in memory are counted, nothing is timed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nacgen.comparison import statistics
from nacgen.comparison.comparison_report import comparison_text, write_comparison_report
from nacgen.comparison.paired_comparison import compare
from nacgen.data import datasets
from nacgen.data.datasets import ImageDataset, load_test_split
from nacgen.functional.codes import effective_codes
from nacgen.functional.features import products_with
from nacgen.functional.kernel_distance import kernel_distance
from nacgen.functional.nac import nac_bound, nac_loss
from nacgen.functional.neighbors import (
    nearest_neighbor_memorization,
    precision_recall_density_coverage,
)
from nacgen.metrics import inputs
from nacgen.probes.knn import knn_probe
from nacgen.reporting.recorded_runs import RecordedEvaluation, RecordedRun

LARGEST = 2**22  # numbers that a function holds at most beside its arguments


class LargestTensor(TorchFunctionMode):
    """Notes the number of elements of the largest result of an operation."""

    numbers = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numbers = max(self.numbers, result.nelement())
        return result


def labels(n: int) -> Tensor:
    return torch.arange(n) % 2


@pytest.mark.parametrize(
    "work",
    [
        lambda x: effective_codes(x > 0),
        lambda x: nac_loss(x, x, x.sigmoid(), 0.3, "marginal"),
        lambda x: nac_bound(x, x, 0.3),
        lambda x: knn_probe(x.repeat(3, 1), labels(7200), x, labels(2400), [5]),
        lambda x: kernel_distance(x, x + 1),
        lambda x: precision_recall_density_coverage(x, x + 1),
        lambda x: nearest_neighbor_memorization(x, x + 1, x + 2),
    ],
)
def test_no_matrix_of_all_pairs_is_held(work: Callable[[Tensor], object]) -> None:
    rows = torch.randn(2400, 2, generator=torch.Generator().manual_seed(0))
    with LargestTensor() as largest:
        work(rows)
    assert 0 < largest.numbers <= LARGEST  # of 5.8 million pairs


def test_all_blocks_of_products_lie_in_one_place() -> None:
    rows, columns = torch.randn(7, 3), torch.randn(5, 3)
    places, found = set(), []
    for part, products in products_with(rows, columns, 3):
        places.add(products.data_ptr())
        assert len(products) == len(rows[part])
        found.append(products.clone())
    assert len(places) == 1
    assert torch.allclose(torch.cat(found), rows @ columns.T)


def test_images_that_come_one_by_one_are_counted_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = 0

    def counting(of: Any) -> int:
        nonlocal counted
        counted += 1
        return len(of)

    monkeypatch.setattr(inputs, "len", counting, raising=False)
    calls = []
    for n in (20, 40):
        counted = 0
        images = (torch.full((3, 2, 2), i, dtype=torch.uint8) for i in range(100))
        assert len(inputs.image_set(images, limit=n)) == n
        calls.append(counted)
    assert calls[1] <= 2 * calls[0]


class CountedScores(dict[str, Any]):
    """Scores of one evaluation that note how often they are looked into."""

    looks = 0

    def __contains__(self, metric: object) -> bool:
        CountedScores.looks += 1
        return super().__contains__(metric)


def run_of(arm: str, seed: int, num_scores: int) -> RecordedRun:
    scores = [
        CountedScores(fid={"value": 9.0 + seed + len(arm) / i}) for i in range(1, num_scores + 1)
    ]
    return RecordedRun(
        path=Path(arm),
        config={"seed": seed, "init": arm},
        environment={},
        evaluations=tuple(
            RecordedEvaluation(images_seen=seen, scores=each, protocol={"extractor": "inception"})
            for seen, each in enumerate(scores, start=1)
        ),
        summary={"images_seen": num_scores},
    )


def test_a_comparison_looks_as_often_into_each_score_however_many_there_are() -> None:
    looks = []
    for num_scores in (10, 20, 40):
        CountedScores.looks = 0
        compare(*([run_of(arm, seed, num_scores) for seed in (0, 1)] for arm in ("random", "nac")))
        looks.append(CountedScores.looks / num_scores)
    assert looks == [looks[0]] * 3


def test_the_exact_test_of_an_endpoint_runs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, tested = statistics.sign_flip_p_value, []
    monkeypatch.setattr(
        statistics, "sign_flip_p_value", lambda ratios: tested.append(ratios) or exact(ratios)
    )
    comparison = compare(*([run_of(arm, seed, 3) for seed in (0, 1)] for arm in ("random", "nac")))
    write_comparison_report([comparison], tmp_path)
    comparison_text([comparison])
    comparison.to_dict()
    assert len(tested) == len(comparison.points) == 3


@contextmanager
def counting_comparisons() -> Iterator[tuple[type[str], list[int]]]:
    counts = [0]

    class Name(str):
        """The name of a class, whose comparisons are counted."""

        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            counts[0] += 1
            return str.__eq__(self, other)

    yield Name, counts


def test_classes_of_test_images_are_not_compared_with_all_of_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with counting_comparisons() as (name, counts):
        names = tuple(name(f"class {i:03}") for i in range(200))
        images = torch.zeros(199, 3, 1, 1, dtype=torch.uint8)
        train = ImageDataset("cifar10", "train", images, torch.arange(199), names)
        test = replace(train, split="test", class_names=tuple(map(name, names[1:])))
        monkeypatch.setattr(datasets, "load_dataset", lambda *_: test)
        counts[0] = 0
        found = load_test_split(train)
    assert found is not None
    assert found.labels is not None
    assert found.labels.tolist() == list(range(1, 200))
    assert counts[0] <= 3 * len(names)  # of 20,000 pairs
