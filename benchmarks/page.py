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

from timing import SIZES, Row, Size

DOCS = Path(__file__).parents[1] / "docs"
HEAD = """# Speed

Written by `python benchmarks/run.py` (`--quick` takes minutes; `python benchmarks/NAME.py --only PART` measures
one part again). Peers come with `pip install -e ".[bench]"`. Both sides work in turns, A B B A, on the same
inputs, and what they give is compared before the clock runs. A ratio is the median over the turns of the peer's
cost divided by ours: above 1 we are faster or smaller; its range is the lowest and highest of a turn. Processor
time counts all threads and worker processes.
"""

Part = Callable[[Size], list[Row]]


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
        try:
            rows = parts[name](size)
        except (Exception, SystemExit):
            traceback.print_exc()
            failed.append(name)
            continue
        print(table([asdict(row) for row in rows]), flush=True)
        kept[name] = {
            "rows": [asdict(row) for row in rows],
            "machine": machine(size, packages),
            "load": round(os.getloadavg()[0], 1),  # of the last minute
        }
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
    sections = [HEAD]
    for file in sorted((docs / "performance").glob("*.json")):
        content = json.loads(file.read_text())
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
    """Rows as Markdown."""
    lines = [
        "| what | peer | peer's | ours | ratio (lowest to highest) | of processor time | target | compared |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for fields in rows:
        row = Row(**fields | {"items": fields["items"] and tuple(fields["items"])})
        ratio = ""
        if row.theirs and row.ours:
            ratios = row.ratios()
            ratio = f"{median(ratios):.3g} ({min(ratios):.3g} to {max(ratios):.3g})"
        cells = [
            row.what,
            row.peer,
            shown(row, row.theirs),
            shown(row, row.ours),
            ratio,
            "" if row.cpu is None else f"{row.cpu:.3g}",
            goal(row),
            f"skipped: {row.skipped}" if row.skipped else row.agreement,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


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
