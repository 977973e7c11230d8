"""DistillHash: learning to hash from pairs whose noisy labels can be trusted.

The method has four steps and needs no labels. (1) Pairs whose cosine distance between pretrained features is
clearly small or clearly large get a noisy label. (2) A network with outputs `h` in [-1, 1]^k is trained on
them; it gives each pair a posterior `P = sigmoid(h_i . h_j / 2)` of being similar. (3) Pairs are distilled:
those whose posterior is clearer than the noise of the labels can explain are kept. (4) The network is trained
again on them.

A pair label is +1 (similar), -1 (dissimilar) or 0 (no label). Pair matrices are dense: 5,000 images take 100 MB
in float32.

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
NUM_NEIGHBORS = 20


class HalfGaussians(NamedTuple):
    """Two halves of Gaussians, fitted to distances, that meet at the mode, which is the mean of both."""

    mode: float
    std_left: float
    std_right: float

    @property
    def similar_below(self) -> float:
        """Return the distance below which pairs are similar: two deviations left of the mode."""
        return self.mode - 2 * self.std_left

    @property
    def dissimilar_above(self) -> float:
        """Return the distance above which pairs are dissimilar: two deviations right of the mode."""
        return self.mode + 2 * self.std_right


class NoiseRateBounds(NamedTuple):
    """Upper bounds, pair by pair, on the probabilities that a noisy label is wrong."""

    plus: Float[Tensor, "n n"]  # that a similar pair was labeled dissimilar
    minus: Float[Tensor, "n n"]  # that a dissimilar pair was labeled similar


def cosine_distances(features: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """Compute one minus the cosine of each pair of rows.

    Args:
        features: Finite rows, none of which is all zeros.

    Returns:
        Symmetric distances between 0 and 2, exactly 0 on the diagonal.

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
            f"features must have a direction, got {int((lengths == 0).sum())} rows of zeros. Take them before "
            "the last ReLU."
        )
    directions = features / rearrange(lengths, "n -> n 1")
    distances: Tensor = (1 - directions @ directions.T).clamp_(0, 2)
    symmetric = (distances + distances.T) / 2  # the product need not be so to the last bit
    return symmetric.fill_diagonal_(0)


def fit_half_gaussians(distances: Float[Tensor, "n n"]) -> HalfGaussians:
    """Split distances at the mode of their histogram and fit a half of a Gaussian to each side.

    The mean of each half is the mode, and its standard deviation is the root mean square distance from the mode.

    Differs from the paper: the histogram has 100 bins over the distances that occur, because bins of 0.01 are
    too coarse if all images are alike to the encoder. The mode is the center of the fullest bin. Distances of
    images from themselves are left out.

    Args:
        distances: Symmetric distances of all pairs.

    Returns:
        The mode and the two standard deviations.

    Raises:
        ValueError: If images are fewer than three, or distances are not finite or all equal.

    Example:
        >>> fit = fit_half_gaussians(cosine_distances(torch.randn(50, 8)))
        >>> fit.similar_below < fit.mode < fit.dissimilar_above
        True
    """
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1] or len(distances) < 3:
        raise ValueError(
            f"distances must be (n, n) of three images or more, got {tuple(distances.shape)}. Give "
            "cosine_distances of the training images."
        )
    row, column = torch.triu_indices(
        len(distances), len(distances), offset=1, device=distances.device
    )
    values = distances[row, column]
    lowest, highest = float(values.min()), float(values.max())
    if not lowest < highest:  # NaN among them
        raise ValueError(
            f"distances must be finite and differ, got values from {lowest} to {highest}. Are the features "
            "constant?"
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
    """Label pairs by distances that are clearly small or clearly large (step 1).

    Args:
        distances: Result of `cosine_distances` for pretrained features.

    Returns:
        Labels +1, -1 or 0. An image is similar to itself, which lets `noisy_pair_loss` ask for binary outputs.

    Raises:
        ValueError: If `fit_half_gaussians` raises it, or if no pair is similar, or none is dissimilar.

    Example:
        >>> noisy_pair_labels(cosine_distances(torch.randn(50, 8))).unique().tolist()
        [-1, 0, 1]
    """
    fit = fit_half_gaussians(distances)
    similar, dissimilar = distances < fit.similar_below, distances > fit.dissimilar_above
    similar.fill_diagonal_(True)
    num_similar, num_dissimilar = int(similar.sum()) - len(distances), int(dissimilar.sum())
    if num_similar == 0 or num_dissimilar == 0:
        raise ValueError(
            f"noisy labels need similar and dissimilar pairs, got {num_similar} below {fit.similar_below:.4g} and "
            f"{num_dissimilar} above {fit.dissimilar_above:.4g} of distances around {fit.mode:.4g}. Take features "
            "of a better encoder, or more images."
        )
    return similar.to(torch.int8) - dissimilar.to(torch.int8)


def pair_posterior(outputs: Float[Tensor, "n k"]) -> Float[Tensor, "n n"]:
    """Compute the posterior probability `sigmoid(h_i . h_j / 2)` that a pair is similar.

    Args:
        outputs: Outputs of the hash network, in [-1, 1].

    Returns:
        One probability per pair.

    Example:
        >>> pair_posterior(torch.zeros(1, 8))
        tensor([[0.5000]])
    """
    return torch.sigmoid(outputs @ outputs.T / 2)


def feature_neighbors(
    distances: Float[Tensor, "n n"], num_neighbors: int = NUM_NEIGHBORS
) -> Int64[Tensor, "n m"]:
    """Find the nearest images of each image, beginning with the image itself.

    Args:
        distances: Result of `cosine_distances` for pretrained features.
        num_neighbors: Number of neighbors, including the image itself, at most `n`.

    Returns:
        Indices of the neighbors, nearest first.

    Raises:
        ValueError: If there are fewer images than neighbors.

    Example:
        >>> feature_neighbors(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 2).tolist()
        [[0, 1], [1, 0]]
    """
    if not 1 <= num_neighbors <= len(distances):
        raise ValueError(
            f"num_neighbors must lie between 1 and the number of images, {len(distances)}, got "
            f"{num_neighbors}. Give more images."
        )
    own_first = distances.clone().fill_diagonal_(-1)
    return own_first.topk(num_neighbors, dim=1, largest=False).indices


def noise_rate_bounds(
    posterior: Float[Tensor, "n n"], neighbors: Int64[Tensor, "n m"]
) -> NoiseRateBounds:
    """Bound the rates of wrong labels from above by the posteriors of neighboring pairs (step 3).

    A noisy label is similar with probability `P = (1 - rho_plus - rho_minus) eta + rho_minus`, with `eta` the
    true probability. So `rho_minus <= P` and `rho_plus <= 1 - P`. If neighbors have equal rates, the minimum
    of these over the `m x m` pairs of neighbors is the best bound.

    Args:
        posterior: Result of `pair_posterior`.
        neighbors: Result of `feature_neighbors` for the same images.

    Returns:
        Both bounds.

    Raises:
        ValueError: If the two arguments differ in the number of images.

    Example:
        >>> noise_rate_bounds(torch.full((1, 1), 0.75), torch.tensor([[0]])).plus
        tensor([[0.2500]])
    """
    if len(posterior) != len(neighbors):
        raise ValueError(
            f"posterior and neighbors must be of the same images, got {len(posterior)} and {len(neighbors)}. "
            "Compute both from one set."
        )
    plus = _least_among_neighbors(1 - posterior, neighbors)
    return NoiseRateBounds(plus, _least_among_neighbors(posterior, neighbors))


def distilled_pair_labels(
    posterior: Float[Tensor, "n n"], bounds: NoiseRateBounds
) -> Int8[Tensor, "n n"]:
    """Label the pairs whose posterior the noise of the labels cannot explain (step 3).

    For all noise rates within the bounds, the best classifier calls a pair similar above `(1 + rho_minus) / 2` and
    dissimilar below `(1 - rho_plus) / 2`.

    Args:
        posterior: Result of `pair_posterior`.
        bounds: Result of `noise_rate_bounds`.

    Returns:
        Labels +1 or -1, and 0 for pairs that are dropped.

    Example:
        >>> none = torch.zeros(1, 1)
        >>> distilled_pair_labels(torch.full((1, 1), 0.75), NoiseRateBounds(none, none)).tolist()
        [[1]]

    Source:
        Yang et al. 2019, arXiv:1905.03465.
    """
    similar = posterior > (1 + bounds.minus) / 2
    dissimilar = posterior < (1 - bounds.plus) / 2
    return similar.to(torch.int8) - dissimilar.to(torch.int8)


def noisy_pair_loss(
    outputs: Float[Tensor, "b k"], labels: Int8[Tensor, "b b"]
) -> Float[Tensor, " b"]:
    """Compute the loss of step 2, `|S| (h_i . h_j / k - S)^2`, averaged over `j`.

    Args:
        outputs: Outputs of the hash network, in [-1, 1].
        labels: Labels `S` of all pairs in the batch.

    Returns:
        One value per image. Pairs without a label count as zero.

    Example:
        >>> noisy_pair_loss(torch.ones(2, 4), torch.ones(2, 2, dtype=torch.int8))
        tensor([0., 0.])
    """
    _check_pairs(outputs, labels)
    target = labels.to(outputs.dtype)
    similarity = outputs @ outputs.T / outputs.shape[1]
    return reduce(target.abs() * (similarity - target).square(), "i j -> i", "mean")


def pair_likelihood_loss(
    outputs: Float[Tensor, "b k"], labels: Int8[Tensor, "b b"]
) -> Float[Tensor, " b"]:
    """Compute the loss of step 4, the negative log-likelihood of the kept pairs under `pair_posterior`.

    Add a weighted `quantization_loss` to keep outputs near -1 and +1.

    Args:
        outputs: Outputs of the hash network, in [-1, 1].
        labels: Labels of all pairs in the batch.

    Returns:
        One value per image: nats per pair, averaged over `j`. Pairs without a label count as zero.

    Example:
        >>> pair_likelihood_loss(torch.zeros(1, 4), torch.ones(1, 1, dtype=torch.int8)).exp()
        tensor([2.])
    """
    _check_pairs(outputs, labels)
    target = labels.to(outputs.dtype)
    # -log sigmoid(S t) = softplus(-S t), t = h_i . h_j / 2
    negative_log = F.softplus(-target * (outputs @ outputs.T) / 2)
    return reduce(target.abs() * negative_log, "i j -> i", "mean")


def quantization_loss(outputs: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """Compute the squared distance of outputs from the nearest code, averaged over bits.

    Args:
        outputs: Outputs of the hash network.

    Returns:
        One value per image, 0 if the outputs are a code.

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


def _check_pairs(outputs: Tensor, labels: Tensor) -> None:
    if labels.shape != (len(outputs), len(outputs)):
        raise ValueError(
            f"labels must be those of all pairs, {(len(outputs), len(outputs))}, got {tuple(labels.shape)}. "
            "Take the rows and the columns of the batch."
        )
