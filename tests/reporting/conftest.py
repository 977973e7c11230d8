from pathlib import Path
from typing import Any

import pytest

from tests.reporting.folders import SCORES, MakeRun, write_run


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
