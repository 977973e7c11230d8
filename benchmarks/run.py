"""Run all benchmarks, one after another, and write docs/performance.md.

    python benchmarks/run.py --quick

Each runs in a process of its own, so that neither memory nor threads of one trouble the next. Names choose among
them: `python benchmarks/run.py loss steps`. Those of `LONG` run only where they are named. What needs a GPU is not
among them: `python benchmarks/gpu.py`. A new file beside this one is a new benchmark.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from page import DOCS, write_page

HERE = Path(__file__).parent
SHARED = (
    "gpu",
    "ladders",
    "page",
    "pil_loader",
    "plain_gan",
    "run",
    "timing",
)  # no benchmarks of a CPU
LONG = ("comparison", "end_to_end")  # whose earlier results stay on the page
NAMES = [path.stem for path in sorted(HERE.glob("*.py")) if path.stem not in SHARED]


def main() -> None:
    """Run what was asked for; the exit status is 1 where a benchmark failed, whose earlier results stay."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(NAMES)}; all but {', '.join(LONG)} where absent",
    )
    parser.add_argument(
        "--quick", action="store_true", help="smaller and fewer turns: about 5 minutes"
    )
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder to write to")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}. Known: {', '.join(NAMES)}.")
    failed = []
    for name in options.names or [name for name in NAMES if name not in LONG]:
        start = time.monotonic()
        size = "quick" if options.quick else "full"
        command = [
            sys.executable,
            str(HERE / f"{name}.py"),
            "--size",
            size,
            "--docs",
            str(options.docs),
        ]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
        print(f"{name}: {time.monotonic() - start:.0f} s\n", file=sys.stderr)
    write_page(options.docs)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}. Their results are those of an earlier run, if any.")


if __name__ == "__main__":
    main()
