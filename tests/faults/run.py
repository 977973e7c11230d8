"""Run the whole fault battery and write docs/reliability.md.

    python tests/faults/run.py --jobs 2

Every test of this folder is a row: its name is the claim, its docstring says what is expected, and what it
records as `trials` (one where it records nothing) is how often that was tried.
"""

import argparse
import ast
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent
ROOT = FAULTS.parents[1]
REPORT = ROOT / "docs" / "reliability.md"
SCALE = 50  # times the trials of the default tests

HEAD = """# What runs survive

Written by `python tests/faults/run.py --jobs {jobs} --scale {scale}` in {minutes:.0f} minutes; not edited. Commit
{commit}, Python {python}, torch {torch}, accelerate {accelerate}, safetensors {safetensors}, {system}, {cores} CPU
cores.

Runs are of toy size (60 steps of 8 images of 8x8 pixels, a checkpoint every seventh step); the loop, the run
folder and the updates are the real ones. Bit for bit means: the files of weights, averages and optimizer slots in
the last checkpoint, and all of `metrics.jsonl`. Where none of N trials fails, fewer than 3/N of such trials fail,
with 95 % confidence: the last column. Trials stop at the first failure of a test.
"""


@dataclass
class Row:
    """A claim.

    Args:
        expected: What should happen.
        trials: How often it was tried.
        failures: Tests that failed, whose trials are not counted.
        skipped: Why some were not run.
    """

    expected: str
    trials: int = 0
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def cells(self) -> str:
        """Trials, failures and bound, as cells of a table."""
        if self.failures:
            return f"{self.trials} | {len(self.failures)}: {', '.join(self.failures)} | -"
        if not self.trials:
            return "not run | - | -"
        skipped = f" ({len(self.skipped)} skipped)" if self.skipped else ""
        return f"{self.trials}{skipped} | 0 | {min(1.0, 3 / self.trials):.2g}"


def claims(file: Path) -> dict[str, Row]:
    """The tests of a file, none of which has been run."""
    functions = (f for f in ast.parse(file.read_text()).body if isinstance(f, ast.FunctionDef))
    return {
        f.name: Row(" ".join((ast.get_docstring(f) or "").split()))
        for f in functions
        if f.name.startswith("test_")
    }


class Recorder:
    """A pytest plugin that gathers rows by file and claim."""

    def __init__(self) -> None:
        self.files = {file.stem: claims(file) for file in sorted(FAULTS.glob("test_*.py"))}

    def row(self, node: str) -> tuple[Row | None, str]:
        """The row of a test, and its parameters."""
        file, _, rest = node.partition("::")
        name, _, parameters = rest.partition("[")
        row = self.files.get(Path(file).stem, {}).get(name)
        return row, parameters.rstrip("]") or name

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count what a test tried."""
        row, parameters = self.row(report.nodeid)
        if row is None:
            return
        if report.failed:
            row.failures.append(parameters)
        elif report.skipped:
            row.skipped.append(parameters)
        elif report.when == "call":
            row.trials += int(dict(report.user_properties).get("trials", 1))  # type: ignore[call-overload]


def describe(recorder: Recorder, jobs: int, scale: int, seconds: float) -> str:
    """The document."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    facts = {name: version(name) for name in ("torch", "accelerate", "safetensors")}
    parts = [
        HEAD.format(
            jobs=jobs,
            scale=scale,
            minutes=seconds / 60,
            commit=git.stdout.strip() or "unknown",
            python=platform.python_version(),
            system=f"{platform.system()} {platform.machine()}",
            cores=os.cpu_count(),
            **facts,
        )
    ]
    for file, rows in recorder.files.items():
        title = re.sub("^test_", "", file).replace("_", " ").capitalize()
        parts.append(f"## {title}\n")
        parts.append(
            "| claim | expected | trials | failed | rate below |\n| --- | --- | ---: | ---: | ---: |"
        )
        for name, row in rows.items():
            claim = name.removeprefix("test_").replace("_", " ").capitalize()
            parts.append(f"| {claim} | {row.expected} | {row.cells()} |")
        parts.append("")
    return "\n".join(parts)


def main() -> int:
    """Run, write, and end with pytest's exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1, help="tests side by side")
    parser.add_argument("--scale", type=int, default=SCALE, help="times the default trials")
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument("tests", nargs="*", default=[str(FAULTS)], help="of pytest, all by default")
    arguments = parser.parse_args()
    os.environ |= {"NACGEN_FAULTS_SCALE": str(arguments.scale), "OMP_NUM_THREADS": "1"}
    recorder, started = Recorder(), time.monotonic()
    options = [
        "-m",
        "not gpu and not network",
        "-q",
        "-p",
        "no:cacheprovider",
        "-n",
        str(arguments.jobs),
        "-o",
        "faulthandler_timeout=0",  # a test has thousands of trials, each with a limit of its own
    ]
    code = pytest.main([*options, "--dist", "worksteal", *arguments.tests], plugins=[recorder])
    text = describe(recorder, arguments.jobs, arguments.scale, time.monotonic() - started)
    arguments.report.write_text(text, encoding="utf-8")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
