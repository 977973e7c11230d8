"""Runs the library under beartype, and keeps processes side by side to one thread, a single one to two."""

import os

# Read once, when torch is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

from typing import Any, Self

import jaxtyping
import pytest
from beartype import BeartypeConf, FrozenDict, beartype

# As mypy reads hints: an int is a float, and Self may stand outside a decorated class.
as_mypy_reads = beartype(
    conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({Self: Any}))
)
jaxtyping.install_import_hook(
    [f"nacgen.{room}" for room in ("functional", "data", "models", "probes", "metrics")],
    "tests.conftest.as_mypy_reads",
)


@pytest.fixture
def as_users_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let wrong shapes and types reach the library's own checks, which beartype would forestall."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
