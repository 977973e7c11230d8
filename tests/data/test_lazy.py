import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch

from nacgen.data import lazy as lazy_module
from nacgen.data.datasets import Dataset, ImageDataset, load_dataset
from nacgen.data.lazy import LazyImageDataset
from nacgen.data.stream import PREFETCH, ImageStream
from nacgen.errors import DataError
from tests.data.files import write_photographs
from tests.processes import ended

N = 23


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photographs")
    names = [f"{'ant' if i % 3 else 'bee'}/{i}.{'jpg' if i % 2 else 'png'}" for i in range(N)]
    write_photographs(root, names, (24, 20))
    return root


@pytest.fixture
def held(folder: Path) -> Dataset:
    return load_dataset("folder", "train", folder, 16)


@pytest.fixture
def lazy(folder: Path) -> LazyImageDataset:
    dataset = load_dataset("folder", "train", folder, 16, max_bytes=0)
    assert isinstance(dataset, LazyImageDataset)
    return dataset


def labels_of(dataset: Dataset) -> torch.Tensor:
    assert dataset.labels is not None
    return dataset.labels


def test_a_lazy_dataset_is_the_one_in_memory(held: Dataset, lazy: LazyImageDataset) -> None:
    assert isinstance(held, ImageDataset)
    for face in ("name", "split", "image_size", "class_names"):
        assert getattr(lazy, face) == getattr(held, face)
    assert len(lazy) == len(held) == N
    assert torch.equal(labels_of(lazy), labels_of(held))
    for rows in (torch.arange(N), torch.tensor([7, 0, 7, 22]), torch.tensor([], dtype=torch.long)):
        found = lazy.read(rows)
        assert found.dtype == torch.uint8
        assert found.is_contiguous()
        assert torch.equal(found, held.images[rows])
        assert torch.equal(found, held.read(rows))


def test_a_subset_is_the_one_in_memory(held: Dataset, lazy: LazyImageDataset) -> None:
    rows = torch.tensor([5, 1, 22, 5])
    some, expected = lazy.subset(rows), held.subset(rows)
    assert torch.equal(some.read(torch.arange(4)), expected.read(torch.arange(4)))
    assert torch.equal(labels_of(some), labels_of(expected))


def test_a_lazy_stream_gives_the_batches_of_the_one_in_memory(
    held: Dataset, lazy: LazyImageDataset
) -> None:
    streams = [ImageStream(dataset, 8, seed=3) for dataset in (held, lazy)]
    # Over two ends of an epoch, then jumps back, forward and on the spot.
    for position in (*range(0, 8 * 7, 8), 8, 8000, 8008, 8008, 4):
        expected, found = (stream.batch(position) for stream in streams)
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.labels, expected.labels)  # type: ignore[arg-type]
        assert found.images_seen == position


def test_a_resumed_stream_continues_the_one_before(lazy: LazyImageDataset) -> None:
    walked = ImageStream(lazy, 8, seed=3)
    batches = {position: walked.batch(position).images for position in range(0, 80, 8)}
    assert torch.equal(ImageStream(lazy, 8, seed=3).batch(72).images, batches[72])


def test_processes_share_one_lazy_stream(lazy: LazyImageDataset) -> None:
    whole = ImageStream(lazy, 8, seed=1)
    parts = [ImageStream(lazy, 8, 1, "cpu", rank, 2) for rank in range(2)]
    for position in (0, 8, 16):
        shares = [part.batch(position).images for part in parts]
        assert torch.equal(torch.cat(shares), whole.batch(position).images)


def test_the_next_batches_are_decoded_before_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photographs(tmp_path, (f"{i}.png" for i in range(N)))
    lazy = load_dataset("folder", "train", tmp_path, 16, max_bytes=0)
    assert isinstance(lazy, LazyImageDataset)
    decoded: list[str] = []
    enough = threading.Event()

    def count(path: str, image_size: int | None, decode=lazy_module.decode):  # type: ignore[no-untyped-def]
        if path in lazy.paths:  # and not what an earlier test left to be decoded
            decoded.append(path)
        if len(decoded) == 4 * (1 + PREFETCH):
            enough.set()
        return decode(path, image_size)

    monkeypatch.setattr(lazy_module, "decode", count)
    stream = ImageStream(lazy, 4, seed=3)
    stream.batch(0)
    assert enough.wait(timeout=20)
    following = torch.cat([stream.indices(4 * i) for i in range(1 + PREFETCH)])
    assert sorted(decoded) == sorted(lazy.paths[i] for i in following)
    for i in range(1, 1 + PREFETCH):
        stream.batch(4 * i)
    assert max(Counter(decoded).values()) == 1  # what was decoded ahead is used


def test_a_file_that_breaks_while_training_is_named(tmp_path: Path) -> None:
    paths = write_photographs(tmp_path, [f"{i}.jpg" for i in range(8)], (64, 64))
    dataset = load_dataset("folder", "train", tmp_path, 16, max_bytes=0)
    stream = ImageStream(dataset, 4, seed=0)
    stream.batch(0)
    broken = paths[int(stream.indices(12)[2])]
    broken.write_bytes(broken.read_bytes()[:700])
    for _ in range(2):  # it stays an error, whatever was decoded before
        with pytest.raises(
            DataError, match=rf"{broken} must be a readable image.*Repair or remove"
        ):
            stream.batch(12)
    broken.unlink()
    with pytest.raises(DataError, match=rf"{broken} .*FileNotFoundError"):
        dataset.read(torch.arange(8))


def test_no_pixels_are_held(lazy: LazyImageDataset) -> None:
    tensors = [value for value in vars(lazy).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 1  # the labels
    assert not hasattr(lazy, "images")


def read_forked(folder: Path) -> None:
    """Both read the images, and the child what its parent read."""
    data = load_dataset("folder", "train", str(folder), 16, max_bytes=0)
    expected = int(data.read(torch.arange(N)).sum())  # the threads of this process run now
    child = os.fork()
    if child == 0:
        os._exit(0 if int(data.read(torch.arange(N)).sum()) == expected else 1)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


@pytest.mark.slow
def test_a_forked_process_reads_with_threads_of_its_own(folder: Path) -> None:
    assert ended(read_forked, folder, timeout=40) == 0


def test_a_run_that_ends_early_does_not_hang(folder: Path) -> None:
    code = (
        "import sys; from nacgen.data.datasets import load_dataset\n"
        "from nacgen.data.stream import ImageStream\n"
        "data = load_dataset('folder', 'train', sys.argv[1], 16, max_bytes=0)\n"
        "ImageStream(data, 16, 0).batch(0); sys.exit(3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=Path(__file__).parents[2],
        timeout=120,
        check=False,
    )
    assert done.returncode == 3
