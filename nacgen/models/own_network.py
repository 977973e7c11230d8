"""Networks of a user's own: a copy of one that was handed over, or a new one from a function; and own trunks."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nacgen.errors import ConfigurationError
from nacgen.models.backbones import WholeBackbone
from nacgen.system.own_parts import call_with_known, find_part
from nacgen.system.randomness import seeded

M = TypeVar("M", bound=nn.Module)
PROBE_SIZES = (32, 64, 224, 16)  # pixels


def own_network(option: str, part: Any, seed: int = 0, **known: Any) -> nn.Module:
    """Return a copy of a module, or what a function or class makes of those of some keywords that it takes.

    `package.module:function` stands for what it names.

    Functions are called with torch's global generator seeded by `seed`, so that each seed has its own weights.
    """
    part = find_part(option, part) if isinstance(part, str) else part
    if isinstance(part, nn.Module):
        if any(map(is_lazy, (*part.parameters(), *part.buffers()))):
            raise ConfigurationError(
                f"{option} must have all of its weights, got a {type(part).__name__} with lazy layers that were "
                "never called. Call it once, or hand over a function that makes it."
            )
        return copied(option, part, "Hand over a function or class that makes it.")
    with seeded(seed, option):
        network = call_with_known(part, **known)
    if not isinstance(network, nn.Module):
        raise ConfigurationError(
            f"{option} must be a torch module, or a function or class that makes one, got {network!r:.100}."
        )
    return network


def own_augmentation(part: Any, device: torch.device) -> Any:
    """Return a function that augments as it is, and a copy of a module on the device, without gradients."""
    if not isinstance(part, nn.Module):
        return part
    return own_network("augment", part).requires_grad_(False).to(device)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation for a block; then each of its modules has the mode that it had."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def copied(name: str, module: M, advice: str) -> M:
    """Copy a module that is to be left as it is; `advice` is for one that cannot be copied."""
    try:
        return copy.deepcopy(module)
    except Exception as error:  # of a lock, an open file or a computed weight in it
        raise ConfigurationError(
            f"{name} must be such that copy.deepcopy copies it, got a {type(module).__name__} where it fails "
            f"({type(error).__name__}: {error!s:.200}). {advice}"
        ) from error


class OwnBackbone(WholeBackbone):
    """A trunk of the user's own: features `(b, d)`, a feature map `(b, c, h, w)`, or several by name or in order.

    Args:
        network: Module that is called with normalized images; it is held, not copied.
        stages: Names and channels of its maps in order, as a saved encoder has them. None: those that it gives
            for images of 32, 64, 224 or 16 px, of the first size that it takes.
    """

    kind = "a trunk of your own"

    def __init__(
        self, network: nn.Module, stages: Sequence[Sequence[str | int]] | None = None
    ) -> None:
        channels = _probe(network) if stages is None else {str(k): int(n) for k, n in stages}
        super().__init__(channels, total_stride=1)
        self.network = network

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b ..."]]:
        """Return the maps of normalized images by name; features are a map of one pixel."""
        return _as_maps(self.network(images))


def _as_maps(answer: Any) -> dict[str, Tensor]:
    if isinstance(answer, Tensor):
        answer = {"features": answer}
    elif isinstance(answer, list | tuple):
        answer = {f"layer{i}": x for i, x in enumerate(answer)}
    if not isinstance(answer, Mapping) or not answer:
        raise ConfigurationError(
            f"a backbone must give features (b, d), feature maps (b, c, h, w), or a mapping or list of them, got "
            f"a {type(answer).__name__}. Wrap it in a module that does."
        )
    maps = {}
    for name, x in answer.items():
        if not isinstance(x, Tensor) or x.ndim not in (2, 4):
            came = tuple(x.shape) if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise ConfigurationError(
                f"a backbone must give features (b, d) or maps (b, c, h, w), got {came} for {name}. Pool or "
                "reshape it there."
            )
        maps[str(name)] = x if x.ndim == 4 else x[:, :, None, None]  # (b, d) -> (b, d, 1, 1)
    return maps


def _probe(network: nn.Module) -> dict[str, int]:
    """Return the channels of a network's maps."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    faults = []
    for size in PROBE_SIZES:
        try:
            with torch.no_grad(), evaluating(network):
                answer = network(torch.zeros(2, 3, size, size, device=device))
        except Exception as error:  # of any layer
            faults.append(f"{size} px: {type(error).__name__}: {error!s:.100}")
            continue
        return {name: x.shape[1] for name, x in _as_maps(answer).items()}
    raise ConfigurationError(
        f"a backbone must take images (b, 3, h, w) of one of the sizes {PROBE_SIZES} px, but fails with all "
        f"({'; '.join(faults)}). Wrap it in a module that resizes them."
    )
