"""A checkpoint is a folder that is either whole or not there.

Written under a temporary name with a manifest of sizes and hashes as its last file, synced, and renamed
into place; only then are older ones removed. No file in it is pickled.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from nacgen.errors import CheckpointError, StorageError

MANIFEST, STATE = "MANIFEST.json", "state.json"
FORMAT = 1
KEEP = 2

Tensors = dict[str, Tensor]


def save_checkpoint(
    root: Path, parts: Mapping[str, Tensors], state: Mapping[str, Any], images_seen: int
) -> Path:
    """Write one checkpoint and remove all but the last two.

    Args:
        root: Folder of the run's checkpoints; created where it is missing.
        parts: Tensors by part (a module or an optimizer) and name; one file each.
        state: JSON values.
        images_seen: Position of the run.

    Returns:
        The checkpoint's folder.

    Raises:
        StorageError: It could not be written; earlier checkpoints are untouched.
    """
    target = root / f"step_{images_seen:012d}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
        try:
            contents = {f"{name}.safetensors": save(tensors) for name, tensors in parts.items()}
            record = {"format": FORMAT, "images_seen": images_seen, **state}
            contents[STATE] = json.dumps(record, indent=2).encode()
            files = {n: {"size": len(b), "sha256": _sha256(b)} for n, b in contents.items()}
            contents[MANIFEST] = json.dumps({"format": FORMAT, "files": files}, indent=2).encode()
            for name, content in contents.items():
                _write_synced(room / name, content)
            if target.exists():  # left by an interrupted run that is being repeated
                _discard(target)
            room.rename(target)
        except BaseException:
            shutil.rmtree(room, ignore_errors=True)
            raise
        _sync_folder(root)
        for old in sorted(root.glob("step_*"))[:-KEEP]:
            _discard(old)
    except OSError as error:
        raise StorageError(
            f"the checkpoint {target} could not be written ({error}). Free space or choose another "
            "--run-dir; earlier checkpoints are intact."
        ) from error
    return target


def load_checkpoint(root: Path) -> tuple[dict[str, Tensors], dict[str, Any]] | None:
    """Read the newest whole checkpoint.

    Args:
        root: Folder of the run's checkpoints.

    Returns:
        Tensors by part and the state, or None where no checkpoint was ever written.

    Raises:
        CheckpointError: There are checkpoints but none is whole; nothing is started afresh silently.
    """
    for debris in root.glob(".new-*"):
        shutil.rmtree(debris, ignore_errors=True)
    problems = []
    for folder in sorted(root.glob("step_*"), reverse=True):
        try:
            contents = _read_verified(folder)
            parts = {
                name.removesuffix(".safetensors"): load(content)
                for name, content in contents.items()
                if name.endswith(".safetensors")
            }
            state = json.loads(contents[STATE])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            problems.append(f"{folder.name}: {error}")
            print(f"checkpoint {folder} is damaged and passed over: {error}", file=sys.stderr)
            continue
        return parts, state
    if problems:
        raise CheckpointError(
            f"{root} holds checkpoints but none is whole: {'; '.join(problems)}. Restore one, or choose "
            "another --run-dir to start afresh."
        )
    return None


def discard_checkpoints_after(root: Path, images_seen: int) -> None:
    """Remove checkpoints from behind a position.

    Args:
        root: Folder of the run's checkpoints.
        images_seen: The position; a checkpoint of just there stays.

    Raises:
        StorageError: One cannot be removed.
    """
    try:
        for folder in sorted(root.glob("step_*")):
            if folder.name > f"step_{images_seen:012d}":
                _discard(folder)
    except OSError as error:
        raise StorageError(
            f"checkpoints in {root} from behind {images_seen} images seen must be removed, but cannot be "
            f"({error}). Mend the permissions."
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> Tensors:
    """An optimizer's slots under the names of its parameters.

    Args:
        optimizer: Any torch optimizer whose state is tensors.
        names: Name of each parameter.

    Returns:
        `{"<slot>/<parameter>": tensor}`.
    """
    return {
        f"{slot}/{names[parameter]}": value.detach().cpu().contiguous()
        for parameter, slots in optimizer.state.items()
        for slot, value in slots.items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: Tensors
) -> None:
    """Put slots written by `optimizer_tensors` back.

    Args:
        optimizer: Over the same parameters.
        names: Name of each parameter.
        tensors: The slots.

    Raises:
        CheckpointError: A slot belongs to no parameter of this optimizer.
    """
    mine = {p for group in optimizer.param_groups for p in group["params"]}
    parameters = {names[p]: p for p in mine}
    for key, value in tensors.items():
        slot, _, name = key.partition("/")
        if name not in parameters:
            raise CheckpointError(
                f"the checkpoint's optimizer knows {name}, which this optimizer does not train. Resume with "
                "the configuration that wrote it."
            )
        parameter = parameters[name]
        device = "cpu" if slot == "step" else parameter.device
        optimizer.state[parameter][slot] = value.to(device)


def _read_verified(folder: Path) -> dict[str, bytes]:
    manifest = json.loads((folder / MANIFEST).read_bytes())
    if manifest["format"] != FORMAT:
        raise ValueError(f"format {manifest['format']} is not format {FORMAT}")
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    if present != set(manifest["files"]):
        raise ValueError(f"files {sorted(present ^ set(manifest['files']))} are missing or extra")
    contents = {}
    for name, expected in manifest["files"].items():
        content = (folder / name).read_bytes()
        if len(content) != expected["size"] or _sha256(content) != expected["sha256"]:
            raise ValueError(f"{name} does not match its hash")
        contents[name] = content
    return contents


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(folder: Path) -> None:
    trash = folder.with_name(f".new-trash-{folder.name}")
    shutil.rmtree(trash, ignore_errors=True)
    folder.rename(trash)
    shutil.rmtree(trash)
