import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nacgen.data.augment import ViewPolicy
from nacgen.data.datasets import ImageDataset, load_dataset
from nacgen.models.encoder import NACEncoder
from nacgen.pretraining.nac import channel_summary
from nacgen.reporting.encoders import pretraining_report
from nacgen.reporting.encoders.pretraining_report import (
    draw_encoder,
    report_pretraining,
    views_of,
    write_pretraining_report,
)
from nacgen.reporting.recorded_runs import is_picture
from nacgen.training.config import TrainingConfig
from nacgen.training.run import open_run
from tests.reporting.encoders.test_findings import probe_report
from tests.reporting.folders import Reader


def write_pretraining(folder: Path, accuracy: float | None = 0.9, dataset: str = "digits") -> Path:
    """Write a finished run of pretraining with invented measurements and real pictures."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (20, 3, 16, 16), generator=draw, dtype=torch.uint8)
    images = ImageDataset("x", "train", pixels, torch.arange(20) % 2, ("even", "odd"))
    if accuracy is None:
        images = ImageDataset("x", "train", pixels, None, ())
    folder.mkdir()
    with open_run("x", TrainingConfig(run_dir=str(folder))) as run:
        encoder = NACEncoder(code_dim=16).train()
        draw_encoder(encoder, ViewPolicy(), images, images, run)
        assert encoder.training
    trained, untrained = probe_report(accuracy=accuracy), probe_report(3.0, accuracy and 0.7)
    config = {"seed": 0, "dataset": dataset, "objective": "nac", "data_dir": "my photos"}
    (folder / "config.yaml").write_text(json.dumps(config))
    rows = [{"images_seen": seen, "loss": 1.0} | trained for seen in (640, 1280)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"images_seen": 1280, "seconds": 2.0, **trained, "untrained": untrained}
    summary["channel"] = channel_summary(0.3, 128, 256)
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_pretraining_leaves_a_report_in_plain_words(tmp_path: Path) -> None:
    folder = write_pretraining(tmp_path / "run")
    text = report_pretraining(folder)
    markdown, html = (folder / "report.md").read_text(), (folder / "report.html").read_text()
    assert markdown.startswith("# digits: encoder pretrained by nac, seed 0\n\n> 9 of 9 checks of ")
    for page in (markdown, text):
        assert "Only 64 held-out images were measured: read these checks with care." in page
    assert "| good | Different codes. Most images have a code of their own. | trained: " in markdown
    assert "trained: 90.0%; untrained: 70.0%" in markdown
    for name in ("curve.svg", "curve_1.svg", "samples/views.png", "samples/neighbors.png"):
        assert f"]({name})" in markdown
    assert "nearest first. A solid green frame is of the same class" in markdown
    assert is_picture(folder / "samples/views.png")
    assert is_picture(folder / "samples/neighbors.png")
    # The curves start at the untrained encoder.
    assert "Linear classifier on the features: 0.900" in (folder / "curve.svg").read_text()
    assert len(Reader(html).tables[0]) == 10
    assert "result    Held-out images that a linear classifier on the features gets right: " in text
    assert f"encoder   {folder}/encoder\nreport    {folder}/report.html\n" in text
    assert text.endswith(f"use it    nacgen train-gan --encoder {folder}/encoder")
    assert max(len(line) for line in text.splitlines() if str(folder) not in line) <= 100


def test_the_limit_of_the_objective_is_explained_in_the_report_alone(tmp_path: Path) -> None:
    folder = write_pretraining(tmp_path / "run")
    assert "channel" not in report_pretraining(folder)
    text = (folder / "report.md").read_text()
    assert "flips each of the 128 bits of a code with probability 0.3." in text
    assert "tells which of 256 codes in a step belongs to the same image." in text
    assert "cannot exceed 5.55 nats, the logarithm of 256, since" in text
    assert "up to the 10.53 nats that get through the channel." in text
    assert "a temperature of 0.0484." in text
    assert "`channel" not in text  # the numbers alone would tell nothing
    summary = json.loads((folder / "summary.json").read_text())

    def told(channel: object) -> str:
        (folder / "summary.json").write_text(json.dumps(summary | {"channel": channel}))
        return write_pretraining_report(folder)[0].read_text()

    assert "exceed 2.58 nats, the capacity of the channel: no more" in told(
        channel_summary(0.4, 128, 256)
    )
    assert "a noisy channel" not in told(None)  # another objective


def test_the_next_step_is_one_that_works(tmp_path: Path) -> None:
    folder = write_pretraining(tmp_path / "run", None, "folder")
    config = json.loads((folder / "config.yaml").read_text())

    def next_step(**changed: Any) -> str:
        (folder / "config.yaml").write_text(json.dumps(config | changed))
        return report_pretraining(folder).rpartition("use it    ")[2]

    assert " --data.image-size 64 --encoder " in next_step(data={"image_size": 64})
    assert " --batch-size 32 --encoder " in next_step(batch_size=32)
    assert "batch-size" not in next_step(batch_size=128)
    own = next_step(model={"backbone": "own:Trunk-1f"})
    assert own == f"encoder = nacgen.NACEncoder.from_pretrained('{folder}/encoder', backbone=...)"


@pytest.mark.parametrize(
    ("dataset", "start"),
    [
        ("folder", "nacgen train-gan --preset folder --data-dir 'my photos' --encoder "),
        ("cifar10", "encoder = nacgen.NACEncoder.from_pretrained("),
    ],
)
def test_without_labels_the_report_has_no_accuracy(
    dataset: str, start: str, tmp_path: Path
) -> None:
    folder = write_pretraining(tmp_path / "run", None, dataset)
    (folder / "samples/views.png").write_bytes(b"")  # damaged
    text = write_pretraining_report(folder)[0].read_text()
    assert "> 8 of 8 checks of the encoder are good" in text
    assert "](curve_1.svg)" in text
    assert "](curve.svg)" not in text
    assert "views.png" not in text
    assert "green frame" not in text
    assert f"    {start}" in text


def test_views_stand_beside_their_image_and_have_the_size_that_the_encoder_gets() -> None:
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
    unchanged = ViewPolicy(
        crop_scale=(1.0, 1.0),
        crop_ratio=1.0,
        flip=False,
        jitter_probability=0.0,
        grayscale_probability=0.0,
    )
    sheet, columns = views_of(images, unchanged)
    assert sheet.shape == (2 * columns, 3, 4, 4)
    assert torch.equal(sheet, images.repeat_interleave(columns, dim=0))
    assert views_of(images, ViewPolicy(size=8))[0].shape == (2 * columns, 3, 8, 8)


def test_an_augmentation_draws_the_pictures_where_it_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def augment(images: torch.Tensor) -> torch.Tensor:
        raise LookupError(images.device.type)

    monkeypatch.setattr(pretraining_report, "nearest_images", lambda *_: None)
    images, views = load_dataset("digits"), ViewPolicy(function=augment)
    with open_run("x", TrainingConfig(run_dir=str(tmp_path / "run"))) as run:
        run.device = torch.device("meta")
        with pytest.raises(LookupError, match="meta"):
            draw_encoder(NACEncoder(code_dim=16), views, images, images, run)
