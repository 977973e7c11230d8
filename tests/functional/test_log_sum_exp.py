import pytest
import torch
from torch import Tensor

from nacgen.functional import log_sum_exp as module
from nacgen.functional.log_sum_exp import log_sum_exp, tiled_log_sum_exp
from nacgen.functional.nac import nac_loss


def inputs(m: int, n: int, k: int = 3, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    draw = torch.Generator().manual_seed(m + n)
    shapes = ((m, k), (n, k), (n,))
    return [torch.randn(s, generator=draw, dtype=dtype).requires_grad_() for s in shapes]


def plain(rows: Tensor, keys: Tensor, bias: Tensor | None, own_start: int | None) -> Tensor:
    """The definition, a product and a sum at a time."""
    sums = []
    for i, row in enumerate(rows):
        left_out = None if own_start is None else own_start + i
        terms = [
            row @ key + (0 if bias is None else bias[j])
            for j, key in enumerate(keys)
            if j != left_out
        ]
        sums.append(torch.stack(terms).exp().sum().log())
    return torch.stack(sums)


@pytest.mark.parametrize("own_start", [None, 0, 2])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("tile", [1, 2, 3, 100])
def test_both_forms_equal_the_sum_written_out(
    tile: int, with_bias: bool, own_start: int | None
) -> None:
    rows, keys, bias = inputs(5, 7)
    some_bias = bias if with_bias else None
    weights = torch.arange(1.0, 6.0, dtype=torch.float64)
    wanted = plain(rows, keys, some_bias, own_start)
    arguments = [rows, keys, *([bias] if with_bias else [])]
    wanted_gradients = torch.autograd.grad(wanted @ weights, arguments)
    for values in (
        log_sum_exp(rows, keys, some_bias, own_start=own_start),
        tiled_log_sum_exp(rows, keys, some_bias, own_start, tile),
    ):
        torch.testing.assert_close(values, wanted)
        gradients = torch.autograd.grad(values @ weights, arguments)
        torch.testing.assert_close(gradients, wanted_gradients)


def test_gradients_are_those_of_differences() -> None:
    rows, keys, bias = inputs(4, 6)
    assert torch.autograd.gradcheck(
        lambda *given: tiled_log_sum_exp(*given, own_start=1, tile=3), (rows, keys, bias)
    )


def test_float32_keeps_five_digits_where_logits_reach_140() -> None:
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(2, (300, 128), generator=draw).float() * 2 - 1
    rows = (codes * 140 / 128).requires_grad_()
    keys = torch.cat([codes, -codes]).requires_grad_()  # products from -140 to 140
    assert float((rows @ keys.T).detach().abs().max()) == pytest.approx(140)
    results = []
    for values in (
        torch.logsumexp(rows @ keys.T, dim=1),
        tiled_log_sum_exp(rows, keys, tile=128),
    ):
        assert values.isfinite().all()
        results.append([values, *torch.autograd.grad(values.sum(), (rows, keys))])
    for naive, tiled in zip(*results, strict=True):
        torch.testing.assert_close(tiled, naive, rtol=1e-5, atol=1e-5)


def test_keys_of_a_queue_get_no_gradient() -> None:
    rows, keys, _ = inputs(4, 6)
    tiled_log_sum_exp(rows, keys.detach(), tile=3).sum().backward()
    assert rows.grad is not None
    assert keys.grad is None


def test_temperature_divides_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, keys, bias = inputs(4, 6)
    wanted = plain(rows / 0.2, keys, bias, None)
    torch.testing.assert_close(log_sum_exp(rows, keys, bias, 0.2), wanted)
    monkeypatch.setattr(module, "LARGEST_MATRIX", 23)
    torch.testing.assert_close(log_sum_exp(rows, keys, bias, 0.2), wanted)


def test_only_large_batches_are_tiled(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        module, "tiled_log_sum_exp", lambda *given: calls.append(given) or given[0][:, 0]
    )
    logits, posterior, uniform = (torch.zeros(4, 2) for _ in range(3))
    for largest, tiled in ((16, 0), (15, 1)):
        monkeypatch.setattr(module, "LARGEST_MATRIX", largest)
        nac_loss(logits, posterior, uniform, 0.1, "marginal")
        assert len(calls) == tiled
