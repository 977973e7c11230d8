import json
from pathlib import Path

import torch

from nacgen.data.datasets import ImageDataset
from nacgen.reporting.classifier_report import record_mistakes, report_classifier
from nacgen.training.config import TrainingConfig
from nacgen.training.run import open_run

SURE = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 2.0, 0.0], [0.0, 5.0, 0.0]])
LABELS = torch.tensor([0, 1, 2, 2])


def write_classifier(folder: Path, logits: torch.Tensor = SURE, num_classes: int = 3) -> Path:
    """Write a finished run of a classifier with these logits of four images."""
    pixels = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1).expand(4, 3, 16, 16)
    names = tuple(f"class {i}" for i in range(num_classes))
    folder.mkdir()
    with open_run("x", TrainingConfig(run_dir=str(folder))) as run:
        record_mistakes(run, ImageDataset("x", "test", pixels, LABELS, names), logits)
    (folder / "config.yaml").write_text("seed: 0\ndataset: digits\n")
    accuracy = float((logits.argmax(1) == LABELS).float().mean())
    rows = [{"images_seen": n, "accuracy": n / 400} for n in (128, 256)]
    rows += [{"images_seen": n, "test_accuracy": accuracy} for n in (128, 256)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"images_seen": 256, "test_accuracy": accuracy}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_classifier_leaves_accuracy_confusion_and_its_surest_mistakes(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "run")
    text = report_classifier(folder)
    report = (folder / "report.md").read_text()
    headline = (
        "The classifier gets 50.0% of held-out images right, 2 of 4 wrong; most often it takes class 2 for "
        "class 1."
    )
    assert report.startswith(f"# digits: classifier, seed 0\n\n> {headline}\n\n![](curve.svg)\n")
    assert text.startswith(f"result    {headline}\nmodel     {folder}/classifier\n")
    assert "| class 0 | 1 |  |  |\n| class 1 |  | 1 |  |\n| class 2 |  | 2 |  |\n" in report
    assert "| class 2 | class 1 | 2 |" in report
    captions = "| class 2, taken for class 1 (99% sure) | class 2, taken for class 1 (79% sure) |"
    assert captions in report  # the surest first
    assert "![class 2, taken for class 1 (99% sure)](samples/mistake_00.png)" in report


def test_many_classes_are_not_tabulated_and_no_mistake_is_said(tmp_path: Path) -> None:
    many = torch.cat([SURE, torch.zeros(4, 27)], dim=1)
    text = report_classifier(write_classifier(tmp_path / "many", many, 30))
    assert "2 of 4 wrong" in text
    assert "| class 0 |" not in (tmp_path / "many" / "report.md").read_text()
    right = report_classifier(write_classifier(tmp_path / "right", torch.eye(3)[LABELS]))
    assert "right, 0 of 4 wrong.\n" in right
    assert "## Classes that are confused\n\nNone.\n" in (tmp_path / "right/report.md").read_text()


def test_a_run_of_an_earlier_version_has_its_accuracy(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "run")
    (folder / "mistakes.json").unlink()
    assert "gets 50.0% of held-out images right.\n" in report_classifier(folder)
