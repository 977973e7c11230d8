"""The command line of a benchmark, its results as JSON, and the page that shows the results of all.

Each file of benchmarks keeps `docs/performance/NAME.json`: its parts, each with its rows and the machine that they
were measured on. `docs/performance.md` is written from these files, so that one part can be measured again and the
others stay.
"""

import argparse
import json
import os
import platform
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from inspect import cleandoc
from pathlib import Path
from statistics import median
from typing import Any

import torch

from timing import SIZES, Growth, Row, Size, cost

DOCS = Path(__file__).parents[1] / "docs"
HEAD = """# Speed

Written by `python benchmarks/run.py` (`--quick` takes five and a half minutes on two cores;
`python benchmarks/NAME.py --only PART` measures one part again). Peers come with `pip install -e ".[bench]"`.
Both sides work in turns, A B B A, on the same inputs, and what they give is compared before the clock runs. A
ratio is the median over the turns of the peer's cost divided by ours: above 1 we are faster or smaller; its
range is the lowest and highest of a turn. Processor time counts all threads and worker processes.

## What a user waits for

Wall clock. Each line is a row of a table below, and is printed whether it is ahead or behind.
"""
FIRST = (  # what a user does, the benchmark that has its row, and a regular expression that finds the row
    ("from the return key to the first step", "startup", "first step"),
    ("train a GAN on the digits, from start to end", "runs", r"train_gan\.py.* from start to end"),
    ("probe two encoders", "runs", r"probe_encoder\.py.* from start to end"),
    ("open 50,000 small images again", "images", "second opening of 50,000 PNG"),
    ("score two folders of 500 images", "end_to_end", "pytorch_fid of.* 500 PNG"),
    ("compare two arms, two runs side by side", "comparison", "--jobs 2"),
    ("save a ResNet-18 while it trains", "checkpoints", "stall .* resnet18"),
    ("pretrain with NAC", "steps", "NAC pretraining.*channels last"),
)

FIGURES = "peer, peer's:, ours:, ratio (lowest to highest):"
Part = Callable[[Size], list[Row] | list[Growth]]


def main(
    document: str,
    path: str,
    parts: Mapping[str, Part],
    packages: Sequence[str] = (),
    arguments: Sequence[str] | None = None,
) -> None:
    """Measure the parts that the command line asks for, keep them, print them and write the page anew.

    Args:
        document: Docstring of the benchmark: its first line is the title, its text stands above its table.
        path: Of the benchmark's file.
        parts: What can be measured, by name.
        packages: Peers and what else the figures depend on; their versions are noted.
        arguments: In place of the command line.

    Raises:
        SystemExit: 1 where a part failed; the others are measured and kept.
    """
    title, _, text = cleandoc(document).partition("\n")
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--size", choices=SIZES, default="full", help="smoke is for the tests")
    parser.add_argument("--quick", dest="size", action="store_const", const="quick")
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts), metavar="PART")
    parser.add_argument("--missing", action="store_true", help="only parts without a result yet")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder to write to")
    options = parser.parse_args(arguments)
    size, file = SIZES[options.size], options.docs / "performance" / f"{Path(path).stem}.json"
    kept = json.loads(file.read_text())["parts"] if file.exists() else {}
    failed = []
    for name in options.only:
        if options.missing and name in kept:
            continue
        rows: list[Row] | list[Growth] = []
        try:
            spent = cost(lambda name=name, rows=rows: rows.extend(parts[name](size)))
        except (Exception, SystemExit):
            traceback.print_exc()
            failed.append(name)
            continue
        print(table([asdict(row) for row in rows]), flush=True)
        kept[name] = {
            "rows": [asdict(row) for row in rows],
            "machine": machine(size, packages),
            "load": round(os.getloadavg()[0], 1),  # of the last minute
            "seconds": round(spent.wall),
        }
        print(f"{name}: {spent.wall:.0f} s, of processors {spent.cpu:.0f} s", file=sys.stderr)
        content = {
            "title": title,
            "text": text.strip(),
            "parts": {n: kept[n] for n in parts if n in kept},
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=1) + "\n")
    write_page(options.docs)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def write_page(docs: Path) -> None:
    """`performance.md` from the results of all benchmarks."""
    files = sorted((docs / "performance").glob("*.json"))
    contents = {file.stem: json.loads(file.read_text()) for file in files}
    sections = [f"{HEAD}\n{first_table(contents)}\n"]
    for content in contents.values():
        rows = [row for part in content["parts"].values() for row in part["rows"]]
        title = content["title"].rstrip(".")
        parts = [f"## {title}", content["text"], table(rows), *notes(content["parts"])]
        sections.append("\n\n".join(parts) + "\n")
    (docs / "performance.md").write_text("\n".join(sections))


def notes(parts: dict[str, Any]) -> list[str]:
    """Where the parts were measured, one sentence a machine, with the parts' names where there are several."""
    machines: dict[str, dict[str, float]] = {}
    for name, part in parts.items():
        machines.setdefault(part["machine"], {})[name] = part["load"]
    lines = []
    for where, loads in machines.items():
        names = f"{', '.join(loads)}: " if len(machines) > 1 else ""
        lines.append(f"{names}{where}, load up to {max(loads.values())}.")
    return lines


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown, of one kind."""
    if rows and "sizes" in rows[0]:
        return growth_table([Growth(**fields) for fields in rows])
    lines = []
    for fields in rows:
        row = row_of(fields)
        *figures, target = cells_of(row)
        cpu = "" if row.cpu is None else f"{row.cpu:.3g}"
        compared = f"skipped: {row.skipped}" if row.skipped else row.agreement
        lines.append([row.what, *figures, cpu, target, compared])
    return markdown(f"what, {FIGURES}, of processor time:, target, compared", lines)


def first_table(contents: dict[str, dict[str, Any]]) -> str:
    """The rows of `FIRST`, from the results of all benchmarks."""
    lines = []
    for does, benchmark, pattern in FIRST:
        parts = contents.get(benchmark, {"parts": {}})["parts"]
        found = (
            [does, *cells_of(row_of(fields)), f"`{benchmark}.py --only {part}`"]
            for part, kept in parts.items()
            for fields in kept["rows"]
            if re.search(pattern, f"{fields['what']} beside {fields['peer']}")
        )
        lines.append(next(found, [does, "", "", "not measured yet", "", "", f"`{benchmark}.py`"]))
    return markdown(f"what, {FIGURES}, target, measured by", lines)


def growth_table(rows: list[Growth]) -> str:
    """Exponents beside those of theory."""
    lines = []
    for row in rows:
        exponents = zip(row.exponents(), (row.time, row.memory), strict=True)
        time_power, memory_power = (f"{found:.2f} ({theory:g})" for found, theory in exponents)
        sizes = f"{row.sizes[0]:,} to {row.sizes[-1]:,} {row.unit}"
        ends = f"{row.seconds[-1]:.3g} s", time_power, f"{row.megabytes[-1]:,.0f} MB", memory_power
        lines.append([row.what, sizes, *ends, "within" if row.is_met() else "**above**"])
    return markdown(
        "what, sizes, time at the end:, exponent (theory):, memory at the end:, exponent (theory):, theory",
        lines,
    )


def markdown(heads: str, lines: list[list[str]]) -> str:
    """A table; columns whose heads end in a colon are flush right."""
    names = heads.split(", ")
    rules = ["---:" if name.endswith(":") else "---" for name in names]
    rows = [[name.removesuffix(":") for name in names], rules, *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def row_of(fields: dict[str, Any]) -> Row:
    """A row as it was before it was written as JSON."""
    return Row(**fields | {"items": fields["items"] and tuple(fields["items"])})


def cells_of(row: Row) -> list[str]:
    """Peer, its cost, ours, their ratio and the target."""
    ratio = ""
    if row.theirs and row.ours:
        ratios = row.ratios()
        ratio = f"{median(ratios):.3g} ({min(ratios):.3g} to {max(ratios):.3g})"
    return [row.peer, shown(row, row.theirs), shown(row, row.ours), ratio, goal(row)]


def shown(row: Row, costs: list[float]) -> str:
    """The median in the row's unit, as a rate where items are counted."""
    if not costs:
        return ""
    value = median(costs)
    if row.items is not None:
        return f"{row.items[0] / value:,.0f} {row.items[1]}/s"
    if row.unit == "s" and value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:,.0f} {row.unit}" if value >= 1000 else f"{value:.3g} {row.unit}".strip()


def goal(row: Row) -> str:
    """The target and whether it is met."""
    target = f"ratio ≥ {row.at_least:.3g}" if row.at_least is not None else ""
    if row.at_most is not None:
        target = f"≤ {row.at_most:g} {row.unit}".strip()
    met = {True: "met", False: "**missed**", None: ""}[row.is_met()]
    return ": ".join(part for part in (target, met) if part)


def machine(size: Size, packages: Sequence[str]) -> str:
    """Versions, threads, processor and turns, in one sentence."""
    found = []
    for name in ("torch", *packages):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} absent")
    return (
        f"{', '.join(found)}, Python {platform.python_version()}; threads: {torch.get_num_threads()} "
        f"on {os.cpu_count()} cores, {processor()}{device()}; {size.name} size, turns: {size.turns}"
    )


def device() -> str:
    """Name of the GPU with the version of CUDA, where there is one."""
    if not torch.cuda.is_available():
        return ""
    return f", {torch.cuda.get_device_name()} with CUDA {torch.version.cuda}"


def processor() -> str:
    """Name of the processor, where the system tells."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.machine()
