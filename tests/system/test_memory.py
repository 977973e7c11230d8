"""The allocator keeps memory on glibc, and is left alone elsewhere and where the environment sets it."""

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from nacgen.system.memory import CHOSEN, KEPT, LARGEST, MMAP_THRESHOLD, KeptMemory

ON_GLIBC = platform.libc_ver()[0] == "glibc"
FAULTS = """
import resource
import numpy as np
from nacgen.system.memory import KeptMemory
def step():
    return [np.ones(2**22, np.uint8) for _ in range(8)]
def faults():
    step(), step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults())
with KeptMemory() as memory:
    print(faults())
    held = open("/proc/self/statm").read().split()[1]
    with memory.paused():
        print(int(held) - int(open("/proc/self/statm").read().split()[1]))
    print(faults())
"""


@pytest.fixture(autouse=True)
def without_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CHOSEN:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.skipif(not ON_GLIBC, reason="glibc's allocator")
def test_steps_get_the_memory_they_freed_and_an_evaluation_gets_it_from_the_system() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", FAULTS], cwd=root, capture_output=True, check=True)
    by_default, kept, given_back, kept_again = map(int, done.stdout.split())
    assert max(kept, kept_again) < 100 < 5_000 < by_default
    assert given_back > 7 * 2**22 // 4096  # pages


@pytest.mark.parametrize("name", CHOSEN)
def test_thresholds_of_the_environment_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "131072")
    assert KeptMemory().library is None


@pytest.mark.parametrize("libc", ["", "musl"])
def test_other_libraries_stay_as_they_are(libc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of macOS and Windows have no name in Python."""
    monkeypatch.setattr(platform, "libc_ver", lambda: (libc, "1"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("the library was asked for"))
    with KeptMemory() as memory, memory.paused():
        assert memory.library is None
    assert KeptMemory(is_wanted=False).library is None


def test_an_earlier_glibc_keeps_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    class Library:
        def mallopt(self, parameter: int, value: int) -> int:
            calls.append((parameter, value))
            return int(parameter != MMAP_THRESHOLD or value <= LARGEST)

        def malloc_trim(self, padding: int) -> None:
            calls.append((padding,))

    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.17"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    with KeptMemory():
        assert calls == [(-3, KEPT), (-3, LARGEST), (-1, KEPT)]
    assert calls[3:] == [(-3, LARGEST), (-1, 2 * LARGEST), (0,)]
