"""The loss that aligns a denoiser's hidden states to an encoder's feature maps, and what the maps must be like.

Source:
    Yu et al. 2025, arXiv:2410.06940 (REPA); Singh et al. 2025, arXiv:2512.10794 (iREPA).
"""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce
from jaxtyping import Float
from torch import Tensor

FLOOR = 1e-3  # smallest deviation of a channel, relative to the root mean square of its map


def alignment_loss(
    projected: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """Compute one minus the cosine similarity of two feature maps, averaged over positions.

    Args:
        projected: Hidden states after the projector, one map per image.
        target: Feature maps of the clean images, same shape as `projected`.

    Returns:
        One loss per image: 0 for maps of equal directions, 2 for opposite ones, 1 where a map is 0.

    Raises:
        ValueError: If the two tensors differ in shape.

    Example:
        >>> maps = torch.randn(2, 8, 4, 4)
        >>> alignment_loss(maps, -maps)
        tensor([2., 2.])

    Source:
        Yu et al. 2025, arXiv:2410.06940, with 1 added.
    """
    if projected.shape != target.shape:
        raise ValueError(
            f"projected and target must have the same shape, got {tuple(projected.shape)} and "
            f"{tuple(target.shape)}. Bring the target to the projected map's size with resize_maps."
        )
    cosine = F.cosine_similarity(projected.float(), target.float(), dim=1)  # -> (b, h, w)
    return 1 - reduce(cosine, "b h w -> b", "mean")


def standardize_over_space(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Bring each channel of each map to mean 0 and standard deviation 1 over its positions.

    Args:
        maps: Feature maps with two positions or more.

    Returns:
        Maps of the same shape in float32. A channel that hardly varies stays near 0: its deviation counts as a
        thousandth of the map's root mean square at least, so that rounding errors are not enlarged.

    Example:
        >>> standardize_over_space(torch.tensor([[[[1.0, 3.0]], [[5.0, 5.0]]]])).flatten()
        tensor([-1.,  1.,  0.,  0.])

    Source:
        Singh et al. 2025, arXiv:2512.10794, with the whole mean subtracted.
        Differs from the paper: the floor, for maps after a ReLU have constant channels.
    """
    maps = maps.float()
    centered = maps - reduce(maps, "b c h w -> b c 1 1", "mean")
    variance = reduce(centered.square(), "b c h w -> b c 1 1", "mean")
    floor = FLOOR**2 * reduce(maps.square(), "b c h w -> b 1 1 1", "mean")
    smallest = torch.finfo(variance.dtype).tiny  # maps of zeros stay zeros
    return centered * torch.rsqrt(torch.maximum(variance, floor).clamp_min(smallest))


def resize_maps(
    maps: Float[Tensor, "b c h w"], height: int, width: int
) -> Float[Tensor, "b c i j"]:
    """Resize feature maps: average over areas where they shrink, interpolate linearly where they grow.

    Example:
        >>> resize_maps(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]), 1, 1)
        tensor([[[[4.]]]])
    """
    if maps.shape[-2] >= height and maps.shape[-1] >= width:
        return F.adaptive_avg_pool2d(maps, (height, width))
    return F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)


def spatial_structure(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Compute how much more alike near positions of a feature map are than distant ones (LDS of iREPA).

    It is the mean cosine similarity of pairs of positions nearer to each other than half of the longer side, minus
    that of all other pairs. Distances are sums of rows and columns between the two; no position is its own pair.

    Args:
        maps: Feature maps of three rows or columns at least.

    Returns:
        One difference per image, from -2 to 2; 0 where all positions are alike.

    Raises:
        ValueError: If maps are smaller, so that no pair is near.

    Example:
        >>> spatial_structure(torch.tensor([[[[1.0, 1.0, -1.0, -1.0]]]]))  # 1/3 of near pairs, -1 of others
        tensor([1.3333])

    Source:
        After Singh et al. 2025, arXiv:2512.10794, who find that it predicts the gain of alignment, where accuracy
        does not. The distance that tells near from far is ours.
    """
    height, width = maps.shape[-2:]
    if max(height, width) < 3:
        raise ValueError(
            f"maps must have three rows or columns or more, got {height}x{width}. Take an earlier stage."
        )
    vectors = F.normalize(rearrange(maps.float(), "b c h w -> b (h w) c"), dim=2)
    similarity = einsum(vectors, vectors, "b i c, b j c -> b i j")
    rows, columns = torch.arange(height), torch.arange(width)
    places = torch.cartesian_prod(rows, columns).to(maps.device)  # -> (h w, 2)
    distance = (places[:, None] - places[None]).abs().sum(2)
    near = (distance < max(height, width) / 2) & (distance > 0)
    far = distance >= max(height, width) / 2
    return similarity[:, near].mean(1) - similarity[:, far].mean(1)
