"""Comparisons: the wall clock of `compare.py` beside the sum of its trainings.

Two arms of the digits GAN with one thread a run; in full size three seeds, 25 minutes on two cores. The peer is
the sum of the `seconds` of the runs that went one after another, which cover steps, scores and checkpoints: the
rest is starts, reports and waiting. The last row is the time from the end of the last run to that of the
comparison's report.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import page
from nacgen.system.threads import count_cores
from timing import Row, Size

ROOT = Path(__file__).parents[1]


class Compared(NamedTuple):
    """Seconds of a comparison: on the clock, of its trainings added up, and after the last of them."""

    wall: float
    trainings: float
    report: float


def compare(jobs: int, *flags: str) -> Compared:
    """Run a comparison in a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "recipes/compare.py", "--run-dir", folder, *flags]
        command += ["--jobs", str(jobs), "--num-threads", "1"]
        start = time.time()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        end, runs = time.time(), list(Path(folder).glob("*-seed*/"))
        summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
        last = max(run.with_name(f"{run.name}.log").stat().st_mtime for run in runs)
        return Compared(end - start, sum(each["seconds"] for each in summaries), end - last)


def jobs(size: Size) -> list[Row]:
    """One after another, and two side by side."""
    smoke, quick = ("--preset", "smoke", "--seeds", "0"), ("--total-images", "1280", "--seeds", "0")
    flags = size.of(smoke, quick, ("--seeds", "0", "1", "2"))
    turns = compare(1, *flags), compare(2, *flags)
    is_full = size.name == "full"
    rows = [
        Row(
            what=f"compare.py {' '.join(flags)} --jobs {num_jobs}",
            peer="sum of its trainings with --jobs 1",
            ours=[turn.wall],
            theirs=[turns[0].trainings],
            at_least=1 / share if is_full and count_cores() >= num_jobs else None,
        )
        for num_jobs, share, turn in zip((1, 2), (1.1, 0.6), turns, strict=True)
    ]
    what = "from the end of the last run to the end of the report"
    return [*rows, Row(what=what, ours=[turn.report for turn in turns], at_most=2.0)]


PARTS = {"jobs": jobs}

if __name__ == "__main__":
    page.main(__doc__, __file__, PARTS, ("torchvision", "accelerate", "scipy", "matplotlib"))
