import pytest
import torch

from nacgen.data.pixels import to_uint8
from nacgen.errors import DataError, NonFiniteError


def test_quantization_rounds_to_the_nearest_pixel_and_half_up() -> None:
    pixels = torch.arange(256.0).reshape(1, 1, 16, 16)
    for offset in (-0.499, 0.499):
        images = ((pixels + offset) / 127.5 - 1).clamp(-1, 1)
        assert torch.equal(to_uint8(images).float(), pixels)
    assert to_uint8(torch.zeros(1, 1, 1, 1)).item() == 128  # 127.5, the one half that is exact


def test_whole_pixels_come_back_unchanged() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(to_uint8(pixels.float() / 127.5 - 1), pixels)


def test_pixels_out_of_range_are_refused() -> None:
    images = torch.zeros(1, 3, 2, 2)
    assert to_uint8(images[:0]).shape == (0, 3, 2, 2)
    images[0, 1, 0, 0] = 1.25
    with pytest.raises(DataError, match=r"in \[-1, 1\], got values from 0 to 1.25"):
        to_uint8(images)
    images[0, 2, 1] = float("nan")
    with pytest.raises(NonFiniteError, match="NaN in 2 of 12 pixels"):
        to_uint8(images)
