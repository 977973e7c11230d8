"""What a network says of many images: batched on its device, shared out over processes."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from nacgen.data.augment import to_float
from nacgen.data.datasets import Dataset


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
            `encoder.codes`, or a function of any other network. A module is to be in evaluation mode.
        dataset: Images.
        device: Where the function computes.
        batch_size: Images in one call.

    Returns:
        The rows in the order of the images, on the CPU.

    Raises:
        ValueError: The function does not give one row an image.
    """
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    world, rank = (dist.get_world_size(), dist.get_rank()) if several else (1, 0)
    share = -(-len(dataset) // world)
    # The last processes repeat the last image, so that all give equally many rows.
    own = torch.arange(rank * share, (rank + 1) * share).clamp_max(len(dataset) - 1)
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
            parts = [torch.empty_like(rows) for _ in range(world)]
            dist.all_gather(parts, rows.contiguous())
            rows = torch.cat(parts)[: len(dataset)]
    return rows.cpu()
