import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nacgen.errors import ConfigurationError, DataError
from nacgen.models.encoder import NACEncoder
from nacgen.transplant.alignment import Alignment
from nacgen.transplant.hidden_state import as_map
from nacgen.transplant.transplant import transplant
from tests.transplant.conftest import eager, images


class Denoiser(nn.Module):
    """A denoiser of 0.01M parameters, `(b, 3, h, w)` and `(b,)`, with layers that give all kinds of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.time = nn.Linear(1, 8)
        self.middle = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.Dropout(0.5))
        self.norm = nn.BatchNorm2d(8)
        self.tokens = nn.Flatten(2)
        self.pair = Pair()
        self.score = nn.AdaptiveAvgPool2d(1)
        self.blocks = nn.ModuleList([nn.SiLU(), nn.SiLU()])
        self.unused = nn.SiLU()
        self.up = nn.ConvTranspose2d(8, 3, 4, stride=4)

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        x = F.silu(self.down(noisy) + self.time(time[:, None])[:, :, None, None])
        for block in self.blocks:
            x = block(x)
        x = self.norm(self.middle(x))
        self.score(x)
        self.tokens(x)
        x, _ = self.pair(x)
        velocity: Tensor = self.up(x)
        return velocity


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return x, [x]


class Tokens(nn.Module):
    """Tokens at 4x4 patches, row by row, as a transformer has them."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, channels, 4, stride=4)
        self.block = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, 48)

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        x = self.block(self.patches(noisy).flatten(2).transpose(1, 2))
        return F.fold(self.out(x).transpose(1, 2), noisy.shape[-2:], 4, stride=4)


def align(encoder: NACEncoder, model: nn.Module, layer: str = "middle", **options: Any) -> Any:
    torch.manual_seed(0)
    options = {"image_size": 16} | options
    return transplant(encoder, into="alignment", model=model, layer=layer, **options)


@pytest.fixture
def model() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser()


TIME = torch.rand(8, generator=torch.Generator().manual_seed(1))


def noisy() -> Tensor:
    return images() + torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def test_the_loss_is_that_of_the_papers_written_out(encoder: NACEncoder, model: Denoiser) -> None:
    """Against the encoder itself: the layer's map through the convolution, against z-scores of the stage's map."""
    alignment = align(encoder, model.eval(), stage="layer2").module
    velocity = model(noisy(), TIME)
    loss = alignment(images())
    assert velocity.shape == noisy().shape
    target = F.avg_pool2d(
        encoder.feature_maps(images())["layer2"], 2
    )  # 8 px -> the hidden state's 4
    target = (target - target.mean((2, 3), True)) / target.var((2, 3), False, True).sqrt()
    x = F.silu(model.down(noisy()) + model.time(TIME[:, None])[:, :, None, None])
    hidden = model.middle(F.silu(F.silu(x)))
    projected = F.conv2d(hidden, *alignment.parameters(), padding=1)
    cosine = torch.cosine_similarity(projected, target, dim=1)
    torch.testing.assert_close(loss, 1 - cosine.mean((1, 2)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("projector", ["conv", "mlp"])
@pytest.mark.parametrize("standardize", [True, False])
def test_equal_features_cost_0_and_opposite_ones_2(
    encoder: NACEncoder, model: Denoiser, projector: str, standardize: bool
) -> None:
    part = align(encoder, model, projector=projector, standardize=standardize)
    alignment = part.module
    for sign, expected in ((1, 0.0), (-1, 2.0)):
        model(noisy(), TIME)
        alignment.projector = Fixed(sign * alignment.target(images()))
        torch.testing.assert_close(alignment(images()), torch.full((8,), expected))


class Fixed(nn.Module):
    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.maps = nn.Parameter(maps)

    def forward(self, x: Tensor) -> Tensor:
        return self.maps


def test_gradients_reach_the_denoiser_and_the_projector_but_never_the_encoder(
    encoder: NACEncoder, model: Denoiser
) -> None:
    alignment = align(encoder, model).module.train()
    before = copy.deepcopy(alignment.trunk.state_dict())
    x = images().requires_grad_()
    model.train()(noisy(), TIME)
    alignment(x).mean().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {
        f"{name}.{kind}" for name in ("down", "time", "middle.0") for kind in ("weight", "bias")
    }
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in alignment.parameters())
    assert x.grad is None
    assert all(p.grad is None and not p.requires_grad for p in alignment.trunk.parameters())
    assert all(p.grad is None for p in encoder.parameters())
    assert all(torch.equal(before[k], v) for k, v in alignment.trunk.state_dict().items())
    assert not any(m.training for m in alignment.trunk.backbone.modules() if not [*m.children()])


def test_only_the_projector_is_trained_and_saved(encoder: NACEncoder, model: Denoiser) -> None:
    part = align(encoder, model)
    assert {n: tuple(x.shape) for n, x in part.module.state_dict().items()} == {
        "projector.0.weight": (64, 8, 3, 3),
        "projector.0.bias": (64,),
    }
    assert [tuple(p.shape) for p in part.module.parameters()] == [(64, 8, 3, 3), (64,)]
    (group,) = part.param_groups(lr=0.1)
    assert group["lr"] == 0.1
    assert list(map(id, group["params"])) == list(map(id, part.module.parameters()))
    assert part.report.target == "alignment"
    assert 0 < part.report.parameter_share < 1
    assert part.report.flop_share > 0.5
    assert not any("align" in name for name in model.state_dict())


def test_the_denoiser_is_left_as_it_was(encoder: NACEncoder, model: Denoiser) -> None:
    model.train().pair.eval()
    before, draw = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    part = transplant(encoder, into="alignment", model=model, layer="middle", image_size=16)
    assert torch.equal(torch.random.get_rng_state(), draw)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert {name for name, m in model.named_modules() if not m.training} == {"pair"}
    part.module.remove_hook()
    assert not model.middle._forward_hooks
    model(noisy(), TIME)
    with pytest.raises(RuntimeError, match=r"copied or its hook removed\. Call nacgen\.transplant"):
        part.module(images())
    part = align(encoder, model)
    model(noisy(), TIME)
    part.remove_hooks()
    assert not model.middle._forward_hooks
    with pytest.raises(RuntimeError, match="copied or its hook removed"):
        part.module(images())  # rather than a loss of the last output


def test_a_transplant_that_fails_leaves_no_hook(encoder: NACEncoder, model: Denoiser) -> None:
    for options in ({"layer": "score"}, {"layer": "unused"}, {"example_inputs": ()}):
        with pytest.raises(ConfigurationError):
            align(encoder, model, **options)
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            "mid_block",
            "Denoiser, got 'mid_block'. Its parts: down, time, middle, norm, tokens, pair, score, "
            "blocks.0, blocks.1, unused, up",
        ),
        ("middle.2", r"got 'middle.2'\. Parts of 'middle': middle\.0, middle\.1\."),
        ("up.conv", r"Parts of 'up': none"),
        ("", "must name a part of Denoiser, got ''"),
        (
            "score",
            r"'score' must give a map .* two positions or more, got torch.float32 \(1, 8, 1, 1\)",
        ),
        ("time", r"'time' must give a map .* got torch.float32 \(1, 8\)\. Name a layer further"),
        ("unused", "layer must be called when the model runs, but 'unused' was not"),
        ("blocks", "layer must be called when the model runs, but 'blocks' was not"),
    ],
)
def test_a_layer_that_gives_no_map_is_named(
    encoder: NACEncoder, model: Denoiser, layer: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        align(encoder, model, layer)


def test_bad_requests_are_named(
    encoder: NACEncoder, model: Denoiser, as_users_run_it: None
) -> None:
    deep = NACEncoder("resnet18", "standard", code_dim=8)
    for options, message in (
        ({"stage": "layer9"}, "stage must be one of stem, layer1, layer2, layer3, got 'layer9'"),
        ({"projector": "linear"}, "projector must be one of conv, mlp, got 'linear'"),
        ({"image_size": 2}, "at least 4 px"),
        ({"image_size": 4}, "two positions or more, but stage layer3 of images of 4 px has one"),
        ({"encoder": deep, "image_size": 32}, "stage layer4 of images of 32 px has one. Choose an"),
        ({"source": "random"}, "source 'random' needs calibration_images"),
        ({"model": "unet"}, "model must be a torch.nn.Module, got a str"),
        ({"example_inputs": (images(),)}, "take example_inputs, but Denoiser fails with TypeError"),
        (
            {"model": nn.Conv2d(4, 3, 3)},
            "take an image and a time, but Sequential fails with TypeError: .* given. Pass as",
        ),
    ):
        arguments = {"encoder": encoder, "model": model} | options
        if isinstance(arguments["model"], nn.Conv2d):
            arguments["model"] = nn.Sequential(arguments["model"])
            arguments["layer"] = "0"
        with pytest.raises(ConfigurationError, match=message):
            align(**arguments)


def test_each_run_of_the_model_serves_one_call(encoder: NACEncoder, model: Denoiser) -> None:
    alignment = align(encoder, model).module
    with pytest.raises(RuntimeError, match="layer 'middle' has given nothing since the last one"):
        alignment(images())
    model(noisy(), TIME)
    alignment(images())
    with pytest.raises(RuntimeError, match="must run before each call"):
        alignment(images())
    model(noisy()[:4], TIME[:4])
    with pytest.raises(DataError, match=r"ran on last, 4 of them, got 8\. Pass the clean images"):
        alignment(images())
    with torch.no_grad():
        model(noisy(), TIME)
    with pytest.raises(RuntimeError, match="of 'middle' must carry a gradient, but the model ran"):
        alignment(images())
    with torch.no_grad():
        model(noisy(), TIME)
        assert not alignment(images()).requires_grad


def test_clean_images_are_checked(
    encoder: NACEncoder, model: Denoiser, as_users_run_it: None
) -> None:
    alignment = align(encoder, model).module
    for wrong, message in (
        (images(8, 32), r"16x16 px, got 32x32\. Resize them"),
        (images() * 127 + 128, r"finite numbers in \[-1, 1\], got .* to 25"),
    ):
        model(noisy(), TIME)
        with pytest.raises(DataError, match=message):
            alignment(wrong)


@pytest.mark.parametrize("layer", ["middle", "pair", "norm", "down", "blocks.1", "middle.0"])
def test_layers_may_give_maps_of_any_size_alone_or_first_in_a_tuple(
    encoder: NACEncoder, model: Denoiser, layer: str
) -> None:
    alignment = align(encoder, model, layer).module
    model(noisy(), TIME)
    assert alignment(images()).shape == (8,)
    grid = (8, 8) if layer in ("down", "blocks.1") else (4, 4)
    assert alignment.target(images()).shape == (8, 64, *grid)


def test_the_first_tensor_of_an_output_counts() -> None:
    """As in diffusers' outputs, which are mappings, and in tuples of tuples."""
    x, y = torch.zeros(2, 4, 3, 3), torch.ones(2, 4, 3, 3)
    for output in (x, (x, y), [(x, y), y], OrderedDict(sample=x, other=y)):
        assert as_map(output, "up") is x
    for output, got in (
        (None, "NoneType"),
        ((), "tuple"),
        (x.long(), r"torch.int64 \(2, 4, 3, 3\)"),
    ):
        with pytest.raises(ConfigurationError, match=f"layer 'up' must give a map .* got .*{got}"):
            as_map(output, "up")


def test_tokens_are_a_map_row_by_row(encoder: NACEncoder) -> None:
    torch.manual_seed(0)
    tokens = Tokens()
    losses = []
    for layer in ("patches", "block"):
        with torch.no_grad():
            tokens.block.weight.copy_(torch.eye(8))
            tokens.block.bias.zero_()
        alignment = align(encoder, tokens, layer).module
        tokens(noisy(), TIME)
        losses.append(alignment(images()))
    torch.testing.assert_close(losses[0], losses[1])
    with pytest.raises(ConfigurationError, match=r"square number of tokens .* got .* \(1, 8, 16\)"):
        align(
            encoder,
            nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2)),
            "1",
            example_inputs=noisy()[:1],
        )


def test_arms_differ_in_the_trunk_alone(encoder: NACEncoder, model: Denoiser) -> None:
    parts = [
        align(encoder, model, source=source, calibration_images=images()).module
        for source in ("encoder", "random", "shuffled")
    ]
    model(noisy(), TIME)
    losses = [part(images()) for part in parts]
    for other, loss in zip(parts[1:], losses[1:], strict=True):
        assert all(torch.equal(v, parts[0].state_dict()[k]) for k, v in other.state_dict().items())
        assert not torch.allclose(loss, losses[0])


def test_copies_of_the_denoiser_and_of_the_loss_have_no_hook_that_counts(
    encoder: NACEncoder, model: Denoiser
) -> None:
    alignment = align(encoder, model.eval()).module
    average = AveragedModel(model)
    model(noisy(), TIME)
    average(images(), TIME)  # would overwrite the state
    expected, copied = alignment(images()), copy.deepcopy(alignment)
    assert isinstance(copied, Alignment)
    assert average.module.middle._forward_hooks  # by a hook that keeps nothing
    assert all(h.value is None for h in average.module.middle._forward_hooks.values())
    assert all(torch.equal(v, alignment.state_dict()[k]) for k, v in copied.state_dict().items())
    with pytest.raises(RuntimeError, match="this one was copied"):
        copied(images())
    model(noisy(), TIME)
    assert torch.equal(alignment(images()), expected)


def test_trunk_and_projector_move_and_convert_together(
    encoder: NACEncoder, model: Denoiser
) -> None:
    alignment = align(encoder, model).module
    model(noisy(), TIME)
    expected = alignment(images())
    alignment.to(torch.bfloat16)
    assert {x.dtype for x in alignment.trunk.parameters()} == {torch.bfloat16}
    model(noisy(), TIME)
    loss = alignment(images())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0, atol=0.2)


def test_autocast_changes_the_loss_by_little_and_every_gradient_arrives(
    encoder: NACEncoder, model: Denoiser
) -> None:
    alignment = align(encoder, model.eval()).module
    model(noisy(), TIME)
    expected = alignment(images())
    with torch.autocast("cpu", torch.bfloat16):
        model(noisy(), TIME)
        loss = alignment(images())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0, atol=0.02)
    loss.mean().backward()
    assert all(p.grad is not None for p in alignment.parameters())
    assert model.down.weight.grad is not None


def test_compiled_and_wrapped_denoisers_are_read_within(encoder: NACEncoder) -> None:
    losses = []
    for wrap in (lambda m: m, eager, nn.DataParallel):
        torch.manual_seed(0)
        own = Denoiser().eval()
        wrapped = wrap(own)
        alignment = align(encoder, wrapped).module
        wrapped(noisy(), TIME)
        losses.append(alignment(images()))
        losses[-1].mean().backward()
        assert own.down.weight.grad is not None
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])
