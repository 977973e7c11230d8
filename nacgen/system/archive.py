"""Reading untrusted `.npz` archives: no pickles, bounded sizes, and no files written.

Arrays are read into memory, so that the name of a member cannot lead anywhere.
"""

import lzma
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from nacgen.system.files import open_regular

ARCHIVE_ERRORS = (  # errors of reading a damaged or hostile archive
    *(ArithmeticError, AttributeError, EOFError, KeyError, MemoryError, OSError, RuntimeError),
    *(SyntaxError, TypeError, ValueError, lzma.LZMAError, struct.error, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error),
)
MAX_MEMBERS = 1000
MAX_RATIO = 200  # unpacked bytes per packed byte, for archives that unpack to more than SMALL_BYTES
SMALL_BYTES = 2**30


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an `.npz` archive by name.

    A damaged archive, pickled objects, too many members or implausibly many bytes raise one of `ARCHIVE_ERRORS`.
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
            read = {name: arrays[name] for name in arrays.files}
    if foreign := [name for name, array in read.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"its member {foreign[0]} is no array")
    return read
