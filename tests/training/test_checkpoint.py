import json
import os
from pathlib import Path

import pytest
import torch

from nacgen.errors import CheckpointError, StorageError
from nacgen.training.checkpoint import (
    discard_checkpoints_after,
    load_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
)


def save(root: Path, images_seen: int) -> Path:
    return save_checkpoint(root, {"model": {"w": torch.full((3,), images_seen)}}, {}, images_seen)


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


def test_checkpoints_behind_a_position_can_be_removed(tmp_path: Path) -> None:
    for images_seen in (16, 24):
        save(tmp_path, images_seen)
    discard_checkpoints_after(tmp_path, 24)
    assert newest(tmp_path) == 24
    discard_checkpoints_after(tmp_path, 23)
    assert newest(tmp_path) == 16
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "add", "manifest", "pickle"])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 8)
    folder = save(tmp_path, 16)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    match damage:
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

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nacgen.training.checkpoint._write_synced", full)
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
    assert newest(tmp_path) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000000008"]


def test_files_reach_the_disk_before_the_name_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is synced before the rename, the folder that holds the name after it."""
    names: list[str] = []
    sync, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        names.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    save(tmp_path, 8)
    assert names == [
        "model.safetensors",
        "state.json",
        "MANIFEST.json",
        "rename",
        tmp_path.name,
    ]


def test_an_optimizers_slots_are_put_back_by_name() -> None:
    parts = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    optimizers = [torch.optim.Adam(part.parameters(), lr=0.1) for part in parts]
    names = [{p: f"net.{name}" for name, p in part.named_parameters()} for part in parts]
    parts[0](torch.ones(1, 2)).sum().backward()
    optimizers[0].step()
    tensors = optimizer_tensors(optimizers[0], names[0])
    assert {key.partition("/")[2] for key in tensors} == {"net.weight", "net.bias"}
    load_optimizer_tensors(optimizers[1], names[1], tensors)
    again = optimizer_tensors(optimizers[1], names[1])
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], value) for key, value in tensors.items())
    stranger = {"exp_avg/net.scale": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"knows net\.scale, which this optimizer does not"):
        load_optimizer_tensors(optimizers[1], names[1], stranger)
