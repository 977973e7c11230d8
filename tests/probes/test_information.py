import math

import pytest
import torch
from torch import Tensor

from nacgen.functional.nac import channel_capacity, log_likelihood_ratio
from nacgen.probes.information import SCALES, code_information
from tests.reference import nac as reference


def random_codes(rows: int, bits: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.where(torch.rand(rows, bits, generator=draw) < 0.5, -1.0, 1.0).double()


def exact_posterior(codes: Tensor, p: float) -> Tensor:
    """Log odds of a received bit where the code is known: what the channel makes of it."""
    return 2 * log_likelihood_ratio(p) * codes


def test_the_bound_is_the_papers_with_the_scale_that_fits_other_codes() -> None:
    p, codes, other = 0.2, random_codes(400, 5), random_codes(6, 5, seed=1)
    posterior = torch.randn(6, 5, generator=torch.Generator().manual_seed(2)).double()
    found = code_information((codes, exact_posterior(codes, p) / 4), (other, posterior), p)
    assert found.posterior_scale == 4
    noise = torch.rand(6, 5, generator=torch.Generator().manual_seed(0))
    received = torch.where(noise < p, -1.0, 1.0) * other
    expected = reference.bound(received.tolist(), other.tolist(), (4 * posterior).tolist(), p)
    assert found.nac_bound == pytest.approx(sum(expected) / 6, abs=1e-10)


def test_the_scale_does_not_look_at_the_held_out_codes() -> None:
    codes, held_out = random_codes(8, 200), random_codes(8, 200, seed=1)
    fitting = codes, exact_posterior(codes, 0.1)
    scales = {
        code_information(fitting, (held_out, factor * held_out), 0.1).posterior_scale
        for factor in (-3.0, 0.01, 1.0, 100.0)
    }
    assert scales == {1.0}


@pytest.mark.parametrize(("confidence", "scale"), [(1e4, SCALES[0]), (1e-4, SCALES[-1])])
def test_the_scale_ends_with_its_grid(confidence: float, scale: float) -> None:
    codes = random_codes(8, 200)
    pair = codes, confidence * exact_posterior(codes, 0.1)
    assert code_information(pair, pair, 0.1).posterior_scale == scale


def test_codes_that_no_noise_confuses_show_the_log_of_their_number() -> None:
    codes, p = random_codes(32, 512), 0.01
    pair = codes, exact_posterior(codes, p)
    found = code_information(pair, pair, p)
    assert found.posterior_scale == 1.0
    assert found.nac_bound == pytest.approx(math.log(32), abs=1e-6)
    assert found.batch_ceiling == math.log(32)


def test_all_words_together_show_what_the_channel_lets_through() -> None:
    """Uniform codes reach capacity; with every word equally often the mixture is uniform too."""
    bits, p = 8, 0.2
    words = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * bits).double()
    codes = words.repeat(6, 1)  # more channel draws
    pair = codes, exact_posterior(codes, p)
    found = code_information(pair, pair, p)
    assert found.channel_ceiling == pytest.approx(bits * channel_capacity(p), rel=1e-12)
    spread = log_likelihood_ratio(p) * 2 * math.sqrt(bits * p * (1 - p) / len(codes))
    assert abs(found.nac_bound - found.channel_ceiling) < 4 * spread


@pytest.mark.parametrize("p", [0.05, 0.2, 0.4])
@pytest.mark.parametrize(("rows", "bits"), [(128, 256), (1024, 12)])
def test_the_bound_stays_below_both_ceilings(rows: int, bits: int, p: float) -> None:
    fitting, held_out = random_codes(rows, bits), random_codes(rows, bits, seed=1)
    for confidence in (0.2, 1.0, 5.0):
        pairs = [(codes, confidence * exact_posterior(codes, p)) for codes in (fitting, held_out)]
        found = code_information(pairs[0], pairs[1], p)
        spread = 2 * log_likelihood_ratio(p) * math.sqrt(bits * p * (1 - p) / rows)
        assert found.nac_bound < found.batch_ceiling + 4 * spread
        assert found.nac_bound < found.channel_ceiling + 4 * spread
        assert found.nac_bound > 0.9 * min(found.batch_ceiling, found.channel_ceiling) - 1


def test_equal_codes_carry_nothing_and_a_wrong_posterior_less() -> None:
    equal, codes = torch.ones(16, 32, dtype=torch.float64), random_codes(16, 32)
    pair = equal, exact_posterior(equal, 0.3)
    fitting = random_codes(64, 32, seed=3)
    exact = fitting, exact_posterior(fitting, 0.3)
    assert code_information(exact, pair, 0.3).nac_bound == pytest.approx(0.0, abs=1e-9)
    wrong = codes, -exact_posterior(codes, 0.3)
    assert code_information(exact, wrong, 0.3).nac_bound < 0


def test_bits_are_compared_between_the_views_of_an_image() -> None:
    view_1 = torch.tensor([[1.0, -2, 3, -4], [1, 1, 1, 1]])
    view_2 = torch.tensor([[5.0, 2, 0.1, -1], [1, 1, -1, -1]])  # 3 and 2 of 4 bits agree
    pair = torch.cat([view_1, view_2]), torch.zeros(4, 4)
    assert code_information(pair, pair, 0.1).bit_agreement == 5 / 8


def test_arguments_are_held_to_those_of_the_bound() -> None:
    one = torch.ones(1, 4), torch.ones(1, 4)
    with pytest.raises(ValueError, match=r"at least two codes .* got 1"):
        code_information(one, one, 0.1)
    two = torch.ones(2, 4), torch.ones(2, 4)
    with pytest.raises(ValueError, match=r"strictly between 0 and 1/2, got 0\.5"):
        code_information(two, two, 0.5)
