import pytest
import torch

from nacgen.errors import DataError
from nacgen.probes.labeled import check_finite, check_labels, top_accuracies

CLASSES = torch.tensor([0, 1, 2])


def test_labels_come_back_with_their_number_of_classes() -> None:
    train, test, num_classes = check_labels(CLASSES, CLASSES[:2])
    assert num_classes == 3
    assert (train.tolist(), test.tolist()) == ([0, 1, 2], [0, 1])


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (None, CLASSES, "train_labels must give each image's class, got None"),
        (CLASSES, None, "test_labels must give each image's class, got None"),
        (
            torch.ones(5, 24, dtype=torch.bool),
            CLASSES,
            r"train_labels .* multi-hot labels \(5, 24\)",
        ),
        (CLASSES, torch.tensor([1, 7, 5]), r"classes \[5, 7\] have none"),
    ],
)
def test_labels_that_are_no_classes_are_refused(
    train: torch.Tensor | None, test: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        check_labels(train, test)


def test_features_that_cannot_be_used_are_refused() -> None:
    features = torch.zeros(4, 3)
    check_finite("these", features)
    features[1] = torch.nan
    features[2, 0] = torch.inf
    with pytest.raises(ValueError, match=r"these must be finite, but 4 of \d+ values"):
        check_finite("these", features)


def test_accuracies_count_the_best_and_the_best_five() -> None:
    scores = torch.tensor([[6.0, 5, 4, 3, 2, 1]]).repeat(4, 1)
    assert top_accuracies(scores, torch.tensor([0, 0, 4, 5])) == (0.5, 0.75)
    assert top_accuracies(scores[:, :5], torch.tensor([0, 0, 4, 4])) == (0.5, None)


def test_equal_scores_go_to_the_lowest_class() -> None:
    assert top_accuracies(torch.ones(3, 7), torch.tensor([0, 4, 5])) == (1 / 3, 2 / 3)
