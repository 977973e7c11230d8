"""Every benchmark runs at its smallest size, compares what it times, and keeps what it measured."""

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2] / "benchmarks"
SHARED = ("gpu", "ladders", "page", "pil_loader", "plain_gan", "run", "timing")
NAMES = sorted(path.stem for path in ROOT.glob("*.py") if path.stem not in SHARED)
SLOW = {  # build Inception several times, train, or start fresh processes
    ("scores", "features"),
    ("end_to_end", "pytorch_fid"),
    ("end_to_end", "torch_fidelity"),
    ("end_to_end", "large"),
    ("end_to_end", "memory"),
    ("steps", "allocator"),
    ("checkpoints", "share"),
    ("comparison", "jobs"),
    ("images", "opening"),
    ("scale", "exchange"),
    ("runs", "train_gan"),
    ("runs", "probe"),
    ("steps", "pretraining"),
    ("steps", "lightly"),
    ("steps", "gan"),
    ("steps", "presets"),
    ("optimizers", "lars"),
    ("optimizers", "ema"),
    ("scale", "growth"),
    *(("growth", part) for part in ("scoring", "probing", "pairs", "report", "processes")),
    ("startup", "first_step"),
}


@pytest.fixture(autouse=True)
def beside_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a benchmark finds `timing` and `page` when it is run as a file."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def timing() -> ModuleType:
    return importlib.import_module("timing")


@pytest.fixture
def page() -> ModuleType:
    return importlib.import_module("page")


@pytest.mark.parametrize("name", NAMES)
def test_each_part_runs_at_its_smallest_size(name: str, timing: ModuleType) -> None:
    for part, measure in importlib.import_module(name).PARTS.items():
        if (name, part) not in SLOW:
            check(measure(timing.SIZES["smoke"]))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), sorted(SLOW))
def test_slow_parts_run_at_their_smallest_size(name: str, part: str, timing: ModuleType) -> None:
    check(importlib.import_module(name).PARTS[part](timing.SIZES["smoke"]))


def check(rows: list[Any]) -> None:
    assert rows
    for row in rows:
        if hasattr(row, "sizes"):
            assert len(row.sizes) == len(row.seconds) == len(row.megabytes) > 1
            continue
        assert row.skipped or row.ours
        assert not row.theirs or len(row.theirs) == len(row.ours)


def test_parts_that_were_not_measured_again_stay(
    page: ModuleType, timing: ModuleType, tmp_path: Path
) -> None:
    def part(seconds: float):  # type: ignore[no-untyped-def]
        return lambda size: [timing.Row(what=f"work of {seconds} s", ours=[seconds], at_most=1.0)]

    flags = ["--size", "smoke", "--docs", str(tmp_path)]
    page.main("Title.\n\nText.", "some.py", {"a": part(0.5), "b": part(2.0)}, (), flags)
    page.main(
        "Title.\n\nText.", "some.py", {"a": part(3.0), "b": part(4.0)}, (), [*flags, "--only", "a"]
    )
    kept = json.loads((tmp_path / "performance" / "some.json").read_text())["parts"]
    assert [kept[name]["rows"][0]["ours"] for name in ("a", "b")] == [[3.0], [2.0]]
    written = (tmp_path / "performance.md").read_text()
    assert "| work of 3.0 s |  |  | 3 s |  |  | ≤ 1 s: **missed** |  |" in written
    assert "work of 2.0 s" in written
    assert "work of 4.0 s" not in written
    assert f"torch {torch.__version__.partition('+')[0]}" in written


def test_turns_alternate_and_ratios_pair_them(timing: ModuleType) -> None:
    order: list[str] = []
    row = timing.in_turns(
        "work", "peer", lambda: order.append("A"), lambda: order.append("B"), 3, agreement=""
    )
    assert "".join(order[2:]) == "ABBAAB"
    row = timing.Row(what="", ours=[1.0, 2.0, 4.0], theirs=[3.0, 3.0, 4.0], at_least=1.5)
    assert row.ratios() == [3.0, 1.5, 1.0]
    assert row.is_met()
    assert not timing.Row(what="", ours=[1.0], theirs=[1.4], at_least=1.5).is_met()


def test_an_exponent_above_its_theory_is_said(timing: ModuleType, page: ModuleType) -> None:
    sizes, quadratic = [1, 2, 4, 8, 16], [9.0, 1.0, 4.0, 16.0, 64.0]
    row = timing.Growth("work", "images", sizes, quadratic, [0.1, 8.0, 16.0, 32.0, 64.0], 2, 1)
    assert row.exponents() == pytest.approx((2, 1))
    assert row.is_met()
    row = timing.Growth("work", "images", sizes, quadratic, [0.1] * 5, 1.8, 0)
    (*_, line) = page.table([asdict(row)]).splitlines()
    assert line == "| work | 1 to 16 images | 64 s | 2.00 (1.8) | 0 MB | 0.00 (0) | **above** |"


def test_the_first_table_shows_what_is_behind_and_what_is_missing(
    page: ModuleType, timing: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = timing.Row(what="saving, 1 MB", peer="x", theirs=[1.0], ours=[2.0], at_least=1.0)
    contents = {"checkpoints": {"parts": {"save": {"rows": [asdict(row)]}}}}
    rows = ("save", "checkpoints", "saving.*beside x"), ("start", "startup", "first")
    monkeypatch.setattr(page, "FIRST", rows)
    assert page.first_table(contents).splitlines()[2:] == [
        "| save | x | 1 s | 2 s | 0.5 (0.5 to 0.5) | ratio ≥ 1: **missed** "
        "| `checkpoints.py --only save` |",
        "| start |  |  | not measured yet |  |  | `startup.py` |",
    ]


def test_outputs_that_differ_stop_the_benchmark(timing: ModuleType) -> None:
    here = torch.zeros(2)
    assert timing.agree(here, here + 0.1, 0.2, "losses").startswith("losses differ by 0.1")
    with pytest.raises(SystemExit, match=r"losses must agree to 0\.05, but differ by 0\.1"):
        timing.agree(here, here + 0.1, 0.05, "losses")
    with pytest.raises(SystemExit, match="must agree"):
        timing.agree(here, here * torch.nan, 0.2)
    with pytest.raises(SystemExit, match=r"shapes differ, \(2,\) and \(1,\)"):
        timing.agree(here, here[:1], 0.2)


def test_absent_peers_are_named(timing: ModuleType, page: ModuleType) -> None:
    reason = timing.missing("torch", "no-such-peer")
    assert reason == "no-such-peer not installed"
    row = timing.Row(what="work", peer="no-such-peer", skipped=reason, at_least=2.0)
    fields = {**row.__dict__}
    assert "| ratio ≥ 2 | skipped: no-such-peer not installed |" in page.table([fields])


def test_peak_memory_is_that_of_the_largest_moment(timing: ModuleType) -> None:
    megabytes = timing.peak_memory(lambda: torch.ones(25_000_000).sum())
    assert megabytes == pytest.approx(100, rel=0.1)
