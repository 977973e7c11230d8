import errno
import mmap
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nacgen.errors import DataError, LockedError, StorageError
from nacgen.system import files
from nacgen.system.files import read_regular, storage_errors, write_file
from nacgen.system.locks import lock_folder


def test_a_write_that_fails_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index.json"
    write_file(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    words = r"the index cannot be written \(.*No space.*\. Free space, or retry\."
    with pytest.raises(StorageError, match=words), storage_errors("the index", "Retry."):
        write_file(path, iter([b"ne", b"w"]))
    assert [file.name for file in tmp_path.iterdir()] == ["index.json"]
    assert read_regular(path, max_bytes=3) == b"old"


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "index[1].json"  # no pattern
    names = {  # no process has the second number: systems stop at 2^22
        "alive": f".{path.name}.{socket.gethostname()}.{os.getppid()}.new",
        "dead": f".{path.name}.{socket.gethostname()}.99999999.new",
        "elsewhere": f".{path.name}.another-host.99999999.new",
        "of another file": f".other.json.{socket.gethostname()}.99999999.new",
    }
    for name in names.values():
        (tmp_path / name).touch()
    write_file(path, "new")
    gone = {names[key] for key in names if not (tmp_path / names[key]).exists()}
    assert gone == {names["dead"]}
    assert path.read_text() == "new"


def test_several_processes_may_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    script = """
import sys
from pathlib import Path
from nacgen.system.files import write_file
for _ in range(20):
    write_file(Path(sys.argv[1]), sys.argv[2] * 100_000)
"""
    command = [sys.executable, "-c", script, path]
    writers = [subprocess.Popen([*command, letter]) for letter in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert path.read_text() in ("a" * 100_000, "b" * 100_000)
    assert [file.name for file in tmp_path.iterdir()] == ["index.json"]


def test_only_errors_of_storage_become_storage_errors() -> None:
    for error in (DataError("x.png is odd"), ValueError("odd")):
        with pytest.raises(type(error)), storage_errors("the index"):
            raise error
    with pytest.raises(StorageError), storage_errors("the index"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")  # safetensors


def test_what_is_no_file_or_too_large_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "note").write_text("1009")
    for path, words in ((tmp_path, "a folder"), (tmp_path / "pipe", "a pipe")):
        with pytest.raises(OSError, match=f"it is {words}"):
            read_regular(path, 10)
    with pytest.raises(OSError, match="larger than 3 bytes"):
        read_regular(tmp_path / "note", 3)


def test_a_lock_names_its_owner_and_ends_with_its_file(tmp_path: Path) -> None:
    with lock_folder(tmp_path), pytest.raises(LockedError, match=f"by process {os.getpid()} on"):
        lock_folder(tmp_path)
    lock_folder(tmp_path).close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux writes past its cache")
@pytest.mark.parametrize("fails_at", [None, 1, 2, 4])
@pytest.mark.parametrize("length", [8 * files.BLOCK, 10 * files.BLOCK + 100])
def test_a_large_file_is_whole_whether_or_not_it_is_written_past_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int | None, length: int
) -> None:
    """A file system that has no such thing says so at once, or in the middle; a full disk is an error."""
    memory = mmap.mmap(-1, 16 * files.BLOCK)  # at a block's address
    memory.write(os.urandom(len(memory)))
    content, write, number, calls = memoryview(memory)[:length], os.write, errno.EINVAL, []

    def failing(descriptor: int, piece: memoryview) -> int:
        calls.append(len(piece))
        if len(calls) == fails_at:
            raise OSError(number, os.strerror(number))
        return write(descriptor, piece)

    monkeypatch.setattr(files, "DIRECT", 2 * files.BLOCK)
    monkeypatch.setattr(os, "write", failing)
    files.write_synced(tmp_path / "x", [content, b"end"])
    assert (tmp_path / "x").read_bytes() == bytes(content) + b"end"
    if fails_at and calls:  # by a file system that writes past the cache
        number = errno.ENOSPC
        calls.clear()
        with pytest.raises(OSError, match="No space left"):
            files.write_synced(tmp_path / "y", [content])
    calls.clear()
    files.write_synced(tmp_path / "z", [content[1:], b"end"])  # at no block's address
    assert (tmp_path / "z").read_bytes() == bytes(content[1:]) + b"end"
    assert calls == []
