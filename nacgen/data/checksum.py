"""Checking a file against the checksum that its publisher gives."""

import hashlib
from pathlib import Path

from nacgen.errors import DataError


def require_md5(path: Path, expected: str) -> None:
    """Refuse a file that is not the published one.

    MD5 finds what a download or a disk damaged; against forgery it is no protection.

    Args:
        path: The file.
        expected: MD5 in hexadecimal digits.

    Raises:
        DataError: The file has another checksum.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != expected:
        raise DataError(
            f"{path} must be the published file with MD5 {expected}, got {found}. It is damaged or changed: "
            "download the archive again and unpack it over this one."
        )
