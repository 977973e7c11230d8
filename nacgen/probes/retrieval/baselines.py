"""Codes of given features without training a network: what a learned code has to be better than."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from nacgen.system.randomness import generator

BaselineMethod = Literal["lsh", "pca", "itq"]

NUM_ITERATIONS = 50  # of ITQ, as in its paper
RANK_TOLERANCE = 1e-10  # of a variance, relative to the largest


class Rotation(NamedTuple):
    """A rotation towards the corners of the cube, and its error after each iteration."""

    matrix: Float64[Tensor, "k k"]
    errors: tuple[float, ...]


def baseline_codes(
    train_features: Float[Tensor, "n d"],
    features: Float[Tensor, "m d"],
    code_dim: int,
    method: BaselineMethod,
    seed: int = 0,
) -> Bool[Tensor, "m k"]:
    """Codes of features by a classical method, fitted to training features.

    All three subtract the training mean and take the signs of projections. `"lsh"`: Gaussian directions;
    `"pca"`: the principal axes; `"itq"`: the principal axes, rotated so that projections lie near corners.

    Args:
        train_features: What the method is fitted to; never the queries.
        features: What is to be coded.
        code_dim: Bits in a code, `k`; for `"pca"` and `"itq"` at most the rank of the training features.
        method: `"lsh"`, `"pca"` or `"itq"`.
        seed: Of the directions, or of the first rotation; `"pca"` draws nothing.

    Returns:
        The codes; a projection of exactly zero counts as +1.

    Raises:
        ValueError: Features are missing, not finite or of different widths, the method is unknown, or there are
            fewer principal axes than bits.

    Source:
        Charikar 2002, "Similarity estimation techniques from rounding algorithms"; Gong & Lazebnik 2011,
        "Iterative quantization" (CVPR), whose baseline PCA-sign is.
    """
    if method not in ("lsh", "pca", "itq"):
        raise ValueError(f"method must be lsh, pca or itq, got {method!r}.")
    if code_dim < 1:
        raise ValueError(f"code_dim must be one bit or more, got {code_dim}.")
    _check_features("train_features", train_features)
    _check_features("features", features)
    if train_features.shape[1] != features.shape[1]:
        raise ValueError(
            f"train_features and features must have one width, got {train_features.shape[1]} and "
            f"{features.shape[1]}. Take both from the same encoder."
        )
    train = train_features.double()
    mean = train.mean(0)
    if method == "lsh":
        draws = torch.randn(
            train.shape[1], code_dim, dtype=torch.float64, generator=generator(seed, "lsh")
        )
        directions = draws.to(train.device)
    else:
        directions = _principal_axes(train - mean, code_dim)
        if method == "itq":
            directions = directions @ fit_rotation((train - mean) @ directions, seed).matrix
    return (features.double() - mean) @ directions >= 0


def fit_rotation(
    projections: Float64[Tensor, "n k"], seed: int = 0, num_iterations: int = NUM_ITERATIONS
) -> Rotation:
    """Rotate projections towards the corners of the cube: iterative quantisation.

    Minimises `|B - V R|^2` over codes `B` in {-1, +1} and rotations `R`, in turns: for given `R` the best
    codes are `sign(V R)`; for given `B`, with `V^T B = S D T^T`, the best rotation is `S T^T`.

    Args:
        projections: Onto the principal axes, `V`, centred.
        seed: Of the rotation to start from.
        num_iterations: Of both steps.

    Returns:
        The rotation, orthogonal, and the mean squared error per bit after each iteration, which never rises.

    Source:
        Gong & Lazebnik 2011, equations 2 to 4.
    """
    code_dim = projections.shape[1]
    draws = torch.randn(
        code_dim, code_dim, dtype=torch.float64, generator=generator(seed, "itq")
    ).to(projections.device)
    rotation = torch.linalg.qr(draws).Q
    errors = []
    for _ in range(num_iterations):
        codes = torch.where(projections @ rotation >= 0, 1.0, -1.0).double()
        left, _, right = torch.linalg.svd(projections.T @ codes)
        rotation = left @ right
        errors.append(float((codes - projections @ rotation).square().mean()))
    return Rotation(rotation, tuple(errors))


def _principal_axes(centered: Tensor, num_axes: int) -> Tensor:
    """Axes of largest variance, (d, k)."""
    axes: Tensor
    variances, axes = torch.linalg.eigh(centered.T @ centered / len(centered))  # rising
    rank = int((variances > RANK_TOLERANCE * variances[-1]).sum())
    if rank < num_axes:
        raise ValueError(
            f"a code of {num_axes} bits needs as many principal axes, but {len(centered)} training features of "
            f"width {centered.shape[1]} have {rank}. Ask for fewer bits, or use lsh."
        )
    return axes[:, -num_axes:].flip(1)


def _check_features(name: str, features: Tensor) -> None:
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(
            f"{name} must be (n, d) with one row or more, got {tuple(features.shape)}. Check the split."
        )
    if not features.isfinite().all():
        raise ValueError(
            f"{name} must be finite, but {int((~features.isfinite()).sum())} values are not. Was the encoder "
            "trained to the end?"
        )
