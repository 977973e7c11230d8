from pathlib import Path

import pytest
import torch

from nacgen.errors import CheckpointError, StorageError
from nacgen.training.checkpoint import load_checkpoint, save_checkpoint


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
