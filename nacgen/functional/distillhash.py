"""DistillHash: learning to hash from pairs whose noisy labels can be trusted.

Four steps, without labels. (1) Cosine distances of pretrained features that are clearly small or clearly large
give pairs a noisy label. (2) A network with outputs `h` in [-1, 1]^k is trained on them, and gives each pair a
posterior `P = sigmoid(h_i . h_j / 2)` of being similar. (3) Pairs are distilled: kept where the posterior is
clearer than the labels' noise can explain. (4) The network is trained again on the kept pairs.

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
    """Distances as two halves of Gaussians that meet at the mode, which is the mean of both."""

    mode: float
    std_left: float
    std_right: float

    @property
    def similar_below(self) -> float:
        """Distances below are clearly small: two deviations left of the mode."""
        return self.mode - 2 * self.std_left

    @property
    def dissimilar_above(self) -> float:
        """Distances above are clearly large: two deviations right of the mode."""
        return self.mode + 2 * self.std_right


class NoiseRateBounds(NamedTuple):
    """Upper bounds, pair by pair, on the probabilities that a noisy label is wrong."""

    plus: Float[Tensor, "n n"]  # that a similar pair was labelled dissimilar
    minus: Float[Tensor, "n n"]  # that a dissimilar pair was labelled similar


def cosine_distances(features: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """One minus the cosine of each pair.

    Args:
        features: Finite, no row all zeros.

    Returns:
        0 to 2, symmetric, exactly 0 on the diagonal.

    Raises:
        ValueError: A feature is not finite, or a row has no direction.
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

    A side mirrored at the mode has the mode as its mean, and the root mean square distance from the mode as
    its standard deviation.

    Differs from the paper: the histogram has 100 bins over the distances that occur, not bins of 0.01, which
    are too coarse where all images are alike to the encoder, and the mode is the fullest bin's centre. Distances
    of images from themselves are left out.

    Args:
        distances: Of all pairs, symmetric.

    Returns:
        The fit.

    Raises:
        ValueError: There are fewer than three images, distances are not finite, or all are equal.
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
    """Pair labels from distances that are clearly small or clearly large (step 1).

    Args:
        distances: `cosine_distances` of pretrained features.

    Returns:
        +1, -1 or 0. An image is similar to itself, which in `noisy_pair_loss` asks its outputs to be binary.

    Raises:
        ValueError: As `fit_half_gaussians`, or the thresholds leave no similar or no dissimilar pair, on which
            nothing can be learned.
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
    """Posterior probability `sigmoid(h_i . h_j / 2)` that a pair is similar.

    Args:
        outputs: Of the hash network, in [-1, 1].

    Returns:
        0 to 1.
    """
    return torch.sigmoid(outputs @ outputs.T / 2)


def feature_neighbors(
    distances: Float[Tensor, "n n"], num_neighbors: int = NUM_NEIGHBORS
) -> Int64[Tensor, "n m"]:
    """The nearest images of each image, itself the first.

    Args:
        distances: `cosine_distances` of pretrained features.
        num_neighbors: With the image itself, at most `n`.

    Returns:
        Indices, nearest first.

    Raises:
        ValueError: There are fewer images.
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
    """Upper bounds on the rates of wrong labels, from the posteriors nearby (step 3).

    A noisy label is similar with probability `P = (1 - rho_plus - rho_minus) eta + rho_minus`, where `eta` is
    the true one. So `rho_minus <= P` and `rho_plus <= 1 - P`; if rates are equal among neighbours, the least
    of these over the `m x m` pairs of neighbours bounds them best.

    Args:
        posterior: From `pair_posterior`.
        neighbors: From `feature_neighbors`.

    Returns:
        Both bounds.

    Raises:
        ValueError: The two are not of the same images.
    """
    if len(posterior) != len(neighbors):
        raise ValueError(
            f"posterior and neighbours must be of the same images, got {len(posterior)} and {len(neighbors)}. "
            "Compute both from one set."
        )
    plus = _least_among_neighbors(1 - posterior, neighbors)
    return NoiseRateBounds(plus, _least_among_neighbors(posterior, neighbors))


def distilled_pair_labels(
    posterior: Float[Tensor, "n n"], bounds: NoiseRateBounds
) -> Int8[Tensor, "n n"]:
    """Labels of the pairs that the noise cannot explain away (step 3).

    Above `(1 + rho_minus) / 2` a pair is similar by the best classifier there is, below `(1 - rho_plus) / 2`
    dissimilar, for all rates within the bounds.

    Args:
        posterior: From `pair_posterior`.
        bounds: From `noise_rate_bounds`.

    Returns:
        +1, -1, or 0 for pairs that are dropped.

    Source:
        Yang et al. 2019, arXiv:1905.03465.
    """
    similar = posterior > (1 + bounds.minus) / 2
    dissimilar = posterior < (1 - bounds.plus) / 2
    return similar.to(torch.int8) - dissimilar.to(torch.int8)


def noisy_pair_loss(
    outputs: Float[Tensor, "b k"], labels: Int8[Tensor, "b b"]
) -> Float[Tensor, " b"]:
    """The loss of step 2, `|S| (h_i . h_j / k - S)^2`, averaged over `j`.

    Args:
        outputs: Of the hash network, in [-1, 1].
        labels: Of all pairs in the batch.

    Returns:
        One value an image; pairs without a label count as zero.

    Raises:
        ValueError: The labels are not those of this batch's pairs.
    """
    _check_pairs(outputs, labels)
    target = labels.to(outputs.dtype)
    similarity = outputs @ outputs.T / outputs.shape[1]
    return reduce(target.abs() * (similarity - target).square(), "i j -> i", "mean")


def pair_likelihood_loss(
    outputs: Float[Tensor, "b k"], labels: Int8[Tensor, "b b"]
) -> Float[Tensor, " b"]:
    """The loss of step 4, the negative log-likelihood of the kept pairs under `pair_posterior`.

    Add `quantization_loss`, weighted, to keep outputs near -1 and +1.

    Args:
        outputs: Of the hash network, in [-1, 1].
        labels: Of all pairs in the batch.

    Returns:
        Nats a pair, averaged over `j`; one value an image; pairs without a label count as zero.

    Raises:
        ValueError: The labels are not those of this batch's pairs.
    """
    _check_pairs(outputs, labels)
    target = labels.to(outputs.dtype)
    # -log sigmoid(S t) = softplus(-S t), t = h_i . h_j / 2
    negative_log = F.softplus(-target * (outputs @ outputs.T) / 2)
    return reduce(target.abs() * negative_log, "i j -> i", "mean")


def quantization_loss(outputs: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """Squared distance of outputs from the nearest code, averaged over bits.

    Args:
        outputs: Of the hash network.

    Returns:
        One value an image, 0 at codes.
    """
    return reduce((outputs.abs() - 1).square(), "b k -> b", "mean")


def _least_among_neighbors(values: Tensor, neighbors: Tensor) -> Tensor:
    """Least value over all pairs of a neighbour of `i` and a neighbour of `j`, one side after the other."""
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
