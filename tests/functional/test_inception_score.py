import pytest
import torch
from torch import Tensor

from nacgen.functional.inception_score import inception_score, split_of
from tests.reference import scores


def random_logits(n: int, k: int = 7) -> Tensor:
    return 3 * torch.randn(n, k, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("n", "num_splits"), [(50, 10), (47, 10), (13, 13), (9, 1)])
def test_it_is_the_formula_of_the_paper(n: int, num_splits: int) -> None:
    found = inception_score(random_logits(n), num_splits=num_splits)
    expected = scores.inception_score(random_logits(n), num_splits)
    assert [each.item() for each in found] == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_sure_and_even_predictions_score_the_number_of_classes() -> None:
    logits = 1e4 * torch.eye(8).repeat(10, 1)  # probabilities of exactly 0 and 1
    found = inception_score(logits)
    assert found.value.item() == pytest.approx(8, rel=1e-14)
    assert found.spread.item() < 1e-14


def test_predictions_that_are_all_alike_score_one() -> None:
    assert inception_score(random_logits(1).repeat(30, 1)).value.item() == pytest.approx(1)


def test_what_all_classes_share_changes_nothing() -> None:
    logits = random_logits(40).double()
    shifted = logits + 100 * torch.arange(40.0)[:, None]
    value = inception_score(logits).value.item()
    assert inception_score(shifted).value.item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("n", "num_splits"), [(50, 10), (47, 10), (10, 10), (7, 3)])
def test_splits_begin_where_those_of_published_scores_do(n: int, num_splits: int) -> None:
    splits = split_of(torch.arange(n), n, num_splits).tolist()
    for s in range(num_splits):
        assert splits.index(s) == s * n // num_splits
        assert splits.count(s) == (s + 1) * n // num_splits - s * n // num_splits


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("logits", "num_splits", "message"),
    [
        (torch.zeros(9, 5), 10, "logits must have 10 rows or more, got 9"),
        (torch.zeros(9), 1, r"logits must be float \(n, d\), .* got torch.float32 \(9,\)"),
        (torch.zeros(9, 5).long(), 1, r"got torch.int64 \(9, 5\)"),
        (torch.zeros(9, 5) / 0, 1, "logits must be finite, got NaN or infinity in 9 of 9 rows"),
        (torch.zeros(9, 5), 0, "num_splits must be 1 or more, got 0"),
    ],
)
def test_what_is_no_logits_is_refused(logits: Tensor, num_splits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inception_score(logits, num_splits=num_splits)
