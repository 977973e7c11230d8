import math

import pytest
import torch
from torch import Tensor

from nacgen.functional.fidelity import psnr, ssim


def noise(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, generator=draw, dtype=torch.uint8)


def slow_ssim(a: Tensor, b: Tensor) -> float:
    """Wang et al. 2004, equation 13, window by window; `(h, w)`."""
    weights = [
        [math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)]
        for i in range(11)
    ]
    kernel = torch.tensor(weights, dtype=torch.float64)
    kernel /= kernel.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            x, y = (m[top : top + 11, left : left + 11].double() for m in (a, b))
            mx, my = (kernel * x).sum(), (kernel * y).sum()
            vx, vy = (kernel * (x - mx) ** 2).sum(), (kernel * (y - my) ** 2).sum()
            cov = (kernel * (x - mx) * (y - my)).sum()
            top_part = (2 * mx * my + c1) * (2 * cov + c2)
            values.append(float(top_part / ((mx**2 + my**2 + c1) * (vx + vy + c2))))
    return sum(values) / len(values)


def test_ssim_is_the_papers_formula() -> None:
    a, b = noise(2, 3, 13, 12), noise(2, 3, 13, 12, seed=1)
    b[1] = a[1] // 2 + 60
    expected = [sum(slow_ssim(a[i, c], b[i, c]) for c in range(3)) / 3 for i in range(2)]
    torch.testing.assert_close(ssim(a, b), torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_equal_images() -> None:
    a = noise(2, 3, 16, 16)
    assert ssim(a, a).tolist() == [1.0, 1.0]
    assert psnr(a, a).tolist() == [math.inf, math.inf]


def test_psnr_of_a_known_error() -> None:
    a = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    assert psnr(a, a + 5).item() == pytest.approx(20 * math.log10(255 / 5), rel=1e-6)
    assert psnr(a + 5, a).item() == psnr(a, a + 5).item()  # 8 bits do not wrap around


def test_images_that_do_not_fit(as_users_run_it: None) -> None:
    with pytest.raises(ValueError, match=r"window of 11 px, got images of 8x16\. Use larger"):
        ssim(noise(1, 3, 8, 16), noise(1, 3, 8, 16))
    for compare in (psnr, ssim):
        with pytest.raises(
            ValueError, match=r"one shape, got \(1, 3, 16, 16\) and \(2, 3, 16, 16\)"
        ):
            compare(noise(1, 3, 16, 16), noise(2, 3, 16, 16))
