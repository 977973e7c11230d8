"""A disk that fails, and a process that dies, at every file operation of a run."""

import itertools
import re
import shutil
from pathlib import Path

import pytest

from tests.faults.file_faults import FileFaults
from tests.faults.small_runs import BATCH, debris, fingerprint, whole_checkpoints
from tests.faults.test_kills import At
from tests.faults.trials import FULL, Ended, run, whole_run

PRESET = "vae-short"  # saves after 2, 4 and 6 steps; the last save prunes
READS = ("struck: os.scandir", "struck: os.listdir", "struck: read", "struck: open")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An uninterrupted run, and one that was killed before its fifth step."""
    root = tmp_path_factory.mktemp("runs")
    whole_run(root / "whole", PRESET)
    assert run(root / "begun", PRESET, At(4 * BATCH, saved_in=root / "begun")).code == -9
    return {"whole": root / "whole", "begun": root / "begun"}


@pytest.mark.parametrize("phase", ["new", "resumed"])
@pytest.mark.parametrize("fault", ["SIGKILL", "EIO", "ENOSPC", "EROFS"])
def test_no_file_operation_can_fail_a_run_for_good(  # type: ignore[no-untyped-def]
    tmp_path: Path, folders: dict[str, Path], fault: str, phase: str, record_property
) -> None:
    """At every file operation of a new run (setting up, log, saves, a prune, the summary) and of a
    resumed one (loading, cutting the log, the same): killed, or ended with exit code 6 and a line that
    names the folder, a failed read also with 2 or 5; where there was a whole checkpoint there still is
    one no older; the same command goes on, bit for bit, and leaves no debris."""
    expected, furthest, trials = fingerprint(folders["whole"]), 0, 0
    start = 4 * BATCH if phase == "resumed" else 0
    for at in itertools.count(1, 1 if FULL else 60):
        folder = tmp_path / f"{fault}-{phase}-{at}"
        if phase == "resumed":
            shutil.copytree(folders["begun"], folder)
        ended = run(folder, PRESET, FileFaults(folder, fault, at))
        if "struck" not in ended.output:
            assert ended.code == 0, ended.output
            break
        trials += 1
        check_end(fault, folder, ended)
        newest = max(whole_checkpoints(folder), default=0)
        before = int(re.findall(r"^whole: (\d+)$", ended.output, re.MULTILINE)[0])
        assert newest >= before >= start, ended.output
        if ended.code:  # else the run went on to its end
            furthest = max(furthest, newest)
        again = run(folder, PRESET)
        assert again.code == 0, (ended.output, again.output)
        assert fingerprint(folder) == expected, ended.output
        assert not debris(folder), ended.output
        shutil.rmtree(folder)
    assert trials > 0
    assert furthest == 6 * BATCH or not FULL
    record_property("trials", trials)


def check_end(fault: str, folder: Path, ended: Ended) -> None:
    """Whether a session that was struck ended as promised."""
    if fault == "SIGKILL":
        assert ended.code == -9, ended.output
        return
    struck = next(line for line in ended.output.splitlines() if line.startswith("struck"))
    is_read = fault == "EIO" and struck.startswith(READS)
    if ended.code == 0:  # nothing was lost
        assert (folder / "summary.json").is_file(), ended.output
        assert "/step_" not in struck or "passed over" in ended.output
        return
    assert ended.code in ((2, 5, 6) if is_read else (6,)), ended.output
    assert "Traceback" not in ended.output
    (line,) = (line for line in ended.output.splitlines() if line.startswith("error: "))
    assert str(folder) in line, line
