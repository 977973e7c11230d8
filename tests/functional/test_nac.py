import itertools
import math

import pytest
import torch

from nacgen.functional.nac import (
    _marginal_mixture_log_likelihood,
    channel_capacity,
    hard_codes,
    log_likelihood_ratio,
    marginal_posterior_logits,
    mixture_log_likelihood,
    nac_bound,
    nac_loss,
    posterior_log_likelihood,
    received_codes,
)
from tests.reference import nac as reference


def logits(rows: int, bits: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        rows, bits, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def noise_of(shape: torch.Size, p: float) -> torch.Tensor:
    """The signs that nac_bound's default generator draws."""
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return torch.where(uniform < p, -1.0, 1.0).double()


@pytest.mark.parametrize("p", [0.05, 0.1, 0.4])
def test_bound_equals_the_paper_written_as_loops(p: float) -> None:
    a, posterior = logits(6, 5), logits(6, 5, 1)
    codes = hard_codes(a)
    received = noise_of(a.shape, p) * codes
    expected = reference.bound(received.tolist(), codes.tolist(), posterior.tolist(), p)
    assert nac_bound(a, posterior, p).tolist() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("divide", [False, True])
def test_tanh_loss_is_the_authors_less_log_n(divide: bool) -> None:
    a, posterior, p = logits(6, 5), logits(6, 5, 1), 0.1
    uniform = torch.rand(6, 5, dtype=torch.float64)
    noise = torch.where(uniform < p, -1.0, 1.0).tolist()
    expected = reference.authors_loss(a.tolist(), posterior.tolist(), noise, p, divide)
    loss = nac_loss(a, posterior, uniform, p, "tanh", divide=divide)
    assert loss.tolist() == pytest.approx([value - math.log(6) for value in expected], abs=1e-10)


def test_straight_through_loss_is_the_negative_bound_with_the_gradient_of_tanh() -> None:
    a, posterior, p = logits(6, 5).requires_grad_(), logits(6, 5, 1), 0.1
    uniform = torch.rand(6, 5, dtype=torch.float64)
    codes = hard_codes(a)
    received = torch.where(uniform < p, -1.0, 1.0) * codes
    expected = reference.bound(received.tolist(), codes.tolist(), posterior.tolist(), p)
    loss = nac_loss(a, posterior, uniform, p, "straight_through")
    assert (-loss).tolist() == pytest.approx(expected, abs=1e-10)
    (gradient,) = torch.autograd.grad(loss.sum(), a)

    relaxed = codes.clone().requires_grad_()  # d loss / d code, then the chain rule through tanh
    noisy = torch.where(uniform < p, -1.0, 1.0) * relaxed
    value = mixture_log_likelihood(noisy, relaxed, p) - posterior_log_likelihood(noisy, posterior)
    (by_code,) = torch.autograd.grad(value.sum(), relaxed)
    slope = 1 - torch.tanh(a.detach()).square()
    torch.testing.assert_close(gradient, by_code * slope)


def test_dividing_by_kappa_has_no_marginal_form() -> None:
    a = logits(4, 3)
    with pytest.raises(ValueError, match="got 'marginal'"):
        nac_loss(a, a, torch.rand(4, 3).double(), 0.1, "marginal", divide=True)


def test_marginal_loss_is_the_negative_bound_of_the_bits_it_sampled() -> None:
    a, posterior, p = logits(6, 5), logits(6, 5, 1), 0.2
    uniform = torch.rand(6, 5, dtype=torch.float64)
    received = torch.where(uniform < (1 + (1 - 2 * p) * torch.tanh(a)) / 2, 1.0, -1.0)
    expected = reference.marginal_bound(received.tolist(), a.tolist(), posterior.tolist(), p)
    loss = nac_loss(a, posterior, uniform, p, "marginal")
    assert (-loss).tolist() == pytest.approx(expected, abs=1e-10)


WORDS = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)), dtype=torch.float64)


def likelihoods(code_logits: torch.Tensor, p: float) -> torch.Tensor:
    """Of every word under every image whose bits are +1 with probability (1 + tanh a) / 2, (words, images)."""
    mean = (1 - 2 * p) * torch.tanh(code_logits)
    return ((1 + WORDS[:, None] * mean) / 2).prod(2)


def all_batches(num_images: int, size: int) -> list[tuple[int, ...]]:
    """Every batch with its row's own image first, all equally likely."""
    return list(itertools.product(range(num_images), repeat=size))


@pytest.mark.parametrize("p", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("size", [1e3, 1.0], ids=["hard", "random"])
def test_bound_never_exceeds_the_exact_mutual_information(p: float, size: float) -> None:
    """Its expectation over every received word and every batch, for codes that saturate and that do not."""
    code_logits = size * logits(5, 4)
    likely = likelihoods(code_logits, p)
    ratio = likely.log() - likely.mean(1, keepdim=True).log()
    information = float((likely / 5 * ratio).sum())
    assert 0.01 < information < min(math.log(5), 4 * channel_capacity(p))
    exact = marginal_posterior_logits(code_logits, p)

    def expected(posterior: torch.Tensor, batch: tuple[int, ...], own: bool = True) -> torch.Tensor:
        """Over the words that the batch's first image sends, by the parts that loss and bound are made of."""
        first, keys = batch[0], code_logits[list(batch) if own else list(batch)[1:]]
        positive = posterior_log_likelihood(WORDS, posterior[first].expand_as(WORDS))
        if size > 10:
            mixture = mixture_log_likelihood(WORDS, hard_codes(keys), p)
        else:
            mixture = _marginal_mixture_log_likelihood(WORDS, keys, p)
        return (likely[:, first] * (positive - mixture)).sum()

    def over_images(posterior: torch.Tensor, own: bool = True) -> float:
        """With all images in the mixture."""
        batches = [(i, *(j for j in range(5) if j != i)) for i in range(5)]
        return float(torch.stack([expected(posterior, batch, own) for batch in batches]).mean())

    assert over_images(exact) == pytest.approx(information, abs=1e-12)  # tight
    assert over_images(exact, own=False) > information + 0.01  # no lower bound any more
    for seed in range(3):  # no posterior gives more
        assert over_images(exact + 0.3 * logits(5, 4, seed)) < information - 1e-5
    for num in (2, 3):  # nor does any number of codes
        batches = [expected(exact, batch) for batch in all_batches(5, num)]
        assert torch.stack(batches).mean() < min(information, math.log(num)) - 1e-3


def test_useless_channel_and_equal_codes_carry_nothing() -> None:
    a = logits(8, 6)
    nearly_half = 0.5 - 1e-9
    posterior = marginal_posterior_logits(a, nearly_half)
    assert nac_bound(a, posterior, nearly_half).abs().max() < 1e-6
    equal = torch.ones(8, 6, dtype=torch.float64)
    assert nac_bound(equal, 2 * log_likelihood_ratio(0.1) * equal, 0.1).abs().max() < 1e-12


def test_clear_codes_through_a_quiet_channel_reach_log_m() -> None:
    a = 50 * hard_codes(logits(8, 64))
    posterior = marginal_posterior_logits(a, 0.01)
    assert nac_bound(a, posterior, 0.01).mean() == pytest.approx(math.log(8), abs=1e-3)


def test_all_words_together_show_what_the_channel_lets_through() -> None:
    """Uniform codes reach capacity; with every word equally often the mixture is uniform too."""
    bits, p = 8, 0.2
    words = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * bits)
    codes = words.repeat(6, 1)  # more channel draws
    bound = float(nac_bound(codes, 2 * log_likelihood_ratio(p) * codes, p).mean())
    spread = log_likelihood_ratio(p) * 2 * math.sqrt(bits * p * (1 - p) / len(codes))
    assert abs(bound - bits * channel_capacity(p)) < 4 * spread


@pytest.mark.parametrize("p", [0.05, 0.2, 0.4])
@pytest.mark.parametrize(("rows", "bits"), [(128, 256), (1024, 12)])
@pytest.mark.parametrize("confidence", [0.2, 1.0, 5.0])
def test_the_bound_stays_below_both_ceilings(
    rows: int, bits: int, p: float, confidence: float
) -> None:
    codes, kappa = hard_codes(logits(rows, bits)), log_likelihood_ratio(p)
    bound = float(nac_bound(codes, confidence * 2 * kappa * codes, p).mean())
    ceilings = math.log(rows), bits * channel_capacity(p)
    spread = 2 * kappa * math.sqrt(bits * p * (1 - p) / rows)
    assert bound < min(ceilings) + 4 * spread
    if confidence == 1:  # the exact posterior
        assert bound > 0.9 * min(ceilings) - 1


def test_tanh_loss_is_zero_on_its_saddle() -> None:
    zero = torch.zeros(4, 8, dtype=torch.float64)
    assert nac_loss(zero, zero, torch.rand(4, 8).double(), 0.1, "tanh").abs().max() < 1e-12


@pytest.mark.parametrize("relaxation", ["tanh", "marginal"])
def test_gradients(relaxation: str) -> None:
    a, posterior, keys = (logits(4, 3, seed).requires_grad_() for seed in range(3))
    uniform = torch.rand(4, 3, dtype=torch.float64)
    fixed = a.detach()  # the sampled bit is a step in `a`, its gradient a convention
    first = a if relaxation == "tanh" else fixed

    def loss(q: torch.Tensor, k: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return nac_loss(c, q, uniform, 0.2, relaxation, k)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(loss, (posterior, keys, first))


@pytest.mark.parametrize("relaxation", ["tanh", "marginal"])
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_loss_and_gradient_stay_finite_at_extreme_logits(relaxation: str, size: float) -> None:
    a = (size * logits(6, 128).float()).requires_grad_()
    loss = nac_loss(a, marginal_posterior_logits(a, 1e-3), torch.rand(6, 128), 1e-3, relaxation)  # type: ignore[arg-type]
    loss.sum().backward()
    assert loss.isfinite().all()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_received_bits_pass_their_gradient_to_their_mean() -> None:
    a, weight, p = logits(6, 5).requires_grad_(), logits(6, 5, 1), 0.2
    received = received_codes(a, torch.rand(6, 5, dtype=torch.float64), p, "marginal")
    torch.testing.assert_close(received.abs(), torch.ones_like(a))  # bits, not means
    (gradient,) = torch.autograd.grad((weight * received).sum(), a)
    slope = (1 - 2 * p) * (1 - torch.tanh(a.detach()).square())
    torch.testing.assert_close(gradient, weight * slope)


def test_the_mixture_is_over_all_codes_that_are_given() -> None:
    a, posterior, keys, p = logits(6, 5), logits(6, 5, 1), logits(9, 5, 2), 0.2
    uniform = torch.rand(6, 5, dtype=torch.float64)
    received = received_codes(a, uniform, p, "marginal").tolist()
    expected = reference.marginal_bound(received, keys.tolist(), posterior.tolist(), p)
    loss = nac_loss(a, posterior, uniform, p, "marginal", keys)
    assert (-loss).tolist() == pytest.approx(expected, abs=1e-10)
    received = received_codes(a, uniform, p, "straight_through").tolist()
    codes = hard_codes(keys).tolist()
    expected = reference.bound(received, codes, posterior.tolist(), p)
    loss = nac_loss(a, posterior, uniform, p, "straight_through", keys)
    assert (-loss).tolist() == pytest.approx(expected, abs=1e-10)


def test_a_logit_of_zero_is_a_bit_of_one() -> None:
    a = torch.tensor([[0.0, -0.0, 1e-9, -1e-9]], dtype=torch.float64)
    assert hard_codes(a).tolist() == [[1, 1, 1, -1]]


@pytest.mark.parametrize("p", [0.0, 0.5, -0.1, 0.7])
def test_flip_probability_outside_its_range_is_named(p: float) -> None:
    with pytest.raises(ValueError, match=f"got {p}"):
        nac_bound(logits(4, 3), logits(4, 3), p)


def test_one_code_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="got 1"):
        nac_bound(logits(1, 3), logits(1, 3), 0.1)
