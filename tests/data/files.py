"""Small image files for the tests of datasets."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def write_photographs(
    folder: Path, names: Iterable[str], size: tuple[int, int] = (24, 20)
) -> list[Path]:
    """One smooth colour picture a name, all different, in the format that the suffix says."""
    paths = [folder / name for name in names]
    y, x = np.mgrid[: size[1], : size[0]]
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        waves = np.random.default_rng(seed).uniform(0, 0.6, (3, 3))
        channels = [127 + 127 * np.sin(a * y + b * x + 9 * c) for a, b, c in waves]
        Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).save(path)
    return paths
