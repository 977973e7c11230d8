"""Hostile pickles under every name that a model folder, a run or a dataset can hold: none is ever unpickled."""

import pickle
import shutil
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

from nacgen.data.datasets import load_dataset
from nacgen.data.image_sets import open_images
from nacgen.errors import CheckpointError, DataError, NacgenError
from nacgen.models.encoder import NACEncoder
from nacgen.models.foreign import read_foreign
from nacgen.training.checkpoint import load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[2]
STRAY = (
    "pytorch_model.bin",
    "model.pt",
    "optimizer.bin",
    "modeling.py",
    "custom_checkpoint_0.pkl",
    "latest",
)


class Canary:
    """Whoever unpickles it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def protocol_0(path: Path) -> bytes:
    return b"cposix\nsystem\n(S'touch %s'\ntR." % str(path).encode()


def torch_archive(path: Path) -> bytes:
    file = BytesIO()
    torch.save({"state_dict": Canary(path)}, file)
    return file.getvalue()


PAYLOADS: dict[str, Callable[[Path], bytes]] = {
    "protocol 0": protocol_0,
    "protocol 2": lambda path: pickle.dumps(Canary(path), 2),
    "protocol 5": lambda path: pickle.dumps({"weight": Canary(path)}, 5),
    "torch": torch_archive,
}


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture(params=PAYLOADS)
def payload(request: pytest.FixtureRequest, canary: Path) -> bytes:
    return PAYLOADS[request.param](canary)


@pytest.fixture(autouse=True)
def nothing_is_unpickled(canary: Path) -> Any:
    yield
    assert not canary.exists()


def test_every_payload_works(payload: bytes, canary: Path) -> None:
    """Otherwise the other tests would show nothing."""
    try:
        pickle.loads(payload)
    except pickle.UnpicklingError:  # the archive of torch
        torch.load(BytesIO(payload), weights_only=False)
    assert canary.exists()
    canary.unlink()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_in_a_model_folder(payload: bytes, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(ROOT / "checkpoints" / "digits-nac", folder)
    for stray in STRAY:  # what is not asked for is not looked at
        (folder / stray).write_bytes(payload)
    NACEncoder.from_pretrained(folder)
    (folder / name).write_bytes(payload)
    with pytest.raises(CheckpointError, match=f"{name} is "):
        NACEncoder.from_pretrained(folder)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".ckpt", ".bin"])
def test_as_weights_of_another_project(payload: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(payload)
    with pytest.raises(CheckpointError, match=str(path)):
        read_foreign(path)


@pytest.mark.parametrize(
    "name", ["generator.safetensors", "state.json", "MANIFEST.json", "optimizer.bin"]
)
def test_in_a_checkpoint(payload: bytes, name: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", {"generator": {"weight": torch.zeros(2)}}, {}, 8)
    (tmp_path / "c" / "step_000000000008" / name).write_bytes(payload)
    with pytest.raises(CheckpointError, match="none is whole"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("split", ["train", "test"])
def test_as_a_batch_of_cifar(payload: bytes, split: str, tmp_path: Path) -> None:
    for name in ("data_batch_1", "test_batch"):
        path = tmp_path / "cifar-10-batches-py" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(payload)
    with pytest.raises(DataError):
        load_dataset("cifar10", split, tmp_path)


@pytest.mark.parametrize("name", ["x.npz", "folder/1.png"])
def test_as_images_to_score(payload: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / name).write_bytes(payload)
    with pytest.raises(NacgenError, match=str(tmp_path / name)):
        open_images(str(tmp_path / name.removesuffix("/1.png")))


def test_no_module_of_a_model_folder_is_imported(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(ROOT / "checkpoints" / "digits-nac", folder)
    for name in ("modeling.py", "__init__.py", "nacgen_stranger.py"):
        (folder / name).write_text("raise SystemExit('run')")
    before, path = set(sys.modules), list(sys.path)
    NACEncoder.from_pretrained(folder)
    assert not {name for name in set(sys.modules) - before if "stranger" in name}
    assert sys.path == path
