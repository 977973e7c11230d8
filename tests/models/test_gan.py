import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.models.encoder import NACEncoder
from nacgen.models.gan import BasisHead, Discriminator, Generator, RGBBranch, channels_for
from nacgen.models.transplant import fold_batch_norm, transplant

MEAN, STD = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25)


def random_images(n: int = 4, size: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def small_generator() -> Generator:
    torch.manual_seed(0)
    return Generator(image_size=16, latent_dim=5, channels=(16, 8, 8))


def small_discriminator(**options: object) -> Discriminator:
    torch.manual_seed(0)
    trunk = fold_batch_norm(NACEncoder().backbone.eval()).requires_grad_(True)
    settings = {"image_size": 16, "taps": ["layer3"]} | options
    return Discriminator(trunk, MEAN, STD, **settings)  # type: ignore[arg-type]


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
        ({"image_size": 32}, r"got 32 px with channels \(128, 64, 32\)\. 16 px need three"),
        (
            {"image_size": 32, "channels": (96, 64, 32)},
            r"got 32 px with channels \(96, 64, 32\)\. 16",
        ),
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


def test_latents_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="z must have 5 columns for this generator, got 6"):
        small_generator()(z(width=6))


def test_a_head_weighs_every_pixel_of_its_map() -> None:
    torch.manual_seed(0)
    head, maps = BasisHead(6, 4), torch.randn(3, 6, 4, 4).requires_grad_()
    logits = head(maps)
    assert logits.shape == (3, 1)
    # convolution, weights over pixels, linear map: the same as sums written out
    x = torch.nn.functional.leaky_relu(head.conv(maps), 0.2)
    pooled = (x * head.basis.weight[:, 0]).sum((2, 3))
    torch.testing.assert_close(logits, pooled @ head.linear.weight.T + head.linear.bias)
    logits.sum().backward()
    assert maps.grad is not None
    assert (maps.grad.abs().amax(1) > 0).all()
    assert all(gradients_of(head).values())


def test_the_rgb_branch_sees_colours() -> None:
    torch.manual_seed(0)
    branch, images = RGBBranch(16), random_images()
    images[:, 1:] = images[:, :1]  # grey, then each image in another channel alone
    tinted = [images * torch.eye(3)[channel].view(3, 1, 1) for channel in range(3)]
    with torch.no_grad():
        logits = [branch(x) for x in (images, *tinted)]
    assert logits[0].shape == (4, 1)
    for i, first in enumerate(logits):
        assert all((first - other).abs().min() > 1e-4 for other in logits[i + 1 :])
    pixels = random_images().requires_grad_()
    branch(pixels).sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad.abs().sum((2, 3)) > 0).all()
    assert all(gradients_of(branch).values())


@pytest.mark.parametrize(
    ("taps", "rgb_branch", "shape"),
    [
        (["layer3"], False, (4,)),
        (["layer3"], True, (4, 2)),
        (["stem", "layer1", "layer2", "layer3"], False, (4, 4)),
        (["stem", "layer1", "layer2", "layer3"], True, (4, 5)),
    ],
)
def test_one_logit_a_head(taps: list[str], rgb_branch: bool, shape: tuple[int, ...]) -> None:
    discriminator = small_discriminator(taps=taps, rgb_branch=rgb_branch)
    assert discriminator(random_images()).shape == shape
    assert discriminator(random_images(1)).shape == (1, *shape[1:])


def test_every_parameter_of_the_discriminator_gets_a_gradient() -> None:
    discriminator = small_discriminator(taps=["stem", "layer3"], rgb_branch=True)
    discriminator(random_images()).sum().backward()
    assert all(gradients_of(discriminator).values()), gradients_of(discriminator)


def test_a_transplanted_trunk_trains_in_full() -> None:
    module = transplant(NACEncoder(), mode="init", image_size=16).module
    assert [name for name, p in module.named_parameters() if not p.requires_grad] == []


def test_logits_of_taps_are_those_of_their_maps() -> None:
    discriminator, images = small_discriminator(taps=["layer1", "layer3"]), random_images()
    maps = discriminator.trunk(((images + 1) / 2 - 0.5) / 0.25)
    expected = [discriminator.heads[tap](maps[tap])[:, 0] for tap in ("layer1", "layer3")]
    torch.testing.assert_close(discriminator(images), torch.stack(expected, dim=1))


def test_frozen_stages_stay_and_pass_gradients_on() -> None:
    frozen = ["stem", "layer1"]
    discriminator = small_discriminator(frozen_stages=frozen, rgb_branch=True)
    before = copy.deepcopy(discriminator.state_dict())
    trainable = [p for p in discriminator.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=1e-2)
    images = random_images().requires_grad_()
    for _ in range(2):
        discriminator.train()
        discriminator(images).square().mean().backward()
        optimizer.step()
    moved = {
        name.split(".")[1] if name.startswith("trunk.") else name.split(".")[0]
        for name, value in discriminator.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved == {"layer2", "layer3", "heads", "rgb_branch"}
    stages = discriminator.trunk.stages()
    parameters = [p for s in frozen for m in stages[s] for p in m.parameters()]
    assert parameters
    assert all(p.grad is None and not p.requires_grad for p in parameters)
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_a_tap_on_a_frozen_trunk_still_trains_its_head() -> None:
    stages = ["stem", "layer1", "layer2", "layer3"]
    discriminator = small_discriminator(taps=stages, frozen_stages=stages)
    discriminator(random_images()).sum().backward()
    trained = {name.split(".")[0] for name, has in gradients_of(discriminator).items() if has}
    assert trained == {"heads"}


def test_full_precision_leaves_autocast() -> None:
    discriminator, images = small_discriminator(), random_images()
    expected = discriminator(images)
    with torch.autocast("cpu", torch.bfloat16):
        lower, full = discriminator(images), discriminator(images, full_precision=True)
    assert lower.dtype == torch.bfloat16
    assert torch.equal(full, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"taps": ["layer9"]}, "among stem, layer1, layer2, layer3, and one tap at .* got layer9"),
        ({"taps": []}, "got no tap"),
        ({"frozen_stages": ["layer3", "top"]}, "got top"),
        ({"image_size": 3}, "at least 4 px .* got 3x3"),
    ],
)
def test_discriminators_that_cannot_be_are_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        small_discriminator(**options)
