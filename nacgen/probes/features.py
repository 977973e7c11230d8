"""What a network says of many images: batched on its device, shared out over processes."""

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

    With several processes each one computes a contiguous part and all of them get the whole.

    Args:
        function: From float images `(b, 3, h, w)` in [-1, 1] to one row an image: `encoder.features`,
            `encoder.codes`, any other module or its method, in evaluation mode, or a function of one.
        dataset: Images.
        device: Where the function computes.
        batch_size: Images in one call.

    Returns:
        The rows in the order of the images, on the CPU.

    Raises:
        ValueError: The function does not give one row an image, or its module is in training mode.
    """
    require_eval(function)
    several = _are_several()
    world, rank = (dist.get_world_size(), dist.get_rank()) if several else (1, 0)
    processes = -(-len(dataset) // world)
    # The last processes repeat the last image, so that all give equally many rows.
    own = torch.arange(rank * processes, (rank + 1) * processes).clamp_max(len(dataset) - 1)
    parts = []
    with torch.no_grad():
        for indices in own.split(batch_size):
            rows = function(to_float(dataset.read(indices).to(device)))
            if len(rows) != len(indices):
                raise ValueError(
                    f"the function must give one row an image, got {tuple(rows.shape)} for {len(indices)} "
                    "images. Pool over pixels first."
                )
            parts.append(rows)
        rows = torch.cat(parts)
        if several:
            rows = torch.cat(gather_parts(rows))[: len(dataset)]
    return rows.cpu()


def require_eval(function: Callable[..., object]) -> None:
    """Raise if a module, or the one that a method belongs to, is in training mode.

    Args:
        function: A module, a method of one (`encoder.code_logits`) or any function.

    Raises:
        ValueError: It is in training mode, where what it says of an image depends on the others.
    """
    module = getattr(function, "__self__", function)
    if isinstance(module, nn.Module) and module.training:
        raise ValueError(
            f"the network must be in evaluation mode, but {type(module).__name__}.training is True. Call "
            "eval() first."
        )


def share_buffers(module: nn.Module) -> None:
    """Give every process the buffers of the first one.

    On CPUs each process keeps BatchNorm's statistics of its own share of the batches, so that without this the
    processes would measure different networks.

    Args:
        module: The same on every process but for its buffers.
    """
    if _are_several():
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
