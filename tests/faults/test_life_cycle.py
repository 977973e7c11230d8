"""What a run asks of the system, from its start to the pictures that it leaves, and where it can live."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.small_runs import BATCH, METHODS
from tests.faults.test_kills import At
from tests.faults.trials import FULL, run, start_script

ROOT = Path(__file__).parents[2]
FORBIDDEN = (
    "pickle.find_class",
    "os.exec",
    "os.posix_spawn",
    "os.system",
    "os.fork",
    "os.startfile",
)
FORBIDDEN += ("subprocess.Popen", "socket.connect", "socket.bind", "socket.sendto")
# Events that change the file system, with the number of paths that they name first.
CHANGES = {
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.truncate": 1,
    "os.chmod": 1,
    "os.chown": 1,
}
CHANGES |= {"os.rename": 2, "os.link": 2, "os.symlink": 2}


@dataclass(frozen=True)
class Audit:
    """Prints whatever a process should not do.

    Args:
        folders: Where it may write; besides, a file without a name in the folder above, to see if it can.
    """

    folders: tuple[Path, ...]

    def __call__(self) -> None:
        """Begin to look."""
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event in FORBIDDEN:
            self._tell(event, args)
        elif event == "open":
            path, _, flags = args
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and not self._is_inside(path) and not self._is_nameless(path):
                self._tell(event, args)
        elif event in CHANGES:
            place = args[-1] if isinstance(args[-1], int) and args[-1] > 2 else None
            if not all(self._is_inside(path, place) for path in args[: CHANGES[event]]):
                self._tell(event, args)

    def _is_inside(self, path: object, place: int | None = None) -> bool:
        if isinstance(path, int):  # of a descriptor that was let through when it was opened
            return True
        name = os.fsdecode(path)  # type: ignore[arg-type]
        if place is not None:  # in an open folder
            name = os.path.join(os.readlink(f"/proc/self/fd/{place}"), name)  # noqa: PTH115, PTH118
        name = os.path.realpath(name)
        return name == "/dev/null" or any(Path(name).is_relative_to(f) for f in self.folders)

    def _is_nameless(self, path: object) -> bool:
        """Whether a file without a name is opened where the run folder will be, to see if that can be written."""
        above = Path(os.fsdecode(path))  # type: ignore[arg-type]
        return above.is_dir() and any(folder.is_relative_to(above) for folder in self.folders)

    def _tell(self, event: str, args: tuple[Any, ...]) -> None:
        sys.__stderr__.write(f"\nforbidden: {event} {args!r}\n")  # type: ignore[union-attr]


def forbidden(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("forbidden: ")]


@pytest.mark.parametrize("method", METHODS if FULL else ["gan"])
def test_a_run_asks_for_no_process_no_connection_and_no_file_elsewhere(
    tmp_path: Path, method: str
) -> None:
    """The small run under an audit hook, killed and resumed: no unpickling, no process, no connection,
    no file written, removed or renamed outside of its folder (but one without a name in the folder above
    it, to see if that can be written)."""
    folder, preset = tmp_path / "run", f"{method}-short"
    killed = run(folder, preset, Audit((folder,)), At(4 * BATCH))
    assert killed.code == -signal.SIGKILL
    resumed = run(folder, preset, Audit((folder,)))
    assert resumed.code == 0, resumed.output
    assert not forbidden(killed.output + resumed.output)


PRETRAIN = ("pretrain_nac.py", "--preset", "smoke", "--run-dir", "{0}/nac")
LIFE: tuple[tuple[str, ...], ...] = (
    PRETRAIN,
    PRETRAIN,
    ("train_gan.py", "--preset", "smoke", "--run-dir", "{0}/gan", "--encoder", "{0}/nac/encoder"),
    ("sample.py", "--run-dir", "{0}/gan", "--columns", "0", "--output", "{0}/samples"),
    ("evaluate_images.py", "digits/test", "{0}/samples", "--extractor", "digits_classifier"),
    ("train_vae.py", "--preset", "smoke", "--run-dir", "{0}/vae"),
)


MATPLOTLIB = (Path.home() / ".config" / "matplotlib", Path.home() / ".cache" / "matplotlib")


@pytest.mark.battery
def test_a_whole_life_asks_for_no_process_no_connection_and_no_file_elsewhere(
    tmp_path: Path,
) -> None:
    """The recipes' smoke presets under an audit hook, scores in the digits' features: pretraining killed
    and resumed, a GAN from its encoder, its images written and scored, a VAE: as above, but for what
    matplotlib keeps in folders of its own."""
    for number, (script, *flags) in enumerate(LIFE):
        words = [flag.format(tmp_path) for flag in flags]
        preparations = [Audit((tmp_path, *MATPLOTLIB)), *([At(256)] if number == 0 else [])]
        log = tmp_path / f"{number}.log"
        ended = start_script(ROOT / "recipes" / script, words, log, *preparations).end(600)
        assert ended.code == (-signal.SIGKILL if number == 0 else 0), ended.output[-3000:]
        assert not forbidden(ended.output), script


ENVIRONMENTS: dict[str, tuple[str, dict[str, str | None]]] = {
    "spaces": ("my run", {}),
    "other scripts": ("прогон-走-é", {}),
    "a line break": ("one\ntwo", {}),
    "a leading dash": ("-run", {}),
    "no home": ("run", {"HOME": None}),
    "another time zone": ("run", {"TZ": "Pacific/Kiritimati"}),
    "the locale C": ("run", {"LC_ALL": "C", "PYTHONUTF8": "0"}),
    "a Turkish locale": ("run", {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"}),
}


def pretrained(folder: Path, variables: dict[str, str | None]) -> str:
    """The log of a smoke run, by the real command in a fresh interpreter."""
    words = [sys.executable, "recipes/pretrain_nac.py", "--preset", "smoke", f"--run-dir={folder}"]
    inherited = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    environment = {key: value for key, value in inherited.items() if value is not None}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return (folder / "metrics.jsonl").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def usual_log(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pretrained(tmp_path_factory.mktemp("usual") / "run", {})


@pytest.mark.battery
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_run_lives_wherever_it_is_put(tmp_path: Path, environment: str, usual_log: str) -> None:
    """The real command in a fresh interpreter, in a folder with spaces, other scripts, a line break or a
    leading dash in its name, without HOME, in another time zone and locale: exit code 0, and the log is
    that of the same run elsewhere."""
    name, variables = ENVIRONMENTS[environment]
    assert pretrained(tmp_path / name, variables) == usual_log
