"""Rows that a network computes for many images: in batches, on its device, divided over the processes."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn

from nacgen.data.datasets import Dataset
from nacgen.data.pixels import to_float
from nacgen.system.processes import gather_parts


def extract(
    function: Callable[[Tensor], Tensor],
    dataset: Dataset,
    device: torch.device | str = "cpu",
    batch_size: int = 500,
) -> Shaped[Tensor, "n ..."]:
    """Apply a function to all images of a dataset, without gradient.

    With several processes each one computes a contiguous part, and all of them get the whole.

    The function takes float images `(b, 3, h, w)` in [-1, 1] and returns one row for each. The rows
    come in the order of the images, on the CPU. A module must be in evaluation mode.

    Example:
        >>> from nacgen.data.datasets import load_dataset
        >>> extract(lambda images: images.mean((2, 3)), load_dataset("digits", "test")).shape
        torch.Size([355, 3])
    """
    require_eval(function)
    world, rank = (dist.get_world_size(), dist.get_rank()) if _are_several() else (1, 0)
    size = -(-len(dataset) // world)
    # The last processes repeat the last image, so that all give equally many rows.
    own = torch.arange(rank * size, (rank + 1) * size).clamp_max(len(dataset) - 1)
    with torch.no_grad():
        batches = (to_float(dataset.read(indices).to(device)) for indices in own.split(batch_size))
        rows = torch.cat([function(images) for images in batches])
        return torch.cat(gather_parts(rows))[: len(dataset)].cpu()


def require_eval(function: Callable[..., object]) -> None:
    """Raise if a module, or the module that a method belongs to, is in training mode.

    In training mode the output for one image depends on the other images of the batch.
    """
    module = getattr(function, "__self__", function)
    if isinstance(module, nn.Module) and module.training:
        raise ValueError(
            f"the network must be in evaluation mode, but {type(module).__name__}.training is True. Call "
            "eval() first."
        )


def broadcast_buffers(module: nn.Module) -> None:
    """Copy the buffers of the first process to all others.

    On CPUs each process keeps BatchNorm statistics of its own part of the batches. Without this step the
    processes would measure different networks.
    """
    if _are_several():
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
