"""Alignment in training loops: models of diffusers, accelerate's wrapping, several processes, a compiler."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.models.encoder import NACEncoder
from nacgen.transplant.transplant import transplant
from tests.launch import found_by_two_processes
from tests.transplant.conftest import eager, images
from tests.transplant.test_alignment import Denoiser


def unet() -> Any:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def transformer() -> Any:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=3,
        num_layers=2,
        sample_size=16,
        patch_size=2,
        norm_num_groups=1,
        num_embeds_ada_norm=10,
    )


def small() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser().eval()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(count: int = 4) -> tuple[Tensor, Tensor]:
    """Noisy images and times, as a flow has them: `x_t = (1 - t) x + t eps`."""
    time = torch.linspace(0.1, 0.9, count)
    mix = time[:, None, None, None]
    return (1 - mix) * images(count) + mix * draw(count, 3, 16, 16), 1000 * time


def train(model: nn.Module, alignment: nn.Module, labels: Any = ()) -> list[float]:
    """Minimize the alignment alone in a few steps, and return its means."""
    optimizer = torch.optim.Adam([*model.parameters(), *alignment.parameters()], lr=0.01)
    losses = []
    for _ in range(25):
        model(*inputs(), *labels)
        loss = alignment(images(4)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("layer", ["mid_block", "down_blocks.0", "up_blocks.0"])
def test_a_unet_of_diffusers_learns_the_target(encoder: NACEncoder, layer: str) -> None:
    model = unet()
    alignment = transplant(encoder, "alignment", model=model, layer=layer, image_size=16).module
    losses = train(model, alignment)
    assert losses[-1] < 0.7 * losses[0]


def test_a_transformer_of_diffusers_learns_the_target(encoder: NACEncoder) -> None:
    model, labels = transformer(), (torch.arange(4),)
    options: dict[str, Any] = {"model": model, "layer": "transformer_blocks.1", "image_size": 16}
    with pytest.raises(ConfigurationError, match="DiTTransformer2DModel fails with TypeError"):
        transplant(encoder, "alignment", **options)  # it needs classes
    options["example_inputs"] = (*inputs(), *labels)
    alignment = transplant(encoder, "alignment", **options).module
    assert alignment.grid == (8, 8)
    losses = train(model, alignment, labels)
    assert losses[-1] < 0.7 * losses[0]


def test_the_loss_trains_the_denoiser_beside_its_own(encoder: NACEncoder) -> None:
    """Exactly: the gradient of the sum is the sum of the gradients."""
    model = unet()
    alignment = transplant(
        encoder, "alignment", model=model, layer="mid_block", image_size=16
    ).module
    gradients = []
    for own, weight in ((1, 0.5), (1, 0), (0, 0.5)):
        model.zero_grad()
        flow = model(*inputs()).sample.square().mean((1, 2, 3))
        (own * flow + weight * alignment(images(4))).mean().backward()
        gradients.append(model.conv_in.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1] + gradients[2])
    assert gradients[2].norm() > 0


@pytest.mark.parametrize("layer", ["mid_block", "mid_block.resnets.1", "mid_block.resnets.1.conv1"])
def test_gradient_checkpointing_changes_no_gradient(encoder: NACEncoder, layer: str) -> None:
    """The last layer is computed again in the backward pass, whose output serves no call."""
    found = []
    for is_checkpointed in (False, True):
        model = unet().train()
        part = transplant(encoder, "alignment", model=model, layer=layer, image_size=16)
        if is_checkpointed:
            model.enable_gradient_checkpointing()
        for _ in range(2):
            model.zero_grad()
            model(*inputs())
            part.module(images(4)).mean().backward()
            with pytest.raises(RuntimeError, match="has given nothing since the last one"):
                part.module(images(4))
        found.append(model.conv_in.weight.grad)
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
@pytest.mark.parametrize("transplanted_first", [True, False])
def test_accelerate_may_wrap_the_model_before_or_after(
    encoder: NACEncoder, mixed_precision: str, transplanted_first: bool
) -> None:
    accelerator = Accelerator(cpu=True, mixed_precision=mixed_precision)
    model, options = unet(), {"layer": "mid_block", "image_size": 16}
    own = model
    if not transplanted_first:
        model = accelerator.prepare(model)
    alignment = transplant(encoder, "alignment", model=model, **options).module
    if transplanted_first:
        model = accelerator.prepare(model)
    optimizer = torch.optim.SGD([*model.parameters(), *alignment.parameters()], lr=0.1)
    alignment, optimizer = accelerator.prepare(alignment, optimizer)
    before = own.conv_in.weight.detach().clone()
    model(*inputs())
    loss = alignment(images(4))
    assert loss.dtype == torch.float32
    accelerator.backward(loss.mean())
    optimizer.step()
    assert not torch.equal(own.conv_in.weight, before)
    assert all(p.grad is not None for p in alignment.parameters())
    assert set(accelerator.unwrap_model(alignment).state_dict()) == {
        "projector.0.weight",
        "projector.0.bias",
    }


@pytest.mark.slow
@pytest.mark.parametrize("fullgraph", [False, True])
def test_a_compiled_model_gives_the_gradients_of_the_eager_one(
    encoder: NACEncoder, fullgraph: bool
) -> None:
    torch.compiler.reset()
    found = []
    for is_compiled in (False, True):
        own = model = small()
        if is_compiled:
            model = torch.compile(own, backend="aot_eager", fullgraph=fullgraph)
        part = transplant(encoder, "alignment", model=model, layer="middle", image_size=16)
        model(*inputs())
        part.module(images(4)).mean().backward()
        found.append(own.down.weight.grad)
    torch.testing.assert_close(found[1], found[0])


def test_a_model_compiled_and_called_before_keeps_no_hook_and_says_so(encoder: NACEncoder) -> None:
    torch.compiler.reset()
    model = eager(small())
    model(*inputs())
    part = transplant(encoder, "alignment", model=model, layer="middle", image_size=16)
    model(*inputs())
    with pytest.raises(
        RuntimeError, match=r"called before the transplant, call torch\.compiler\.r"
    ):
        part.module(images(4))
    torch.compiler.reset()
    model(*inputs())
    assert part.module(images(4)).shape == (4,)


def gradients() -> dict[str, list[float]]:
    """Gradients of a flow's loss and an alignment's, of four images in all processes together."""
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    encoder, model = NACEncoder(code_dim=16).eval(), unet()
    part = transplant(encoder, "alignment", model=model, layer="up_blocks.0", image_size=16)
    wrapped, alignment = accelerator.prepare(model, part.module)
    count = 4 // accelerator.num_processes
    mine = slice(accelerator.process_index * count, (accelerator.process_index + 1) * count)
    noisy, time = inputs()
    velocity = wrapped(noisy[mine], time[mine]).sample
    flow = (velocity - draw(4, 3, 16, 16, seed=1)[mine]).square().mean((1, 2, 3))
    accelerator.backward((flow + 0.5 * alignment(images(4)[mine])).mean())
    return {
        name: torch.cat(
            [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        ).tolist()
        for name, module in (("denoiser", model), ("projector", part.module))
    }


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    two = found_by_two_processes(tmp_path, "tests.transplant.test_alignment_in_loops")
    for name, expected in gradients().items():
        a, b = torch.tensor(two[name]), torch.tensor(expected)
        assert b.norm() > 0.01
        assert (a - b).norm() <= 1e-6 * b.norm(), name
