import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nacgen.data.datasets import Dataset, ImageDataset, load_dataset, load_splits
from nacgen.errors import DataError
from nacgen.models.encoder import NACEncoder
from nacgen.training import data_record
from nacgen.training.config import DataConfig, TrainingConfig
from nacgen.training.data_record import record_data
from nacgen.training.run import open_run
from tests.data.files import write_photographs

IMAGES = ImageDataset("folder", "train", torch.zeros(200, 3, 4, 4, dtype=torch.uint8), None)


def begin(folder: Path, train: Dataset, held_out: Dataset | None = None, **options: bool) -> None:
    data = DataConfig(skip_bad=options.pop("skip_bad", True))
    with open_run("x", TrainingConfig(run_dir=str(folder / "run"), data=data, **options)) as run:
        record_data(run, train, held_out)
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
    begin(tmp_path, *datasets)
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
    monkeypatch.setattr(data_record, "gather_object", lambda mine: [*mine, "another's"])
    with pytest.raises(DataError, match=r"all processes must .* different ones; here 1: a\.png"):
        begin(tmp_path, leaving_out("a.png"))


def recorded(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[str, dict[str, dict[str, object]]]:
    *_, line, after = capsys.readouterr().err.splitlines()
    assert after == "building the networks"
    return line, json.loads((folder / "run" / "environment.json").read_text())["data"]


def test_a_run_tells_and_records_its_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(tmp_path, *load_splits("digits"), skip_bad=False)
    line, facts = recorded(tmp_path, capsys)
    assert (
        line == "data: 1442 images of digits/train, 10 classes; held out: 355 images of digits/test"
    )
    assert facts["train"] == {
        "name": "digits/train",
        "folder": None,
        "images": 1442,
        "classes": 10,
        "passed_over": {},
        "notes": [],
    }
    assert facts["held_out"]["images"] == 355


def test_a_run_tells_and_records_what_it_passes_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    write_photographs(
        data, [f"{name}/{i}.png" for name in ("train/a", "train/b", "val") for i in range(6)]
    )
    write_photographs(data, ["test/0.png", "val/.ipynb_checkpoints/0.png"])
    for name in ("train/c/1.avif", "train/c/2.avif", "test/1.heic"):
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).touch()
    begin(tmp_path, *load_splits("folder", data, 8), skip_bad=False)
    line, facts = recorded(tmp_path, capsys)
    assert line == (
        f"data: 12 images of folder/train in '{data}/train', 2 classes ('a', 'b'); passed over: 2 .avif; "
        f"no images in 'c'; not used: 'val'; held out: 1 image of folder/test in "
        f"'{data}/test'; passed over: 1 .heic"
    )
    assert facts["train"]["passed_over"] == {".avif": 2}
    assert facts["train"]["notes"] == ["no images in 'c'", "not used: 'val'"]
    assert facts["held_out"]["folder"] == f"{data}/test"
    begin(tmp_path, load_dataset("folder", "train", data / "val", 8), skip_bad=False, fresh=True)
    line, facts = recorded(tmp_path, capsys)
    assert line.endswith(f"'{data}/val', no classes; passed over: 1 hidden; none held out")
    assert facts["held_out"] is None
    begin(tmp_path, *load_splits("folder", data / "val", 8), skip_bad=False, fresh=True)
    line, _ = recorded(tmp_path, capsys)
    assert line.endswith(f"hidden; held out: 1 image of folder/held-out fifth in '{data}/val'")
    begin(
        tmp_path, load_dataset("folder", "train", data / "train/a", 8), skip_bad=False, fresh=True
    )
    line, _ = recorded(tmp_path, capsys)
    assert line.endswith(", no classes; no file was passed over; none held out")


def test_what_is_left_out_stays_so_where_images_were_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    write_photographs(data, [f"{'ab'[i % 2]}/{i}.png" for i in range(110)], (4, 4))
    (data / "a" / "44.png").write_bytes(b"")
    begin(tmp_path, *load_splits("folder", data, 8, skip_bad=True))
    assert (tmp_path / "run" / "skipped.txt").read_text() == "'a/44.png'\n"
    assert "passed over: 1 unreadable; " in capsys.readouterr().err
    moved = data.rename(tmp_path / "moved")
    begin(tmp_path, *load_splits("folder", moved, 8, skip_bad=True))
    (tmp_path / "run" / "skipped.txt").write_text(f"'{moved}/a/44.png'\n")  # as 0.1.0 wrote it
    begin(tmp_path, *load_splits("folder", moved, 8, skip_bad=True))


def test_models_of_runs_that_have_not_ended_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = tmp_path / "nac" / "encoder"
    NACEncoder(code_dim=8).save_pretrained(encoder)

    def told() -> str:
        with open_run("x", TrainingConfig(run_dir=str(tmp_path / "run"), fresh=True)) as run:
            record_data(run, IMAGES, None, encoder=str(encoder))
        return capsys.readouterr().err

    assert "not ended" not in told()  # of no run
    (tmp_path / "nac" / "metrics.jsonl").touch()
    assert f"warning: encoder {encoder} is of a run that has not ended." in told()
    (tmp_path / "nac" / "summary.json").touch()
    assert "not ended" not in told()
