"""Options of data that several recipes share, without torch, so that `--help` stays fast."""

from dataclasses import dataclass
from pathlib import Path

from nacgen.errors import ConfigurationError, DataNotFoundError

SPLITS = {
    "digits": ("train", "test"),
    "cifar10": ("train", "test"),
    "cifar100": ("train", "test"),
    "mnist": ("train", "test"),
    "fashion-mnist": ("train", "test"),
    "stl10": ("train", "test", "unlabeled"),
    "flickr25k": ("train",),
    "imagenet": ("train", "test"),
    "folder": ("train", "test"),
}

GIVEN = "given"  # images that were handed over in Python
REAL_IMAGES = "real.png"  # among the sample grids of a run


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Random transforms that make two views of an image."""

    size: int | None = None
    """Height and width of a view in pixels. None: those of the images."""
    smallest_crop: float = 0.5
    """Smallest part of an image's area that a crop keeps."""
    flip: bool = False
    """Mirror each image with probability 1/2."""
    jitter: float = 0.4
    """Strength of brightness, contrast and saturation changes."""
    hue: float = 0.0
    """Strength of hue changes, up to 0.5."""
    grayscale_probability: float = 0.0
    """Probability that an image becomes gray."""


def require_data(name: str, data_dir: str | Path | None) -> None:
    """Raise unless a dataset has this name and a folder is named that may hold its files.

    Raises:
        ConfigurationError: The name is unknown, or a folder is needed and not given.
        DataNotFoundError: The folder of images does not exist.
    """
    if name not in (*SPLITS, GIVEN):
        raise ConfigurationError(
            f"dataset must be one of {', '.join(SPLITS)}, got {name!r}. "
            "For images of your own use --dataset folder --data-dir PATH."
        )
    if data_dir is None and name not in ("digits", GIVEN):
        raise ConfigurationError(
            f"dataset {name!r} needs the folder of its files, but data_dir is not given. "
            "Add --data-dir PATH."
        )
    if name == "folder":
        require_folder(data_dir or "")


def require_folder(data_dir: str | Path) -> None:
    """Raise a `DataNotFoundError` unless a path is that of a folder."""
    if not Path(data_dir).is_dir():
        raise DataNotFoundError(
            f"data_dir must be a folder of images, but {data_dir} does not exist or is no folder. "
            "Give the folder with --data-dir."
        )


def require_images(source: str) -> None:
    """Raise a `DataNotFoundError` unless it is a folder, an `.npz` archive, or a dataset and its split."""
    path = Path(source)
    datasets = [name for name in SPLITS if name != "folder"]
    if path.suffix == ".npz" and not path.is_dir():
        if not path.is_file():
            raise DataNotFoundError(
                f"an .npz archive was expected, but {path} is no file. Check the path."
            )
    elif not path.is_dir() and source.partition("/")[0] not in datasets:
        raise DataNotFoundError(
            f"images must be a folder, an .npz archive or a dataset ({', '.join(datasets)}) and its split, "
            f"like digits/test, but {source} is {'a file of another kind' if path.is_file() else 'none of them'}."
        )
