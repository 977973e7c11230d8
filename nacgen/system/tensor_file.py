"""Reading untrusted safetensors files, and writing them.

The header is checked here, against limits and against what is expected, before any tensor is read and before the
library sees the file. Files are read into memory by default: truncating a file that is mapped would kill the
process.
"""

import hashlib
import io
import json
import math
import mmap
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from nacgen.errors import CheckpointError
from nacgen.system.documents import strict_json
from nacgen.system.files import BLOCK, open_regular

DTYPES = {  # by their names in safetensors
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
HEADER_BYTES, BYTES_PER_TENSOR = 1_000_000, 300  # length of the longest header that is read
MANY_TENSORS = 10_000  # for files of which nothing is expected
MAX_AXES = 16
CONTENT_DIGEST = "content_sha256"  # in the metadata, of all bytes after the header
ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
CASTS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
MISTAKEN = {  # first bytes of files that are taken for weights
    b"version https://git-lfs": "it is a Git LFS pointer: run `git lfs pull` for the file itself",
    b"<": "it is an HTML page in place of a download: fetch the file itself",
    b"{": "it is JSON, as the index of a model in shards is: merge the shards into one file",
}
TEXT = "it is text, as a download that failed leaves: fetch the file itself"
ZIP = "it is a zip archive, as torch.save writes: write safetensors, or convert it"

Tensors = dict[str, Tensor]


class TensorFile(NamedTuple):
    """Tensors of a safetensors file, on the CPU, and the texts of its header, by name."""

    tensors: Tensors
    metadata: dict[str, str]


def read_tensor_file(
    path: str | Path,
    expected: Mapping[str, Tensor] | Callable[[dict[str, str]], Mapping[str, Tensor]] | None = None,
    inside: Path | None = None,
    cast: bool = False,
    is_mapped: bool = False,
) -> TensorFile:
    """Read a safetensors file, or a link to one that stays in the folder `inside`, if it is given.

    The file must match the names, shapes and dtypes of the `expected` tensors exactly; they may be on the meta
    device, or a function may make them from the texts of the header. With `cast`, floats of 16 to 64 bits are
    converted to the expected dtype. No tensor is read unless everything fits. By default any file is accepted.
    With `is_mapped` processes share the memory of the tensors until they write to it; the file may be replaced or
    removed, but not changed.

    Raises:
        CheckpointError: If the file cannot be read, is not a whole safetensors file, or does not fit.

    Example:
        >>> from safetensors.torch import save_file
        >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> save_file({"weight": torch.ones(2)}, path)
        >>> read_tensor_file(path).tensors
        {'weight': tensor([1., 1.])}
    """
    num_tensors = len(expected) if isinstance(expected, Mapping) else MANY_TENSORS
    try:
        with open_regular(path, inside) as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            if (start := file.read(64)).startswith(b"PK\x03\x04"):
                raise ValueError(ZIP)
            if kind := mistaken_for(start):
                raise ValueError(kind)
            file.seek(0)
            head = _read_head(file, size, HEADER_BYTES + BYTES_PER_TENSOR * num_tensors)
            entries, metadata = _parse_head(head[8:])
            _check_layout(entries, size - len(head))
            if expected is not None:
                expected = expected if isinstance(expected, Mapping) else expected(metadata)
                if differences := list_differences(entries, expected, cast):
                    raise CheckpointError(
                        f"{path} does not fit the model, {differences}. Load it into the model that wrote it."
                    )
            content: bytes | mmap.mmap
            if is_mapped:
                content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
            else:
                content = head + file.read(size - len(head))
        if len(content) != size:
            raise ValueError(f"it ends after {len(content):,} of {size:,} bytes")
        written = hashlib.sha256(memoryview(content)[len(head) :]).hexdigest()
        if metadata.get(CONTENT_DIGEST, written) != written:
            raise ValueError(f"its tensors are not those of {CONTENT_DIGEST} in its header")
        if isinstance(content, bytes):
            tensors = load(content)
        else:
            tensors = {name: _mapped(content, entry, len(head)) for name, entry in entries.items()}
        if cast and expected is not None:
            tensors = {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}
        return TensorFile(tensors, metadata)
    except OSError as error:
        raise CheckpointError(
            f"{path} must be a file that can be read, but is not ({error}). Give a safetensors file."
        ) from error
    except (ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is no whole safetensors file ({error}). Save or download it again."
        ) from error


def _mapped(content: mmap.mmap, entry: "_Entry", start: int) -> Tensor:
    count = math.prod(entry.shape)
    if count == 0:
        return torch.empty(entry.shape, dtype=entry.dtype)
    values = torch.frombuffer(content, dtype=entry.dtype, count=count, offset=start + entry.start)
    return values.view(entry.shape)


def serialized(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> list[bytes | memoryview]:
    """Return the pieces of a safetensors file, always the same bytes for the same content; a CPU's are not copied.

    The library's `save` makes two copies of all tensors, and draws the order of the metadata. With metadata, a
    digest of the tensors is added, which the reader verifies: a file may keep its length and lose its content.
    """
    pieces = [_bytes_of(tensors[name]) for name in _largest_first(tensors)]
    if metadata is not None:
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        metadata = {**metadata, CONTENT_DIGEST: digest.hexdigest()}
    return [_head_of(tensors, metadata), *pieces]


def copy_serialized(tensors: Mapping[str, Tensor], buffer: Tensor | None = None) -> Tensor:
    """Return a copy of tensors as the bytes of a safetensors file, in a buffer of an earlier call if it fits.

    The bytes are in pinned memory if a tensor is on a GPU; a lack of memory raises a `MemoryError`. Tensors that
    are not on the CPU are there once their device is synchronized.
    """
    head = _head_of(tensors, None)
    start, size = len(head), len(head) + sum(tensor.nbytes for tensor in tensors.values())
    if buffer is None or len(buffer) != size:
        is_pinned = any(tensor.is_cuda for tensor in tensors.values())
        try:
            room = torch.empty(size + BLOCK, dtype=torch.uint8, pin_memory=is_pinned)
        except RuntimeError as error:
            raise MemoryError(f"{size:,} bytes cannot be allocated") from error
        buffer = room[-room.data_ptr() % BLOCK :][:size]
    buffer[:start] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
    for name in _largest_first(tensors):
        tensor, end = tensors[name], start + tensors[name].nbytes
        target = buffer[start:end].view(tensor.dtype).view(tensor.shape)
        target.copy_(tensor, non_blocking=True)
        start = end
    return buffer


def _largest_first(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names in a file's order, in which each tensor starts at a multiple of its dtype's size."""
    return sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))


def _head_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> bytes:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name in _largest_first(tensors):
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        kind, shape = _DTYPE_NAMES[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def mistaken_for(head: bytes) -> str | None:
    """Say what a file is by its first bytes, if it is text that is often found in the place of weights."""
    if head.startswith(b"PK\x03\x04") or min(head[:8], default=0) < 9:  # text has no such bytes
        return None
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    other = TEXT if len(start) > 8 and start.isascii() else None
    return next((kind for text, kind in MISTAKEN.items() if start.startswith(text)), other)


def require_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise a `CheckpointError` that names weights that contain NaN or infinity, and their source."""
    wrong = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
        and not (tensor.float() if tensor.itemsize == 1 else tensor).isfinite().all()
    ]
    if wrong:
        raise CheckpointError(
            f"all tensors must be finite, but {len(wrong)} in {source} are not: {', '.join(wrong[:10])}. Take a "
            "checkpoint from before the run diverged."
        )


class _Entry(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def _read_head(file: io.BufferedIOBase, size: int, longest: int) -> bytes:
    """Return the first eight bytes and the header whose length they give."""
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or length > size - 8:
        raise ValueError(f"{size:,} bytes cannot hold its header of {length:,} bytes")
    if length > longest:
        raise ValueError(f"its header of {length:,} bytes is longer than {longest:,}")
    return head + file.read(length)


def _parse_head(text: bytes) -> tuple[dict[str, _Entry], dict[str, str]]:
    header = strict_json(text) if text.startswith(b"{") else None
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata are not texts by name")
    return {name: _parse_entry(name, entry) for name, entry in header.items()}, metadata


def _parse_entry(name: str, entry: Any) -> _Entry:
    if not isinstance(entry, dict) or set(entry) != ENTRY_KEYS:
        raise ValueError(f"{name!r:.200} is not described by {', '.join(sorted(ENTRY_KEYS))}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name!r:.200} is of dtype {dtype!r:.50}")
    is_shape = _are_sizes(shape) and len(shape) <= MAX_AXES
    if not is_shape or math.prod(max(n, 1) for n in shape) > 2**60:
        raise ValueError(f"{name!r:.200} has the shape {shape!r:.100}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{name!r:.200} lies at {offsets!r:.100}")
    num_bytes = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != num_bytes:
        raise ValueError(f"{name!r:.200} takes {num_bytes:,} bytes, but lies at {offsets!r:.100}")
    return _Entry(DTYPES[dtype], tuple(shape), *offsets)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 2**60 for n in values)


def _check_layout(entries: Mapping[str, _Entry], num_bytes: int) -> None:
    """Raise an error unless every byte after the header belongs to one tensor."""
    position = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.end)):
        if entry.start != position:
            raise ValueError(f"its tensors overlap or leave a gap at byte {position:,} of its data")
        position = entry.end
    if position != num_bytes:
        raise ValueError(
            f"its tensors take {position:,} bytes, but {num_bytes:,} follow its header"
        )


def list_differences(entries: Mapping[str, Any], expected: Mapping[str, Tensor], cast: bool) -> str:
    """List how tensors, or entries of a file, differ from the expected ones: their number, then up to ten."""
    differences = [f"{name} is missing" for name in expected if name not in entries]
    differences += [f"{name} is unexpected" for name in entries if name not in expected]
    for name, tensor in expected.items():
        there, shape = entries.get(name), tuple(tensor.shape)
        if there is not None and tuple(there.shape) != shape:
            differences.append(f"{name}: {tuple(there.shape)} in the file, {shape} in the model")
        elif (
            there is not None
            and there.dtype != tensor.dtype
            and not (cast and {there.dtype, tensor.dtype} <= CASTS)
        ):
            differences.append(f"{name}: {there.dtype} in the file, {tensor.dtype} in the model")
    # The first and the last: a prefix before all names is seen in what is missing and unexpected.
    shown = differences if len(differences) <= 10 else differences[:5] + differences[-5:]
    listed = "; ".join(f"{difference:.300}" for difference in shown)
    return f"{len(differences)} differences: {listed}" if differences else ""
