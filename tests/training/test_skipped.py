from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nacgen.data.datasets import ImageDataset
from nacgen.errors import DataError
from nacgen.training import skipped as skipped_module
from nacgen.training.config import DataConfig, TrainingConfig
from nacgen.training.run_folder import RunFolder
from nacgen.training.skipped import record_skipped

IMAGES = ImageDataset("folder", "train", torch.zeros(200, 3, 4, 4, dtype=torch.uint8), None)


def run_in(folder: Path, **options: bool) -> RunFolder:
    data = DataConfig(skip_bad=options.pop("skip_bad", True))
    return RunFolder("x", TrainingConfig(run_dir=str(folder / "run"), data=data, **options))


def leaving_out(*names: str) -> ImageDataset:
    return replace(IMAGES, skipped=names)


def begin(run: RunFolder, *datasets: ImageDataset | None) -> None:
    record_skipped(run, *datasets)
    run.create({})
    run.release()


def test_what_is_left_out_is_listed_and_stays_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets, listed = (
        (leaving_out("b\udce9.png", "a.png"), leaving_out("a.png")),
        tmp_path / "run" / "skipped.txt",
    )
    begin(run_in(tmp_path), *datasets, None)
    assert listed.read_text() == "'a.png'\n'b\\udce9.png'\n"
    assert (
        "left out 2 of 402 images, which cannot be read: 'a.png', 'b\\udce9"
        in capsys.readouterr().err
    )
    begin(run_in(tmp_path), *datasets)  # the same command, again
    for changed in (leaving_out("a.png"), leaving_out("a.png", "b\udce9.png", "c.png"), IMAGES):
        with pytest.raises(
            DataError, match=rf"{tmp_path}/run must leave out the images that skipped"
        ):
            begin(run_in(tmp_path), changed)
    begin(run_in(tmp_path, fresh=True), leaving_out("c.png"))
    assert listed.read_text() == "'c.png'\n"


def test_where_nothing_may_be_left_out_nothing_is_listed(tmp_path: Path) -> None:
    begin(run_in(tmp_path, skip_bad=False), IMAGES)
    assert not (tmp_path / "run" / "skipped.txt").exists()


def test_processes_that_leave_out_different_images_all_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skipped_module, "gather_object", lambda mine: [*mine, "another's"])
    with pytest.raises(DataError, match=r"all processes must .* different ones; here 1: a\.png"):
        record_skipped(run_in(tmp_path), leaving_out("a.png"))
