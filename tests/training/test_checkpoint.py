import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from nacgen.errors import CheckpointError, StorageError
from nacgen.training import checkpoint
from nacgen.training.checkpoint import (
    discard_checkpoints_after,
    load_checkpoint,
    read_checkpoint,
    resume_checkpoint,
    save_checkpoint,
)
from tests.processes import ended


def save(root: Path, images_seen: int) -> Path:
    return save_checkpoint(root, {"model": {"w": torch.full((3,), images_seen)}}, {}, images_seen)


def forge(folder: Path, state: str) -> None:
    """Another state, with a manifest that vouches for it."""
    (folder / "state.json").write_text(state)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    digest = hashlib.sha256(state.encode()).hexdigest()
    manifest["files"]["state.json"] = {"size": len(state), "sha256": digest}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))


def newest(root: Path) -> int:
    loaded = load_checkpoint(root)
    assert loaded is not None
    parts, state = loaded
    assert parts["model"]["w"].tolist() == [state["images_seen"]] * 3
    return int(state["images_seen"])


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for images_seen in (8, 16, 24):
        save(tmp_path, images_seen)
    assert newest(tmp_path) == 24
    assert len(list(tmp_path.iterdir())) == 2


def test_the_last_sound_one_is_kept_besides_the_last_two(tmp_path: Path) -> None:
    save(tmp_path, 8)
    for images_seen in (16, 24, 32, 40):
        save_checkpoint(tmp_path, {}, {}, images_seen, sound=20)
    assert sorted(path.name[-2:] for path in tmp_path.iterdir()) == ["16", "32", "40"]


def test_checkpoints_behind_a_position_can_be_removed(tmp_path: Path) -> None:
    for images_seen in (16, 24):
        save(tmp_path, images_seen)
    discard_checkpoints_after(tmp_path, 24)
    assert newest(tmp_path) == 24
    discard_checkpoints_after(tmp_path, 23)
    assert newest(tmp_path) == 16
    assert len(list(tmp_path.iterdir())) == 1


def test_the_best_is_kept_besides_the_last_two(tmp_path: Path) -> None:
    for images_seen, best in ((8, 8), (16, 8), (24, 8), (32, 8), (40, 40), (48, 40)):
        save_checkpoint(tmp_path, {"model": {"w": torch.zeros(1)}}, {}, images_seen, best)
        kept = sorted(int(path.name[5:]) for path in tmp_path.iterdir())
        assert kept == sorted({best, *range(8, images_seen + 8, 8)[-2:]})


DAMAGES = ["truncate", "lengthen", "flip", "remove", "add", "link", "pipe", "folder", "pickle"]
DAMAGES += ["manifest", "manifest-array", "manifest-twice", "manifest-deep", "manifest-large"]
DAMAGES += ["size", "traversal", "position", "nan", "ending", "link-folder", "large-state"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 8)
    folder = save(tmp_path, 16)
    weights, manifest = folder / "model.safetensors", folder / "MANIFEST.json"
    content, listed = weights.read_bytes(), json.loads(manifest.read_text())
    match damage:
        case "lengthen":
            weights.write_bytes(content + b"x")
        case "link":
            weights.rename(tmp_path / "elsewhere")
            weights.symlink_to(tmp_path / "elsewhere")
        case "link-folder":
            folder.rename(tmp_path / "elsewhere")
            folder.symlink_to(tmp_path / "elsewhere")
        case "pipe":
            weights.unlink()
            os.mkfifo(weights)
        case "folder":
            weights.unlink()
            weights.mkdir()
        case "manifest-array":
            manifest.write_text("[1]")
        case "manifest-twice":
            manifest.write_text('{"format": 1, ' + manifest.read_text().lstrip()[1:])
        case "manifest-deep":
            manifest.write_text("[" * 100_000)
        case "manifest-large":
            manifest.write_text(manifest.read_text() + " " * (1 << 20))
        case "size":
            listed["files"]["model.safetensors"]["size"] = "all of it"
            manifest.write_text(json.dumps(listed))
        case "traversal":
            listed["files"]["../elsewhere.safetensors"] = listed["files"].pop("model.safetensors")
            weights.rename(tmp_path / "elsewhere.safetensors")
            manifest.write_text(json.dumps(listed))
        case "ending":
            listed["files"]["model.bin"] = listed["files"].pop("model.safetensors")
            weights.rename(folder / "model.bin")
            manifest.write_text(json.dumps(listed))
        case "position":
            forge(folder, '{"images_seen": 8}')
        case "nan":
            forge(folder, '{"images_seen": 16, "seconds": NaN}')
        case "large-state":
            forge(folder, '{"images_seen": 16}' + " " * (1 << 20))
        case "truncate":
            weights.write_bytes(content[:-1])
        case "flip":
            weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "remove":
            weights.unlink()
        case "add":
            (folder / "extra.bin").write_bytes(b"")
        case "manifest":
            (folder / "MANIFEST.json").write_text("{")
        case "pickle":
            weights.write_bytes(b"\x80\x04cos\nsystem\n.")
    assert newest(tmp_path) == 8
    assert "damaged and passed over" in capsys.readouterr().err


def test_nothing_whole_is_an_error_and_nothing_at_all_is_a_start(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    (save(tmp_path, 8) / "state.json").unlink()
    with pytest.raises(CheckpointError, match="none is whole"):
        load_checkpoint(tmp_path)


def test_a_failing_write_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 8)

    def full(path: Path, pieces: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nacgen.training.checkpoint.write_synced", full)
    with pytest.raises(StorageError, match="No space left"):
        save(tmp_path, 16)
    assert newest(tmp_path) == 8
    assert len(list(tmp_path.iterdir())) == 1


def test_another_format_is_not_guessed_at(tmp_path: Path) -> None:
    manifest = save(tmp_path, 8) / "MANIFEST.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99 is not format 1"):
        load_checkpoint(tmp_path)


def test_a_step_that_is_repeated_replaces_its_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 8)
    save_checkpoint(tmp_path, {"model": {"w": torch.zeros(2)}}, {"seconds": 3.0}, 8)
    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded[0]["model"]["w"].tolist() == [0, 0]
    assert loaded[1]["seconds"] == 3.0
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    save(tmp_path, 8)
    (tmp_path / ".new-abc").mkdir()
    (tmp_path / ".new-abc" / "model.safetensors").write_bytes(b"half")
    assert newest(tmp_path) == 8  # a reader changes nothing
    assert len(list(tmp_path.iterdir())) == 2
    assert resume_checkpoint(tmp_path, 48) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000000008"]


def test_files_reach_the_disk_before_the_name_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is synced before the rename, the folder that holds the name after it."""
    names: list[str] = []
    sync, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        names.append("temporary folder" if name.startswith(".new-") else name)
        sync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        names.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    save(tmp_path, 8)
    assert sorted(names[:2]) == ["model.safetensors", "state.json"]  # written side by side
    assert names[2:] == [
        "MANIFEST.json",
        "temporary folder",
        "rename",
        tmp_path.name,
    ]


def test_what_was_passed_over_is_moved_aside_by_the_run_that_goes_on(tmp_path: Path) -> None:
    """Or it would be the newest again once the run, which repeats its steps, has been killed anew."""
    save(tmp_path, 8)
    (save(tmp_path, 16) / "state.json").write_text("{")
    loaded = resume_checkpoint(tmp_path, 48)
    assert loaded is not None
    assert loaded[1]["images_seen"] == 8
    aside, kept = sorted(path.name for path in tmp_path.iterdir())
    assert (aside[:26], kept) == ("damaged-step_000000000016-", "step_000000000008")
    assert (tmp_path / aside / "model.safetensors").is_file()


def test_a_position_behind_the_runs_end_is_damage(tmp_path: Path) -> None:
    save(tmp_path, 40)
    save(tmp_path, 48)
    assert load_checkpoint(tmp_path, at_most=48)[1]["images_seen"] == 48  # type: ignore[index]
    assert load_checkpoint(tmp_path, at_most=47)[1]["images_seen"] == 40  # type: ignore[index]
    with pytest.raises(CheckpointError, match="40 images seen are more than the 39 of the whole"):
        load_checkpoint(tmp_path, at_most=39)


def test_a_reader_turns_to_what_replaced_a_checkpoint_under_its_eyes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, reads = save(tmp_path, 8), []
    read = checkpoint._read_verified

    def overtaken(path: Path, *expected: Any) -> bytes:
        reads.append(path.name)
        if len(reads) == 2:  # the state was read, the tensors were not
            save(tmp_path, 16)
            shutil.rmtree(first)
        return read(path, *expected)

    monkeypatch.setattr(checkpoint, "_read_verified", overtaken)
    assert newest(tmp_path) == 16
    assert "damaged" not in capsys.readouterr().err


def save_and_die_amid(folder: Path) -> None:
    """Killed at the second renaming."""
    rename, done = Path.rename, []

    def killed(self: Path, target: Path) -> Path:
        if done:
            os._exit(9)
        done.append(target)
        return rename(self, target)

    Path.rename = killed  # type: ignore[method-assign]
    save(folder, 8)


def test_a_kill_while_a_repeated_step_replaces_its_checkpoint_leaves_one(tmp_path: Path) -> None:
    save(tmp_path, 8)
    assert ended(save_and_die_amid, tmp_path) == 9
    assert load_checkpoint(tmp_path) is None
    assert resume_checkpoint(tmp_path, 48) is not None
    assert newest(tmp_path) == 8
    assert len(list(tmp_path.iterdir())) == 1


def test_one_position_is_read_or_missed_by_name(tmp_path: Path) -> None:
    save(tmp_path, 8)
    save(tmp_path, 16)
    assert read_checkpoint(tmp_path, 8)[1]["images_seen"] == 8
    with pytest.raises(CheckpointError, match=r"step_000000000024 should be a whole checkpoint"):
        read_checkpoint(tmp_path, 24)


def test_an_unreadable_folder_is_no_empty_one(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file in the way")
    with pytest.raises(StorageError, match="cannot be listed"):
        load_checkpoint(tmp_path / "checkpoints")


def test_a_full_disk_is_told_what_is_needed_and_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, pieces: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_synced", full)
    free = f"{shutil.disk_usage(tmp_path).free:,}"[:3]
    with pytest.raises(StorageError) as caught:
        save_checkpoint(tmp_path, {"model": {"w": torch.zeros(500)}}, {}, 8)
    assert f"{tmp_path}/step_000000000008 cannot be written" in str(caught.value)
    assert f"needs 2,072 bytes, {free}" in str(caught.value)


def test_files_are_what_the_safetensors_library_writes(tmp_path: Path) -> None:
    tensors = {
        "double": torch.randn(3, 2, dtype=torch.float64),
        "half": torch.randn(3).bfloat16(),
        "count": torch.tensor(7),
        "flags": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 4),
        "number": torch.tensor(0.5),
        "näme": torch.randn(2, 2).half(),
    }
    folder = save_checkpoint(tmp_path, {"model": tensors, "optimizer": {}}, {}, 8)
    content = (folder / "model.safetensors").read_bytes()
    again = safetensors.torch.load(content)
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (again[name].dtype, again[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(again[name], tensor)
    assert len(content) == len(safetensors.torch.save(tensors))
    assert load_checkpoint(tmp_path)[0]["optimizer"] == {}  # type: ignore[index]
