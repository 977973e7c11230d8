"""Scores over one, two and three gloo processes, against the same without processes."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing import spawn

from nacgen.errors import NonFiniteError
from nacgen.metrics import MetricSettings, ReferenceStatistics, evaluate
from nacgen.metrics.statistics import StatsAccumulator
from tests.metrics.means import ChannelMeans, dataset, generate

pytestmark = pytest.mark.distributed

WORLDS = (3, 2, 1)
METRICS = ("fid", "is", "kid", "kid_exact", "prdc", "fid_infinity")
SETTINGS = MetricSettings(splits=3, subset_size=20, neighbors=3)
FEW = MetricSettings(splits=1)
SIZES = {  # rows of each process; those beyond the number of processes stay with the last
    "uneven": (13, 7, 20),
    "no_first": (0, 25, 15),
    "only_first": (40, 0, 0),
}


def score(num_samples: int = 31, metrics: tuple[str, ...] = METRICS, **options: object) -> dict:
    options = {"extractor": ChannelMeans(), "batch_size": 4, "settings": SETTINGS} | options
    source = options.pop("source", generate)
    result = evaluate(source, dataset(), num_samples=num_samples, metrics=metrics, **options)
    return result.to_dict()


def reduced(rank: int, world: int, features: Tensor, sizes: tuple[int, ...]) -> StatsAccumulator:
    sizes = (*sizes[: world - 1], sum(sizes[world - 1 :]))
    accumulator = StatsAccumulator(4)
    accumulator.update(features.split(sizes)[rank])
    accumulator.reduce()
    return accumulator


def poisoned(indices: Tensor) -> Tensor:
    """Images of which the second process cannot make its first."""
    if 1 in indices:
        raise NonFiniteError("images must be numbers, got NaN.")
    return generate(indices)


class NanForOne(ChannelMeans):
    """NaN among the features of one image."""

    def __call__(self, images: Tensor) -> object:
        features = super().__call__(images)
        wanted = generate(torch.tensor([1])).float().mean(dim=(2, 3))
        features.pooled[(features.pooled == wanted).all(dim=1)] = float("nan")
        return features


def work(rank: int, folder: str) -> None:
    """Three processes, then the first two of them, then the first."""
    torch.set_num_threads(1)
    for world in WORLDS:
        if rank < world:
            rendezvous = f"file://{folder}/rendezvous_{world}"
            dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
            torch.save(outcome_of(rank, world, folder), f"{folder}/outcome_{world}_{rank}.pt")
            dist.destroy_process_group()


def outcome_of(rank: int, world: int, folder: str) -> dict[str, object]:
    accelerator = SimpleNamespace(
        process_index=rank, num_processes=world, device=torch.device("cpu")
    )
    features = torch.load(f"{folder}/features.pt", weights_only=True)
    outcome: dict[str, object] = {}
    for name, sizes in SIZES.items():
        stats = reduced(rank, world, features, sizes).result()
        outcome[name] = (stats.n, stats.mean, stats.covariance)
    outcome["scores"] = score(accelerator=accelerator)
    outcome["few"] = score(
        2, ("fid", "is"), settings=FEW, accelerator=accelerator
    )  # fewer than processes
    reference = ReferenceStatistics.cached(
        dataset(), ChannelMeans(), f"{folder}/cache_{world}", accelerator=accelerator
    )
    outcome["cached"] = reference.stats.mean
    failing = {"generate": {"source": poisoned}, "features": {"extractor": NanForOne()}}
    for name, options in failing.items():
        try:
            score(accelerator=accelerator, **options)
        except NonFiniteError as error:
            outcome[name] = str(error)
    return outcome


@pytest.fixture(scope="module")
def features() -> Tensor:
    return torch.randn(40, 4, generator=torch.Generator().manual_seed(0)) + 1e4


@pytest.fixture(scope="module")
def folder(features: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("processes")
    torch.save(features, folder / "features.pt")
    spawn(work, args=(str(folder),), nprocs=max(WORLDS))
    return folder


@pytest.fixture(params=WORLDS)
def outcomes(request: pytest.FixtureRequest, folder: Path) -> list[dict[str, object]]:
    files = sorted(folder.glob(f"outcome_{request.param}_*.pt"))
    assert len(files) == request.param
    return [torch.load(file, weights_only=True) for file in files]


@pytest.mark.parametrize("sizes", SIZES)
def test_reduced_statistics_are_those_of_one_process(
    sizes: str, features: Tensor, outcomes: list[dict[str, object]]
) -> None:
    rows = features.double()
    for outcome in outcomes:
        n, mean, covariance = outcome[sizes]
        assert n == 40
        torch.testing.assert_close(mean, rows.mean(0), rtol=1e-12, atol=0)
        expected = torch.cov((rows - 1e4).mT)
        torch.testing.assert_close(covariance, expected, rtol=1e-12, atol=1e-12)


def test_no_score_depends_on_the_number_of_processes(outcomes: list[dict[str, object]]) -> None:
    assert all(outcome["scores"] == outcomes[0]["scores"] for outcome in outcomes)
    expected, found = score(), outcomes[0]["scores"]
    assert found["protocol"] == expected["protocol"]
    assert list(found["scores"]) == list(expected["scores"])
    assert len(found["scores"]) == 9
    for name, own in expected["scores"].items():
        other = found["scores"][name]
        assert other["value"] == pytest.approx(own["value"], rel=1e-9), name
        assert (other["spread"] is None) == (own["spread"] is None)
        assert (other["spread"] or 0) == pytest.approx(own["spread"] or 0, rel=1e-9), name


def test_there_may_be_fewer_images_than_processes(outcomes: list[dict[str, object]]) -> None:
    expected = score(2, ("fid", "is"), settings=FEW)["scores"]
    for name in expected:
        value = outcomes[-1]["few"]["scores"][name]["value"]
        assert value == pytest.approx(expected[name]["value"], rel=1e-7)  # singular


def test_the_cache_is_written_once_and_read_by_all(outcomes: list[dict[str, object]]) -> None:
    expected = ReferenceStatistics.compute(dataset(), ChannelMeans()).stats.mean
    for outcome in outcomes:
        torch.testing.assert_close(outcome["cached"], expected, rtol=1e-12, atol=0)


def test_what_fails_on_one_process_stops_all(outcomes: list[dict[str, object]]) -> None:
    for outcome in outcomes:
        assert "images must be numbers, got NaN." in outcome["generate"]
        assert "NaN or infinity in 3 of 3 columns among 31 samples" in outcome["features"]
    if len(outcomes) > 1:
        assert outcomes[0]["generate"].startswith("process 1 stopped with NonFiniteError: images")
