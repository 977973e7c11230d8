import pytest
import torch

from nacgen.errors import DataError
from nacgen.probes.labeled import check_features, check_labeled, check_labels, top_accuracies

CLASSES = torch.tensor([0, 1, 2])


def test_labels_come_back_as_whole_numbers_with_their_number_of_classes() -> None:
    train, test, num_classes = check_labels(CLASSES.int(), CLASSES[:2])
    assert (train.dtype, num_classes) == (torch.int64, 3)
    assert test.tolist() == [0, 1]


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
        (CLASSES, CLASSES.double(), "test_labels must be whole numbers.* got 3 of torch.float64"),
        (CLASSES, CLASSES[:0], "one or more, got 0 of torch.int64"),
        (CLASSES - 1, CLASSES, "train_labels must be classes from 0, got -1"),
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
    check_features("these", features)
    features[1] = torch.nan
    features[2, 0] = torch.inf
    with pytest.raises(ValueError, match=r"these must be finite, but 4 of \d+ values"):
        check_features("these", features)
    with pytest.raises(ValueError, match=r"these must hold one image or more, got shape \(0, 3\)"):
        check_features("these", features[:0])


def test_features_and_labels_must_fit_together() -> None:
    features = torch.zeros(3, 5)
    with pytest.raises(ValueError, match=r"the training split .* got 4 features and 3 labels"):
        check_labeled(torch.zeros(4, 5), CLASSES, features, CLASSES)
    with pytest.raises(ValueError, match=r"the test split .* got 3 features and 2 labels"):
        check_labeled(features, CLASSES, features, CLASSES[:2])
    with pytest.raises(ValueError, match="one width, got 5 and 4"):
        check_labeled(features, CLASSES, features[:, 1:], CLASSES)


def test_accuracies_count_the_best_and_the_best_five() -> None:
    scores = torch.tensor([[6.0, 5, 4, 3, 2, 1]]).repeat(4, 1)
    assert top_accuracies(scores, torch.tensor([0, 0, 4, 5])) == (0.5, 0.75)
    assert top_accuracies(scores[:, :5], torch.tensor([0, 0, 4, 4])) == (0.5, None)


def test_equal_scores_go_to_the_lowest_class() -> None:
    assert top_accuracies(torch.ones(3, 7), torch.tensor([0, 4, 5])) == (1 / 3, 2 / 3)
