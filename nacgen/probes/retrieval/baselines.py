"""Binary codes of given features by classical methods, as baselines for learned codes.

Source:
    Charikar 2002, "Similarity estimation techniques from rounding algorithms" (LSH); Gong & Lazebnik 2011,
    "Iterative quantization" (CVPR), whose baseline PCA-sign is.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from nacgen.probes.labeled import check_finite
from nacgen.system.randomness import generator

BaselineMethod = Literal["lsh", "pca", "itq"]

NUM_ITERATIONS = 50  # of ITQ, as in its paper
RANK_TOLERANCE = 1e-10  # of a variance, relative to the largest


def baseline_codes(
    train_features: Float[Tensor, "n d"],
    features: Float[Tensor, "m d"],
    code_dim: int,
    method: BaselineMethod,
    seed: int = 0,
) -> Bool[Tensor, "m k"]:
    """Compute codes of features by a method that is fitted to training features.

    All methods subtract the training mean and take the signs of projections. `"lsh"` uses Gaussian
    directions, `"pca"` the principal axes, `"itq"` the principal axes after a rotation that brings the
    projections near the corners of the cube.

    The training features must not be the queries, and need a rank of `code_dim` for `"pca"` and `"itq"`. A
    projection of exactly zero counts as +1.
    """
    check_finite("features", features)
    train = train_features.double()
    mean = train.mean(0)
    if method == "lsh":
        directions = torch.randn(
            train.shape[1], code_dim, dtype=torch.float64, generator=generator(seed, "lsh")
        ).to(train.device)
    else:
        directions = _principal_axes(train - mean, code_dim)
        if method == "itq":
            directions = directions @ fit_rotation((train - mean) @ directions, seed)
    return (features.double() - mean) @ directions >= 0


def fit_rotation(projections: Float64[Tensor, "n k"], seed: int = 0) -> Float64[Tensor, "k k"]:
    """Rotate projections towards the corners of the cube: iterative quantization.

    Minimizes `|B - V R|^2` over codes `B` in {-1, +1} and rotations `R`, in turns: for given `R` the best
    codes are `sign(V R)`; for given `B`, with `V^T B = S D T^T`, the best rotation is `S T^T`. No iteration
    raises the error.

    Source:
        Gong & Lazebnik 2011, equations 2 to 4.
    """
    code_dim = projections.shape[1]
    draws = torch.randn(code_dim, code_dim, dtype=torch.float64, generator=generator(seed, "itq"))
    rotation: Tensor = torch.linalg.qr(draws.to(projections.device)).Q
    for _ in range(NUM_ITERATIONS):
        codes = torch.where(projections @ rotation >= 0, 1.0, -1.0).double()
        left, _, right = torch.linalg.svd(projections.T @ codes)
        rotation = left @ right
    return rotation


def _principal_axes(centered: Tensor, num_axes: int) -> Tensor:
    """Return the axes of largest variance, (d, k)."""
    axes: Tensor
    variances, axes = torch.linalg.eigh(centered.T @ centered / len(centered))  # rising
    rank = int((variances > RANK_TOLERANCE * variances[-1]).sum())
    if rank < num_axes:
        raise ValueError(
            f"a code of {num_axes} bits needs as many principal axes, but {len(centered)} training features of "
            f"width {centered.shape[1]} have {rank}. Ask for fewer bits, or use lsh."
        )
    return axes[:, -num_axes:].flip(1)
