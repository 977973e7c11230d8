import math

import numpy as np
import pytest
import torch

from nacgen.functional.codes import bit_correlation, calibration_error, effective_codes, rank_me


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=draw)


def test_correlation_agrees_with_numpy_and_leaves_constant_bits_out() -> None:
    codes = random(50, 6) > 0
    codes[:, 2], codes[:, 4] = True, False
    expected = np.corrcoef(codes[:, [0, 1, 3, 5]].double().numpy().T)
    assert bit_correlation(codes).numpy() == pytest.approx(np.triu(np.abs(expected), 1), abs=1e-12)


def test_equal_and_opposite_bits_are_wholly_correlated() -> None:
    bit = random(20, 1) > 0
    correlation = bit_correlation(torch.cat([bit, bit, ~bit], dim=1))
    assert correlation[[0, 0, 1], [1, 2, 2]].tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("bits", [1, 3, 128])
def test_effective_codes_are_those_counted_one_by_one(bits: int) -> None:
    codes = random(60, bits) > 0
    codes[:20] = codes[0]
    counts = torch.unique(codes, dim=0, return_counts=True)[1].double()
    expected = float(1 / (counts / 60).square().sum())
    assert float(effective_codes(codes)) == pytest.approx(expected, rel=1e-6)
    assert float(effective_codes(codes[:20])) == 1


@pytest.mark.parametrize("p", [0.1, 0.3])
def test_the_channels_own_log_odds_are_perfectly_calibrated(p: float) -> None:
    codes = random(30, 8) > 0
    log_odds = math.log((1 - p) / p)
    logits = log_odds * torch.where(codes, 1.0, -1.0).double()
    assert calibration_error(logits, codes, p) == pytest.approx(0, abs=1e-12)


def test_calibration_error_is_the_distance_of_a_constant_guess_from_the_truth() -> None:
    codes = torch.tensor([[True], [True], [True], [False]])
    received = (3 * 0.8 + 0.2) / 4  # share of +1 behind a channel that flips a fifth
    assert calibration_error(torch.zeros(4, 1), codes, 0.2) == pytest.approx(abs(0.5 - received))
    certain = torch.where(codes, 100.0, -100.0)
    assert calibration_error(certain, codes, 0.2) == pytest.approx(0.2)


def test_calibration_error_agrees_with_bins_filled_one_by_one() -> None:
    codes, logits = random(40, 5) > 0, 3 * random(40, 5, seed=1)
    bins: list[list[float]] = [[] for _ in range(15)]
    for sent, logit in zip(codes.flatten().tolist(), logits.flatten().tolist(), strict=True):
        predicted = 1 / (1 + math.exp(-logit))
        bins[min(14, int(15 * predicted))].append(predicted - (0.7 if sent else 0.3))
    expected = sum(abs(sum(gaps)) for gaps in bins) / codes.numel()
    assert calibration_error(logits, codes, 0.3) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(30, 10), (10, 30)])
@pytest.mark.parametrize("spectrum", [[1.0], [1.0, 1.0, 1.0], [4.0, 2.0, 1.0, 0.5]])
def test_rank_me_of_a_known_spectrum(shape: tuple[int, int], spectrum: list[float]) -> None:
    left, right = (torch.linalg.qr(random(n, n, seed=n))[0][:, : len(spectrum)] for n in shape)
    features = left * torch.tensor(spectrum).double() @ right.T
    shares = [value / sum(spectrum) for value in spectrum]
    expected = math.exp(-sum(processes * math.log(processes) for processes in shares))
    assert rank_me(features) == pytest.approx(expected, rel=1e-4)


def test_rank_me_lies_between_one_and_the_dimension() -> None:
    assert rank_me(torch.eye(12).double()) == pytest.approx(12, rel=1e-5)
    assert rank_me(torch.ones(12, 5).double()) == pytest.approx(1, rel=1e-4)
    assert rank_me(torch.zeros(12, 5)) == 0
