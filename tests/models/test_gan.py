from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.models.gan import Generator, channels_for


def random_images(n: int = 4, size: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def small_generator() -> Generator:
    torch.manual_seed(0)
    return Generator(image_size=16, latent_dim=5, channels=(16, 8, 8))


def z(n: int = 4, width: int = 5) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(0))


def gradients_of(module: nn.Module) -> dict[str, bool]:
    """Whether each parameter has a gradient that is not zero."""
    return {
        name: p.grad is not None and bool(p.grad.abs().sum() > 0)
        for name, p in module.named_parameters()
    }


@pytest.mark.parametrize(("size", "channels"), [(8, (8, 8)), (16, (16, 8, 8)), (32, [8] * 4)])
def test_generated_images_have_the_size_and_range_of_images(
    size: int, channels: tuple[int, ...]
) -> None:
    images = Generator(size, 5, channels)(z())
    assert images.shape == (4, 3, size, size)
    assert images.abs().max() <= 1
    assert images.std() > 0


def test_each_image_depends_on_its_own_latent_alone() -> None:
    generator = small_generator()
    with torch.no_grad():
        assert torch.allclose(generator(z())[1:2], generator(z()[1:2]), atol=1e-6)
        assert not torch.allclose(generator(z())[0], generator(z())[1], atol=1e-2)
    assert not list(generator.buffers())


def test_every_parameter_of_the_generator_gets_a_gradient() -> None:
    generator = small_generator()
    (generator(z()) * random_images()).sum().backward()
    assert all(gradients_of(generator).values()), gradients_of(generator)


def test_a_saved_generator_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    generator = small_generator()
    generator.save_pretrained(tmp_path / "generator")
    loaded = Generator.from_pretrained(tmp_path / "generator")
    assert (loaded.image_size, loaded.latent_dim) == (16, 5)
    with torch.no_grad():
        assert torch.equal(loaded(z()), generator(z()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 32}, r"got 32 px with channels \(96, 64, 32\)\. 16 px need three"),
        ({"image_size": 4, "channels": (8,)}, r"got 4 px with channels \(8,\)"),
        ({"image_size": 8, "channels": (12, 8)}, r"multiples of 8, got \(12, 8\)"),
        ({"image_size": 8, "channels": (8, 0)}, r"multiples of 8, got \(8, 0\)"),
        ({"latent_dim": 0}, "latent_dim must be one or more, got 0"),
    ],
)
def test_generators_that_cannot_be_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Generator(**options)  # type: ignore[arg-type]


def test_channels_follow_the_size_of_the_images() -> None:
    assert channels_for(16) == (96, 64, 32)
    assert channels_for(8) == (64, 32)
    for size in (8, 16, 32, 64):
        images = Generator(size, 4, channels_for(size))(torch.zeros(1, 4))
        assert images.shape == (1, 3, size, size)


@pytest.mark.parametrize(("size", "nearest"), [(4, 8), (2, 8), (28, 16), (48, 32), (250, 128)])
def test_sizes_that_no_doubling_reaches_are_refused(size: int, nearest: int) -> None:
    message = rf"\(8, 16, 32, …\) for a generator, got {size}\. Add --data\.image-size {nearest}\."
    with pytest.raises(ConfigurationError, match=message):
        channels_for(size)


def test_a_generator_with_classes_gives_each_its_own_images() -> None:
    torch.manual_seed(0)
    generator = Generator(16, 5, (16, 8, 8), num_classes=3)
    labels = torch.tensor([0, 1, 2, 1])
    with torch.no_grad():
        same_latent = generator(z(1).expand(4, -1), labels)
    assert torch.allclose(same_latent[1], same_latent[3], atol=1e-6)
    for other in (same_latent[0], same_latent[2]):
        assert not torch.allclose(same_latent[1], other, atol=1e-2)
    generator(z(), labels).square().mean().backward()
    assert all(gradients_of(generator).values())


def test_classes_are_given_exactly_where_a_generator_has_them(as_users_run_it: None) -> None:
    with pytest.raises(ValueError, match="got none for num_classes 3"):
        Generator(8, 5, (8, 8), num_classes=3)(z())
    with pytest.raises(ValueError, match="got 4 for num_classes None"):
        Generator(8, 5, (8, 8))(z(), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ConfigurationError, match="one or more, or None, got 0"):
        Generator(8, 5, (8, 8), num_classes=0)
    with pytest.raises(ConfigurationError, match="one of small, sngan, got 'big'"):
        Generator(8, 5, (8, 8), block="big")  # type: ignore[arg-type]


@pytest.mark.parametrize("block", ["small", "sngan"])
def test_every_kind_of_generator_is_saved_and_loaded_bit_for_bit(
    block: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    generator = Generator(8, 5, (16, 8), num_classes=3, block=block)  # type: ignore[arg-type]
    labels = torch.tensor([0, 1, 2, 1])
    generator(z(), labels)  # moves BatchNorm
    generator.eval().save_pretrained(tmp_path / "generator")
    loaded = Generator.from_pretrained(tmp_path / "generator")
    assert torch.equal(loaded(z(), labels), generator(z(), labels))
    alone = generator(z()[1:2], labels[1:2])  # in evaluation mode, BatchNorm or not
    assert torch.allclose(alone[0], generator(z(), labels)[1], atol=1e-6)
