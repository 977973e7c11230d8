import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nacgen.comparison import children as module
from nacgen.comparison.children import Child, child_environment, run_children
from nacgen.errors import NacgenError
from nacgen.system.signals import LAUNCHER_MARKS

# Leaves what a run leaves, then sleeps, fails, or ends, as its arguments say.
CHILD = """
import json, os, pathlib, signal, sys, time
folder, seconds, code = pathlib.Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
def stop(number, frame):
    (folder / "saved").write_text("")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
folder.mkdir(exist_ok=True)
(folder / "pid").write_text(str(os.getpid()))
(folder / "started").open("a").write(f"{time.time()}\\n")
(folder / "threads").write_text(os.environ["OMP_NUM_THREADS"])
(folder / "config.yaml").write_text("total_images: 200\\n")
(folder / "metrics.jsonl").write_text('{"images_seen": 50}\\n')
time.sleep(seconds)
for i in range(12):
    print(f"line {i}", file=sys.stderr)
if code:
    sys.exit(code)
(folder / "summary.json").write_text("{}")
(folder / "ended").write_text(str(time.time()))
"""


def child(folder: Path, *, seconds: float = 0.0, code: int = 0) -> Child:
    return Child(folder, (sys.executable, "-c", CHILD, str(folder), str(seconds), str(code)))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{pid}/status").read_text()


def wait_for(condition: Path | int, seconds: float = 10.0) -> None:
    """Until a file is there, or a process is gone."""
    deadline = time.monotonic() + seconds
    while is_alive(condition) if isinstance(condition, int) else not condition.exists():
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


def test_children_run_once_and_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    children = [child(tmp_path / name) for name in "abc"]
    run_children(children, jobs=1)
    told = capsys.readouterr().err  # without a terminal
    assert "\r" not in told
    assert told.splitlines()[-1] == "3 of 3 runs, 100 %"
    run_children(children, jobs=1)
    assert capsys.readouterr().err == ""
    starts = [float((each.folder / "started").read_text()) for each in children]
    assert starts == sorted(starts)
    assert all("line 11" in each.log.read_text() for each in children)


def test_jobs_run_side_by_side(tmp_path: Path) -> None:
    children = [child(tmp_path / name, seconds=0.5) for name in "ab"]
    run_children(children, jobs=2)
    starts = [float((each.folder / "started").read_text()) for each in children]
    assert max(starts) < min(float((each.folder / "ended").read_text()) for each in children)


def test_every_child_has_the_same_threads_whatever_runs_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    for jobs in (1, 2):
        run_children([child(tmp_path / f"a{jobs}"), child(tmp_path / f"b{jobs}")], jobs, 3)
    assert {file.read_text() for file in tmp_path.glob("*/threads")} == {"3"}


@pytest.mark.parametrize(
    ("cores", "num_threads", "has_gpu", "gigabytes", "limit", "expected"),
    [
        (2, 1, False, 8, math.inf, (1, 2)),
        (4, 1, False, 16, 16, (1, 4)),
        (32, 1, False, 16, math.inf, (1, 8)),
        (32, 5, False, 64, 100, (1, 6)),
        (4, 8, False, 1, math.inf, (1, 1)),
        (16, 8, True, 64, math.inf, (8, 2)),
        (1, 1, True, 64, 1, (1, 2)),
        (32, 1, False, 64, 9, (1, 4)),
        (32, 1, False, 64, 0.1, (1, 1)),
    ],
)
def test_a_comparison_uses_the_cores_by_runs_side_by_side(
    cores: int,
    num_threads: int,
    has_gpu: bool,
    gigabytes: int,
    limit: float,
    expected: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "count_cores", lambda: cores)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: has_gpu)
    monkeypatch.setattr(module, "memory_limit", lambda: limit * 2**30)
    memory = {"SC_PHYS_PAGES": gigabytes << 18, "SC_PAGE_SIZE": 1 << 12}
    monkeypatch.setattr(os, "sysconf", memory.__getitem__)
    assert (module.default_threads(), module.default_jobs(num_threads)) == expected


@pytest.mark.parametrize(("given", "jobs"), [("true", 3), ("1", 3), ("false", 2), ("", 2)])
def test_a_gpu_that_the_launcher_leaves_alone_does_not_count(
    given: str, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", given)
    monkeypatch.setattr(module, "count_cores", lambda: 3)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.delattr(os, "sysconf")
    assert module.default_jobs(1) == jobs


def test_progress_is_read_from_the_run_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    assert child(folder).progress() == 0.0
    folder.mkdir()
    (folder / "config.yaml").write_text("total_images: 200\n")
    (folder / "metrics.jsonl").write_text('{"images_seen": 50}\n')
    assert child(folder).progress() == 0.25
    (folder / "metrics.jsonl").write_text('{"images_seen": 50}\n{"images')
    assert child(folder).progress() == 0.0
    (folder / "summary.json").write_text("{}")
    assert child(folder).progress() == 1.0


def test_a_launcher_does_not_draw_children_into_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    group = (
        *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
        *("GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
        *("TORCHELASTIC_RUN_ID", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"),
        *("ACCELERATE_CPU_AFFINITY", "OMPI_COMM_WORLD_RANK", "PMI_SIZE", "KMP_AFFINITY"),
        *("ACCELERATE_DYNAMO_BACKEND", *LAUNCHER_MARKS),
    )
    kept = ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_CPU", "CUDA_VISIBLE_DEVICES", "USERNAME")
    for name in (*group, *kept):
        monkeypatch.setenv(name, "1")
    environment = child_environment(1)
    assert not environment.keys() & set(group)
    assert environment.keys() >= set(kept)


def test_a_child_that_diverges_does_not_stop_the_others(tmp_path: Path) -> None:
    children = [child(tmp_path / "a", code=3), child(tmp_path / "b")]
    assert run_children(children, jobs=1) == children[:1]
    assert children[1].is_complete
    assert run_children(children, jobs=1) == children[:1]  # it is tried again, and tells again


@pytest.mark.parametrize(("code", "exit_code"), [(5, 5), (-9, 137)])
def test_a_failed_child_is_named_with_the_end_of_its_log(
    tmp_path: Path, code: int, exit_code: int
) -> None:
    kill = "os.kill(os.getpid(), 9)"
    failing = child(tmp_path / "nac-seed1", code=max(code, 1))
    if code < 0:
        source = CHILD.replace("    sys.exit(code)", f"    sys.stderr.flush(); {kill}")
        failing = Child(failing.folder, (*failing.command[:2], source, *failing.command[3:]))
    with pytest.raises(NacgenError) as caught:
        run_children([failing], jobs=1)
    message, (note,) = str(caught.value), caught.value.__notes__
    assert f"nac-seed1 should have run to its end, but stopped with exit code {code}." in message
    assert f"The log is {tmp_path / 'nac-seed1.log'}" in message
    assert "    line 2\n" in note
    assert "line 1\n" not in note
    assert caught.value.exit_code == exit_code


def test_a_child_that_ends_early_without_an_error_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(NacgenError, match="a should have run to its end") as caught:
        run_children([Child(tmp_path / "a", (sys.executable, "-c", ""))], jobs=1)
    assert caught.value.exit_code == 1


def test_a_failure_stops_the_others_and_starts_no_more(tmp_path: Path) -> None:
    slow, later = child(tmp_path / "slow", seconds=60), child(tmp_path / "later")
    with pytest.raises(NacgenError, match="failing should"):
        run_children([slow, child(tmp_path / "failing", seconds=0.5, code=5), later], jobs=2)
    assert not is_alive(int((tmp_path / "slow" / "pid").read_text()))
    assert (tmp_path / "slow" / "saved").exists()
    assert not later.folder.exists()


PARENT = """
import json, pathlib, sys
from nacgen.comparison.children import Child, run_children
run_children([Child(pathlib.Path(f), tuple(c)) for f, c in json.loads(sys.argv[1])], jobs=2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="SIGKILL is passed on by Linux only")
@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 143), (signal.SIGKILL, -9)]
)
def test_no_child_outlives_its_parent(tmp_path: Path, number: int, exit_code: int) -> None:
    children = [child(tmp_path / name, seconds=60) for name in "ab"]
    argument = json.dumps([(str(each.folder), each.command) for each in children])
    command = [sys.executable, "-c", PARENT, argument]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as parent:
        for each in children:
            wait_for(each.folder / "metrics.jsonl")
        os.killpg(parent.pid, number)  # as a terminal does for Ctrl-C
        assert parent.wait(10) == exit_code
    for each in children:
        wait_for(int((each.folder / "pid").read_text()))
        assert (each.folder / "saved").exists()


def test_the_echo_of_a_signal_leaves_children_time_to_save(tmp_path: Path) -> None:
    slow = CHILD.replace('    (folder / "saved")', '    time.sleep(1)\n    (folder / "saved")')
    folder = tmp_path / "a"
    arguments = [(str(folder), [sys.executable, "-c", slow, str(folder), "60", "0"])]
    command = [sys.executable, "-c", PARENT, json.dumps(arguments)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as parent:
        wait_for(folder / "metrics.jsonl")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):  # as a dying launcher does
            parent.send_signal(number)
            time.sleep(0.1)
        assert parent.wait(10) == 143
    assert (folder / "saved").exists()
