"""`.npz` archives from strangers: read as they say, or refused; nothing runs, nothing is written."""

import os
import pickle
import random
import struct
import time
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nacgen.data.image_sets import holds_statistics, read_npz
from nacgen.errors import DataError
from nacgen.system.archive import ARCHIVE_ERRORS, MAX_MEMBERS, read_arrays

SCALE = int(os.environ.get("NACGEN_FAULTS_SCALE", "1"))
MUTATIONS = 200  # times SCALE

IMAGES = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def packed(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


class Canary:
    """Whoever unpickles it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def refused(path: Path, message: str) -> None:
    start = time.process_time()
    with pytest.raises(DataError, match=rf"{path} must be a whole \.npz archive .*{message}"):
        read_npz(path)
    assert time.process_time() - start < 5


def test_arrays_are_read_by_name(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", images=IMAGES, labels=np.arange(2))
    arrays = read_arrays(tmp_path / "x.npz")
    assert set(arrays) == {"images", "labels"}
    assert (arrays["images"] == IMAGES).all()


def test_a_pickle_is_not_read_whatever_it_is_called(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path, content = tmp_path / "x.npz", pickle.dumps(Canary(canary))
    path.write_bytes(content)
    refused(path, "not a zip file")
    objects = BytesIO()
    np.save(objects, np.array([Canary(canary)], dtype=object), allow_pickle=True)
    path.write_bytes(packed({"images.npy": objects.getvalue()}))
    refused(path, "Object arrays cannot be loaded")
    path.write_bytes(packed({"images.npy": content, "images": content}))
    with pytest.raises(DataError, match=str(path)):
        read_npz(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "name", ["../../out.npy", "/tmp/out.npy", "C:\\out.npy", "a/../../out.npy"]
)
def test_a_name_leads_nowhere(name: str, tmp_path: Path) -> None:
    member = BytesIO()
    np.save(member, IMAGES)
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "x.npz"
    path.write_bytes(packed({name: member.getvalue()}))
    assert len(read_npz(path)) == 2
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "x.npz"]


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    content = bytearray(
        packed({"images.npy": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}")})
    )
    at = content.index(b"PK\x01\x02") + 24  # size in the directory: 4 GB
    content[at : at + 4] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(content)
    refused(path, "bytes would become 4,294,967,294")


def test_a_shape_that_no_data_bear_out_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for shape in ((10**15,), (2**40, 2**40), (-1, 4), (2, 4, 4, 3)):
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}"
        path.write_bytes(packed({"images.npy": npy(header, bytes(8))}))
        refused(path, "")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1",
        "{'descr': \\",
        "  {\n a",
        "((((",
        "'",
        '"""',
        "{'shape': (1,), }",
        "\x00",
        "[" * 110,
        "0777L",
    ],
)
def test_a_header_that_is_no_expression_is_refused(header: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(packed({"images.npy": npy(header, bytes(8))}))
    refused(path, "")


@pytest.mark.parametrize(
    "shape", ["(10**30,)", f"({2**63},)", f"({10**30}, 1)", "(True,)", "(1.5,)"]
)
def test_a_shape_of_no_numbers_is_refused(shape: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}"
    path.write_bytes(packed({"images.npy": npy(header, bytes(8))}))
    with pytest.raises(DataError, match=str(path)):
        read_npz(path)


def test_a_member_that_is_text_is_refused(tmp_path: Path) -> None:
    path, array = tmp_path / "x.npz", BytesIO()
    np.save(array, IMAGES)
    for name in ("README.txt", "notes.npy", "empty.npy"):
        path.write_bytes(
            packed({"images.npy": array.getvalue(), name: b"made by us" * (name[0] != "e")})
        )
        refused(path, "its member")


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(packed({f"{i}.npy": b"" for i in range(MAX_MEMBERS + 1)}))
    refused(path, "it has 1,001 members, more than 1,000")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npz")
    with pytest.raises(OSError, match="it is a pipe"):
        read_arrays(tmp_path / "x.npz")
    assert not holds_statistics(tmp_path / "x.npz")


def test_a_mutated_archive_is_read_or_refused(tmp_path: Path) -> None:
    file, draw, num_read = BytesIO(), random.Random(0), 0
    np.savez_compressed(file, images=IMAGES)
    path = tmp_path / "x.npz"
    for _ in range(MUTATIONS * SCALE):
        content = bytearray(file.getvalue())
        for _ in range(draw.choice((1, 2, 6))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content[: draw.choice((len(content), draw.randrange(len(content))))])
        try:
            read_arrays(path)
            num_read += 1
        except ARCHIVE_ERRORS:
            pass
    assert 0 < num_read < MUTATIONS * SCALE


@pytest.mark.slow
def test_a_million_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(packed({f"{i}.npy": b"" for i in range(10**6)}, zipfile.ZIP_STORED))
    start = time.process_time()
    with pytest.raises(DataError, match="it has 1,000,000 members, more than 1,000"):
        read_npz(path)
    assert time.process_time() - start < 30
