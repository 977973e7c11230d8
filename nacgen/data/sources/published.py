"""Files of published archives, compared with the MD5 checksums that torchvision holds."""

from collections.abc import Mapping
from pathlib import Path

from nacgen.errors import DataError, DataNotFoundError


def find_published(dataset: type, root: Path, files: Mapping[str, str | None]) -> Path:
    """Return the folder of an unpacked archive after checking the MD5 of the files that are needed of it.

    MD5 finds what a download or a disk damaged, and no one can make another file of the published checksum. It is
    None for files whose checksum is not published. `root` is the archive's folder or the one around it.
    """
    from torchvision.datasets.utils import check_integrity  # slow to import

    base: str = dataset.base_folder  # type: ignore[attr-defined]
    folder = root if root.name == base else root / base
    for name, md5 in files.items():
        if not (folder / name).is_file():
            raise DataNotFoundError(
                f"{dataset.__name__} should lie in {folder}, but {name} is missing there. Download it once with "
                f"`python -c \"import torchvision; torchvision.datasets.{dataset.__name__}('{folder.parent}', "
                'download=True)"`.'
            )
        if not check_integrity(folder / name, md5):
            raise DataError(
                f"{folder / name} must be the published file with MD5 {md5}, but is damaged or changed. "
                "Download the archive again and unpack it over this one."
            )
    return folder
