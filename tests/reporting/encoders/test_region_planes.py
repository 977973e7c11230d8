import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nacgen.errors import StorageError
from nacgen.probes.regions.slices import RegionSlice
from nacgen.reporting.encoders.region_planes import slice_picture

IMAGES = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
IMAGES[1] = 255


def quarters(zoom: float = 1.0, size: int = 40) -> RegionSlice:
    """Return four regions, each with a color of its own."""
    ids = torch.zeros(size, size, dtype=torch.int64)
    ids[: size // 2, size // 2 :], ids[size // 2 :, : size // 2] = 1, 2
    ids[size // 2 :, size // 2 :] = 3
    likeness = torch.tensor(
        [[-1.0, -1.0, 0.0], [1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    )
    corners = torch.tensor([[8.0, 34.0], [30.0, 34.0], [20.0, 6.0]])
    return RegionSlice(ids, likeness, corners, 4, "network", zoom)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_each_region_has_a_color_and_a_line_around_it(tmp_path: Path) -> None:
    drawn = pixels(slice_picture({"one": [quarters()]}, IMAGES, tmp_path / "a.png", title="title"))
    colors, counts = np.unique(drawn.reshape(-1, 3), axis=0, return_counts=True)
    large = colors[counts > 0.04 * counts.sum()]
    assert len(large) == 5  # four regions and the white around
    assert [255, 255, 255] in large.tolist()


def test_networks_stand_side_by_side_and_slices_below_each_other(tmp_path: Path) -> None:
    sizes = []
    for columns, rows in ((1, 1), (3, 1), (1, 2)):
        slices = {
            str(name): [quarters(zoom=1 + 9.0 * row) for row in range(rows)]
            for name in range(columns)
        }
        path = slice_picture(slices, IMAGES, tmp_path / "a.png", title="title")
        sizes.append(pixels(path).shape[1::-1])
    assert sizes[1][0] > 2.5 * sizes[0][0]
    assert sizes[1][1] == sizes[0][1]
    assert sizes[2][1] > 1.7 * sizes[0][1]


def test_a_slice_with_a_region_for_every_pixel_shows_colors_without_lines(tmp_path: Path) -> None:
    size = 40
    ids = torch.arange(size * size).view(size, size)
    likeness = torch.zeros(size * size, 3)
    slices = RegionSlice(ids, likeness, quarters().corners, size * size, "code", 1.0)
    drawn = pixels(slice_picture({"one": [slices]}, IMAGES, tmp_path / "a.png", title="title"))
    _, counts = np.unique(drawn.reshape(-1, 3), axis=0, return_counts=True)
    assert (counts > 0.04 * counts.sum()).sum() == 2  # one color, and the white around


def test_the_same_slices_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)  # others import it
    first, second = (
        slice_picture({"one": [quarters()]}, IMAGES, tmp_path / name, title="title").read_bytes()
        for name in ("a.png", "b.png")
    )
    assert first == second
    assert "matplotlib.pyplot" not in sys.modules


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere/a\.png cannot be written"):
        slice_picture({"one": [quarters()]}, IMAGES, tmp_path / "nowhere/a.png", title="title")
