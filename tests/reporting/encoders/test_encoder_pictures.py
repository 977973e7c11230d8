from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nacgen.probes.suite import RetrievedImages
from nacgen.reporting.encoders.encoder_pictures import (
    RIGHT_FRAME,
    WRONG_FRAME,
    write_retrieval_sheet,
)


def test_the_sheet_frames_right_neighbors_solid_green_and_wrong_ones_dashed_red(
    tmp_path: Path,
) -> None:
    queries = torch.full((2, 3, 4, 6), 10, dtype=torch.uint8)
    neighbors = torch.full((2, 3, 3, 4, 6), 20, dtype=torch.uint8)
    relevant = torch.tensor([[True, False, True], [False, False, True]])
    retrieved = RetrievedImages(queries, neighbors, relevant)
    write_retrieval_sheet(retrieved, tmp_path / "sheet.png", zoom=2)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png"))[::2, ::2]
    # per image: gap 1, frame 1, 6 pixels, frame 1, gap 1; the queries' column is a third wider
    left, gap, cell = 1, 10 // 3, 10
    assert pixels.shape == (2 * 8, left + 10 + gap + 3 * cell + 1, 3)
    for row in range(2):
        assert pixels[row * 8 + 4, left + 5].tolist() == [10] * 3
        for column in range(3):
            start = left + 10 + gap + column * cell
            cell_of = pixels[row * 8 : row * 8 + 8, start : start + cell]
            has_right, has_wrong = (
                (cell_of == c).all(-1).any() for c in (RIGHT_FRAME, WRONG_FRAME)
            )
            assert (has_right, has_wrong) == (relevant[row, column], not relevant[row, column])
            is_white = (cell_of == 255).all(-1)
            is_solid = not is_white[1:-1, 1:-1].any()  # without the gap around it
            assert is_solid == relevant[row, column]
            assert pixels[row * 8 + 4, start + 4].tolist() == [20] * 3
            assert pixels[row * 8, start].tolist() == [255] * 3


def test_frames_are_gray_where_nothing_is_known_of_the_neighbors(tmp_path: Path) -> None:
    retrieved = RetrievedImages(
        torch.zeros(2, 3, 4, 4).byte(), torch.zeros(2, 2, 3, 4, 4).byte(), None
    )
    write_retrieval_sheet(retrieved, tmp_path / "sheet.png")
    colors = np.unique(np.asarray(Image.open(tmp_path / "sheet.png")))
    assert colors.tolist() == [0, 96, 255]
