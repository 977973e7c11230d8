"""The report of a classifier: its accuracy while it trained, the classes that it confuses, images it mistakes."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nacgen.data.datasets import Dataset
from nacgen.data.pictures import write_image
from nacgen.reporting.blocks import Block, Images, Table
from nacgen.reporting.charts import line_chart
from nacgen.reporting.recorded_runs import RecordedRun, is_picture, load_run
from nacgen.reporting.run_report import Reports, in_columns, origins, write_blocks
from nacgen.system.documents import strict_json
from nacgen.training.run import Run
from nacgen.training.run_folder import SAMPLES

MISTAKES = "mistakes.json"
NUM_SHOWN = 12  # images that are mistaken
MOST_CLASSES = 20  # of a table of all classes
MOST_PAIRS = 10  # of classes that are confused


def record_mistakes(run: Run, dataset: Dataset, logits: Tensor) -> None:
    """Write the classes that were confused, and the surest of the mistaken images; the main process does.

    `logits`, `(n, classes)`, are of all images of a dataset with one class for each.
    """
    if not run.is_main:
        return
    assert dataset.labels is not None
    labels, names = dataset.labels, dataset.class_names
    confidence, predicted = logits.softmax(1).max(1)
    counts = torch.zeros(2 * [len(names)], dtype=torch.int64)
    counts.index_put_((labels, predicted), torch.ones_like(labels), accumulate=True)
    wrong = (predicted != labels).nonzero()[:, 0]
    surest = wrong[confidence[wrong].argsort(descending=True, stable=True)][:NUM_SHOWN]
    apart = counts - counts.diag().diag()
    pairs = apart.flatten().argsort(descending=True, stable=True)[:MOST_PAIRS]
    shown = []
    for number, index in enumerate(surest.tolist()):
        name = f"mistake_{number:02d}.png"
        with run.writing("pictures"):
            write_image(dataset.read(torch.tensor([index]))[0], run.path / SAMPLES / name)
        truth, taken_for = names[int(labels[index])], names[int(predicted[index])]
        shown.append([name, f"{truth}, taken for {taken_for} ({confidence[index]:.0%} sure)"])
    content = {
        "num_images": len(labels),
        "num_wrong": len(wrong),
        "classes": names if len(names) <= MOST_CLASSES else None,
        "counts": counts.tolist() if len(names) <= MOST_CLASSES else None,
        "confused": [
            [names[i // len(names)], names[i % len(names)], int(apart.flatten()[i])]
            for i in pairs.tolist()
            if apart.flatten()[i]
        ],
        "shown": shown,
    }
    run.write(MISTAKES, json.dumps(content) + "\n")


def write_classifier_report(run_dir: str | Path) -> Reports:
    """Write `report.md`, `report.html` and a chart of a finished classifier's run; return the two paths."""
    run = load_run(run_dir)
    title = f"{run.config['dataset']}: classifier, seed {run.seed}"
    curve = run.logged("test_accuracy")
    end = f"{curve[max(curve)]:.1%}"
    chart = line_chart(
        [(run.logged("accuracy"), 0, None), (curve, 1, end)],
        "accuracy (higher is better)",
        run.path / "curve.svg",
        f"{end} of held-out images right after {max(curve):,} images",
        "bold: held-out images, thin: each batch of training",
        may_be_log=False,
    )
    blocks: list[Block] = [f"> {_headline(run)}", Images([chart], [""], "chart")]
    if mistakes := _mistakes(run):
        blocks += _confusion(mistakes)
        shown = {run.path / SAMPLES / name: text for name, text in mistakes["shown"]}
        shown = {path: text for path, text in shown.items() if is_picture(path)}
        if shown:
            blocks += ["## Mistakes, the surest first"]
            blocks += [Images(list(shown), list(shown.values()), "thumbnails")]
    return write_blocks([*blocks, *origins(run)], title, run.path)


def report_classifier(run_dir: str | Path) -> str:
    """Write the report of a finished classifier's run, and return its summary for a terminal."""
    html = write_classifier_report(run_dir)[1]
    run = load_run(run_dir)
    lines = {"result": _headline(run).replace("`", "")}
    lines |= {"model": str(run.path / "classifier"), "report": str(html)}
    return in_columns(lines)


def _headline(run: RecordedRun) -> str:
    accuracy, mistakes = (run.summary or {})["test_accuracy"], _mistakes(run)
    text = f"The classifier gets {accuracy:.1%} of held-out images right"
    if not mistakes:
        return f"{text}."
    count = f"{mistakes['num_wrong']:,} of {mistakes['num_images']:,}"
    confused = [f"{truth} for {taken}" for truth, taken, _ in mistakes["confused"][:1]]
    return f"{text}, {count} wrong{''.join(f'; most often it takes {c}' for c in confused)}."


def _mistakes(run: RecordedRun) -> dict[str, Any]:
    path = run.path / MISTAKES
    return dict(strict_json(path.read_bytes())) if path.is_file() else {}


def _confusion(mistakes: dict[str, Any]) -> list[Block]:
    blocks: list[Block] = ["## Classes that are confused"]
    if not mistakes["confused"]:
        return [*blocks, "None."]
    if mistakes["counts"]:
        names = mistakes["classes"]
        rows = [
            [name, *("" if n == 0 else str(n) for n in counts)]
            for name, counts in zip(names, mistakes["counts"], strict=True)
        ]
        blocks += [
            "A row is a class, a column what the classifier says.",
            Table(["Class", *names], rows),
        ]
    rows = [[truth, taken, str(count)] for truth, taken, count in mistakes["confused"]]
    return [*blocks, Table(["Class", "Taken for", "Images"], rows)]
