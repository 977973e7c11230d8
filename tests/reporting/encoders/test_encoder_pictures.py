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


def test_the_sheet_frames_right_neighbors_green_and_wrong_ones_red(tmp_path: Path) -> None:
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
            color = RIGHT_FRAME if relevant[row, column] else WRONG_FRAME
            assert pixels[row * 8 + 1, start + 4].tolist() == list(color)
            assert pixels[row * 8 + 4, start + 1].tolist() == list(color)
            assert pixels[row * 8 + 4, start + 4].tolist() == [20] * 3
            assert pixels[row * 8, start].tolist() == [255] * 3
