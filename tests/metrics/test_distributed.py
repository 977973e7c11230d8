"""Scores over two gloo processes, against the same on one."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing import spawn

from nacgen.errors import ConfigurationError, NonFiniteError
from nacgen.metrics.evaluation import evaluate
from nacgen.metrics.statistics import StatsAccumulator
from tests.metrics.means import ChannelMeans, dataset, generate

pytestmark = pytest.mark.distributed


def reduced(rank: int, shares: list[Tensor]) -> StatsAccumulator:
    accumulator = StatsAccumulator(4)
    accumulator.update(shares[rank])
    accumulator.reduce()
    return accumulator


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    features = torch.load(f"{folder}/features.pt", weights_only=True)
    outcome: dict[str, object] = {}
    for name, sizes in {"uneven": (13, 27), "no_first": (0, 40), "no_second": (40, 0)}.items():
        stats = reduced(rank, list(features.split(sizes))).result()
        outcome[name] = (stats.n, stats.mean, stats.covariance)

    poisoned = features.clone()
    poisoned[3, 1] = float("nan")  # on the first process only
    try:
        reduced(rank, list(poisoned.split(20))).result()
    except NonFiniteError as error:
        outcome["poisoned"] = str(error)

    sharing = {"process_index": rank, "num_processes": 2, "extractor": ChannelMeans()}
    for num_samples in (5, 31):
        result = evaluate(generate, dataset(), num_samples=num_samples, batch_size=4, **sharing)
        outcome[f"score_{num_samples}"] = result.scores["fd_channel_means"].value
    try:
        evaluate(generate, dataset(), num_samples=8, **(sharing | {"num_processes": 3}))
    except ConfigurationError as error:
        outcome["three"] = str(error)
    torch.save(outcome, f"{folder}/outcome_{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def features() -> Tensor:
    return torch.randn(40, 4, generator=torch.Generator().manual_seed(0)) + 1e4


@pytest.fixture(scope="module")
def outcomes(features: Tensor, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    torch.save(features, folder / "features.pt")
    spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"outcome_{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("share", ["uneven", "no_first", "no_second"])
def test_reduced_statistics_are_those_of_one_process(
    share: str, features: Tensor, outcomes: list[dict[str, object]]
) -> None:
    alone = StatsAccumulator(4)
    alone.update(features)
    stats = alone.result()
    for outcome in outcomes:
        n, mean, covariance = outcome[share]
        assert n == 40
        torch.testing.assert_close(mean, stats.mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(covariance, stats.covariance, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_samples", [5, 31])
def test_the_score_does_not_depend_on_the_number_of_processes(
    num_samples: int, outcomes: list[dict[str, object]]
) -> None:
    result = evaluate(generate, dataset(), extractor=ChannelMeans(), num_samples=num_samples)
    value = result.scores["fd_channel_means"].value
    name = f"score_{num_samples}"
    assert outcomes[0][name] == outcomes[1][name] == pytest.approx(value, rel=1e-9)


def test_a_feature_that_is_not_finite_stops_every_process(
    outcomes: list[dict[str, object]],
) -> None:
    for outcome in outcomes:
        assert "NaN or infinity in 1 of 4 columns among 40 samples" in outcome["poisoned"]


def test_a_wrong_number_of_processes_is_refused(outcomes: list[dict[str, object]]) -> None:
    assert "process group, 2, or 1 to work alone, got 3" in outcomes[1]["three"]
