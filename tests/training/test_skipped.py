from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nacgen.data.datasets import ImageDataset
from nacgen.errors import DataError
from nacgen.training import skipped as skipped_module
from nacgen.training.config import DataConfig, TrainingConfig
from nacgen.training.run import open_run
from nacgen.training.skipped import record_skipped

IMAGES = ImageDataset("folder", "train", torch.zeros(200, 3, 4, 4, dtype=torch.uint8), None)


def begin(folder: Path, *datasets: ImageDataset | None, **options: bool) -> None:
    data = DataConfig(skip_bad=options.pop("skip_bad", True))
    with open_run("x", TrainingConfig(run_dir=str(folder / "run"), data=data, **options)) as run:
        record_skipped(run, *datasets)
        run.log(8, {})


def leaving_out(*names: str) -> ImageDataset:
    return replace(IMAGES, skipped=names)


def test_what_is_left_out_is_listed_and_stays_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets, listed = (
        (leaving_out("b\udce9.png", "a.png"), leaving_out("a.png")),
        tmp_path / "run" / "skipped.txt",
    )
    begin(tmp_path, *datasets, None)
    assert listed.read_text() == "'a.png'\n'b\\udce9.png'\n"
    assert (
        "left out 2 of 402 images, which cannot be read: 'a.png', 'b\\udce9"
        in capsys.readouterr().err
    )
    begin(tmp_path, *datasets)  # the same command, again
    for changed in (leaving_out("a.png"), leaving_out("a.png", "b\udce9.png", "c.png"), IMAGES):
        with pytest.raises(
            DataError, match=rf"{tmp_path}/run must leave out the images that skipped"
        ):
            begin(tmp_path, changed)
    begin(tmp_path, leaving_out("c.png"), fresh=True)
    assert listed.read_text() == "'c.png'\n"


def test_where_nothing_may_be_left_out_nothing_is_listed(tmp_path: Path) -> None:
    begin(tmp_path, IMAGES, skip_bad=False)
    assert not (tmp_path / "run" / "skipped.txt").exists()


def test_processes_that_leave_out_different_images_all_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skipped_module, "gather_object", lambda mine: [*mine, "another's"])
    with pytest.raises(DataError, match=r"all processes must .* different ones; here 1: a\.png"):
        begin(tmp_path, leaving_out("a.png"))
