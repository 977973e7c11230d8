"""Decoded images are the same with and without the cache, which is made again whenever it does not fit."""

import errno
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nacgen.data import cache as cache_module
from nacgen.data import decoding
from nacgen.data.cache import cache_folder
from nacgen.data.datasets import ImageDataset, load_dataset
from nacgen.data.provenance import dataset_fingerprint
from nacgen.errors import DataError
from tests.data.files import write_photographs

N = 120
Load = Callable[..., ImageDataset]


@pytest.fixture(autouse=True)
def keeps_small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "QUICK_BYTES", 0)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Numbers of times that each file was decoded."""
    counts: Counter[str] = Counter()
    plain = decoding.decode
    monkeypatch.setattr(
        decoding, "decode", lambda path, size: (counts.update([path]), plain(path, size))[1]
    )
    return counts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = [f"{'ant' if i % 3 else 'bee'}/{i}.{'jpg' if i % 2 else 'png'}" for i in range(N)]
    write_photographs(tmp_path / "images", names, (24, 20))
    return tmp_path / "images"


@pytest.fixture
def load(folder: Path, tmp_path: Path) -> Load:
    def load(
        cache: Path | str = tmp_path / "cache", size: int = 16, **options: bool
    ) -> ImageDataset:
        dataset = load_dataset("folder", "train", folder, size, cache=cache, **options)
        assert isinstance(dataset, ImageDataset)
        return dataset

    return load


def entry_in(folder: Path) -> Path:
    (entry,) = folder.glob("*.safetensors")
    return entry


def test_files_are_decoded_once(
    load: Load, decoded: Counter[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = load("none")
    assert not (tmp_path / "cache").exists()
    first = load()
    assert decoded.total() == 2 * N
    second = load()
    assert decoded.total() == 2 * N
    for dataset in (first, second):
        assert torch.equal(dataset.images, plain.images)
        assert dataset.labels is not None
        assert plain.labels is not None
        assert torch.equal(dataset.labels, plain.labels)
        assert dataset_fingerprint(dataset) == dataset_fingerprint(plain)
    second.images[0] = 0  # which other processes do not see
    assert torch.equal(load().images, plain.images)
    assert capsys.readouterr().err == ""


def test_fingerprints_of_large_files_are_those_without_a_cache(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "MAX_WHOLE_BYTES", 1000)
    expected = dataset_fingerprint(load("none"))
    load()
    assert dataset_fingerprint(load()) == expected
    assert expected["method"] == "names, sizes and a sample"


def test_sets_that_are_decoded_quickly_are_not_kept(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "QUICK_BYTES", 2**24)
    assert load().files is not None
    assert not (tmp_path / "cache").exists()


def test_changed_files_are_seen(
    load: Load, folder: Path, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "SAMPLED_BYTES", 0)
    path = folder / "bee" / "0.png"
    load()
    size = path.stat().st_size
    write_photographs(folder, ["x.png", "bee/0.png"])  # the second picture of all
    (folder / "x.png").unlink()
    assert path.stat().st_size != size
    assert torch.equal(load().images, load("none").images)

    # The same size and time: the system's own time of the change tells.
    content, times = bytearray(path.read_bytes()), path.stat()
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    decoded.clear()
    with pytest.raises(DataError, match=r"0\.png"):
        load()
    path.unlink()
    assert len(load()) == N - 1
    write_photographs(folder, ["bee/0.png"])
    assert len(load()) == N
    assert load(size=12).images.shape[-1] == 12


def test_a_moved_folder_keeps_its_entry(
    load: Load, folder: Path, tmp_path: Path, decoded: Counter[str]
) -> None:
    load()
    decoded.clear()
    moved = folder.rename(tmp_path / "moved")
    dataset = load_dataset("folder", "train", moved, 16, cache=tmp_path / "cache")
    assert not decoded
    assert dataset.files is not None
    assert Path(dataset.files.paths[0]).is_relative_to(moved)


def test_other_images_of_equal_names_sizes_and_times_are_told_apart(
    load: Load, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = cache_module.stamps_of
    monkeypatch.setattr(cache_module, "stamps_of", lambda paths: 0 * plain(paths) + 7)
    load()
    write_photographs(folder, ["x.png", "bee/0.png"])
    (folder / "x.png").unlink()
    assert torch.equal(load().images, load("none").images)


def test_another_decoder_decodes_anew(
    load: Load, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load()
    monkeypatch.setattr(cache_module.PIL, "__version__", "0.1")
    load()
    monkeypatch.setattr(cache_module, "FORMAT", 2)
    load()
    assert decoded.total() == 3 * N


def flip(content: bytes) -> bytes:
    """Change a pixel."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content.replace(b'"images"', b'"Images"'),
        lambda content: content.replace(b'"shape":[120,3,16,16]', b'"shape":[120,3,32,8]'),
        lambda content: content.replace(b'"shape":[120]', b'"shape":[1,2]'),
        lambda content: b"<html>" + content[6:],
    ],
    ids=["bit", "half", "empty", "name", "shape", "length", "page"],
)
def test_damaged_entries_are_made_anew(
    damage: Callable[[bytes], bytes],
    load: Load,
    tmp_path: Path,
    decoded: Counter[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = load().images.clone()
    path = entry_in(tmp_path / "cache")
    content = path.read_bytes()
    changed = damage(content)
    assert changed != content
    path.unlink()  # it is mapped
    path.write_bytes(changed)
    assert torch.equal(load().images, expected)
    assert decoded.total() == 2 * N
    assert "are damaged and made anew" in capsys.readouterr().err
    assert path.read_bytes() == content
    load()
    assert decoded.total() == 2 * N
    assert capsys.readouterr().err == ""


def test_a_full_disk_costs_the_cache_alone(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("nacgen.system.files.write_synced", full)
    assert torch.equal(load().images, load("none").images)
    assert "cannot be written ([Errno 28] No space left on device). Free" in capsys.readouterr().err
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_folders_that_cannot_be_written_cost_the_cache_alone(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    expected = load("none").images
    assert torch.equal(load(tmp_path / "file").images, expected)
    told = capsys.readouterr().err
    assert f"not kept: {tmp_path / 'file'}" in told
    assert ".lock cannot be written or locked ([Errno" in told

    # One that others have filled is read.
    load()
    monkeypatch.setattr(os, "utime", lambda *_: (_ for _ in ()).throw(PermissionError()))
    assert torch.equal(load().images, expected)
    assert capsys.readouterr().err == ""

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert torch.equal(load(None).images, expected)
    assert "are not kept (no home). Give a folder with --data.cache." in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO])
def test_file_systems_without_locks_have_a_cache(
    number: int,
    load: Load,
    decoded: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def lacking(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", lacking)
    load()
    load()
    is_kept = number != errno.EIO
    assert decoded.total() == (N if is_kept else 2 * N)
    told = capsys.readouterr().err
    assert told.count("not kept: ") == (0 if is_kept else 2)
    assert is_kept or f".lock cannot be written or locked ([Errno {number}]" in told


def test_bad_files_are_skipped_as_without_a_cache(
    load: Load, folder: Path, tmp_path: Path, decoded: Counter[str]
) -> None:
    bad = folder / "bee" / "30.png"
    bad.write_text("no image")
    expected = load("none", skip_bad=True)
    load(skip_bad=True)
    decoded.clear()
    kept = load(skip_bad=True)
    assert not decoded
    assert kept.skipped == expected.skipped == (str(bad),)
    assert torch.equal(kept.images, expected.images)
    assert kept.labels is not None
    assert expected.labels is not None
    assert torch.equal(kept.labels, expected.labels)
    assert dataset_fingerprint(kept) == dataset_fingerprint(expected)
    with pytest.raises(DataError, match=r"1 of 120 are not: .*30\.png \(it is damaged"):
        load()


def test_files_that_cannot_be_read_today_are_tried_again(
    load: Load, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = decoding.open_regular

    def failing(path: str) -> object:
        if path.endswith("30.png"):
            raise OSError(errno.EIO, "Input/output error")
        return plain(path)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "open_regular", failing)
        assert len(load(skip_bad=True).skipped) == 1
    assert load(skip_bad=True).skipped == ()


def test_files_that_change_while_they_are_decoded_are_not_kept(
    load: Load, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = cache_module.read_images

    def slow(*arguments: object) -> object:
        result = plain(*arguments)
        write_photographs(folder, ["x.png", "bee/0.png"])
        return result

    monkeypatch.setattr(cache_module, "read_images", slow)
    load()
    assert not list((tmp_path / "cache").glob("*.safetensors"))


def test_two_at_once_decode_once(
    load: Load,
    decoded: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = cache_module.read_images
    monkeypatch.setattr(
        cache_module, "read_images", lambda *options: (time.sleep(0.3), plain(*options))[1]
    )
    expected, found = load("none").images, []
    threads = [threading.Thread(target=lambda: found.append(load())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decoded.total() == 2 * N
    assert [torch.equal(dataset.images, expected) for dataset in found] == 3 * [True]
    told = capsys.readouterr().err
    assert told.count("waiting up to 600 s for another process that decodes the same images\n") == 2


def test_others_go_on_where_the_first_could_not_write(
    load: Load, decoded: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        time.sleep(0.3)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("nacgen.system.files.write_synced", full)
    found: list[ImageDataset] = []
    threads = [threading.Thread(target=lambda: found.append(load())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decoded.total() == 2 * N
    assert torch.equal(found[0].images, found[1].images)


@pytest.mark.slow
def test_a_writer_that_was_killed_leaves_no_lock(load: Load, folder: Path, tmp_path: Path) -> None:
    script = (
        "import os; from nacgen.data import cache, datasets; cache.QUICK_BYTES = 0; "
        "cache.serialized = lambda *_: os._exit(9); "
        f"datasets.load_dataset('folder', 'train', {str(folder)!r}, 16, cache={str(tmp_path / 'cache')!r})"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert torch.equal(load().images, load("none").images)
    entry_in(tmp_path / "cache")


def test_old_entries_are_removed_and_other_files_stay(load: Load, tmp_path: Path) -> None:
    home = tmp_path / "cache"
    home.mkdir()
    key = "0123456789abcdef" * 4
    mine = [f"{key}.safetensors", f"{key}.lock", f".{key}.safetensors.host.12.new"]
    theirs = ["model.safetensors", f"{key}.txt", "notes.lock"]
    for name in (*mine, *theirs):
        (home / name).touch()
        os.utime(home / name, (0, 0))
    (home / f"{'f' * 64}.safetensors").touch()
    load()
    left = {path.name for path in home.iterdir()}
    assert left >= {*theirs, f"{'f' * 64}.safetensors"}
    assert not left & set(mine)
    entry = next(path for path in home.glob("*.safetensors") if path.stat().st_size)
    os.utime(entry, (0, 0))
    load()  # opening counts
    load(size=12)
    assert entry.exists()


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "nacgen"
    assert cache_folder("none") is None
    assert cache_folder("elsewhere") == Path("elsewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == tmp_path / ".cache" / "nacgen"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "nacgen"
