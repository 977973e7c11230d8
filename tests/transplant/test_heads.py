import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nacgen.transplant.heads import (
    HEADS,
    BasisHead,
    DownsamplingHead,
    LinearHead,
    RandomMixing,
    RGBBranch,
)


def maps(size: int, channels: int = 6, n: int = 3, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, size, size, generator=draw)


def has_gradients(module: nn.Module) -> bool:
    return all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_a_basis_head_weighs_every_pixel_of_its_map() -> None:
    torch.manual_seed(0)
    head, x = BasisHead(6, 4), maps(4).requires_grad_()
    logits = head(x)
    assert logits.shape == (3, 1)
    # convolution, weights over pixels, linear map: the same as sums written out
    y = F.leaky_relu(head.conv(x), 0.2)
    pooled = (y * head.basis.weight[:, 0]).sum((2, 3))
    torch.testing.assert_close(logits, pooled @ head.linear.weight.T + head.linear.bias)
    logits.sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().amax(1) > 0).all()


def test_a_linear_head_is_linear_in_the_mean_over_pixels() -> None:
    head, x = LinearHead(6, 4), maps(4)
    expected = x.mean((2, 3)) @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(x), expected)


@pytest.mark.parametrize(("size", "strides"), [(1, 0), (2, 0), (4, 0), (7, 1), (8, 1), (32, 3)])
def test_a_downsampling_head_halves_down_to_four_pixels(size: int, strides: int) -> None:
    head = DownsamplingHead(6, size)
    assert sum(isinstance(layer, nn.Conv2d) for layer in head.layers) == strides
    assert head.conv.kernel_size[0] <= 4
    assert head(maps(size)).shape == (3, 1)


@pytest.mark.parametrize("name", list(HEADS))
def test_every_parameter_of_a_head_trains_and_images_stay_apart(name: str) -> None:
    torch.manual_seed(0)
    head, labels = HEADS[name](6, 8, num_classes=2), torch.tensor([0, 1, 0])  # type: ignore[index]
    logits = head(maps(8), labels)
    logits.sum().backward()
    assert has_gradients(head)
    torch.testing.assert_close(head(maps(8)[1:2], labels[1:2]), logits[1:2])


@pytest.mark.parametrize("name", list(HEADS))
def test_a_class_adds_its_projection_of_the_vector(name: str) -> None:
    torch.manual_seed(0)
    head, x = HEADS[name](6, 4, num_classes=3), maps(4)  # type: ignore[index]
    labels = torch.tensor([2, 0, 2])
    assert head.embedding is not None
    added = [head.embedding.weight[y] @ v for y, v in zip(labels, head._vector(x), strict=True)]
    torch.testing.assert_close((head(x, labels) - head(x))[:, 0], torch.stack(added))
    assert (head(x, labels) - head(x)).abs().min() > 1e-4


def test_the_rgb_branch_sees_colours() -> None:
    torch.manual_seed(0)
    branch = RGBBranch()
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    images[:, 1:] = images[:, :1]  # grey, then each image in another channel alone
    tinted = [images * torch.eye(3)[channel].view(3, 1, 1) for channel in range(3)]
    with torch.no_grad():
        found = [branch(x) for x in (images, *tinted)]
    assert found[0].shape == (4, branch.out_channels, 8, 8)
    for i, first in enumerate(found):
        assert all((first - other).abs().amax((1, 2, 3)).min() > 1e-2 for other in found[i + 1 :])
    branch(images).sum().backward()
    assert has_gradients(branch)


def test_mixing_is_the_random_pyramid_and_never_trains() -> None:
    torch.manual_seed(0)
    shapes = {"a": (3, 8), "b": (5, 4), "c": (7, 4)}
    mixing = RandomMixing(shapes, channels=16)
    x = {node: maps(size, channels) for node, (channels, size) in shapes.items()}
    one, three = mixing.across_channels, mixing.across_scales
    c = three["c"](one["c"](x["c"]))
    b = three["b"]((one["b"](x["b"]) + c) / 2**0.5)
    larger = F.interpolate(b, scale_factor=2, mode="bilinear")
    expected = {"a": three["a"]((one["a"](x["a"]) + larger) / 2**0.5), "b": b, "c": c}
    mixed = mixing(x)
    assert set(mixed) == set(expected)
    for node in expected:
        torch.testing.assert_close(mixed[node], expected[node])
    assert not any(p.requires_grad for p in mixing.parameters())


def test_mixing_keeps_the_scale_of_maps() -> None:
    torch.manual_seed(0)
    mixing = RandomMixing({"a": (64, 16), "b": (64, 16)}, channels=64)
    mixed = mixing({"a": maps(16, 64, 8), "b": maps(16, 64, 8, seed=1)})
    for x in mixed.values():
        assert 0.8 < x[:, :, 2:-2, 2:-2].std() < 1.25
