"""Activation patterns: the set of ReLUs that are on, their number over many images, and NASWOT.

A pattern identifies the linear region of the network that an image lies in.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nacgen.probes.features import require_eval

Network = Callable[[Tensor], Any]
RELUS = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)


@dataclass(frozen=True)
class PatternCount:
    """Number of different binary patterns of `num_images` images.

    With frequencies `p` of the patterns, `effective` is `1 / sum p^2`, the exponential of their Rényi-2 entropy.
    It equals `distinct` when all are equally frequent. `entropy` is Shannon's, in nats.
    """

    distinct: int
    effective: float
    entropy: float
    num_images: int


class _ReLUListener(TorchDispatchMode):
    """A dispatch mode that calls a function with the input of every ReLU."""

    def __init__(self, visit: Callable[[Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.visit, self.num_relus = visit, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in RELUS:
            self.num_relus += 1
            self.visit(args[0])
        return func(*args, **(kwargs or {}))


def visit_relus(
    network: Network, images: Float[Tensor, "b ..."], visit: Callable[[Tensor], None]
) -> Any:
    """Run a network without gradient and call a function with the input of every ReLU, in order.

    ReLUs are found as modules, functions or methods, in place or not; other non-linearities are not. Raises a
    ValueError if the network is in training mode or applies no ReLU.
    """
    require_eval(network)
    listener = _ReLUListener(visit)
    with torch.no_grad(), listener:
        output = network(images)
    if listener.num_relus == 0:
        raise ValueError(
            "the network must apply at least one ReLU, got none. Give the whole network, not a linear head."
        )
    return output


def count_patterns(patterns: Bool[Tensor, "n u"]) -> PatternCount:
    """Count the distinct rows of a matrix of bits, one row for each image."""
    packed = np.packbits(patterns.cpu().numpy(), axis=1)
    counts = np.unique(packed.view(f"V{packed.shape[1]}"), return_counts=True)[1]
    frequencies = counts / counts.sum()
    return PatternCount(
        distinct=len(counts),
        effective=float(1 / np.square(frequencies).sum()),
        entropy=float((frequencies * np.log(1 / frequencies)).sum()),
        num_images=len(patterns),
    )


def naswot(network: Network, images: Float[Tensor, "n ..."]) -> float:
    """Compute NASWOT's score, the log-determinant of the kernel of activation patterns; `-inf` if singular.

    The kernel of two images is the number of ReLUs that are on for both or off for both, `N - Hamming
    distance`. It is singular if two images have the same pattern, or if there are more than `N + 1` images. The
    score grows with the numbers of images and ReLUs: compare scores of equal numbers only.

    Source:
        Mellor et al. 2021, arXiv:2006.04647, section 3.
    """
    device = images.device
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=device)

    def add_agreements(pre_activation: Tensor) -> None:
        signs = torch.where(pre_activation.flatten(1) > 0, 1.0, -1.0).double()
        kernel.add_((signs @ signs.T + signs.shape[1]) / 2)

    visit_relus(network, images, add_agreements)
    if int(torch.linalg.matrix_rank(kernel, hermitian=True)) < len(images):
        return -math.inf
    return float(torch.linalg.slogdet(kernel).logabsdet)
