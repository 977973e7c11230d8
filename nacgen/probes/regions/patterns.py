"""Activation patterns: which ReLUs of a network are on, and how many patterns images tell apart.

A pattern names the linear region of the network that an image lies in.
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
    """How many binary patterns some images have.

    Args:
        distinct: Different patterns, at most one an image.
        effective: `1 / sum p^2` of the patterns' shares `p`, the exponential of their Rényi-2 entropy; equal
            to `distinct` when all are equally frequent.
        entropy: Of the shares, nats.
        num_images: Images that were told apart.
    """

    distinct: int
    effective: float
    entropy: float
    num_images: int


class _ReLUListener(TorchDispatchMode):
    """Shows a function the input of every ReLU that is computed."""

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
    """Run a network without gradient and show a function every ReLU's input, in order.

    Only ReLUs are seen (as modules, functions or methods, in place or not), no other non-linearity.

    Args:
        network: A module, a method of one (`encoder.code_logits`) or any function of images.
        images: What the network takes, on its device.
        visit: Called with pre-activations `(b, ...)`.

    Returns:
        The network's output.

    Raises:
        ValueError: The network is in training mode or applies no ReLU.
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
    """Count the distinct rows of a matrix of bits.

    Args:
        patterns: One row an image.

    Returns:
        Their number and their effective number.

    Raises:
        ValueError: There are no rows.
    """
    if len(patterns) == 0:
        raise ValueError("patterns must hold one row or more, got none. Give at least one image.")
    packed = np.packbits(patterns.cpu().numpy(), axis=1)
    counts = np.unique(packed.view(f"V{packed.shape[1]}"), return_counts=True)[1]
    shares = counts / counts.sum()
    return PatternCount(
        distinct=len(counts),
        effective=float(1 / np.square(shares).sum()),
        entropy=float((shares * np.log(1 / shares)).sum()),
        num_images=len(patterns),
    )


def naswot(network: Network, images: Float[Tensor, "n ..."]) -> float:
    """Log-determinant of the kernel of activation patterns, NASWOT's score of a network.

    The kernel of two images is the number of ReLUs that are equally on or off, `N - Hamming distance`. It is
    singular when two images share a pattern, or when there are more images than `N + 1`.

    Args:
        network: As `visit_relus` takes it.
        images: 128 usually; the score grows with their number and with the number of ReLUs, so that only
            equal numbers of both compare.

    Returns:
        Natural logarithm of the determinant, and `-inf`, not a number, where the kernel is singular.

    Raises:
        ValueError: As `visit_relus`, or there are fewer than two images.

    Source:
        Mellor et al. 2021, arXiv:2006.04647, section 3.
    """
    if len(images) < 2:
        raise ValueError(f"NASWOT compares two images or more, got {len(images)}. Give a batch.")
    device = images.device
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=device)

    def add_agreements(pre_activation: Tensor) -> None:
        signs = torch.where(pre_activation.flatten(1) > 0, 1.0, -1.0).double()
        kernel.add_((signs @ signs.T + signs.shape[1]) / 2)

    visit_relus(network, images, add_agreements)
    if int(torch.linalg.matrix_rank(kernel, hermitian=True)) < len(images):
        return -math.inf
    return float(torch.linalg.slogdet(kernel).logabsdet)
