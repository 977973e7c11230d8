"""The closed form of NAC, against sums over all received codes at 10 bits or fewer, loops, and NT-Xent."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from nacgen.functional import log_sum_exp as tiles
from nacgen.functional.closed_form import (
    MOST_TERMS,
    closed_form_bound,
    closed_form_loss,
    direction_loss,
    flip_probability_of_temperature,
    information_ceiling,
    temperature_of_channel,
)
from nacgen.functional.contrastive import nt_xent
from nacgen.functional.nac import (
    channel_capacity,
    hard_codes,
    log_likelihood_ratio,
    marginal_posterior_logits,
    nac_loss,
    posterior_log_likelihood,
)
from tests.reference import nac as reference

BITS = 10
WORDS = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=BITS)), dtype=torch.float64)
SIZES = pytest.mark.parametrize("size", [1e3, 1.0, 0.1], ids=["hard", "random", "undecided"])
PROBABILITIES = pytest.mark.parametrize("p", [0.1, 0.3, 0.4])


def logits(rows: int, bits: int = BITS, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, bits, dtype=torch.float64, generator=draw)


def likelihoods(code_logits: Tensor, p: float) -> Tensor:
    """Of every word under every image whose bits are +1 with probability (1 + tanh a) / 2, (words, images)."""
    ones = p + (1 - 2 * p) * (1 + torch.tanh(code_logits)) / 2
    return torch.where(WORDS[:, None] > 0, ones, 1 - ones).prod(2)


def mixture_of(code_logits: Tensor, p: float, **options: Any) -> Tensor:
    """The second term alone: a posterior of zeros makes the first one -K log 2."""
    nothing = torch.zeros_like(code_logits)
    loss = closed_form_loss(code_logits, nothing, p, **options)
    return loss - code_logits.shape[1] * math.log(2)


@SIZES
@PROBABILITIES
def test_the_first_term_is_its_expectation_over_all_received_codes(p: float, size: float) -> None:
    a, posterior = size * logits(6), logits(6, seed=1)
    expected = (likelihoods(a, p) * posterior_log_likelihood_of_words(posterior)).sum(0)
    first = mixture_of(a, p) - closed_form_loss(a, posterior, p)
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-11)


def posterior_log_likelihood_of_words(posterior: Tensor) -> Tensor:
    """(words, images)."""
    rows = [posterior_log_likelihood(WORDS, row.expand_as(WORDS)) for row in posterior]
    return torch.stack(rows, dim=1)


@SIZES
@PROBABILITIES
def test_the_second_term_is_the_log_of_an_expectation_and_above_that_of_the_log(
    p: float, size: float
) -> None:
    a = size * logits(6)
    likely = likelihoods(a, p)
    mixture = likely.mean(1, keepdim=True)  # of each word
    inside = (likely * mixture).sum(0).log()
    outside = (likely * mixture.log()).sum(0)
    torch.testing.assert_close(mixture_of(a, p), inside, rtol=0, atol=1e-11)
    assert (mixture_of(a, p) > outside).all()


@SIZES
@PROBABILITIES
def test_it_is_below_the_sampled_bound_and_the_exact_mutual_information(
    p: float, size: float
) -> None:
    a = size * logits(6)
    likely = likelihoods(a, p)
    ratio = likely.log() - likely.mean(1, keepdim=True).log()
    information = float((likely / 6 * ratio).sum())
    exact = marginal_posterior_logits(a, p)
    for posterior in (exact, exact + 0.3 * logits(6, seed=1), exact.roll(1, 0)):
        log_q = posterior_log_likelihood_of_words(posterior)
        sampled = (likely * (log_q - likely.mean(1, keepdim=True).log())).sum(0)  # its expectation
        bound = -closed_form_loss(a, posterior, p)
        assert (bound < sampled).all()
        assert float(bound.mean()) < information
        if size > 10:
            torch.testing.assert_close(closed_form_bound(a, posterior, p), bound)


@PROBABILITIES
def test_it_is_below_the_mean_of_draws_of_the_channel(p: float) -> None:
    a, draws = logits(6, 64), 400
    posterior = marginal_posterior_logits(a + 0.3 * logits(6, 64, 1), p)
    draw = torch.Generator().manual_seed(2)
    values = torch.stack(
        [
            -nac_loss(a, posterior, torch.rand(a.shape, generator=draw), p, "marginal").mean()
            for _ in range(draws)
        ]
    )
    error = float(values.std()) / math.sqrt(draws)
    assert float(-closed_form_loss(a, posterior, p).mean()) < float(values.mean()) - 4 * error


@SIZES
def test_the_loss_equals_the_formula_as_loops(size: float) -> None:
    a, posterior = size * logits(5), logits(5, seed=1)
    for p in (0.1, 0.4):
        expected = reference.closed_form(a.tolist(), posterior.tolist(), p)
        assert (-closed_form_loss(a, posterior, p)).tolist() == pytest.approx(expected, abs=1e-10)
        expected = reference.direction(a.tolist(), posterior.tolist(), p)
        assert (-direction_loss(a, posterior, p)).tolist() == pytest.approx(expected, abs=1e-10)


@PROBABILITIES
@pytest.mark.parametrize("own_start", [None, 0])
def test_at_hard_codes_all_forms_are_one(p: float, own_start: int | None) -> None:
    a, others = (30 * hard_codes(x) for x in (logits(6), logits(6) + logits(6, seed=1)))
    posterior = marginal_posterior_logits(others, p)
    loss = closed_form_loss(a, posterior, p, own_start=own_start)
    torch.testing.assert_close(direction_loss(a, others, p, own_start=own_start), loss)
    if own_start is None:
        torch.testing.assert_close(closed_form_bound(a, posterior, p), -loss)
        torch.testing.assert_close(closed_form_bound(0.1 * a, posterior, p), -loss)


@pytest.mark.parametrize(("p", "bits"), [(0.1, 16), (0.4, 10), (0.4, 128)])
def test_without_the_own_row_it_is_nt_xent_at_the_temperature_of_the_channel(
    p: float, bits: int
) -> None:
    """Up to constants, and a weight on the positive pair that is near one for noisy channels."""
    e, rows = 1 - 2 * p, 8
    codes = hard_codes(logits(rows, bits) + logits(rows // 2, bits, 1).repeat(2, 1))
    others, temperature = codes.roll(rows // 2, 0), temperature_of_channel(p, bits)
    weight = e * math.atanh(e) / math.atanh(e * e)
    cosines = (codes * others).mean(1)
    constant = bits / 2 * math.log(1 + e * e) - math.log(rows - 1)
    expected = nt_xent(codes, temperature) - (weight - 1) * cosines / temperature + constant
    loss = direction_loss(1e3 * codes, 1e3 * others, p, own_start=0)
    torch.testing.assert_close(loss, expected)
    assert (weight - 1 < 0.014) == (p == 0.4)


@pytest.mark.parametrize(
    ("p", "bits", "temperature"),
    [
        (0.1, 128, 0.0103),
        (0.3, 128, 0.0484),
        (0.4, 128, 0.1952),
        (0.44, 128, 0.5425),
        (0.4, 64, 0.3904),
    ],
)
def test_temperature_and_flip_probability_turn_into_each_other(
    p: float, bits: int, temperature: float
) -> None:
    assert temperature_of_channel(p, bits) == pytest.approx(temperature, abs=5e-5)
    for q in (p, 1e-6, 0.499):
        there = temperature_of_channel(q, bits)
        assert flip_probability_of_temperature(there, bits) == pytest.approx(q, rel=1e-9)


def renyi(p: float) -> float:
    """Entropy of order two of one bit's noise, in nats."""
    return -math.log(p**2 + (1 - p) ** 2)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.4, 0.45])
@pytest.mark.parametrize(("rows", "bits"), [(64, 256), (64, 16), (1024, 10)])
def test_the_bound_stays_below_three_ceilings(rows: int, bits: int, p: float) -> None:
    """Those of all bounds, and one that Jensen's step costs hard codes."""
    codes = hard_codes(logits(rows, bits))
    bound = closed_form_bound(codes, 2 * log_likelihood_ratio(p) * codes, p)
    assert float(bound.mean()) < information_ceiling(p, bits, rows)
    shannon = math.log(2) - channel_capacity(p)
    assert float(bound.max()) < math.log(rows) - bits * (shannon - renyi(p)) + 1e-9


def test_both_kinds_of_ceiling_are_reached() -> None:
    p, bits = 0.3, 10
    everything = 2 * log_likelihood_ratio(p) * WORDS
    capacity = bits * channel_capacity(p)
    assert float(closed_form_bound(WORDS, everything, p).mean()) == pytest.approx(capacity)
    two = torch.stack([torch.ones(4096), -torch.ones(4096)]).double()
    cost = 4096 * (math.log(2) - channel_capacity(p) - renyi(p))
    bound = closed_form_bound(two, 2 * log_likelihood_ratio(p) * two, p)
    assert bound.tolist() == pytest.approx([math.log(2) - cost] * 2)
    assert information_ceiling(0.4, 128, 256) == 128 * channel_capacity(0.4)
    assert information_ceiling(0.1, 128, 256) == math.log(256)


@pytest.mark.parametrize("p", [0.01, 0.001])
def test_a_series_that_is_cut_leaves_a_bound(p: float) -> None:
    for size in (0.3, 1.0, 1e3):
        a = size * logits(6)
        square = (1 - 2 * p) ** 2
        t = torch.tanh(a)
        exact = (torch.log1p(square * t[:, None] * t).sum(2)).logsumexp(1) - math.log(6)
        excess = mixture_of(a, p) + BITS * math.log(2) - exact
        assert (excess > -1e-11).all()
        assert (excess < 0.1).all()
    assert square**MOST_TERMS > 0.05  # it is cut indeed


@pytest.mark.parametrize("own_start", [None, 2])
@pytest.mark.parametrize("loss", [closed_form_loss, direction_loss])
def test_gradients(loss: Any, own_start: int | None) -> None:
    a, other, keys = (logits(4, 3, seed).requires_grad_() for seed in range(3))

    def of(code_logits: Tensor, other: Tensor, keys: Tensor) -> Tensor:
        values: Tensor = loss(
            code_logits, other, 0.2, torch.cat([keys[:2], code_logits]), own_start
        )
        return values

    assert torch.autograd.gradcheck(of, (a, other, keys))


@pytest.mark.parametrize("loss", [closed_form_loss, direction_loss])
@pytest.mark.parametrize("size", [0.0, 1e-6, 1e2, 1e4])
@pytest.mark.parametrize("p", [1e-3, 0.4, 0.499])
def test_loss_and_gradient_stay_finite_at_extreme_logits(loss: Any, size: float, p: float) -> None:
    a = (size * logits(6, 128).float()).requires_grad_()
    values = loss(a, marginal_posterior_logits(a, p).roll(3, 0), p)
    (gradient,) = torch.autograd.grad(values.sum(), a)
    assert values.isfinite().all()
    assert gradient.isfinite().all()


def test_float32_keeps_four_digits() -> None:
    a = 2 * logits(64, 128)
    for p in (0.1, 0.3, 0.4):
        posterior = marginal_posterior_logits(a.roll(32, 0), p)
        exact, rounded = (
            closed_form_loss(x, y, p) for x, y in ((a, posterior), (a.float(), posterior.float()))
        )
        torch.testing.assert_close(rounded.double(), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("own_start", [None, 0])
@pytest.mark.parametrize("loss", [closed_form_loss, direction_loss])
def test_tiles_change_nothing_and_take_memory_linear_in_the_codes(
    loss: Any, own_start: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No product of all codes is held, neither at once nor for the backward pass."""
    found, blocks, kept = [], [], []
    yielded = tiles._blocks

    def watched(*args: Any) -> Iterator[tuple[slice, slice, Tensor]]:
        for block in yielded(*args):
            blocks.append(block[2].numel())
            yield block

    def keep(saved: Tensor) -> Tensor:
        kept.append(saved.numel())
        return saved

    monkeypatch.setattr(tiles, "_blocks", watched)
    monkeypatch.setattr(tiles, "TILE", 16)
    for largest_matrix in (2**22, 0):
        monkeypatch.setattr(tiles, "LARGEST_MATRIX", largest_matrix)
        a, other = (logits(256, 3, seed).float().requires_grad_() for seed in (0, 1))
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
            values = loss(a, other, 0.4, own_start=own_start)
        gradients = torch.autograd.grad(values.sum(), (a, other))
        assert (max(kept) < 256 * 256) == (largest_matrix == 0)
        found.append([values, *gradients])
    assert set(blocks) == {16 * 16}
    for plain, tiled in zip(*found, strict=True):
        torch.testing.assert_close(tiled, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("own_row", [True, False])
@pytest.mark.parametrize("loss", [closed_form_loss, direction_loss])
def test_the_shares_of_several_processes_are_the_whole_and_so_are_their_gradients(
    loss: Any, own_row: bool
) -> None:
    a, other = logits(12, 5).requires_grad_(), logits(12, 5, 1).requires_grad_()
    whole = loss(a, other, 0.3, own_start=None if own_row else 0)
    expected = torch.autograd.grad(whole.sum(), (a, other))
    parts = [
        loss(a[i : i + 4], other[i : i + 4], 0.3, a, None if own_row else i) for i in (0, 4, 8)
    ]
    torch.testing.assert_close(torch.cat(parts), whole)
    torch.testing.assert_close(torch.autograd.grad(torch.cat(parts).sum(), (a, other)), expected)


@pytest.mark.parametrize("loss", [closed_form_loss, direction_loss])
def test_codes_of_a_queue_are_in_the_mixture_and_their_order_does_not_matter(loss: Any) -> None:
    a, other, queue = logits(4, 5), logits(4, 5, 1), logits(9, 5, 2)
    values = loss(a, other, 0.3, torch.cat([queue, a]))
    alone = loss(a, other, 0.3)
    of_queue = loss(torch.cat([a, queue]), torch.cat([other, queue]), 0.3)[:4]
    torch.testing.assert_close(values, of_queue)
    assert (values - alone).abs().min() > 1e-3
    torch.testing.assert_close(values, loss(a, other, 0.3, torch.cat([a, queue.flip(0)])))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: closed_form_loss(logits(4), logits(4), 0.5), "got 0.5"),
        (lambda: direction_loss(logits(4), logits(4), 0.0), "got 0.0"),
        (lambda: closed_form_bound(logits(4), logits(4), -0.1), "got -0.1"),
        (lambda: closed_form_loss(logits(4), logits(5), 0.3), r"got \(4, 10\) and \(5, 10\)"),
        (lambda: direction_loss(logits(4), logits(5), 0.3), r"got \(4, 10\) and \(5, 10\)"),
        (lambda: closed_form_bound(logits(1), logits(1), 0.3), "got 1"),
        (lambda: temperature_of_channel(0.7, 8), "got 0.7"),
        (lambda: temperature_of_channel(0.3, 0), "one bit or more, got 0"),
        (lambda: flip_probability_of_temperature(0.0, 8), "got 0.0"),
        (
            lambda: flip_probability_of_temperature(1e-6, 128),
            "above 2.2e-05 for 128 bits, got 1e-06",
        ),
        (lambda: flip_probability_of_temperature(math.nan, 128), "got nan"),
        (lambda: information_ceiling(0.3, -1, 8), "got -1"),
    ],
)
def test_what_does_not_fit_is_named(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()
