"""Safetensors from strangers: crafted ones, each wrong in one way, and mutated ones."""

import json
import os
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from nacgen.errors import CheckpointError
from nacgen.system import tensor_file
from nacgen.system.documents import strict_json
from nacgen.system.tensor_file import (
    DTYPES,
    read_tensor_file,
    require_finite,
)

SCALE = int(os.environ.get("NACGEN_FAULTS_SCALE", "1"))
MUTATIONS = 400  # times SCALE

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2]), "c": torch.zeros(0, 5)}


def entry(
    start: object, end: object, shape: object = (2,), dtype: object = "F32"
) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def craft(header: object, data: bytes = bytes(8), length: int | None = None) -> bytes:
    """A file of a header, a dictionary or text as it is, and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


TWICE = b'{"a": {"dtype": "F32", "shape": [2], "shape": [2], "data_offsets": [0, 8]}}'
A_TWICE = b'{"a": %s, "a": %s}' % ((json.dumps(entry(0, 8)).encode(),) * 2)
WHOLE = craft({"a": entry(0, 8)})

CRAFTED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "0 bytes cannot hold its header"),
    "three bytes": (b"abc", "3 bytes cannot hold its header"),
    "no header": (struct.pack("<Q", 0), "header is no JSON object"),
    "header of 2^64 bytes": (craft({}, length=2**64 - 1), "cannot hold its header of 18,446"),
    "header behind the end": (craft({}, b"", length=3), "cannot hold its header of 3 bytes"),
    "long header": (
        craft(b"{" + b" " * 5_000_000),
        "header of 5,000,001 bytes is longer than 4,00",
    ),
    "long key": (craft({"k" * 4_100_000: entry(0, 8)}), "is longer than"),
    "a list": (craft([]), "header is no JSON object"),
    "spaces first": (craft(b' {"a": 1}'), "header is no JSON object"),
    "no text": (craft(b"{\xff\xfe}"), "utf-8"),
    "half a header": (craft(b'{"a": '), "Expecting value"),
    "nested": (craft(b'{"a":' + b"[" * 100_000), "nested too deeply"),
    "nested objects": (craft(b'{"a":' * 100_000), "nested too deeply"),
    "a tensor twice": (craft(A_TWICE), "a key stands twice"),
    "a shape twice": (craft(TWICE), "a key stands twice"),
    "infinite offset": (craft(b'{"a": {"data_offsets": [0, Infinity]}}'), "Infinity is no JSON"),
    "entry that is none": (craft({"a": [0, 8]}), "'a' is not described by data_offsets"),
    "entry without shape": (craft({"a": {"dtype": "F32", "data_offsets": [0, 8]}}), "described by"),
    "entry with more": (craft({"a": entry(0, 8) | {"run": "id"}}), "is not described by"),
    "unknown dtype": (craft({"a": entry(0, 8, dtype="OBJECT")}), "is of dtype 'OBJECT'"),
    "dtype that is none": (craft({"a": entry(0, 8, dtype=["F32"])}), "is of dtype"),
    "negative size": (craft({"a": entry(0, 8, [-2])}), r"has the shape \[-2\]"),
    "size that is a fraction": (craft({"a": entry(0, 8, [2.0])}), r"has the shape \[2.0\]"),
    "size that is true": (craft({"a": entry(0, 4, [True])}, bytes(4)), r"has the shape \[True\]"),
    "overflowing shape": (craft({"a": entry(0, 0, [2**33, 2**33])}, b""), "has the shape"),
    "overflowing empty shape": (craft({"a": entry(0, 0, [0, 2**40, 2**40])}, b""), "has the shape"),
    "wrapping shape": (craft({"a": entry(0, 0, [2**62])}, b""), "has the shape"),
    "many axes": (craft({"a": entry(0, 4, [1] * 100)}, bytes(4)), "has the shape"),
    "negative offset": (craft({"a": entry(-8, 0)}), r"lies at \[-8, 0\]"),
    "three offsets": (craft({"a": {**entry(0, 8), "data_offsets": [0, 4, 8]}}), "lies at"),
    "backward offsets": (craft({"a": entry(8, 0)}), "takes 8 bytes, but lies at"),
    "too few bytes": (craft({"a": entry(0, 8, [3])}), "takes 12 bytes, but lies at"),
    "overlap": (craft({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "overlap .* byte 8"),
    "the same bytes twice": (craft({"a": entry(0, 8), "b": entry(0, 8)}), "overlap"),
    "hole": (craft({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20)), "gap at byte 8"),
    "hole at the start": (craft({"a": entry(4, 12)}, bytes(12)), "gap at byte 0"),
    "bytes behind the end": (craft({"a": entry(0, 8)}, bytes(9)), "take 8 bytes, but 9 follow"),
    "archive behind the end": (WHOLE + b"PK\x05\x06" + bytes(18), "take 8 bytes, but 30 follow"),
    "cut off": (WHOLE[:-1], "take 8 bytes, but 7 follow"),
    "metadata of numbers": (craft({"__metadata__": {"a": 1}}, b""), "metadata are not texts"),
    "metadata that are none": (craft({"__metadata__": [1]}, b""), "metadata are not texts"),
    "many empty tensors": (
        craft({f"{i}": entry(0, 0, [0]) for i in range(100_000)}, b""),
        "is longer than",
    ),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_a_crafted_file_is_refused_at_once(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, message = CRAFTED[case]
    monkeypatch.setattr(tensor_file, "load", lambda content: pytest.fail("the library saw it"))
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(CheckpointError, match=f"{path} is no whole safetensors file .*{message}"):
        read_tensor_file(path)
    assert time.process_time() - start < 0.2


def test_the_limit_of_the_header_follows_what_is_expected(tmp_path: Path) -> None:
    padded = tmp_path / "x"
    padded.write_bytes(craft(json.dumps({"a": entry(0, 8)}).encode().ljust(1_000_400)))
    with pytest.raises(CheckpointError, match="header of 1,000,400 bytes is longer than 1,000,300"):
        read_tensor_file(padded, {"a": torch.zeros(2)})
    expected = {"a": torch.zeros(2), "b": torch.zeros(0)}
    with pytest.raises(CheckpointError, match="1 differences: b is missing"):
        read_tensor_file(padded, expected)


def test_what_does_not_fit_is_not_read(tmp_path: Path) -> None:
    """A terabyte of zeros is refused by its header."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(craft({"a": entry(0, 2**40, [2**38])}, b""))
    os.truncate(path, path.stat().st_size + 2**40)  # a hole on disk
    with pytest.raises(CheckpointError, match=r"1 differences: a: \(274877906944,\) in the file"):
        read_tensor_file(path, {"a": torch.zeros(2)})


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_dtype_is_read_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.tensor([[0, 1, 1]]).to(dtype)
    path = tmp_path / "x.safetensors"
    save_file({"a": values, "empty": values[:, :0]}, path, metadata={"k": "v"})
    for expected in (None, {"a": values.to("meta"), "empty": values[:, :0]}):
        file = read_tensor_file(path, expected)
        assert file.metadata == {"k": "v"}
        assert file.tensors["a"].dtype == dtype
        assert torch.equal(file.tensors["a"].view(torch.uint8), values.view(torch.uint8))
        assert file.tensors["empty"].shape == (1, 0)


def test_a_file_without_tensors_is_one(tmp_path: Path) -> None:
    save_file({}, tmp_path / "x")
    assert read_tensor_file(tmp_path / "x", {}).tensors == {}


def mutate(content: bytes, draw: random.Random) -> bytes:
    """Change, drop, double or swap a few bytes, more often in the header than in the data."""
    changed = bytearray(content)
    end = len(content) if draw.random() < 0.3 else 8 + int.from_bytes(content[:8], "little")
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = draw.randrange(min(end, len(changed)))
        what = draw.randrange(5)
        if what == 0:
            changed[at] ^= 1 << draw.randrange(8)
        elif what == 1:
            changed[at] = draw.choice(b'0123456789-[]{}",:\x00\xff')
        elif what == 2:
            del changed[at : at + draw.choice((1, 4, 64))]
        elif what == 3:
            changed[at:at] = changed[at : at + draw.choice((1, 8, 50))]
        else:
            del changed[at:]
        if not changed:
            break
    return bytes(changed)


def read_or_refuse(path: Path, expected: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
    try:
        return read_tensor_file(path, expected).tensors
    except CheckpointError:
        return None


def test_a_mutated_file_is_refused_or_read_as_it_says(tmp_path: Path) -> None:
    """Nothing but a CheckpointError, ever; what passes has the expected names, shapes and dtypes."""
    content = save(TENSORS, metadata={"format": "pt"})
    draw = random.Random(0)
    num_read = 0
    slowest = 0.0
    for _ in range(MUTATIONS * SCALE):
        mutated = mutate(content, draw)
        (tmp_path / "x").write_bytes(mutated)
        for expected in (TENSORS, None):
            start = time.process_time()
            tensors = read_or_refuse(tmp_path / "x", expected)
            slowest = max(slowest, time.process_time() - start)
            if tensors is None:
                continue
            num_read += 1
            assert sum(t.nbytes for t in tensors.values()) < len(mutated)
            if expected is not None:
                assert {n: (t.shape, t.dtype) for n, t in tensors.items()} == {
                    n: (t.shape, t.dtype) for n, t in TENSORS.items()
                }
    assert slowest < 0.2
    assert 0 < num_read < MUTATIONS * SCALE  # flips in the data pass: who cares for them, hashes


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "it is a pipe"),
        (Path.mkdir, "it is a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
        (lambda path: path.symlink_to("nowhere"), "No such file"),
        (lambda path: path.symlink_to(path), "symbolic links"),
    ],
)
def test_what_is_no_file_is_never_read(
    make: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    make(path)
    with pytest.raises(CheckpointError, match=f"{path} must be a file that can be read.*{reason}"):
        read_tensor_file(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float8_e5m2])
def test_numbers_that_are_none_are_named(dtype: torch.dtype) -> None:
    tensors = {f"t{i}": torch.tensor([0.0, float("inf")]).to(dtype) for i in range(11)}
    with pytest.raises(CheckpointError, match=r"finite, but 11 in x are not: t0, t1, .* t9. Take"):
        require_finite(tensors, "x")
    require_finite({"a": torch.zeros(3, dtype=dtype), "b": torch.tensor([1])}, "x")


def test_json_that_says_one_thing_is_let_through() -> None:
    assert strict_json(b'{"a": [1, 2.5, null, {"a": "\xc3\xbc"}]}') == {
        "a": [1, 2.5, None, {"a": "ü"}]
    }
