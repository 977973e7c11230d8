"""CPU threads by affinity, quota, launcher and environment, each of them faked."""

import math
import os
from pathlib import Path

import pytest

from nacgen.system import control_groups
from nacgen.system.control_groups import memory_limit
from nacgen.system.signals import LAUNCHER_MARKS
from nacgen.system.threads import LOCAL_SIZES, automatic_threads, count_cores

GROUP_OF_A_CONTAINER = "5:cpuset:/x\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n0::/\n"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process on a machine of eight cores, without launcher, quota or variables."""
    for name in ("OMP_NUM_THREADS", *LOCAL_SIZES, *LAUNCHER_MARKS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(control_groups, "ROOT", tmp_path)
    allow(monkeypatch, range(8))


def allow(monkeypatch: pytest.MonkeyPatch, cores: range) -> None:
    """Bind the process to cores, as taskset, Slurm and docker --cpuset-cpus do."""
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cores), raising=False)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_every_core_of_a_machine_is_used() -> None:
    assert count_cores() == automatic_threads() == 8


@pytest.mark.parametrize("cores", [range(4), range(2, 3), range(32, 48)])
def test_an_allocation_binds_the_process_to_its_cores(
    cores: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    allow(monkeypatch, cores)
    assert automatic_threads() == len(cores)
    monkeypatch.setattr(os, "process_cpu_count", lambda: 5, raising=False)  # Python 3.13
    assert automatic_threads() == 5


def test_a_system_without_affinity_has_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    for found, expected in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda found=found: found)
        assert automatic_threads() == expected


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("6400000 100000", 8),
        ("-1 100000", 8),
        ("100000 0", 8),
        ("", 8),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_quota_is_rounded_up(version: int, quota: str, cores: int, tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/cgroup": GROUP_OF_A_CONTAINER})
    if version == 2:
        write(tmp_path, {"sys/fs/cgroup/cpu.max": f"{quota}\n"})
    else:
        allowed, period = [*quota.replace("max", "-1").split(), "", ""][:2]
        folder = "sys/fs/cgroup/cpu,cpuacct"
        files = {"cpu.cfs_quota_us": allowed, "cpu.cfs_period_us": period}
        write(tmp_path, {f"{folder}/{name}": f"{text}\n" for name, text in files.items()})
    assert count_cores() == cores


def test_the_lowest_quota_of_a_group_and_those_around_it_holds(tmp_path: Path) -> None:
    groups = "sys/fs/cgroup"
    write(tmp_path, {"proc/self/cgroup": "0::/user.slice/job.slice/step\n"})
    write(tmp_path, {f"{groups}/user.slice/job.slice/step/cpu.max": "700000 100000"})
    assert count_cores() == 7
    write(tmp_path, {f"{groups}/user.slice/cpu.max": "300000 100000"})
    assert count_cores() == 3
    write(tmp_path, {f"{groups}/other.slice/cpu.max": "100000 100000"})
    assert count_cores() == 3
    write(tmp_path, {"proc/self/cgroup": "4:cpu:/slurm/job\n0::/\n"})
    write(tmp_path, {f"{groups}/cpu/slurm/job/cpu.cfs_quota_us": "200000"})
    write(tmp_path, {f"{groups}/cpu/slurm/job/cpu.cfs_period_us": "100000"})
    assert count_cores() == 2


def test_the_lowest_memory_limit_of_a_container_holds(tmp_path: Path) -> None:
    groups = "sys/fs/cgroup"
    assert memory_limit() == math.inf
    write(tmp_path, {"proc/self/cgroup": "0::/user.slice/job\n"})
    write(tmp_path, {f"{groups}/user.slice/job/memory.max": "max\n"})
    assert memory_limit() == math.inf
    write(tmp_path, {f"{groups}/user.slice/memory.max": "4294967296\n"})
    assert memory_limit() == 2**32
    write(tmp_path, {"proc/self/cgroup": "7:memory:/docker/abc\n4:cpu:/x\n0::/\n"})
    write(tmp_path, {f"{groups}/memory/memory.limit_in_bytes": "2147483648\n"})
    write(tmp_path, {f"{groups}/memory/docker/abc/memory.limit_in_bytes": f"{2**63 - 4096}\n"})
    assert memory_limit() == 2**31


@pytest.mark.parametrize("variable", LOCAL_SIZES)
@pytest.mark.parametrize(("processes", "each"), [(1, 8), (2, 4), (3, 2), (8, 1), (20, 1)])
def test_processes_of_one_host_share_its_cores(
    variable: str, processes: int, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(processes))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # torchrun's own
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert automatic_threads() == each


@pytest.mark.parametrize("mark", [None, *LAUNCHER_MARKS])
@pytest.mark.parametrize("given", ["1", "3", "12", "2,1", "", "0", "-1", "many", "1.5"])
def test_a_number_in_the_environment_is_honored_where_it_is_the_users(
    given: str, mark: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    if mark is not None:
        monkeypatch.setenv(mark, "default")
    expected = {"1": 8 if mark else 1, "3": 3, "12": 12, "2,1": 2}
    assert automatic_threads() == expected.get(given, 8)


def test_a_runner_of_github_uses_its_four_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    allow(monkeypatch, range(4))
    write(tmp_path, {"proc/self/cgroup": "0::/system.slice/hosted-compute-agent.service\n"})
    write(tmp_path, {"sys/fs/cgroup/system.slice/cpu.max": "max 100000\n"})
    assert automatic_threads() == 4
    monkeypatch.setenv("ACCELERATE_DYNAMO_MODE", "default")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # accelerate's own
    assert automatic_threads() == 4
