"""A report of encoders measured side by side: one table, mean and standard deviation over seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from nacgen.reporting.blocks import Block, Heading, Images, Paragraph, Table, to_text
from nacgen.reporting.document import Reports, write_blocks
from nacgen.reporting.encoders.retrieval import precision_recall_chart

CODE_NAMES = {"code": "learned code", "lsh": "LSH", "pca": "PCA-sign", "itq": "ITQ"}


@dataclass(frozen=True)
class Measurement:
    """One encoder's results.

    Args:
        name: Of its kind; encoders of one name are seeds of one arm.
        source: Where it comes from.
        results: By evaluator, as `nacgen.probes.suite.EncoderSuite` gives them.
    """

    name: str
    source: str
    results: dict[str, Any]


@dataclass(frozen=True)
class _Figure:
    title: str
    read: Callable[[dict[str, Any]], float | None]
    digits: int = 3


def write_encoder_report(
    measurements: Sequence[Measurement],
    run_dir: Path,
    title: str,
    pictures: Mapping[str, Path],
) -> Reports:
    """Write `report.md` and `report.html`.

    Args:
        measurements: Of all encoders, in the order of the table.
        run_dir: Existing folder to write into.
        title: Of the report.
        pictures: By caption: nearest-neighbour sheets, a plane's linear regions.

    Returns:
        Paths of the Markdown and the HTML file.

    Raises:
        StorageError: The folder cannot be written.
    """
    arms = _arms(measurements)
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


def retrieval_chart(measurements: Sequence[Measurement], path: Path) -> Path:
    """Draw what the learned codes retrieve.

    Args:
        measurements: Of all encoders, with retrieval.
        path: The PNG to write.

    Returns:
        The path.

    Raises:
        StorageError: The file cannot be written.
    """
    arms = {
        name: [results["retrieval"]["code"] for results in seeds]
        for name, seeds in _arms(measurements).items()
    }
    curves = {
        name: [(code["curve"]["recall"], code["curve"]["precision"]) for code in codes]
        for name, codes in arms.items()
    }
    chance = next(iter(arms.values()))[0]["chance"]
    return precision_recall_chart(curves, chance, path, title="Retrieval by the learned code")


def encoder_text(measurements: Sequence[Measurement]) -> str:
    """The report's tables for a terminal.

    Args:
        measurements: Of all encoders.

    Returns:
        Aligned text.
    """
    arms = _arms(measurements)
    tables = [to_text(_table(arms, figures)) for _, figures, _ in _sections(measurements)]
    return "\n\n".join(tables)


def _arms(measurements: Sequence[Measurement]) -> dict[str, list[dict[str, Any]]]:
    arms: dict[str, list[dict[str, Any]]] = {}
    for measurement in measurements:
        arms.setdefault(measurement.name, []).append(measurement.results)
    return arms


def _sections(
    measurements: Sequence[Measurement],
) -> list[tuple[str, list[_Figure], str]]:
    """Heading, columns and note of each kind of figure that was measured."""
    first = measurements[0].results
    sections: list[tuple[str, list[_Figure], str]] = []
    columns: list[_Figure] = []
    for fraction in first.get("linear", {}):
        processes = "" if fraction == "1" else f", {float(fraction):.0%} of the labels"
        columns.append(_Figure(f"Linear{processes}", _path("linear", fraction, "top_1")))
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
            "ITQ code the same encoder's features."
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
