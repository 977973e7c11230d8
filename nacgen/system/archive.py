"""Reading `.npz` archives that a stranger may have written: no pickles, no files written, bounded sizes.

Members are read into memory under their names, whatever these are, so no name leads anywhere.
"""

import lzma
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from nacgen.system.files import open_regular

ARCHIVE_ERRORS = (  # what reading a damaged or hostile archive raises
    *(AttributeError, EOFError, KeyError, MemoryError, OSError, RuntimeError, TypeError),
    *(ValueError, lzma.LZMAError, struct.error, zipfile.BadZipFile, zlib.error),
)
MAX_MEMBERS = 1000
MAX_RATIO, SMALL_BYTES = (
    200,
    2**30,
)  # so much may come of one byte, where more than a gigabyte comes of all


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an `.npz` archive.

    Args:
        path: The archive.

    Returns:
        All arrays by name.

    Raises:
        ValueError: It has more members than anybody needs, or is packed so tightly that it must be a bomb.
        Exception: Others of `ARCHIVE_ERRORS`: it is damaged, or holds pickled objects.
    """
    with open_regular(path) as file:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        packed, unpacked = path.stat().st_size, sum(member.file_size for member in members)
        if len(members) > MAX_MEMBERS:
            raise ValueError(f"it has {len(members):,} members, more than {MAX_MEMBERS:,}")
        if unpacked > max(SMALL_BYTES, MAX_RATIO * packed):
            raise ValueError(f"its {packed:,} bytes would become {unpacked:,}")
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
