import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nacgen.metrics.extractors.resize import RESIZES, resize_bilinear, resize_clean, resize_tf1

SIZES = [(7, 7), (32, 32), (299, 299), (500, 500), (7, 32), (500, 32)]
SLOW = (0, 1, 7, 150, 298)  # output positions at which slow loops look


def noise(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(256, (1, 3, height, width), generator=generator).float()


def half_pixel_bilinear(image: np.ndarray, y: int, x: int, size: int) -> float:
    """One output pixel, from the definition of half-pixel centers."""
    value = 0.0
    places = []
    for position, length in ((y, image.shape[0]), (x, image.shape[1])):
        source = max((position + 0.5) * length / size - 0.5, 0.0)
        near = int(source)
        far = min(near + 1, length - 1)
        places.append(((near, 1 - (source - near)), (far, source - near)))
    for row, a in places[0]:
        for column, b in places[1]:
            value += a * b * image[row, column]
    return value


def test_two_pixels_become_four_as_worked_out_by_hand() -> None:
    row = torch.tensor([0.0, 100.0]).expand(1, 1, 2, 2)
    assert resize_bilinear(row, 4)[0, 0, 0].tolist() == [0, 25, 75, 100]
    assert resize_tf1(row, 4)[0, 0, 0].tolist() == [0, 50, 100, 100]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pytorch_fids_resize_has_half_pixel_centers(height: int, width: int) -> None:
    pixels = noise(height, width)
    resized = RESIZES["pytorch_fid"].apply(pixels, 299)
    image = pixels[0, 1].double().numpy() / 255
    expected = [[half_pixel_bilinear(image, y, x, 299) for x in SLOW] for y in SLOW]
    found = resized[0, 1][list(SLOW)][:, list(SLOW)].double()
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=0, atol=5e-5)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tf1s_resize_is_torch_fidelitys(height: int, width: int) -> None:
    original = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    pixels = noise(height, width)
    expected = original.interpolate_bilinear_2d_like_tensorflow1x(
        pixels, size=(299, 299), align_corners=False
    )
    torch.testing.assert_close(resize_tf1(pixels, 299), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_clean_resize_is_pillows_on_float_channels(height: int, width: int) -> None:
    pixels = noise(height, width)
    channels = [
        Image.fromarray(channel.numpy()).resize((299, 299), Image.Resampling.BICUBIC)
        for channel in pixels[0]
    ]
    assert {channel.mode for channel in channels} == {"F"}
    expected = torch.from_numpy(np.stack([np.asarray(channel) for channel in channels]))
    torch.testing.assert_close(
        resize_clean(pixels, 299)[0], expected.clip(0, 255), rtol=0, atol=5e-3
    )


@pytest.mark.parametrize("name", RESIZES)
def test_the_normalization_is_the_one_that_is_recorded(name: str) -> None:
    constant = torch.full((1, 3, 5, 5), 51.0)
    apply, normalize, recorded = RESIZES[name]
    expected = eval(recorded, {"u": 51.0})
    torch.testing.assert_close(
        normalize(apply(constant, 8)), torch.full((1, 3, 8, 8), expected), rtol=0, atol=1e-6
    )
