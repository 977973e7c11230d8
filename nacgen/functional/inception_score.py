"""The Inception Score: certainty of a classifier about each image, and variety of classes over all.

Source: Salimans et al. 2016, arXiv:1606.03498, section 4; Barratt & Sharma 2018, arXiv:1801.01973 (its faults).
"""

from typing import NamedTuple

import torch
from einops import reduce
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from nacgen.functional.features import feature_rows


class InceptionScore(NamedTuple):
    """Mean and standard deviation over splits of a score between one and the number of classes."""

    value: Float64[Tensor, ""]
    spread: Float64[Tensor, ""]


def inception_score(logits: Float[Tensor, "n k"], *, num_splits: int = 10) -> InceptionScore:
    """Compute `exp(E_x KL(p(y | x) || p(y)))` for each split of the images separately.

    Split `i` begins at row `i n // num_splits`. The score of a split decreases with its size, so scores are
    comparable only for equal numbers of images and of splits. The spread is the standard deviation over splits
    (divided by `num_splits`); it tells how much a split varies and is not an error of the mean.

    The logits may be of any float type. Those of the published score lack the bias vector.

    Raises:
        ValueError: If the logits are not a finite float matrix of as many rows as splits, one or more.

    Example:
        >>> inception_score(torch.zeros(10, 4), num_splits=2).value
        tensor(1., dtype=torch.float64)
    """
    if num_splits < 1:
        raise ValueError(
            f"num_splits must be 1 or more, got {num_splits}. Published scores use 10."
        )
    log_p = feature_rows("logits", logits, at_least=num_splits).log_softmax(dim=1)
    split = split_of(torch.arange(len(log_p)), len(log_p), num_splits).to(log_p.device)
    certainty, classes = certainty_and_classes(log_p, split, num_splits)
    return score_of_splits(certainty, classes, torch.bincount(split, minlength=num_splits))


def split_of(positions: Int64[Tensor, " b"], n: int, num_splits: int) -> Int64[Tensor, " b"]:
    """Return the split of each of `n` images, by its position."""
    ends = torch.arange(1, num_splits + 1, device=positions.device) * n // num_splits
    return torch.bucketize(positions, ends, right=True)


def certainty_and_classes(
    log_p: Float64[Tensor, "b k"], split: Int64[Tensor, " b"], num_splits: int
) -> tuple[Float64[Tensor, " s"], Float64[Tensor, "s k"]]:
    """Sum `sum_y p(y | x) log p(y | x)` and `p(y | x)` over the images of each split.

    The rows are `log p(y | x)`, and `split` is the split of each. The sums of several batches may be added.
    """
    p = log_p.exp()
    certainty = log_p.new_zeros(num_splits).index_add(0, split, (p * log_p).sum(dim=1))
    return certainty, log_p.new_zeros(num_splits, log_p.shape[1]).index_add(0, split, p)


def score_of_splits(
    certainty: Float64[Tensor, " s"], classes: Float64[Tensor, "s k"], sizes: Int64[Tensor, " s"]
) -> InceptionScore:
    """Compute the score from the sums of `certainty_and_classes` over all images and the sizes of the splits."""
    marginal = classes / sizes[:, None]
    divergence = certainty / sizes - reduce(marginal.xlogy(marginal), "s k -> s", "sum")
    scores = divergence.exp()
    return InceptionScore(scores.mean(), scores.std(correction=0))
