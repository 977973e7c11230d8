"""DistillHash: learning to hash from pairs whose noisy labels can be trusted.

The method has four steps and needs no labels. (1) Pairs whose cosine distance between pretrained features is
clearly small or clearly large get a noisy label. (2) A network with outputs `h` in [-1, 1]^k is trained on them;
it gives each pair a posterior `P = sigmoid(h_i . h_j / 2)` of being similar. (3) Pairs are distilled: those whose
posterior is clearer than the noise of the labels can explain are kept. (4) The network is trained again on them.

A pair label is +1 (similar), -1 (dissimilar) or 0 (no label). Pair matrices are dense: 100 MB for 5,000 images.

Source:
    Yang, Liu, Deng, Liu & Tao 2019, arXiv:1905.03465 (CVPR), steps 2 to 4; step 1 is that of Yang et al. 2018,
    "Semantic Structure-based Unsupervised Deep Hashing" (IJCAI).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, Int8, Int64
from torch import Tensor

NUM_BINS = 100


class HalfGaussians(NamedTuple):
    """Two halves of Gaussians, fitted to distances, that meet at the mode, which is the mean of both."""

    mode: float
    std_left: float
    std_right: float


def cosine_distances(features: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """Compute one minus the cosine of each pair of rows: symmetric, in [0, 2], exactly 0 on the diagonal.

    Raises:
        ValueError: If a feature is not finite, or a row is all zeros.

    Example:
        >>> cosine_distances(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([[0., 1.],
                [1., 0.]])
    """
    if not features.isfinite().all():
        raise ValueError(
            f"features must be finite, got {int((~features.isfinite()).sum())} values that are not. Was the "
            "encoder trained to the end?"
        )
    lengths = features.norm(dim=1)
    if (lengths == 0).any():
        raise ValueError(
            f"features need a direction, got {int((lengths == 0).sum())} rows of zeros. Take them before a ReLU."
        )
    directions = features / rearrange(lengths, "n -> n 1")
    distances: Tensor = (1 - directions @ directions.T).clamp_(0, 2)
    symmetric = (distances + distances.T) / 2  # the product need not be so to the last bit
    return symmetric.fill_diagonal_(0)


def fit_half_gaussians(distances: Float[Tensor, "n n"]) -> HalfGaussians:
    """Split distances at the mode of their histogram and fit a half of a Gaussian to each side.

    The mean of each half is the mode, and its standard deviation is the root mean square distance from the mode.

    Differs from the paper: the histogram has 100 bins over the distances that occur, because bins of 0.01 are
    too coarse if images are alike. The mode is the center of the fullest bin. Images themselves are left out.

    Raises:
        ValueError: If images are fewer than three, or distances are not finite or all equal.

    Example:
        >>> fit = fit_half_gaussians(cosine_distances(torch.randn(50, 8)))
        >>> 0 < fit.std_left < fit.mode
        True
    """
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1] or len(distances) < 3:
        raise ValueError(
            f"distances must be (n, n) of three images or more, got {tuple(distances.shape)}. Give more images."
        )
    row, column = torch.triu_indices(
        len(distances), len(distances), offset=1, device=distances.device
    )
    values = distances[row, column]
    lowest, highest = float(values.min()), float(values.max())
    if not lowest < highest:  # NaN among them
        raise ValueError(
            f"distances must be finite and differ, got values from {lowest} to {highest}. Are features constant?"
        )
    counts = torch.histc(values, NUM_BINS, lowest, highest)
    mode = lowest + (float(counts.argmax()) + 0.5) * (highest - lowest) / NUM_BINS
    deviation = values.double() - mode
    left, right = deviation[deviation <= 0], deviation[deviation > 0]
    std_left, std_right = (
        float(side.square().mean().sqrt()) if len(side) else 0.0 for side in (left, right)
    )
    return HalfGaussians(mode, std_left, std_right)


def noisy_pair_labels(distances: Float[Tensor, "n n"]) -> Int8[Tensor, "n n"]:
    """Label pairs by cosine distances that are clearly small or clearly large (step 1).

    Clear is more than two standard deviations from the mode of `fit_half_gaussians`. An image is similar to
    itself, which lets `noisy_pair_loss` ask for binary outputs.

    Raises:
        ValueError: If `fit_half_gaussians` raises it, or if no pair is similar, or none is dissimilar.

    Example:
        >>> noisy_pair_labels(cosine_distances(torch.randn(50, 8))).unique().tolist()
        [-1, 0, 1]
    """
    fit = fit_half_gaussians(distances)
    lowest, highest = fit.mode - 2 * fit.std_left, fit.mode + 2 * fit.std_right
    similar, dissimilar = distances < lowest, distances > highest
    similar.fill_diagonal_(True)
    num_similar, num_dissimilar = int(similar.sum()) - len(distances), int(dissimilar.sum())
    if num_similar == 0 or num_dissimilar == 0:
        raise ValueError(
            f"noisy labels need similar and dissimilar pairs, got {num_similar} below {lowest:.4g} and "
            f"{num_dissimilar} above {highest:.4g}. Take features of a better encoder, or more images."
        )
    return similar.to(torch.int8) - dissimilar.to(torch.int8)


def pair_posterior(outputs: Float[Tensor, "n k"]) -> Float[Tensor, "n n"]:
    """Compute the posterior probability `sigmoid(h_i . h_j / 2)` that a pair is similar, for outputs in [-1, 1].

    Example:
        >>> pair_posterior(torch.zeros(1, 8))
        tensor([[0.5000]])
    """
    return torch.sigmoid(outputs @ outputs.T / 2)


def feature_neighbors(distances: Float[Tensor, "n n"], num_neighbors: int) -> Int64[Tensor, "n m"]:
    """Find the nearest images of each image by cosine distance, nearest first, beginning with the image itself.

    Example:
        >>> feature_neighbors(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 2).tolist()
        [[0, 1], [1, 0]]
    """
    own_first = distances.clone().fill_diagonal_(-1)
    return own_first.topk(num_neighbors, dim=1, largest=False).indices


def distilled_pair_labels(
    posterior: Float[Tensor, "n n"], neighbors: Int64[Tensor, "n m"]
) -> Int8[Tensor, "n n"]:
    """Label the pairs whose posterior the noise of the labels cannot explain, and drop the others (step 3).

    A noisy label is similar with probability `P = (1 - rho_plus - rho_minus) eta + rho_minus`, with `eta` the
    true probability. So `rho_minus <= P` and `rho_plus <= 1 - P`. If neighbors have equal rates, the minimum of
    these over the `m x m` pairs of neighbors is the best bound. For all rates within the bounds, the best
    classifier calls a pair similar above `(1 + rho_minus) / 2` and dissimilar below `(1 - rho_plus) / 2`.

    Example:
        >>> posterior = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
        >>> distilled_pair_labels(posterior, torch.tensor([[0, 1], [1, 0]])).tolist()
        [[1, -1], [-1, 1]]
    """
    rho_minus = _least_among_neighbors(posterior, neighbors)
    rho_plus = _least_among_neighbors(1 - posterior, neighbors)
    similar, dissimilar = posterior > (1 + rho_minus) / 2, posterior < (1 - rho_plus) / 2
    return similar.to(torch.int8) - dissimilar.to(torch.int8)


def noisy_pair_loss(
    outputs: Float[Tensor, "b k"], labels: Int8[Tensor, "b b"]
) -> Float[Tensor, " b"]:
    """Compute the loss of step 2, `|S| (h_i . h_j / k - S)^2`, averaged over `j`.

    The outputs `h` lie in [-1, 1]. Pairs without a label `S` count as zero.

    Example:
        >>> noisy_pair_loss(torch.ones(2, 4), torch.ones(2, 2, dtype=torch.int8))
        tensor([0., 0.])
    """
    target = labels.to(outputs.dtype)
    similarity = outputs @ outputs.T / outputs.shape[1]
    return reduce(target.abs() * (similarity - target).square(), "i j -> i", "mean")


def pair_likelihood_loss(
    outputs: Float[Tensor, "b k"], labels: Int8[Tensor, "b b"]
) -> Float[Tensor, " b"]:
    """Compute the loss of step 4, the negative log-likelihood of the kept pairs under `pair_posterior`.

    The unit is nats per pair, averaged over `j`; pairs without a label count as zero. Add a weighted
    `quantization_loss` to keep outputs near -1 and +1.

    Example:
        >>> pair_likelihood_loss(torch.zeros(1, 4), torch.ones(1, 1, dtype=torch.int8)).exp()
        tensor([2.])
    """
    target = labels.to(outputs.dtype)
    # -log sigmoid(S t) = softplus(-S t), t = h_i . h_j / 2
    negative_log = F.softplus(-target * (outputs @ outputs.T) / 2)
    return reduce(target.abs() * negative_log, "i j -> i", "mean")


def quantization_loss(outputs: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """Compute the squared distance of outputs from the nearest code, averaged over bits.

    Example:
        >>> quantization_loss(torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
        tensor([0., 1.])
    """
    return reduce((outputs.abs() - 1).square(), "b k -> b", "mean")


def _least_among_neighbors(values: Tensor, neighbors: Tensor) -> Tensor:
    """Return the minimum over all pairs of a neighbor of `i` and a neighbor of `j`."""
    for _ in range(2):  # the minimum over m x m pairs is a minimum over m of minima over m
        least = values[neighbors[:, 0]]
        for column in neighbors[:, 1:].unbind(1):
            torch.minimum(least, values[column], out=least)
        values = rearrange(least, "i j -> j i").contiguous()
    return values
