"""A report on encoders: tables of all measurements, mean and standard deviation over seeds."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from nacgen.reporting.blocks import Block, Heading, Images, Paragraph, Table, to_text
from nacgen.reporting.document import Reports, write_blocks
from nacgen.system.files import storage_errors, write_file

CODE_NAMES = {"code": "learned code", "lsh": "LSH", "pca": "PCA-sign", "itq": "ITQ"}


@dataclass(frozen=True)
class Measurement:
    """Results of one encoder.

    Args:
        name: Name of the encoder; encoders of the same name are seeds of one arm.
        source: Folder or Hub id that the encoder was loaded from.
        results: Results by evaluator, from `nacgen.probes.suite.EncoderSuite`.
    """

    name: str
    source: str
    results: dict[str, Any]


@dataclass(frozen=True)
class _Figure:
    title: str
    read: Callable[[dict[str, Any]], float | None]
    digits: int = 3


def write_results(measurements: Sequence[Measurement], folder: Path) -> None:
    """Write `results.json`; call it after each encoder, so that a later failure loses nothing.

    Args:
        measurements: Measurements so far.
        folder: Folder to write into; it is made if it does not exist.

    Raises:
        StorageError: If the folder cannot be written.
    """
    content = json.dumps([asdict(measurement) for measurement in measurements], indent=1)
    with storage_errors(f"the folder {folder}", "Choose another --run-dir."):
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / "results.json", content)


def write_encoder_report(
    measurements: Sequence[Measurement],
    run_dir: Path,
    title: str,
    pictures: Mapping[str, Path],
) -> Reports:
    """Write `report.md` and `report.html`.

    Args:
        measurements: Measurements of all encoders, in the order of the table.
        run_dir: Existing folder to write into.
        title: Title of the report.
        pictures: Paths of the pictures, by caption.

    Returns:
        Paths of the Markdown and the HTML file.

    Raises:
        StorageError: If the folder cannot be written.
    """
    arms = by_name(measurements)
    blocks: list[Block] = [Heading(title, 1)]
    for heading, figures, note in _sections(measurements):
        blocks += [Heading(heading), _table(arms, figures)]
        blocks += [Paragraph(note)] if note else []
    for name, results in arms.items():
        warnings = {w for r in results for w in r.get("health", {}).get("warnings", ())}
        blocks += [Paragraph(f"{name}: {warning}") for warning in sorted(warnings)]
    for caption, path in pictures.items():
        blocks += [Heading(caption), Images([path], [""], "chart")]
    rows = [[m.name, f"`{m.source}`"] for m in measurements]
    blocks += [Heading("Encoders"), Table(["Name", "Source"], rows)]
    blocks += [Heading("Protocols"), Table(["Evaluator", "Protocol"], _protocols(measurements[0]))]
    return write_blocks(blocks, title, run_dir)


def encoder_text(measurements: Sequence[Measurement]) -> str:
    """Render the report's tables as aligned text for a terminal."""
    arms = by_name(measurements)
    tables = [to_text(_table(arms, figures)) for _, figures, _ in _sections(measurements)]
    return "\n\n".join(tables)


def by_name(measurements: Sequence[Measurement]) -> dict[str, list[dict[str, Any]]]:
    """Return the results of all seeds of each encoder, by its name."""
    arms: dict[str, list[dict[str, Any]]] = {}
    for measurement in measurements:
        arms.setdefault(measurement.name, []).append(measurement.results)
    return arms


def _sections(
    measurements: Sequence[Measurement],
) -> list[tuple[str, list[_Figure], str]]:
    """Return heading, columns and note of each kind of measurement."""
    first = measurements[0].results
    sections: list[tuple[str, list[_Figure], str]] = []
    columns: list[_Figure] = []
    for fraction in first.get("linear", {}):
        labels = "" if fraction == "1" else f", {float(fraction):.0%} of the labels"
        columns.append(_Figure(f"Linear{labels}", _path("linear", fraction, "top_1")))
    if "linear_sgd" in first:
        columns.append(_Figure("Linear, paper's protocol", _path("linear_sgd", "top_1")))
    columns += [_Figure(f"{k}-NN", _path("knn", k, "top_1")) for k in first.get("knn", {})]
    if columns:
        sections.append(("Classification of frozen features (top-1 accuracy)", columns, ""))
    retrieval = first.get("retrieval", {})
    if retrieval:
        columns = [
            _Figure(f"mAP, {CODE_NAMES[k]}", _path("retrieval", k, "mean_average_precision"))
            for k in retrieval
        ]
        columns.append(
            _Figure(
                "Precision within radius 2", _path("retrieval", "code", "precision_within_radius_2")
            )
        )
        code = retrieval["code"]
        note = (
            f"Mean average precision of {code['protocol']['code_dim']}-bit codes by Hamming distance, expected "
            f"over ties, protocol {code['protocol']['name']}; chance is {code['chance']:.3f}. LSH, PCA-sign and "
            "ITQ are codes of the same encoder's features."
        )
        num_lost = code["protocol"]["num_queries_without_relevant"]
        if num_lost:
            note += f" {num_lost} queries have no relevant item in the gallery and count as 0."
        sections.append(("Retrieval", columns, note))
    if "health" in first:
        columns = [
            _Figure("Bound, nats", _path("health", "information", "nac_bound"), 2),
            _Figure("Bits flipped by another view", _path("health", "view_flip_rate")),
            _Figure("Effective codes", _path("health", "effective_codes"), 1),
            _Figure("Feature rank", _path("health", "feature_rank"), 1),
        ]
        sections.append(("Code health", columns, ""))
    if "regions" in first:
        columns = [
            _Figure("Crossings between images", _path("regions", "between", "mean"), 0),
            _Figure("within an orbit", _path("regions", "within_orbit", "mean"), 0),
            _Figure("Effective patterns, last ReLU", _path("regions", "last_relu", "effective"), 1),
            _Figure("NASWOT", _path("regions", "naswot"), 0),
        ]
        sections.append(("Linear regions", columns, ""))
    return sections


def _path(*keys: str) -> Callable[[dict[str, Any]], float | None]:
    def read(results: dict[str, Any]) -> float | None:
        value: Any = results
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                return None
            value = value[key]
        return None if value is None else float(value)

    return read


def _table(arms: dict[str, list[dict[str, Any]]], figures: Sequence[_Figure]) -> Table:
    header = ["Encoder", "Seeds", *(figure.title for figure in figures)]
    rows = [
        [name, str(len(results)), *(_cell(results, figure) for figure in figures)]
        for name, results in arms.items()
    ]
    return Table(header, rows)


def _cell(results: Sequence[dict[str, Any]], figure: _Figure) -> str:
    values = [v for v in map(figure.read, results) if v is not None]
    if not values:
        return ""
    text = f"{mean(values):,.{figure.digits}f}"
    return text if len(values) < 2 else f"{text} ± {stdev(values):,.{figure.digits}f}"


def _protocols(measurement: Measurement) -> list[list[str]]:
    rows: list[list[str]] = []
    for evaluator, result in measurement.results.items():
        parts = {"": result} if "protocol" in result else result
        for name, part in parts.items():
            if isinstance(part, dict) and "protocol" in part:
                settings = ", ".join(f"{k} {v}" for k, v in part["protocol"].items())
                rows.append([f"{evaluator} {name}".strip(), settings])
    return rows
