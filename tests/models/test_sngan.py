"""SNGAN's networks against the paper's table, written out with plain functions."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nacgen.models.gan import Generator
from nacgen.models.sngan import SNGANDiscriminator


def random_images(n: int = 3) -> Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def normalized(layer: nn.Module) -> Tensor:
    """A layer's weight over its largest singular value, by a singular value decomposition."""
    weight = layer.parametrizations.weight.original  # type: ignore[union-attr]
    assert isinstance(weight, Tensor)
    return weight / torch.linalg.matrix_norm(weight.flatten(1), 2)


def conv(x: Tensor, layer: nn.Module) -> Tensor:
    weight = normalized(layer)
    bias = layer.bias
    assert isinstance(bias, Tensor)
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


def test_the_discriminator_is_the_table_of_the_paper() -> None:
    torch.manual_seed(0)
    discriminator = SNGANDiscriminator(channels=6, num_classes=4)
    images, labels = random_images(), torch.tensor([0, 3, 3])
    for _ in range(200):  # power iterations
        discriminator(images, labels)
    discriminator.eval()
    first, second, third, fourth = discriminator.blocks
    x = conv(F.relu(conv(images, first.conv1)), first.conv2)
    x = F.avg_pool2d(x, 2) + conv(F.avg_pool2d(images, 2), first.shortcut)
    residual = conv(F.relu(conv(F.relu(x), second.conv1)), second.conv2)
    x = F.avg_pool2d(residual + conv(x, second.shortcut), 2)
    for block in (third, fourth):
        x = x + conv(F.relu(conv(F.relu(x), block.conv1)), block.conv2)
    assert x.shape == (3, 6, 8, 8)
    features = F.relu(x).sum((2, 3))
    expected = features @ normalized(discriminator.linear)[0] + discriminator.linear.bias
    assert discriminator.embedding is not None
    expected = expected + (normalized(discriminator.embedding)[labels] * features).sum(1)
    torch.testing.assert_close(discriminator(images, labels), expected, rtol=1e-3, atol=1e-3)


def test_sizes_are_those_of_the_paper() -> None:
    generator = Generator(32, 128, (256, 256, 256, 256), block="sngan")
    count = sum(p.numel() for p in generator.parameters())
    # linear, three blocks of two 3x3 and a 1x1 with four vectors of BatchNorm, the last BatchNorm, 3x3 to RGB
    block = 2 * (256 * 256 * 9 + 256) + 256 * 256 + 256 + 4 * 256
    assert count == 129 * 4096 + 3 * block + 2 * 256 + 256 * 3 * 9 + 3
    assert generator.eval()(torch.zeros(1, 128)).shape == (1, 3, 32, 32)


def test_every_parameter_gets_a_gradient_through_the_penalty() -> None:
    discriminator = SNGANDiscriminator(channels=4)
    images = random_images().requires_grad_()
    logits = discriminator(images)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    (logits.mean() + gradient.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in discriminator.parameters())


def test_labels_are_given_exactly_where_there_are_classes() -> None:
    with pytest.raises(ValueError, match="got none for num_classes 4"):
        SNGANDiscriminator(4, num_classes=4)(random_images())
    with pytest.raises(ValueError, match="got 3 for num_classes None"):
        SNGANDiscriminator(4)(random_images(), torch.zeros(3, dtype=torch.long))
