import hashlib
from pathlib import Path

import pytest

from nacgen.errors import DataError
from nacgen.system.files import require_md5


def test_the_published_file_passes_and_one_changed_bit_does_not(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    path.write_bytes(b"1009 pixels")
    published = hashlib.md5(b"1009 pixels").hexdigest()
    require_md5(path, published)
    path.write_bytes(b"1008 pixels")
    found = hashlib.md5(b"1008 pixels").hexdigest()
    with pytest.raises(DataError, match=f"{path} must be .* MD5 {published}, got {found}"):
        require_md5(path, published)
