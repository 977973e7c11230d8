import copy

import pytest
import torch
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.functional.gan import squared_gradient_norm
from nacgen.models.encoder import NACEncoder
from nacgen.transplant.discriminator import Discriminator
from nacgen.transplant.trunk import Trunk, fold_batch_norm

MEAN, STD = torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25)
STAGES = ["stem", "layer1", "layer2", "layer3"]


def random_images(n: int = 4, size: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def small_discriminator(num_frozen: int = 0, **options: object) -> Discriminator:
    torch.manual_seed(0)
    trunk = Trunk(fold_batch_norm(NACEncoder().backbone.eval()), MEAN, STD, num_frozen)
    return Discriminator(trunk, **{"image_size": 16} | options)  # type: ignore[arg-type]


def gradients_of(module: nn.Module) -> dict[str, bool]:
    """Whether each parameter has a gradient that is not zero."""
    return {
        name: p.grad is not None and bool(p.grad.abs().sum() > 0)
        for name, p in module.named_parameters()
    }


@pytest.mark.parametrize(
    ("return_nodes", "rgb_branch", "shape"),
    [
        (None, False, (4,)),
        (["layer3"], True, (4, 2)),
        (STAGES, False, (4, 4)),
        (STAGES, True, (4, 5)),
    ],
)
@pytest.mark.parametrize("head", ["linear", "basis", "projected"])
def test_one_logit_a_head(
    return_nodes: list[str] | None, rgb_branch: bool, shape: tuple[int, ...], head: str
) -> None:
    discriminator = small_discriminator(return_nodes=return_nodes, rgb_branch=rgb_branch, head=head)
    assert discriminator(random_images()).shape == shape
    assert discriminator(random_images(1)).shape == (1, *shape[1:])


def test_every_parameter_gets_a_gradient() -> None:
    discriminator = small_discriminator(return_nodes=["stem", "layer3"], rgb_branch=True)
    discriminator(random_images()).sum().backward()
    assert all(gradients_of(discriminator).values()), gradients_of(discriminator)


def test_logits_of_stages_are_those_of_their_maps() -> None:
    discriminator, images = small_discriminator(return_nodes=["layer3", "layer1"]), random_images()
    maps = discriminator.trunk.backbone(((images + 1) / 2 - 0.5) / 0.25)
    expected = [discriminator.heads[node](maps[node])[:, 0] for node in ("layer1", "layer3")]
    torch.testing.assert_close(discriminator(images), torch.stack(expected, dim=1))


def test_labels_reach_every_head() -> None:
    discriminator = small_discriminator(return_nodes=STAGES, rgb_branch=True, num_classes=2)
    images = random_images()
    first, second = (discriminator(images, torch.full((4,), label)) for label in (0, 1))
    assert ((first - second).abs() > 1e-5).all()


def test_labels_are_given_exactly_where_there_are_classes() -> None:
    with pytest.raises(ValueError, match="got none for num_classes 3"):
        small_discriminator(num_classes=3)(random_images())
    with pytest.raises(ValueError, match="got 4 for num_classes None"):
        small_discriminator()(random_images(), torch.zeros(4, dtype=torch.long))


def test_projected_heads_see_each_others_maps_through_fixed_weights() -> None:
    """A smaller map reaches the heads of larger ones, not the other way round."""
    discriminator = small_discriminator(4, return_nodes=STAGES, head="projected")
    assert discriminator.mixing is not None
    assert not any(p.requires_grad for p in discriminator.mixing.parameters())
    maps = {k: v.detach() for k, v in discriminator.trunk(random_images()).items()}
    mixed = discriminator.mixing(maps)
    changed = discriminator.mixing(maps | {"layer2": maps["layer2"] + 1})
    reached = {node: not torch.equal(mixed[node], changed[node]) for node in STAGES}
    assert reached == {"stem": True, "layer1": True, "layer2": True, "layer3": False}


def test_frozen_stages_stay_and_pass_gradients_on() -> None:
    discriminator = small_discriminator(2, rgb_branch=True)
    before = copy.deepcopy(discriminator.state_dict())
    trainable = [p for p in discriminator.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=1e-2)
    images = random_images().requires_grad_()
    for _ in range(2):
        discriminator.train()
        discriminator(images).square().mean().backward()
        optimizer.step()
    moved = {
        name.split(".")[2] if name.startswith("trunk.backbone.") else name.split(".")[0]
        for name, value in discriminator.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved == {"layer2", "layer3", "heads", "rgb_branch"}
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_a_frozen_trunk_still_trains_its_heads() -> None:
    discriminator = small_discriminator(4, return_nodes=STAGES)
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


def test_penalties_are_those_of_each_image_alone() -> None:
    discriminator, images = small_discriminator(), random_images().requires_grad_()
    together = squared_gradient_norm(discriminator(images), images)
    for i in range(len(images)):
        alone = images[i : i + 1].detach().requires_grad_()
        norm = squared_gradient_norm(discriminator(alone), alone)
        torch.testing.assert_close(norm[0], together[i], rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"return_nodes": ["layer9"]},
            "among stem, layer1, layer2, layer3, and one at .* got layer9",
        ),
        ({"return_nodes": []}, "got no stage"),
        ({"image_size": 3}, "at least 4 px .* got 3x3"),
        ({"num_classes": 0}, "num_classes must be one or more, .* got 0"),
    ],
)
def test_discriminators_that_cannot_be_are_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        small_discriminator(**options)  # type: ignore[arg-type]


def test_stages_that_nothing_reads_do_not_train() -> None:
    """They would get no gradient, and several processes would wait for it."""
    discriminator = small_discriminator(return_nodes=["stem", "layer1"])
    discriminator(random_images()).sum().backward()
    trained = {name for name, p in discriminator.named_parameters() if p.requires_grad}
    assert trained == {name for name, has_any in gradients_of(discriminator).items() if has_any}
    assert any("layer1" in name for name in trained)
    assert not any("layer2" in name for name in trained)
