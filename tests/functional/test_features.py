import pytest
import torch
from torch import Tensor

from nacgen.functional.features import feature_pair


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(9), r"b must be float \(n, d\), .* got torch.float32 \(9,\)"),
        (torch.zeros(9, 3).byte(), r"got torch.uint8 \(9, 3\)"),
        (torch.zeros(1, 3), "b must have 2 rows or more, got 1"),
        (torch.zeros(9, 4), r"rows of one length, got \(9, 3\) and \(9, 4\)"),
        (torch.zeros(9, 3) / 0, "b must be finite, got NaN or infinity in 9 of 9 rows"),
    ],
)
def test_what_is_no_features_is_refused(features: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feature_pair("a", torch.ones(9, 3), "b", features)
