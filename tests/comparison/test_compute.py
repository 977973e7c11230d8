from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nacgen.comparison.compute import ArmCost, arm_cost, cost_table, pretraining_note
from nacgen.reporting import load_run
from tests.reporting.folders import MakeRun

PRETRAINING = {"images": 38_400, "seconds": 60.0, "hardware": "2 CPU cores"}
ONE_CORE = {"threads": 1, "num_processes": 1, "device": "cpu"}
Cost = Callable[..., ArmCost]


@pytest.fixture
def cost(make_run: MakeRun) -> Cost:
    """The cost of two runs of 57.25 and 58.25 s."""

    def two_runs(encoders: tuple[str, str] = ("one",) * 2, **options: Any) -> ArmCost:
        options = {"environment": ONE_CORE, "pretraining": PRETRAINING, **options}
        return arm_cost(
            [
                load_run(make_run({64: 9.0}, seed=seed, config={"encoder": name}, **options))
                for seed, name in enumerate(encoders)
            ]
        )

    return two_runs


def test_pretraining_is_shared_and_charged_in_full(cost: Cost) -> None:
    found = cost()
    assert found.seconds == (57.25, 58.25)
    assert found.devices == ("1 CPU thread",)
    assert found.device_seconds == 57.75
    assert found.pretraining == (PRETRAINING,)
    assert found.shared == 57.75 + 120 / 2  # two cores for a minute, by two runs
    assert found.in_full == 57.75 + 120


def test_each_encoder_was_pretrained_by_itself(cost: Cost) -> None:
    found = cost(("one", "another"))
    assert found.pretraining == (PRETRAINING, PRETRAINING)
    assert found.shared == found.in_full == 57.75 + 120


@pytest.mark.parametrize("hardware", ["2 CPU threads", "2 CPU cores"])
def test_threads_are_what_earlier_versions_called_cores(cost: Cost, hardware: str) -> None:
    found = cost(pretraining=PRETRAINING | {"hardware": hardware})
    assert found.in_full == 57.75 + 120


def test_random_weights_cost_nothing(cost: Cost) -> None:
    found = cost(init="random", pretraining=None)
    assert found.pretraining == ()
    assert found.shared == found.in_full == found.device_seconds == 57.75


def test_an_unknown_cost_is_not_taken_for_none(cost: Cost) -> None:
    found = cost(pretraining="unknown")
    assert found.pretraining is None
    assert found.shared is found.in_full is None
    assert found.device_seconds == 57.75


@pytest.mark.parametrize("hardware", ["1 x NVIDIA H100", "2 CPU cores, then 1 x NVIDIA H100"])
def test_unlike_devices_are_not_added_up(cost: Cost, hardware: str) -> None:
    found = cost(pretraining=PRETRAINING | {"hardware": hardware})
    assert found.pretraining is not None
    assert found.shared is found.in_full is None
    gpu = {"num_processes": 4, "device": "cuda", "gpu": "NVIDIA H100"}
    assert found.device_seconds == 57.75
    if hardware.startswith("1 x"):
        like = {"pretraining": PRETRAINING | {"hardware": hardware}, "environment": gpu}
        assert cost(init="gpu", **like).shared == 4 * 57.75 + 60 / 2


def test_the_table_tells_them_apart(make_run: MakeRun) -> None:
    def run(init: str, pretraining: Any) -> list[Any]:
        path: Path = make_run({64: 9.0}, init=init, environment=ONE_CORE, pretraining=pretraining)
        return [load_run(path)]

    arms = {
        "random": run("random", None),
        "nac": run("nac", PRETRAINING),
        "foreign": run("simclr", "unknown"),
    }
    random, nac, foreign = cost_table(arms).rows
    assert random[5:] == ["57.2", "57.2", "57.2"]
    assert nac[5:] == ["57.2", "177.2", "177.2"]
    assert foreign[5:] == ["57.2", "", ""]
    assert pretraining_note(arms) == (
        "Pretraining of the encoders. random: none; nac: 38,400 images in 60 s on 2 CPU cores; "
        "foreign: not recorded."
    )
