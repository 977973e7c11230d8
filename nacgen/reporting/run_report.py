"""The report of one training run as Markdown, self-contained HTML and text, and the parts of all reports."""

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nacgen.data.options import GIVEN, REAL_IMAGES
from nacgen.metrics.result import describe_bias, describe_protocol
from nacgen.reporting.blocks import Block, Folded, Images, Link, Table, to_html, to_markdown
from nacgen.reporting.charts import run_curve, score
from nacgen.reporting.recorded_runs import (
    RecordedEvaluation,
    RecordedRun,
    better,
    is_picture,
    load_run,
    options_of,
    warnings_of,
)
from nacgen.system.documents import flatten
from nacgen.system.files import storage_errors, write_file
from nacgen.system.own_parts import OWN, is_own

Reports = tuple[Path, Path]  # paths of the Markdown and the HTML file
# Fields in which runs of one comparison differ.
_RUN_BY_RUN = ("preset", "init", "align", "seed", "run_dir", "config", "run.num_threads")
WHOLE_PROTOCOL = "To report a score, take the whole protocol: it is in the report and summary.json."
_CAPTIONS = {
    "interpolation": "In each row, samples on the way from one latent to another",
    "mixture": "Samples from the Gaussian mixture that was fitted to the latents",
    "reconstructions": "Held-out images, each row above its reconstructions",
    "traversals": "A held-out image with one latent axis moved from -3 to 3 in each row",
}


def write_run_report(run_dir: str | Path, preset: Mapping[str, Any] | None = None) -> Reports:
    """Write `report.md`, `report.html` and `curve.svg` of one training run into its folder.

    `preset` is the configuration of the run's preset, as in `compare_command`.
    """
    run = load_run(run_dir)
    title = f"{run.path.name}, seed {run.seed}"
    if run.kind and run.metrics:
        title = f"{run.config.get('dataset')}: {run.arm} {run.kind}, seed {run.seed}"
    blocks: list[Block] = []
    if run.evaluations:
        last = run.evaluations[-1]
        blocks += [f"> {_headline(run)}"]
        for index, metric in enumerate(run.metrics):
            chart = run_curve(run, metric, run.path / f"curve{f'_{index}' if index else ''}.svg")
            blocks += [Images([chart], [f"`{metric}` against images seen"], "chart")]
        if run.metrics:
            blocks += ["## Scores", _score_history(run), *warnings_of([[run]])]
        blocks += samples({run.arm: run}, [last.images_seen])
        animation = run.path / "samples" / "training.gif"
        if animation.is_file():
            blocks += [Link(animation, "The samples while it trained, as an animation")]
        for path in sorted((run.path / "samples").glob("*.png")):
            if not is_picture(path):
                blocks += [f"Passed over, since it is no whole PNG file: {path.name}"]
            elif not path.name.startswith(("images_", REAL_IMAGES)):  # shown above
                caption = _CAPTIONS.get(path.stem, path.stem)
                blocks += [Images([path], [caption], "samples")]
        blocks += _more_samples(run)
        if _is_compared(last):
            blocks += ["## Protocol of the scores", mapping_table("Field", last.protocol)]
    else:
        blocks += ["> This run has no scores."]
    if run.kind and run.metrics and _is_of_commands(run):
        blocks += [f"## Compare {run.kind}s", f"    {compare_command(run, preset)}"]
    return write_blocks([*blocks, *origins(run)], title, run.path)


def origins(run: RecordedRun) -> list[Block]:
    """Return the summary of a run, and its configuration and environment, which are folded."""
    blocks: list[Block] = []
    if run.summary is not None:
        measured = {
            k: float(f"{v:.6g}") if isinstance(v, float) else v
            for k, v in run.summary.items()
            if not (v is None or isinstance(v, Mapping | list))
        }
        blocks += ["## Summary", mapping_table("Quantity", measured)]
    blocks += [Folded("Configuration", [mapping_table("Field", run.config)])]
    if run.environment:
        blocks += [Folded("Environment", [mapping_table("Field", run.environment)])]
    return blocks


def report_run(run_dir: str | Path, preset: Mapping[str, Any] | None = None) -> str:
    """Write the report of one training run, as `write_run_report` does, and return a summary for a terminal.

    The summary holds the last scores with what they rest on, paths, and the command that compares it to controls.
    """
    html = write_run_report(run_dir, preset)[1]
    run = load_run(run_dir)
    lines = {"report": str(html)}
    if run.evaluations:
        last = run.evaluations[-1]
        grid = run.sample_grid(last.images_seen)
        notes = [f"warning: {text}" for text in last.warnings if run.metrics]
        scored = {"scores": wrapped(_headline(run).replace("`", ""), *notes)}
        if _is_compared(last):
            scored["protocol"] = wrapped(describe_protocol(last.protocol), WHOLE_PROTOCOL)
        if run.metrics:
            scored["curve"] = str(run.path / "curve.svg")
        lines = {**scored, "samples": "none" if grid is None else str(grid), **lines}
    if run.kind and run.metrics and _is_of_commands(run):
        lines["compare"] = compare_command(run, preset)
    return in_columns(lines)


def _is_compared(evaluation: RecordedEvaluation) -> bool:
    """Return True if samples were compared with images, so that the scores have a protocol."""
    return evaluation.protocol.get("extractor") != "none"


def _more_samples(run: RecordedRun) -> list[Block]:
    """Return the command that writes more samples, unless it needs a network that was handed over in Python."""
    generator = str(flatten(run.config).get("generator.network"))
    if generator.startswith(OWN):
        return []
    words = ["--run-dir", str(run.path), "--num-images", "500", "--columns", "0"]
    words += ["--output", "images", *(["--generator", generator] if is_own(generator) else [])]
    text = "This command writes 500 as files, image i always from seed i. `nacgen sample --help` tells more."
    return ["## More samples", text, f"    nacgen sample {shlex.join(words)}"]


def _is_of_commands(run: RecordedRun) -> bool:
    """Return True if a command can train such a run: nothing of it was handed over in Python."""
    options = flatten(run.config).values()
    return run.config.get("dataset") != GIVEN and not any(str(x).startswith(OWN) for x in options)


def compare_command(run: RecordedRun, preset: Mapping[str, Any] | None = None) -> str:
    """Return the shell command that compares a run's initialization or alignment to its controls, all else equal.

    If the run differs from `preset`, the configuration of its preset, the command names its own `config.yaml`.
    `ENCODER` stands where the run has none and other arms need one.
    """
    here, there = (
        {name: value for name, value in options_of(config).items() if name not in _RUN_BY_RUN}
        for config in (run.config, preset or {})
    )
    source = ["--run-config", str(run.path / "config.yaml")]
    if here == there:
        source = ["--preset", str(run.config.get("preset"))]
    earlier = "train_vae" if "posterior" in run.config else "train_gan"  # did not record its recipe
    if (recipe := str(run.environment.get("recipe") or earlier)) != "train_gan":
        source = ["--recipe", recipe, *source]
    controls = ["none", "random"] if run.kind == "alignment" else ["random"]
    arms = [*controls, run.arm if run.arm not in controls else "nac"]
    has_encoder = (
        run.config.get("encoder") or run.arm != "none" or run.config.get("dataset") == "digits"
    )
    encoder = [] if has_encoder else ["--encoder", "ENCODER"]  # its controls need one
    options = [*source, *encoder, "--arms", *arms, "--seeds", "0", "1", "2"]
    precision = run.environment.get("mixed_precision", "no")
    command = "nacgen compare"
    if precision != "no":
        command = f"accelerate launch --mixed_precision {precision} -m nacgen.recipes.compare"
    return f"{command} {shlex.join(options)}"


def in_columns(lines: Mapping[str, str]) -> str:
    """Return names with their texts beside them, for a terminal."""
    return "\n".join(f"{name:9} {text}" for name, text in lines.items())


def wrapped(*texts: str) -> str:
    """Wrap texts that stand beside a name, each from a line of its own on."""
    space = " " * 10
    lines = (textwrap.fill(t, 100, initial_indent=space, subsequent_indent=space) for t in texts)
    return "\n".join(lines).lstrip()


def _headline(run: RecordedRun) -> str:
    last = run.evaluations[-1]
    values = [
        f"`{metric}` {score(last.scores[metric]['value'])} ({better(metric)} is better)"
        for metric in sorted(last.scores)
    ]
    if not values:
        return (
            f"The model has seen {last.images_seen:,} images; its samples were not scored, as "
            "`--score.extractor none` asks. `nacgen evaluate REFERENCE RUN` scores them at any time."
        )
    biases = " ".join(bias_note([run], metric) for metric in run.metrics)
    return f"{', '.join(values)} after {last.images_seen:,} images. {biases}"


def bias_note(runs: Sequence[RecordedRun], metric: str) -> str:
    """Say how large the bias of a score is at its last evaluation; empty if it is unknown."""
    last = [run.evaluations[-1].scores.get(metric, {}).get("bias") for run in runs]
    if not (biases := [bias for bias in last if bias is not None]):
        return ""
    low, high = (f"{float(f'{bias:.2g}'):g}" for bias in (min(biases), max(biases)))
    range_of_biases = low if low == high else f"{low} to {high}"
    return f"In `{metric}`, {describe_bias(range_of_biases)}."


def _score_history(run: RecordedRun) -> Table:
    curves = [run.curve(metric) for metric in run.metrics]
    moments = dict.fromkeys(evaluation.images_seen for evaluation in run.evaluations)
    rows = [
        [f"{seen:,}", *(score(curve[seen]) if seen in curve else "" for curve in curves)]
        for seen in moments
    ]
    return Table(["Images seen", *run.metrics], rows)


def samples(runs: Mapping[str, RecordedRun], moments: Sequence[int]) -> list[Block]:
    """Show real images and the sample grids of one run of each arm side by side, one line for each moment."""
    blocks: list[Block] = []
    real = next(iter(runs.values())).path / "samples" / REAL_IMAGES
    caption = "Real images, of the size and colors that scores compare"
    first = {caption: real} if is_picture(real) else {}
    for seen in moments:
        grids = {
            f"{arm}, seed {run.seed}, {seen:,} images": grid
            for arm, run in runs.items()
            if (grid := run.sample_grid(seen)) is not None
        }
        if grids:
            shown = first | grids
            blocks.append(Images(list(shown.values()), list(shown), "samples"))
    if not blocks:
        blocks = ["No sample grids were found."]
    return ["## Samples", *blocks]


def mapping_table(name: str, content: Mapping[str, Any]) -> Table:
    """Tabulate a nested mapping, with dots between the keys."""
    rows = [
        [f"`{key}`", " ".join(map(str, value)) if isinstance(value, list) else str(value)]
        for key, value in flatten(content).items()
    ]
    return Table([name, "Value"], rows)


def write_blocks(blocks: Sequence[Block], title: str, folder: Path) -> Reports:
    """Write `report.md` and `report.html` under a title into an existing folder and return their paths."""
    blocks = [f"# {title}", *blocks]
    reports = folder / "report.md", folder / "report.html"
    contents = to_markdown(blocks, folder), to_html(blocks, title, folder)
    for path, content in zip(reports, contents, strict=True):
        with storage_errors(f"the report {path}", "Mend the folder, and repeat the command."):
            # A path may hold bytes that are no text.
            write_file(path, content.encode("utf-8", errors="backslashreplace"))
    return reports
