"""Decoded images kept on disk, so that files are decoded once and not again by each process, run or arm.

An entry holds the images of one listing at one size. It is a safetensors file, named by a digest of the names,
sizes and times of the files, of a sample of their contents, of the image size and of the decoder. It is written
whole, verified when it is opened, and mapped, so that processes share its memory. Entries that have not been
opened for `MAX_AGE_DAYS` are removed when another one is written; the folder may be removed at any time.
"""

import hashlib
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import torch
from filelock import FileLock, Timeout
from jaxtyping import Int64, UInt8
from PIL import features
from torch import Tensor

from nacgen.data.decoding import read_images
from nacgen.data.folder import Contents, ImageFiles
from nacgen.errors import CheckpointError
from nacgen.system.files import LACKING, open_regular, write_file
from nacgen.system.tensor_file import read_tensor_file, serialized
from nacgen.system.terminal import warn

FORMAT = 1  # raised when `decode` gives other pixels or refuses other files
# What is decoded in a second, where a file counts as so many more bytes.
QUICK_BYTES, BYTES_PER_FILE = 2**24, 2**14
MAX_AGE_DAYS = 30
MAX_WAIT_S = 600.0  # for another process that decodes the same files
ADVICE = "Free space or choose another folder with --data.cache; none keeps none."
ENTRY_NAME = re.compile(r"\.?[0-9a-f]{64}\.(safetensors|npz|lock)(\..+\.new)?")

MAX_WHOLE_BYTES = 64 * 2**20  # of all files together, up to which every byte is read
SAMPLED_FILES, SAMPLED_BYTES = 256, 2**16  # of larger ones: the beginnings of so many files
Loaded = tuple[UInt8[Tensor, "k 3 h w"], tuple[str, ...], ImageFiles]


def cache_folder(choice: str | Path | None = None) -> Path | None:
    """Return the folder of the cache: the one that is chosen, None for `"none"`, by default one of the user's.

    That is `nacgen` in `XDG_CACHE_HOME`, or else where the system keeps caches. A user without a home is a
    `RuntimeError`.
    """
    if choice is not None:
        return None if str(choice) == "none" else Path(choice)
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():  # others are to be ignored, as the standard has it
        return given / "nacgen"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local", "nacgen/Cache")
    return Path.home() / {"darwin": "Library/Caches"}.get(sys.platform, ".cache") / "nacgen"


def load_images(
    files: ImageFiles, image_size: int | None, skip_bad: bool, choice: str | Path | None
) -> Loaded:
    """Return images from the cache, or decode them; the paths left out; and the listing with what is known of it.

    Sets that are decoded in about a second are not kept. Nothing fails because of the cache: a line says why
    images are decoded anew.
    """
    folder = None
    try:
        folder = cache_folder(choice)
    except RuntimeError as error:
        warn(f"decoded images are not kept ({error}). Give a folder with --data.cache.")
    stamps = stamps_of(files.paths if folder is not None else ())
    sizes = stamps[:, 0].clip(min=0)
    if folder is None or sizes.sum() + BYTES_PER_FILE * len(sizes) < QUICK_BYTES:
        return _decoded(files, image_size, skip_bad)
    path = folder / f"{_digest_of(files, stamps, image_size)}.safetensors"
    entry = _open(path, files, stamps, skip_bad)
    if entry is None:
        with _turn(path) as is_first:
            if is_first:
                return _fill(path, files, stamps, image_size, skip_bad)
        entry = _open(path, files, stamps, skip_bad)
    return _decoded(files, image_size, skip_bad) if entry is None else entry


def _decoded(files: ImageFiles, image_size: int | None, skip_bad: bool) -> Loaded:
    images, errors = read_images(files.paths, image_size, skip_bad)
    return images, tuple(errors), files


def _fill(
    path: Path,
    files: ImageFiles,
    stamps: Int64[np.ndarray, "n 3"],
    image_size: int | None,
    skip_bad: bool,
) -> Loaded:
    """Decode images, and write and open their entry if the files stayed as they are."""
    images, errors = read_images(files.paths, image_size, skip_bad)
    decoded = images, tuple(errors), files
    digests = digests_of(files.paths if are_read_whole(stamps[:, 0].tolist()) else ())
    # A disk or network may answer tomorrow; a file that changes is seen.
    is_passing = any(
        isinstance(cause := error.__cause__, TimeoutError) or getattr(cause, "errno", None)
        for error in errors.values()
    )
    if is_passing or not np.array_equal(stamps, stamps_of(files.paths)):
        return decoded
    is_readable = torch.tensor([file not in errors for file in files.paths])
    rows = torch.frombuffer(bytearray(digests or b"\0" * 32), dtype=torch.uint8).view(-1, 32)
    tensors = {"images": images, "is_readable": is_readable, "digests": rows}
    try:
        write_file(path, serialized(tensors, {}))
        sweep(path.parent)
    except OSError as error:
        warn(f"decoded images are not kept: {path} cannot be written ({error}). {ADVICE}")
        return decoded
    return _open(path, files, stamps, skip_bad) or decoded


def _open(
    path: Path, files: ImageFiles, stamps: Int64[np.ndarray, "n 3"], skip_bad: bool
) -> Loaded | None:
    """Map the entry of a listing; None if there is none, it is damaged, or lacks files that must be read."""
    if not path.exists():
        return None
    try:
        tensors = read_tensor_file(path, is_mapped=True).tensors
        images, is_readable, digests = (tensors[k] for k in ("images", "is_readable", "digests"))
        n, side = len(files.paths), images.shape[-1]
        expected = (int(is_readable.sum()), 3, side, side), (n,), (digests.shape[0], 32)
        kinds = torch.uint8, torch.bool, torch.uint8
        found = images, is_readable, digests
        if (
            tuple(tuple(t.shape) for t in found) != expected
            or tuple(t.dtype for t in found) != kinds
        ):
            raise ValueError("it holds other tensors")
    except (CheckpointError, IndexError, KeyError, ValueError) as error:
        warn(f"decoded images that were kept in {path} are damaged and made anew ({error})")
        return None
    if not (skip_bad or is_readable.all()):
        return None
    with suppress(OSError):  # a folder that others prepared
        os.utime(path)
    skipped = tuple(files.paths[i] for i in (~is_readable).nonzero().flatten().tolist())
    sizes = tuple(stamps[:, 0].tolist())
    return images, skipped, replace(files, known=Contents(sizes, digests.numpy().tobytes()))


@contextmanager
def _turn(path: Path) -> Iterator[bool]:
    """Yield True to the first process at an entry, False to others when it has ended or if no lock can be made.

    Where the file system lacks locks each process is the first: entries are written whole.
    """
    lock, is_first = FileLock(path.with_suffix(".lock")), False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
            is_first = True
        except Timeout:
            warn(
                f"waiting up to {MAX_WAIT_S:.0f} s for another process that decodes the same images"
            )
            with suppress(Timeout), lock.acquire(timeout=MAX_WAIT_S):
                pass
    except OSError as error:
        is_first = error.errno in LACKING
        if not is_first:
            warn(
                f"decoded images are not kept: {lock.lock_file} cannot be written or locked ({error}). {ADVICE}"
            )
    try:
        yield is_first
    finally:
        if is_first:
            lock.release()


def sweep(folder: Path) -> None:
    """Remove entries that were not opened for long, and what killed writers left behind."""
    oldest = time.time() - MAX_AGE_DAYS * 86_400
    for file in folder.iterdir():
        with suppress(OSError):
            if ENTRY_NAME.fullmatch(file.name) and file.lstat().st_mtime < oldest:
                file.unlink()


def stamps_of(paths: Sequence[str]) -> Int64[np.ndarray, "n 3"]:
    """Return size and times of files; a size of -1 where a link leads nowhere."""

    def stamp(path: str) -> tuple[int, int, int]:
        try:
            status = os.stat(path)  # noqa: PTH116 - faster
        except OSError:
            return -1, -1, -1
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns

    return np.array([stamp(path) for path in paths], dtype=np.int64).reshape(-1, 3)


def _digest_of(files: ImageFiles, stamps: Int64[np.ndarray, "n 3"], image_size: int | None) -> str:
    """Return what names the entry of a listing, wherever its folder lies."""
    codec = features.version("jpg")
    names = "\0".join(path.removeprefix(files.root) for path in files.paths)
    settings = f"{FORMAT} {PIL.__version__} {codec} {image_size}\n"
    digest = hashlib.sha256(settings.encode() + os.fsencode(names) + stamps.tobytes())
    digest.update(sampled_digests(files.paths))
    return digest.hexdigest()


def are_read_whole(sizes: Iterable[int]) -> bool:
    """Tell whether files of these sizes are few bytes enough for every one of them to be read for a digest."""
    return sum(max(0, size) for size in sizes) <= MAX_WHOLE_BYTES


def sampled_digests(paths: Sequence[str]) -> bytes:
    """Return the digests of the beginnings of up to `SAMPLED_FILES` files at even distances."""
    return digests_of(paths[:: max(1, -(-len(paths) // SAMPLED_FILES))], SAMPLED_BYTES)


def digests_of(paths: Sequence[str], num_bytes: int = -1) -> bytes:
    """Return the SHA-256 of each file, or of its beginning, one after the other."""
    digests = []
    for path in paths:
        try:
            with open_regular(path) as file:
                content = file.read(num_bytes)
        except OSError:  # unreadable for training, too, where it is named
            content = b""
        digests.append(hashlib.sha256(content).digest())
    return b"".join(digests)
