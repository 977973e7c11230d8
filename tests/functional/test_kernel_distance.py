import pytest
import torch
from torch import Tensor

from nacgen.functional.kernel_distance import kernel_distance, kernel_distance_of_subsets
from tests.reference import scores


def random_features(n: int, seed: int, dim: int = 3) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_sum_over_pairs_of_the_paper() -> None:
    x, y = random_features(9, 0), 1.5 * random_features(7, 1) + 0.5
    expected = scores.kernel_distance(x.double(), y.double())
    assert kernel_distance(x, y).value.item() == pytest.approx(expected, rel=1e-12)


def test_two_points_in_one_dimension_by_hand() -> None:
    x, y = torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [2.0]])
    # within x: 1; within y: (2 + 1)^3; between: 1
    found = kernel_distance_of_subsets(x, y, num_subsets=1, subset_size=2)
    assert found.value.item() == 1 + 27 - 2
    assert found.spread.item() == 0


def test_the_order_changes_neither_the_value_nor_the_standard_error() -> None:
    x, y = random_features(40, 0), random_features(31, 1) + 0.3
    whole = torch.stack(kernel_distance(x, y))
    shuffled = x[torch.randperm(40, generator=torch.Generator().manual_seed(2))]
    for found in (kernel_distance(shuffled, y), kernel_distance(y, x)):
        torch.testing.assert_close(torch.stack(found), whole, rtol=1e-10, atol=0)


def test_rotations_of_both_change_nothing() -> None:
    x, y = random_features(40, 0).double(), random_features(40, 1).double() + 0.3
    rotation = torch.linalg.qr(random_features(3, 2).double()).Q
    turned = kernel_distance(x @ rotation, y @ rotation)
    assert turned.value.item() == pytest.approx(kernel_distance(x, y).value.item(), rel=1e-11)


def test_samples_of_one_distribution_are_at_no_distance_on_average() -> None:
    distances = torch.stack(
        [
            kernel_distance(random_features(60, 2 * i), random_features(60, 2 * i + 1)).value
            for i in range(60)
        ]
    )
    assert distances.min() < 0 < distances.max()
    assert distances.mean().abs() < 3 * distances.std() / 60**0.5


@pytest.mark.parametrize("shift", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("sizes", [(60, 60), (50, 150)])
def test_the_standard_error_is_how_much_other_samples_differ(
    shift: float, sizes: tuple[int, int]
) -> None:
    """Also of close sets, where a jackknife gives 1.4 times as much."""
    n, m = sizes
    found = [
        kernel_distance(random_features(n, 2 * i, 32), random_features(m, 2 * i + 1, 32) + shift)
        for i in range(300)
    ]
    values, errors = (torch.stack(each) for each in zip(*found, strict=True))
    assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.12)
    assert errors.square().mean().sqrt().item() == pytest.approx(values.std().item(), rel=0.12)


def test_the_standard_error_is_that_of_the_written_out_decomposition() -> None:
    x, y = random_features(6, 0).double(), random_features(5, 1).double() + 1
    kernels = [(a @ b.T / 3 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    w, mean_rows = [], []
    for whole in kernels[:2]:  # Székely & Rizzo 2014: without U-centered means of rows and columns
        n, kernel = len(whole), whole - whole.diag().diag()
        rows = kernel.sum(1) / (n - 2)
        centered = kernel - rows[:, None] - rows + kernel.sum() / ((n - 1) * (n - 2))
        w.append((centered - centered.diag().diag()).square().sum() / (n * (n - 3)))
        mean_rows.append(rows)
    between = kernels[2]
    rows, columns = between.mean(1), between.mean(0)
    w_both = (between - rows[:, None] - columns + between.mean()).square().sum() / (5 * 4)
    v_1 = (mean_rows[0] - rows).var() - w[0] / 4 - w_both / 5
    v_2 = (mean_rows[1] - columns).var() - w[1] / 3 - w_both / 6
    expected = 4 / 6 * v_1 + 4 / 5 * v_2 + 2 / 30 * w[0] + 2 / 20 * w[1] + 4 / 30 * w_both
    found = kernel_distance(x, y).spread
    assert found.item() == pytest.approx(expected.sqrt().item(), rel=1e-9)


def test_subsets_average_to_the_distance_of_all() -> None:
    x, y = random_features(200, 0), random_features(200, 1) + 0.5
    found = kernel_distance_of_subsets(x, y, num_subsets=200, subset_size=50)
    error = found.spread.item() / 200**0.5
    assert abs(found.value - kernel_distance(x, y).value) < 4 * error
    again = kernel_distance_of_subsets(x, y, num_subsets=200, subset_size=50)
    other = kernel_distance_of_subsets(x, y, num_subsets=200, subset_size=50, seed=1)
    assert again == found
    assert other.value != found.value


def test_the_fewest_rows_have_a_standard_error() -> None:
    assert kernel_distance(random_features(4, 0), random_features(4, 1)).spread > 0


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(30), r"features_2 must be float \(n, d\), .* got torch.float32 \(30,\)"),
        (torch.zeros(30, 3).int(), r"features_2 must be float .* got torch.int32 \(30, 3\)"),
        (torch.zeros(30, 4), r"one length, got \(30, 3\) and \(30, 4\)\. Compare"),
        (torch.zeros(3, 3), "features_2 must have 4 rows or more, got 3"),
        (torch.zeros(30, 3) / 0, "NaN or infinity in 30 of 30 rows"),
    ],
)
def test_what_cannot_be_compared_is_refused(features: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernel_distance(random_features(30, 0), features)


@pytest.mark.parametrize(
    ("num_subsets", "subset_size", "message"),
    [
        (1, 31, "features_1 must have 31 rows or more, got 30"),
        (0, 30, "num_subsets must be 1 or more and subset_size 2 or more, got 0 and 30"),
        (1, 1, "num_subsets must be 1 or more and subset_size 2 or more, got 1 and 1"),
    ],
)
def test_subsets_that_cannot_be_drawn_are_refused(
    num_subsets: int, subset_size: int, message: str
) -> None:
    x = random_features(30, 0)
    with pytest.raises(ValueError, match=message):
        kernel_distance_of_subsets(x, x, num_subsets=num_subsets, subset_size=subset_size)
