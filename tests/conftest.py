"""Runs the library under beartype, without the user's caches, in two threads or in processes of one."""

import getpass
import os
import tempfile

# Read once, when torch is first imported. Processes of xdist inherit what the first one set here.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
# Kept between sessions, because matplotlib searches for fonts where it finds no cache.
os.environ["XDG_CACHE_HOME"] = f"{tempfile.gettempdir()}/nacgen-tests-{getpass.getuser()}"

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import jaxtyping
import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState
from beartype import BeartypeConf, FrozenDict, beartype

# As mypy reads hints: an int is a float, and Self may stand outside a decorated class.
as_mypy_reads = beartype(
    conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({Self: Any}))
)
jaxtyping.install_import_hook(
    [
        f"nacgen.{room}"
        for room in ("functional", "system", "data", "models", "transplant", "probes", "metrics")
    ],
    "tests.conftest.as_mypy_reads",
)

from tests.reporting.folders import SCORES, MakeRun, write_run


@pytest.fixture
def as_users_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let wrong shapes and types reach the library's own checks, which beartype would forestall."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its state in singletons; each test gets its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    GradientState._reset_state()


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A function that writes `<init>-seed<seed>` with the given scores."""

    def make(scores: dict[int, float], *, seed: int = 0, init: str = "nac", **options: Any) -> Path:
        return write_run(tmp_path / f"{init}-seed{seed}", scores, seed=seed, init=init, **options)

    return make


@pytest.fixture
def folders(make_run: MakeRun) -> dict[str, list[Path]]:
    """Three seeds of three arms."""
    return {
        init: [
            make_run({5120: early, 25600: end}, seed=seed, init=init)
            for seed, (early, end) in table.items()
        ]
        for init, table in SCORES.items()
    }
