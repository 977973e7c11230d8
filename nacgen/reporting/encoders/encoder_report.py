"""A report on encoders: tables of all measurements, mean and standard deviation over seeds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from nacgen.reporting.blocks import Block, Images, Table, to_text
from nacgen.reporting.run_report import Reports, write_blocks
from nacgen.system.documents import flatten
from nacgen.system.files import storage_errors, write_file

Column = tuple[str, str, int]  # title, key of the results with dots, digits

CODE_NAMES = {"code": "learned code", "lsh": "LSH", "pca": "PCA-sign", "itq": "ITQ"}
HEALTH: list[Column] = [
    ("Bound, nats", "health.information.nac_bound", 2),
    ("Bits flipped by another view", "health.view_flip_rate", 3),
    ("Effective codes", "health.effective_codes", 1),
    ("Feature rank", "health.feature_rank", 1),
]
REGIONS: list[Column] = [
    ("Crossings between images", "regions.between.mean", 0),
    ("within an orbit", "regions.within_orbit.mean", 0),
    ("Effective patterns, last ReLU", "regions.last_relu.effective", 1),
    ("NASWOT", "regions.naswot", 0),
]


@dataclass(frozen=True)
class Measurement:
    """Results of one encoder by evaluator; encoders of the same name are seeds of one arm."""

    name: str
    source: str
    results: dict[str, Any]


def write_results(measurements: Sequence[Measurement], folder: Path) -> None:
    """Write `results.json`; call it after each encoder, so that a later failure loses nothing."""
    content = json.dumps([asdict(measurement) for measurement in measurements], indent=1)
    with storage_errors(f"the folder {folder}", "Choose another --run-dir."):
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / "results.json", content)


def write_encoder_report(
    measurements: Sequence[Measurement], run_dir: Path, title: str, pictures: Mapping[str, Path]
) -> Reports:
    """Write `report.md` and `report.html` with pictures by caption; return the two paths."""
    arms = by_name(measurements)
    blocks: list[Block] = []
    for heading, figures, note in _sections(measurements[0].results):
        blocks += [f"## {heading}", _table(arms, figures)]
        blocks += [note] if note else []
    for name, results in arms.items():
        warnings = {w for r in results for w in r.get("health", {}).get("warnings", ())}
        blocks += [f"Warning, {name}: {warning}" for warning in sorted(warnings)]
    for caption, path in pictures.items():
        blocks += [f"## {caption}", Images([path], [""], "chart")]
    rows = [[m.name, f"`{m.source}`"] for m in measurements]
    blocks += ["## Encoders", Table(["Name", "Source"], rows)]
    blocks += ["## Protocols", Table(["Evaluator", "Protocol"], _protocols(measurements[0]))]
    return write_blocks(blocks, title, run_dir)


def encoder_text(measurements: Sequence[Measurement]) -> str:
    """Render the report's tables as aligned text for a terminal."""
    arms, sections = by_name(measurements), _sections(measurements[0].results)
    return "\n\n".join(to_text(_table(arms, figures)) for _, figures, _ in sections)


def by_name(measurements: Sequence[Measurement]) -> dict[str, list[dict[str, Any]]]:
    """Return the results of all seeds of each encoder, by its name."""
    arms: dict[str, list[dict[str, Any]]] = {}
    for measurement in measurements:
        arms.setdefault(measurement.name, []).append(measurement.results)
    return arms


def _sections(results: dict[str, Any]) -> list[tuple[str, list[Column], str]]:
    """Return heading, columns and note of each kind of measurement in an encoder's results."""
    classification = [
        (
            "Linear" if fraction == "1" else f"Linear, {float(fraction):.0%} of the labels",
            f"linear.{fraction}.top_1",
            3,
        )
        for fraction in results.get("linear", {})
    ]
    if "linear_sgd" in results:
        classification.append(("Linear, paper's protocol", "linear_sgd.top_1", 3))
    classification += [(f"{k}-NN", f"knn.{k}.top_1", 3) for k in results.get("knn", {})]
    sections = [
        ("Classification of frozen features (top-1 accuracy)", classification, ""),
        ("Code health", HEALTH if "health" in results else [], ""),
        ("Linear regions", REGIONS if "regions" in results else [], ""),
    ]
    if "retrieval" in results:
        columns = [
            (f"mAP, {CODE_NAMES[k]}", f"retrieval.{k}.mean_average_precision", 3)
            for k in results["retrieval"]
        ]
        radius = ("Precision within radius 2", "retrieval.code.precision_within_radius_2", 3)
        code = results["retrieval"]["code"]
        protocol, num_lost = code["protocol"], code["protocol"]["num_queries_without_relevant"]
        note = (
            f"Mean average precision of {protocol['code_dim']}-bit codes by Hamming distance, expected over "
            f"ties, protocol {protocol['name']}; chance is {code['chance']:.3f}. LSH, PCA-sign and ITQ are "
            "codes of the same encoder's features."
        )
        if num_lost:
            note += f" {num_lost} queries have no relevant item in the gallery and count as 0."
        sections.insert(1, ("Retrieval", [*columns, radius], note))
    times: list[Column] = [(name, f"seconds.{name}", 1) for name in results.get("seconds", {})]
    sections.append(("Seconds of each evaluator", times, ""))
    return [section for section in sections if section[1]]


def _table(arms: dict[str, list[dict[str, Any]]], columns: Sequence[Column]) -> Table:
    header = ["Encoder", "Seeds", *(title for title, _, _ in columns)]
    rows = []
    for name, seeds in arms.items():
        flat = [flatten(results) for results in seeds]
        cells = [
            _cell([f[key] for f in flat if f.get(key) is not None], n) for _, key, n in columns
        ]
        rows.append([name, str(len(seeds)), *cells])
    return Table(header, rows)


def _cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    text = f"{mean(values):,.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {stdev(values):,.{digits}f}"


def _protocols(measurement: Measurement) -> list[list[str]]:
    rows: list[list[str]] = []
    for evaluator, result in measurement.results.items():
        parts = {"": result} if "protocol" in result else result
        for name, part in parts.items():
            if isinstance(part, dict) and "protocol" in part:
                settings = ", ".join(f"{k} {v}" for k, v in part["protocol"].items())
                rows.append([f"{evaluator} {name}".strip(), settings])
    return rows
