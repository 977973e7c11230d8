"""Statistics of training images that runs share on disk."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nacgen.data.datasets import load_dataset
from nacgen.metrics import run_reference as module
from nacgen.metrics.extractors.build import build_extractor
from nacgen.metrics.reference import ReferenceStatistics
from nacgen.metrics.run_reference import run_reference
from nacgen.training.config import DataConfig, TrainingConfig
from nacgen.training.run import open_run

EXTRACTOR = build_extractor("digits_classifier")


@pytest.fixture(autouse=True)
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images that were passed through the network; a few are many."""
    seen: list[int] = []
    compute = ReferenceStatistics.compute

    def count(dataset: Any, *given: Any, **options: Any) -> ReferenceStatistics:
        seen.append(len(dataset))
        return compute(dataset, *given, **options)

    monkeypatch.setattr(ReferenceStatistics, "compute", count)
    monkeypatch.setattr(module, "FEWEST_IMAGES", 100)
    return seen


def reference(
    folder: Path, split: str = "test", is_kept: bool = True, cache: str | None = None
) -> ReferenceStatistics:
    data = DataConfig(cache=str(folder / "cache") if cache is None else cache)
    with open_run("test", TrainingConfig(run_dir=str(folder / "run"), data=data)) as run:
        return run_reference(load_dataset("digits", split), EXTRACTOR, run, is_kept)


def test_a_second_run_reads_what_the_first_one_computed(
    tmp_path: Path, computed: list[int]
) -> None:
    first, second = reference(tmp_path), reference(tmp_path)
    assert computed == [355]
    assert torch.equal(first.stats.covariance, second.stats.covariance)
    assert first.fingerprint == second.fingerprint
    reference(tmp_path, "train")  # other images
    assert computed == [355, 1442]
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("change", ["threads", "release", "weights"])
def test_what_the_last_bits_depend_on_makes_another_entry(
    change: str, tmp_path: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference(tmp_path)
    if change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 17)
    elif change == "release":
        monkeypatch.setattr(torch, "__version__", "99.0")
    else:
        monkeypatch.setattr(EXTRACTOR, "fingerprint", "sha256:0")
    reference(tmp_path)
    assert computed == [355, 355]


def test_few_images_own_functions_and_no_cache_keep_nothing(
    tmp_path: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        reference(tmp_path, is_kept=False)
        reference(tmp_path, cache="none")
    monkeypatch.setattr(module, "FEWEST_IMAGES", 356)
    reference(tmp_path)
    assert computed == [355] * 5
    assert not (tmp_path / "cache").exists()


def test_a_damaged_entry_and_a_full_disk_are_told_and_fail_nothing(
    tmp_path: Path,
    computed: list[int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference(tmp_path)
    (entry,) = (tmp_path / "cache").iterdir()
    entry.write_bytes(entry.read_bytes()[:-100])
    whole = reference(tmp_path)
    assert "are damaged and computed anew" in capsys.readouterr().err
    assert torch.equal(whole.stats.mean, reference(tmp_path).stats.mean)  # it was written again
    assert computed == [355, 355]
    (tmp_path / "file").touch()
    reference(tmp_path, cache=str(tmp_path / "file" / "below"))
    assert "features are not kept" in capsys.readouterr().err
