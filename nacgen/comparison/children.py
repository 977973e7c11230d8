"""Several runs side by side, each in a child process that does not outlive this one."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from nacgen.errors import NacgenError, NonFiniteError
from nacgen.system.control_groups import memory_limit
from nacgen.system.documents import read_yaml, strict_json
from nacgen.system.signals import Stopped, StopSignals, stop_with_parent
from nacgen.system.terminal import is_terminal
from nacgen.system.threads import count_cores

SECONDS_TO_SAVE = 30.0
SECONDS_BETWEEN_READS = 2.0  # of the files of the runs
JOBS_ON_GPU = 2
YES = ("1", "on", "t", "true", "y", "yes")  # as Accelerate reads variables
MEMORY_OF_RUN = 2 * 1024**3  # bytes, with a dataset in memory
# Variables by which accelerate, torchrun and MPI form a group of processes; a child is a group of its own.
LAUNCHER_VARIABLES = re.compile(
    r"((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_\w+"
    r"|(PMI|OMPI_COMM_WORLD|MV2_COMM_WORLD)_\w+|KMP_AFFINITY|FSDP_\w+"
    r"|ACCELERATE_(NUM_PROCESSES|CPU_AFFINITY|DYNAMO_\w+|USE_(FSDP|DEEPSPEED|MEGATRON_LM|PARALLELISM_CONFIG))"
)


@dataclass(frozen=True)
class Child:
    """A run in a child process: its run folder, and the command that starts or resumes it."""

    folder: Path
    command: tuple[str, ...]

    @property
    def log(self) -> Path:
        """Path of the file with the output of the process, beside the run folder."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def is_complete(self) -> bool:
        """True if nothing is left to run."""
        return (self.folder / "summary.json").is_file()

    def progress(self) -> float:
        """Return the completed fraction of the run, 0 to 1, according to its files."""
        if self.is_complete:
            return 1.0
        try:
            last = (self.folder / "metrics.jsonl").read_bytes().splitlines()[-1]
            total = read_yaml(self.folder / "config.yaml")["total_images"]
            return float(strict_json(last, allow_nan=True)["images_seen"] / total)
        except (OSError, ArithmeticError, LookupError, TypeError, ValueError):
            return 0.0  # not started, or read while it was being written


def run_children(children: Sequence[Child], jobs: int, num_threads: int = 1) -> list[Child]:
    """Run the children that are not complete, in order, `jobs` side by side, and return those that diverged.

    Another failure stops them all: the NacgenError has its exit code and the end of its log. So do signals.
    """
    waiting = [child for child in children if not child.is_complete]
    running: dict[Child, subprocess.Popen[bytes]] = {}
    diverged: list[Child] = []
    next_read = 0.0

    def percentage() -> float:
        done = (1.0 if child in diverged else child.progress() for child in children)
        return 100 * sum(done) / len(children)

    has_bar, tenths = is_terminal(sys.stderr), percentage() // 10
    with (
        _stopping(running),
        tqdm(
            total=100.0,
            initial=percentage(),
            bar_format="{desc} {percentage:3.0f} % |{bar}| {elapsed}<{remaining}",
            miniters=0,
            mininterval=0.5,
            disable=not has_bar,
            dynamic_ncols=True,
        ) as bar,
    ):
        while waiting or running:
            while waiting and len(running) < jobs:
                child = waiting.pop(0)
                running[child] = _start(child, num_threads)
            time.sleep(0.05)
            for child, process in list(running.items()):
                if (code := process.poll()) is not None:
                    if code == NonFiniteError.exit_code:
                        diverged.append(child)
                    elif code != 0 or not child.is_complete:
                        raise _failure(child, code)
                    del running[child]
            if running and time.monotonic() < next_read:
                continue
            next_read = time.monotonic() + SECONDS_BETWEEN_READS
            num_ended = sum(child.is_complete for child in children) + len(diverged)
            bar.set_description_str(f"{num_ended} of {len(children)} runs", refresh=False)
            done = percentage()
            bar.update(done - bar.n)
            if not has_bar and done // 10 > tenths:
                print(f"{num_ended} of {len(children)} runs, {done:.0f} %", file=sys.stderr)
            tenths = done // 10
    return diverged


def child_environment(num_threads: int) -> dict[str, str]:
    """Return the environment variables of a child, which is outside the launcher's group."""
    inherited = {k: v for k, v in os.environ.items() if not LAUNCHER_VARIABLES.fullmatch(k)}
    return inherited | {"OMP_NUM_THREADS": str(num_threads)}


def default_threads() -> int:
    """Return the CPU threads of a run: one, since the small networks of a CPU gain most from runs side by side."""
    return max(1, count_cores() // JOBS_ON_GPU) if _has_gpu() else 1


def default_jobs(num_threads: int) -> int:
    """Return the number of runs side by side for which there are cores and memory; two where they share a GPU."""
    if _has_gpu():
        return JOBS_ON_GPU
    jobs = count_cores() // num_threads
    if hasattr(os, "sysconf"):  # not on Windows
        memory = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), memory_limit())
        jobs = min(jobs, int(memory // MEMORY_OF_RUN))
    return max(1, jobs)


def _has_gpu() -> bool:
    """Tell whether runs train on a GPU, which `accelerate launch --cpu` leaves alone."""
    import torch

    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in YES
    return not on_cpu and torch.accelerator.is_available()


def _start(child: Child, num_threads: int) -> subprocess.Popen[bytes]:
    with child.log.open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own recipes, without a shell
            child.command,
            env=child_environment(num_threads),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C reaches it only through this process, once
            preexec_fn=stop_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
        )


@contextmanager
def _stopping(running: dict[Child, subprocess.Popen[bytes]]) -> Iterator[None]:
    """Leave no child behind: at the end of the block each gets SIGTERM, time to save, then SIGKILL."""
    signals, is_stopping = StopSignals(), False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        if not signals.is_repeated(number) and is_stopping:
            return
        is_stopping = True
        raise Stopped(number)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        deadline = time.monotonic() + SECONDS_TO_SAVE
        for process in running.values():
            process.terminate()
        try:
            for process in running.values():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        finally:  # a second signal ends the waiting
            for process in running.values():
                process.kill()
                process.wait()
            for number, handler in previous.items():
                signal.signal(number, handler)


def _failure(child: Child, code: int) -> NacgenError:
    text = child.log.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    end = "\n".join(f"    {line}" for line in lines[-10:])
    error = NacgenError(
        f"{child.folder.name} should have run to its end, but stopped with exit code {code}. Correct the cause "
        f"and repeat the command: it continues. The log is {child.log}, with these last lines:"
    )
    error.add_note(f"\n{end}\n")
    error.exit_code = 128 - code if code < 0 else code or 1
    return error
