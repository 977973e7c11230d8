import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nacgen.data import pictures
from nacgen.data.pictures import FRAME, write_gif, write_grid


def random_bytes(n: int, height: int = 4, width: int = 5) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, height, width), generator=draw, dtype=torch.uint8)


@pytest.mark.parametrize(("columns", "zoom"), [(3, 1), (2, 3), (6, 2), (1, 1)])
def test_images_stand_row_by_row_in_thin_frames(columns: int, zoom: int, tmp_path: Path) -> None:
    images = random_bytes(6)
    write_grid(images, tmp_path / "grid.png", columns, zoom)
    with Image.open(tmp_path / "grid.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        pixels = np.asarray(picture)
    rows = 6 // columns
    assert pixels.shape == (rows * 6 * zoom, columns * 7 * zoom, 3)
    for y in range(rows * 6):
        for x in range(columns * 7):
            image = images[(y // 6) * columns + x // 7]
            inner_y, inner_x = y % 6 - 1, x % 7 - 1
            is_inside = 0 <= inner_y < 4 and 0 <= inner_x < 5
            expected = image[:, inner_y, inner_x].tolist() if is_inside else [FRAME] * 3
            block = pixels[y * zoom : (y + 1) * zoom, x * zoom : (x + 1) * zoom]
            assert (block == expected).all(), (y, x)


def test_a_gif_shows_the_pictures_in_order_and_holds_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for i, shade in enumerate((0, 80, 160, 240)):
        images = torch.full((1, 3, 4, 4), shade, dtype=torch.uint8)
        write_grid(images, tmp_path / f"{i}.png", 1, zoom=2)
        files.append(tmp_path / f"{i}.png")
    for count, shades in ((4, [0, 80, 160, 240]), (3, [0, 160, 240]), (1, [0])):
        monkeypatch.setattr(pictures, "MAX_FRAMES", count)
        write_gif(files, tmp_path / "film.gif", shrink=2)
        with Image.open(tmp_path / "film.gif") as film:
            assert (film.format, film.size, film.info.get("loop", 0)) == ("GIF", (6, 6), 0)
            seen, durations = [], []
            for frame in range(getattr(film, "n_frames", 1)):
                film.seek(frame)
                seen.append(film.convert("RGB").getpixel((3, 3))[0])
                durations.append(film.info["duration"])
        assert seen == pytest.approx(shades, abs=4)  # a palette
        assert durations == [200] * (count - 1) + [2000]


def test_damaged_and_foreign_pictures_are_left_out_of_a_gif_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"{i}.png" for i in range(6)]
    for i, size in enumerate((4, 4, 9, 4, 4, 4)):
        write_grid(torch.full((1, 3, size, size), 40 * i, dtype=torch.uint8), files[i], 1)
    files[0].write_bytes(b"")
    files[3].write_bytes(files[3].read_bytes()[:60])
    files[5].unlink()
    os.mkfifo(files[5])
    write_gif(files, tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        assert (film.size, getattr(film, "n_frames", 1)) == ((6, 6), 2)
    message = (
        f"4 of 6 pictures are damaged or of another size and were left out of {tmp_path}/film.gif"
    )
    assert message in capsys.readouterr().err
    write_gif(files[:1], tmp_path / "none.gif")
    assert not (tmp_path / "none.gif").exists()
