import math

import pytest
import torch
from torch import Tensor

from nacgen.functional.contrastive import directions, info_nce, nt_xent
from tests.reference import contrastive as loops


def rows(n: int, d: int = 5, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, d, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_equals_the_loop(temperature: float) -> None:
    view_1, view_2 = rows(4, seed=1), rows(4, seed=2)
    expected = loops.nt_xent(view_1.tolist(), view_2.tolist(), temperature)
    values = nt_xent(torch.cat([view_1, view_2]), temperature)
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_info_nce_equals_the_loop(temperature: float) -> None:
    queries, keys, queue = rows(3, seed=1), rows(3, seed=2), rows(7, seed=3)
    expected = loops.info_nce(queries.tolist(), keys.tolist(), queue.tolist(), temperature)
    values = info_nce(queries, keys, queue, temperature)
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64))


def test_rows_that_all_point_one_way_give_the_logarithm_of_their_number() -> None:
    same = torch.ones(6, 3)
    torch.testing.assert_close(nt_xent(same), torch.full((6,), math.log(5)))
    torch.testing.assert_close(info_nce(same, same, same), torch.full((6,), math.log(7)))


def test_two_images_at_right_angles_have_a_closed_form() -> None:
    projections = torch.eye(2).repeat(2, 1)  # views equal, images orthogonal
    expected = math.log(math.exp(1 / 0.5) + 2) - 1 / 0.5
    torch.testing.assert_close(nt_xent(projections, 0.5), torch.full((4,), expected))


def test_exchanging_views_or_images_only_moves_the_values() -> None:
    view_1, view_2 = rows(5, seed=1), rows(5, seed=2)
    first, second = nt_xent(torch.cat([view_1, view_2])).chunk(2)
    torch.testing.assert_close(nt_xent(torch.cat([view_2, view_1])), torch.cat([second, first]))
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = nt_xent(torch.cat([view_1[order], view_2[order]]))
    torch.testing.assert_close(shuffled, torch.cat([first[order], second[order]]))


def test_only_directions_matter() -> None:
    projections, scales = rows(6), rows(6, 1).abs() + 0.1
    torch.testing.assert_close(nt_xent(projections * scales), nt_xent(projections))
    queries, keys, queue = rows(3), rows(3, seed=1), rows(4, seed=2)
    values = info_nce(3 * queries, 0.2 * keys, 100 * queue)
    torch.testing.assert_close(values, info_nce(queries, keys, queue))


def test_the_order_of_the_queue_does_not_matter() -> None:
    queries, keys, queue = rows(3), rows(3, seed=1), rows(4, seed=2)
    torch.testing.assert_close(
        info_nce(queries, keys, queue.flip(0)), info_nce(queries, keys, queue)
    )


def test_the_shares_of_several_processes_are_the_whole_and_so_are_their_gradients() -> None:
    view_1, view_2 = rows(6, seed=1).requires_grad_(), rows(6, seed=2).requires_grad_()
    whole = nt_xent(torch.cat([view_1, view_2]))
    whole.sum().backward()
    expected = [whole, view_1.grad, view_2.grad]

    view_1, view_2 = (view.detach().requires_grad_() for view in (view_1, view_2))
    shares = [
        torch.cat([a, b]) for a, b in zip(view_1.chunk(3), view_2.chunk(3), strict=True)
    ]  # of ranks 0, 1 and 2, two images each
    gathered = torch.cat(shares)
    parts = [nt_xent(processes, 0.5, gathered, 4 * rank) for rank, processes in enumerate(shares)]
    torch.cat(parts).sum().backward()
    values = torch.cat([part[:2] for part in parts] + [part[2:] for part in parts])
    for value, wanted in zip([values, view_1.grad, view_2.grad], expected, strict=True):
        torch.testing.assert_close(value, wanted)


def test_a_wrong_start_masks_other_rows() -> None:
    gathered = rows(8)
    right, wrong = (nt_xent(gathered[4:], 0.5, gathered, start) for start in (4, 0))
    assert (right - wrong).abs().min() > 1e-3


def test_gradients_are_right() -> None:
    projections = rows(4, 3).requires_grad_()
    more = rows(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(nt_xent, (projections, 0.5))
    assert torch.autograd.gradcheck(
        lambda own, others: nt_xent(own, 0.5, torch.cat([others, own]), 4), (projections, more)
    )
    queue = rows(5, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(info_nce, (projections, more, queue, 0.2))


@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-30, 1e-13, 1.0, 1e13, 1e30, 3e38])
@pytest.mark.parametrize("temperature", [1e-3, 0.5])
def test_values_and_gradients_are_finite_at_any_size(scale: float, temperature: float) -> None:
    unit = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows_ = (scale * unit).requires_grad_()
    for values in (nt_xent(rows_, temperature), info_nce(rows_, rows_.flip(0), rows_, temperature)):
        (gradient,) = torch.autograd.grad(values.sum(), rows_)
        assert values.isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("scale", [1e-10, 1e30, 3e38])
def test_large_and_small_rows_keep_their_direction(scale: float) -> None:
    unit = directions(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(directions(scale * unit), unit)


def test_one_zero_row_is_at_right_angles_to_all_and_gets_a_moderate_gradient() -> None:
    projections = rows(4).float()
    projections[1] = 0
    projections.requires_grad_()
    value = nt_xent(projections)
    value.sum().backward()
    torch.testing.assert_close(value[1], torch.tensor(math.log(3)))
    assert projections.grad is not None
    assert 0 < float(projections.grad[1].norm()) < 100


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nt_xent(rows(5)), "got 5 rows among 5"),
        (lambda: nt_xent(rows(2)), "two images or more in all, got 2 rows among 2"),
        (lambda: nt_xent(rows(0)), "got 0 rows among 0"),
        (lambda: nt_xent(rows(4), 0.0), "above zero, got 0.0"),
        (lambda: nt_xent(rows(4), float("nan")), "above zero, got nan"),
        (lambda: nt_xent(rows(4), 0.5, rows(8), 5), "between 0 and 4, .* got 5. .* rank times 4"),
        (lambda: nt_xent(rows(4), 0.5, rows(8), -1), "between 0 and 4, .* got -1"),
        (lambda: nt_xent(rows(4), 0.5, rows(2)), "got 4 rows among 2"),
        (lambda: nt_xent(rows(4), 0.5, rows(8, 6)), "compared with, 5, got 6"),
        (lambda: info_nce(rows(3), rows(2), rows(4)), r"got \(3, 5\) and \(2, 5\)"),
        (lambda: info_nce(rows(3), rows(3), rows(0)), "one key or more, got none"),
        (lambda: info_nce(rows(3), rows(3), rows(4, 2)), "compared with, 5, got 2"),
        (lambda: info_nce(rows(3), rows(3), rows(4), -0.1), "above zero, got -0.1"),
    ],
)
def test_what_does_not_fit_is_named(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()
