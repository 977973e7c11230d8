"""Checkpoints: folders that are either whole or not there.

A checkpoint is written under a temporary name, with a manifest of sizes and hashes as its last file, synced, and
renamed into place. Only then are older ones removed. No file is pickled, and every hash is checked before reading.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load

from nacgen.errors import CheckpointError, StorageError
from nacgen.system.documents import strict_json
from nacgen.system.files import read_regular, remove, storage_errors, sync_folder, write_synced
from nacgen.system.tensor_file import Tensors, serialized

MANIFEST, STATE, TENSORS = "MANIFEST.json", "state.json", ".safetensors"
FORMAT = 1
KEEP = 2
LARGEST_JSON = 1 << 20  # bytes
THREADS = 4  # that write and hash files
Contents = tuple[dict[str, Tensors], dict[str, Any]]
Pieces = Sequence[bytes | memoryview]

_NAME = re.compile(r"step_\d{12}")
_TEMPORARY, _REPLACED, _SET_ASIDE = ".new-", ".old-", "damaged-"
# Errors that files cause which were cut off, altered or made up.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)


def save_checkpoint(
    root: Path,
    parts: Mapping[str, Tensors | Pieces],
    state: Mapping[str, Any],
    images_seen: int,
    best: int | None = None,
    sound: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> Path:
    """Write one checkpoint, and remove all but the last two, the best, and the last that is surely sound.

    Each part, a module or an optimizer, becomes one file. If writing fails, earlier checkpoints are untouched.
    `best` is the position of the best checkpoint, `sound` the last one at which the run was sound. `check` is
    called before the folder is changed, and raises if it belongs to another run by now.
    """
    target = root / _name(images_seen)
    contents = {
        f"{name}{TENSORS}": serialized(part) if isinstance(part, dict) else part
        for name, part in parts.items()
    }
    needed = sum(len(piece) for pieces in contents.values() for piece in pieces)
    advice = (
        f"Choose another --run-dir; it needs {needed:,} bytes, {shutil.disk_usage(root.parent).free:,} are free, "
        "and earlier checkpoints are intact."
    )
    with storage_errors(f"the checkpoint {target}", advice):
        root.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=root))
        try:
            _write(room, contents, {"format": FORMAT, "images_seen": images_seen, **state})
            check()
            _put_in_place(room, target)
        except BaseException:
            shutil.rmtree(room, ignore_errors=True)
            check()
            raise
    folders = _folders(root)
    kept = {folder.name for folder in folders[-KEEP:]}
    if best is not None:
        kept.add(_name(best))
    if sound is not None:
        kept.update([f.name for f in folders if f.name <= _name(sound)][-1:])
    _remove([folder for folder in folders if folder.name not in kept])
    return target


def load_checkpoint(root: Path, at_most: int | None = None) -> Contents | None:
    """Read the newest whole checkpoint, None if none was ever written. A run may write more meanwhile.

    A checkpoint after position `at_most` counts as damaged. If none is whole, a `CheckpointError` says why.
    """
    problems: dict[str, str] = {}
    while waiting := [folder for folder in _folders(root) if folder.name not in problems]:
        newest = waiting[-1]
        try:
            return _read(newest, at_most)
        except _DAMAGE as error:
            if not os.path.lexists(newest):  # the run has removed it; there is a newer one
                continue
            problems[newest.name] = str(error)
            print(f"checkpoint {newest} is damaged and passed over: {error}", file=sys.stderr)
    if problems:
        listed = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        raise CheckpointError(
            f"{root} holds checkpoints but none is whole: {listed}. Restore one, or start over with --fresh, "
            "which moves the run folder aside."
        )
    return None


def resume_checkpoint(root: Path, total_images: int) -> Contents | None:
    """Tidy the folder up and read the newest whole checkpoint, on the process that writes the next ones.

    The remains of a killed process are removed. Damaged checkpoints that are newer than the one that is read are
    renamed to `damaged-…`, so that the resumed run does not read them again.
    """
    with storage_errors(f"the checkpoints in {root}", "Mend the permissions or the disk."):
        for old in root.glob(f"{_REPLACED}step_*"):
            if not os.path.lexists(target := root / old.name.removeprefix(_REPLACED)):
                old.rename(target)
        for debris in (*root.glob(f"{_TEMPORARY}*"), *root.glob(f"{_REPLACED}*")):
            with contextlib.suppress(OSError):
                remove(debris)
        loaded = load_checkpoint(root, total_images)
        if loaded is not None:
            for folder in _folders(root):
                if folder.name > _name(loaded[1]["images_seen"]):
                    number = len([*root.glob(f"{_SET_ASIDE}{folder.name}-*")])
                    folder.rename(root / f"{_SET_ASIDE}{folder.name}-{number}")
    return loaded


def read_checkpoint(root: Path, images_seen: int) -> Contents:
    """Read the checkpoint of one position; `CheckpointError` if it is missing or damaged."""
    folder = root / _name(images_seen)
    try:
        return _read(folder)
    except _DAMAGE as error:
        raise CheckpointError(
            f"{folder} should be a whole checkpoint, but is not ({error}). The run folder must be the same for "
            "all processes."
        ) from error


def discard_checkpoints_after(root: Path, images_seen: int) -> None:
    """Remove the checkpoints after a position."""
    _remove([folder for folder in _folders(root) if folder.name > _name(images_seen)])


def _name(images_seen: int) -> str:
    return f"step_{images_seen:012d}"


def _folders(root: Path) -> list[Path]:
    """Return the folders with a checkpoint's name, oldest first; an unreadable root is not an empty one."""
    try:
        paths = sorted(root.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(
            f"the checkpoints in {root} cannot be listed ({error}). Mend the permissions or the disk."
        ) from error
    return [path for path in paths if _NAME.fullmatch(path.name)]


def _write(room: Path, contents: dict[str, Pieces], record: Mapping[str, Any]) -> None:
    """Write and hash all files side by side, the largest first, and the manifest last."""
    contents[STATE] = [json.dumps(record, indent=2, allow_nan=False).encode()]
    sizes = {name: sum(len(piece) for piece in pieces) for name, pieces in contents.items()}
    with ThreadPoolExecutor(THREADS) as pool:
        tasks = {
            name: (
                pool.submit(write_synced, room / name, contents[name]),
                pool.submit(_sha256, *contents[name]),
            )
            for name in sorted(contents, key=lambda name: -sizes[name])
        }
    for written, _ in tasks.values():
        written.result()
    files = {
        name: {"size": sizes[name], "sha256": tasks[name][1].result()} for name in sorted(contents)
    }
    manifest = json.dumps({"format": FORMAT, "files": files}, indent=2)
    write_synced(room / MANIFEST, [manifest.encode()])
    sync_folder(room)


def _put_in_place(room: Path, target: Path) -> None:
    """Rename a written folder; a checkpoint of the same name, from a repeated step, stays until then."""
    old = target.with_name(f"{_REPLACED}{target.name}")
    if is_repeated := os.path.lexists(target):
        if os.path.lexists(old):
            remove(old)
        target.rename(old)
    room.rename(target)
    sync_folder(target.parent)
    if is_repeated:
        remove(old)


def _read(folder: Path, at_most: int | None = None) -> Contents:
    if folder.is_symlink():
        raise ValueError("it is a link")
    manifest = strict_json(read_regular(folder / MANIFEST, LARGEST_JSON, inside=folder))
    if manifest["format"] != FORMAT:
        raise ValueError(f"format {manifest['format']} is not format {FORMAT}")
    files = manifest["files"]
    different = {entry.name for entry in os.scandir(folder)} ^ {MANIFEST, *files}
    if different:
        raise ValueError(f"files {sorted(different)} are missing or extra")
    parts = {}
    state = strict_json(_read_verified(folder / STATE, files[STATE], LARGEST_JSON))
    for name in files.keys() - {STATE}:
        part, dot, ending = name.rpartition(".")
        if dot + ending != TENSORS:
            raise ValueError(f"{name} is no file of a checkpoint")
        parts[part] = load(_read_verified(folder / name, files[name]))
    position = state["images_seen"]
    if type(position) is not int or _name(position) != folder.name:
        raise ValueError(f"{STATE} speaks of {position!r} images seen")
    if at_most is not None and position > at_most:
        raise ValueError(f"{position} images seen are more than the {at_most} of the whole run")
    return parts, state


def _read_verified(path: Path, expected: Mapping[str, Any], largest: float = math.inf) -> bytes:
    size = expected["size"]
    if type(size) is not int or not 0 <= size <= largest:
        raise ValueError(f"{path.name} cannot have {size!r} bytes")
    content = read_regular(path, size, inside=path.parent)
    if len(content) != size or _sha256(content) != expected["sha256"]:
        raise ValueError(f"{path.name} does not match its hash")
    return content


def _sha256(*pieces: bytes | memoryview) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _remove(folders: list[Path]) -> None:
    """Rename folders before removing them, so that no checkpoint is ever there in part."""
    for folder in folders:
        trash = folder.with_name(f"{_TEMPORARY}trash-{folder.name}")
        with storage_errors(
            f"the removal of {folder}", "Mend the permissions; other checkpoints are intact."
        ):
            if os.path.lexists(trash):
                remove(trash)
            folder.rename(trash)
            remove(trash)
