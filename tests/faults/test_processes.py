"""Two processes that train together, and what befalls one of them."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.file_faults import FileFaults
from tests.faults.small_runs import BATCH, Fingerprint, debris, fingerprint, whole_checkpoints
from tests.faults.test_kills import At
from tests.faults.test_numbers import Poison
from tests.faults.trials import FULL, Ended, Preparation, killed_at_the_end, start

pytestmark = pytest.mark.distributed
PRESET = "nac-short"
SECONDS = 60.0  # for the other process to end, of which its start takes most where others compute


@dataclass(frozen=True)
class KilledInCollective:
    """Dies as it joins the k-th exchange between processes.

    Args:
        at: Which, from 1.
    """

    at: int

    def __call__(self) -> None:
        import torch.distributed as dist

        count = 0

        def counted(real: Any) -> Any:
            def call(*args: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count == self.at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **options)

            return call

        for name in ("all_reduce", "all_gather", "broadcast", "barrier", "all_gather_into_tensor"):
            setattr(dist, name, counted(getattr(dist, name)))


def both(folder: Path, *preparations: tuple[Preparation, ...]) -> list[Ended]:
    """A session of two processes, each with its own preparations."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sessions = [
        start(
            folder,
            PRESET,
            *mine,
            log=folder.with_name(f"{folder.name}.{rank}.log"),
            environment={"RANK": str(rank), "LOCAL_RANK": str(rank), **shared},
        )
        for rank, mine in enumerate(preparations or ((), ()))
    ]
    with killed_at_the_end(*sessions):
        return [session.end(SECONDS) for session in sessions]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fingerprint]:
    """Of an uninterrupted run of two processes."""
    folder = tmp_path_factory.mktemp("two") / "whole"
    ends = both(folder)
    assert [end.code for end in ends] == [0, 0], [end.output for end in ends]
    return fingerprint(folder)


def check_resumed(folder: Path, expected: Fingerprint) -> None:
    """Whether the same command on both goes on bit for bit."""
    ends = both(folder)
    assert [end.code for end in ends] == [0, 0], [end.output for end in ends]
    assert fingerprint(folder) == expected
    assert not debris(folder)


def deaths(folder: Path) -> list[tuple[int, Preparation]]:
    """Which process dies, and how: in the forward pass, in exchanges, in a save."""
    forward = [(rank, At(step * BATCH)) for rank in (0, 1) for step in (0, 3, 5)]
    exchange = [(rank, KilledInCollective(at)) for rank in (0, 1) for at in (2, 9, 16, 23)]
    save = [(0, FileFaults(folder, "SIGKILL", at, only="/.new-")) for at in (1, 5, 9, 14, 40, 44)]
    return [*forward, *exchange, *save] if FULL else [(1, At(3 * BATCH))]


def test_a_process_whose_peer_is_killed_ends_and_names_it(  # type: ignore[no-untyped-def]
    tmp_path: Path, expected: Fingerprint, record_property
) -> None:
    """One of two killed in the forward pass, as it joins an exchange, or in a save: the other ends by
    itself with another exit code than 0 and says who no longer answers; resumed, both go on bit for bit."""
    trials = deaths(tmp_path / "0")
    for number in range(len(trials)):
        folder = tmp_path / str(number)
        dying, death = deaths(folder)[number]
        preparations = [(death,) if rank == dying else () for rank in (0, 1)]
        ends = both(folder, *preparations)
        assert ends[dying].code == -9, (death, ends[dying].output)
        other = ends[1 - dying]
        assert other.code > 0, (death, other.output)
        assert "no longer answers" in other.output, (death, other.output)
        check_resumed(folder, expected)
    record_property("trials", len(trials))


FATES: dict[str, tuple[int, int]] = {  # exit code of both, which of them it strikes
    "NaN in the loss": (3, 1),
    "NaN in a batch": (3, 1),
    "SIGTERM to the first": (143, 0),
    "SIGTERM to the second": (143, 1),
    "a full disk": (6, 0),
    "a full disk from the start": (6, 0),
}


def preparation(fate: str, folder: Path) -> Preparation:
    """What strikes one process."""
    match fate:
        case "NaN in the loss":
            return Poison("loss")
        case "NaN in a batch":
            return Poison("batch")
        case "a full disk":
            return FileFaults(folder, "ENOSPC", 5, only="/.new-")
        case "a full disk from the start":
            return FileFaults(folder, "ENOSPC", 1)
        case _:
            return At(3 * BATCH, signal.SIGTERM)


@pytest.mark.parametrize("fate", FATES if FULL else ["a full disk"])
def test_processes_end_together(tmp_path: Path, expected: Fingerprint, fate: str) -> None:
    """A NaN on one of two, SIGTERM to one, a full disk under the first: both end with the same exit code
    (3, 143, 6), and resumed, both go on bit for bit."""
    folder, (code, struck) = tmp_path / "run", FATES[fate]
    what = preparation(fate, folder)
    ends = both(folder, *((what,) if rank == struck else () for rank in (0, 1)))
    assert [end.code for end in ends] == [code] * 2, [end.output for end in ends]
    if code == 143:
        assert whole_checkpoints(folder)[-1] in (3 * BATCH, 4 * BATCH)
    check_resumed(folder, expected)
