"""The report of a pretraining: what the encoder sees, how it learned, and what is good and bad about its code."""

import shlex
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nacgen.data.augment import ViewPolicy, random_view
from nacgen.data.datasets import Dataset
from nacgen.data.pictures import write_grid
from nacgen.data.pixels import to_uint8
from nacgen.data.stream import Batch
from nacgen.models.encoder import NACEncoder
from nacgen.models.own_network import evaluating
from nacgen.probes.report import MAX_IMAGES, thin
from nacgen.probes.suite import nearest_images
from nacgen.reporting.blocks import Block, Images, Table
from nacgen.reporting.charts import Line, line_chart
from nacgen.reporting.encoders.encoder_pictures import write_retrieval_sheet
from nacgen.reporting.encoders.findings import caution, findings, summary_of
from nacgen.reporting.recorded_runs import RecordedRun, is_picture, load_run
from nacgen.reporting.run_report import Reports, in_columns, origins, wrapped, write_blocks
from nacgen.system.documents import flatten
from nacgen.system.own_parts import is_own
from nacgen.training.config import TrainingConfig
from nacgen.training.run import Run
from nacgen.training.run_folder import SAMPLES

NUM_SHOWN, NUM_VIEWS = 8, 5  # images of each picture, and views of an image
SIDE = 48  # pixels of a small image in a picture, about
PICTURES = {
    "views": "Left, an image; beside it, random views of it as the encoder sees them. It learns to give all "
    "images of a row nearly the same code.",
    "neighbors": "Left, a held-out image; beside it, the training images with the nearest codes, the nearest "
    "first.",
}
FRAMES = " A solid green frame is of the same class, a dashed red one of another."
# Dotted name in the log, label and title of each curve.
CURVES = {
    "linear_probe": (
        "accuracy (higher is better)",
        "Linear classifier on the features",
        "held-out images",
    ),
    "health.information.nac_bound": (
        "nats (higher is better)",
        "Information in a noisy code",
        "lower bound, on held-out images; below 0 it shows nothing",
    ),
}


def draw_encoder(
    encoder: NACEncoder, views: ViewPolicy, train: Dataset, held_out: Dataset, run: Run
) -> None:
    """Draw views of images and nearest neighbors by code into the run folder; every process calls it."""
    run.say("drawing views and nearest neighbors")
    shown, queries = thin(train, NUM_SHOWN), thin(held_out, NUM_SHOWN)
    with evaluating(encoder):
        retrieved = nearest_images(encoder, queries, thin(train, MAX_IMAGES), run.device)
    sheet, columns = views_of(shown.read(torch.arange(len(shown))).to(run.device), views)
    folder = run.path / SAMPLES
    with run.processes.failing_together(), run.writing("pictures"):
        if run.is_main:
            write_grid(sheet.cpu(), folder / "views.png", columns, max(1, SIDE // sheet.shape[-1]))
            zoom = max(1, SIDE // queries.image_size)
            write_retrieval_sheet(retrieved, folder / "neighbors.png", zoom)


def views_of(images: Tensor, policy: ViewPolicy) -> tuple[Tensor, int]:
    """Return rows of an image and its views, uint8 `(n * columns, 3, h, w)`, and the number of columns."""
    batch = Batch(images, None, 0, 0, len(images), 0)
    drawn = (random_view(batch, policy, f"report_view_{i}") for i in range(NUM_VIEWS))
    views = [view.clamp(-1, 1) for view in drawn]  # those of one's own may leave the range
    size = views[0].shape[-2:]
    whole = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
    whole = whole.round().clamp(0, 255).to(torch.uint8)
    return torch.stack([whole, *map(to_uint8, views)], dim=1).flatten(0, 1), 1 + NUM_VIEWS


def write_pretraining_report(run_dir: str | Path) -> Reports:
    """Write `report.md`, `report.html` and charts of a finished pretraining; return the two paths."""
    run = load_run(run_dir)
    title = (
        f"{run.config['dataset']}: encoder pretrained by {run.config['objective']}, seed {run.seed}"
    )
    trained, untrained = _measured(run)
    found = findings(trained, untrained)
    blocks: list[Block] = [f"> {summary_of(found)}", *caution(trained)]
    rows = [
        [f.verdict, f"{f.what}. {f.reason}", f"trained: {f.trained}; untrained: {f.untrained}"]
        for f in sorted(found, key=lambda f: ("bad", "fair", "good").index(f.verdict))
    ]
    blocks += [Table(["Verdict", "Check", "Found"], rows)]
    blocks += ["## How it learned", *_curves(run, untrained), *_limit(run)]
    num_classes = flatten(run.environment).get("data.train.classes", 0)
    has_labels = bool(num_classes) or trained["linear_probe"] is not None
    for name, caption in PICTURES.items():
        path = run.path / SAMPLES / f"{name}.png"
        if is_picture(path):
            heading = "What the encoder sees" if name == "views" else "Nearest neighbors by code"
            frames = FRAMES if name == "neighbors" and has_labels else ""
            blocks += [f"## {heading}", Images([path], [caption + frames], "samples")]
    blocks += ["## Use it", f"    {_next_command(run)}"]
    return write_blocks([*blocks, *origins(run)], title, run.path)


def report_pretraining(run_dir: str | Path) -> str:
    """Write the report of a finished pretraining, and return its summary for a terminal."""
    html = write_pretraining_report(run_dir)[1]
    run = load_run(run_dir)
    trained, untrained = _measured(run)
    found = findings(trained, untrained)
    unsound = [finding for finding in found if finding.verdict != "good"]
    lines = {
        "result": wrapped(
            *(f"{f.what}: {f.trained} (untrained: {f.untrained})" for f in found[:2])
        ),
        "checks": wrapped(
            summary_of(found),
            *caution(trained),
            *(f"{f.verdict}: {f.what}. {f.reason}" for f in unsound),
        ),
        "encoder": str(run.path / "encoder"),
        "report": str(html),
        "use it": _next_command(run),
    }
    return in_columns(lines)


def _measured(run: RecordedRun) -> tuple[dict[str, Any], dict[str, Any]]:
    summary = run.summary or {}
    trained = {name: summary.get(name) for name in ("linear_probe", "health")}
    return trained, summary["untrained"]


def _curves(run: RecordedRun, untrained: dict[str, Any]) -> list[Block]:
    charts: list[Path] = []
    before = flatten(untrained)
    for index, (name, (label, title, note)) in enumerate(CURVES.items()):
        curve = run.logged(name)
        if not curve or before[name] is None:
            continue
        curve = {0: before[name], **curve}
        end = f"{curve[max(curve)]:.3f}"
        lines: list[Line] = [(curve, 1, end)]
        path = run.path / f"curve{f'_{index}' if index else ''}.svg"
        heading = f"{title}: {end} after {max(curve):,} images"
        charts.append(line_chart(lines, label, path, heading, note, may_be_log=False))
    return [Images(charts, ["" for _ in charts], "chart")]


def _limit(run: RecordedRun) -> list[Block]:
    """Explain the channel of NAC's training, and the most that the objective can reach with it."""
    match run.summary:
        case {
            "channel": {
                "flip_probability": float(p),
                "code_dim": int(bits),
                "num_codes": int(count),
                "capacity": float(capacity),
                "ceiling": float(ceiling),
                "temperature": float(temperature),
            }
        }:
            pass
        case _:  # another objective, or a run of an earlier version
            return []
    reason = (
        f"the logarithm of {count:,}, since to find one of {count:,} is to learn no more. Comparing more codes "
        f"raises this limit, up to the {capacity:.2f} nats that get through the channel."
        if ceiling < capacity
        else "the capacity of the channel: no more gets through its noise. Longer codes or fewer flips raise it."
    )
    return [
        f"While the encoder trains, a noisy channel flips each of the {bits} bits of a code with probability "
        f"{p:g}. The objective counts, in nats of 1.44 bits, how well the noisy code of one view tells which of "
        f"{count:,} codes in a step belongs to the same image. It cannot exceed {ceiling:.2f} nats, {reason} In "
        f"terms of contrastive learning, this channel is a temperature of {temperature:.3g}."
    ]


def _next_command(run: RecordedRun) -> str:
    """Return the command that trains a GAN from the encoder, or where it is unclear the line that loads it."""
    path, dataset = str(run.path / "encoder"), run.config["dataset"]
    has_own = is_own(run.config.get("model", {}).get("backbone"))
    if has_own or dataset not in ("digits", "folder"):
        backbone = ", backbone=..." if has_own else ""
        return f"encoder = nacgen.NACEncoder.from_pretrained({path!r}{backbone})"
    folder = shlex.quote(str(run.config.get("data_dir")))
    data = f"--preset folder --data-dir {folder} " if dataset == "folder" else ""
    if data and (size := run.config.get("data", {}).get("image_size")) is not None:
        data += f"--data.image-size {size} "
    batch_size = run.config.get("batch_size", TrainingConfig.batch_size)
    if data and batch_size < TrainingConfig.batch_size:  # perhaps there are no more images
        data += f"--batch-size {batch_size} "
    return f"nacgen train-gan {data}--encoder {shlex.quote(path)}"
