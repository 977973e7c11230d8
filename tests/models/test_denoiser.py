"""Denoisers of each kind: shapes, gradients, images by number, files, and sizes that do not fit."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from nacgen.errors import ConfigurationError
from nacgen.functional.flow import integrate_flow
from nacgen.models.denoiser import Denoiser, denoiser_channels
from nacgen.models.sampling import load_model, sample_images
from nacgen.system.randomness import seeded

KINDS: list[Any] = [
    {"network": "small", "channels": (8, 16)},
    # The import of diffusers takes seconds.
    pytest.param({"network": "unet", "channels": (64, 64), "dropout": 0.1}, marks=pytest.mark.slow),
    pytest.param({"network": "dit", "channels": (64,), "num_blocks": 2}, marks=pytest.mark.slow),
]


def build(image_size: int = 16, **options: Any) -> Denoiser:
    with seeded(0, "test"):
        return Denoiser(image_size, **options)


@pytest.mark.parametrize("options", KINDS)
def test_every_parameter_gets_a_gradient_and_the_time_matters(options: dict[str, Any]) -> None:
    model = build(**options)
    with seeded(1, "test"):
        for parameter in model.parameters():  # layers that start at zero, too
            torch.nn.init.normal_(parameter, std=0.1)
        noisy, time = torch.randn(2, 3, 16, 16), torch.tensor([0.2, 0.9])
    velocity = model(noisy, time)
    assert velocity.shape == noisy.shape
    velocity.square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A transformer's attention is the same for any bias of its keys.
    assert all(n.endswith("to_k.bias") for n in without)
    model.eval()
    assert not torch.allclose(model(noisy, time), model(noisy, time.flip(0)))


@pytest.mark.parametrize("options", KINDS)
def test_a_saved_denoiser_makes_the_same_images(options: dict[str, Any], tmp_path: Path) -> None:
    model = build(**options).eval()
    model.save_pretrained(tmp_path / "denoiser")
    loaded = load_model(tmp_path)
    assert isinstance(loaded, Denoiser)
    z = torch.randn(2, model.latent_dim, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.images(z, num_steps=2), model.images(z, num_steps=2))


def test_images_are_the_end_of_the_flow_in_twenty_steps_without_overshoots() -> None:
    model = build(8, channels=(8, 8)).eval()
    z = 2 * torch.randn(2, 192, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        end = integrate_flow(model, z.reshape(2, 3, 8, 8), 20)
    assert end.abs().max() > 1
    assert torch.equal(model.images(z), end.clamp(-1, 1))


def test_images_by_number_do_not_depend_on_the_batch() -> None:
    model = build(channels=(8, 16)).eval()
    together = sample_images(model, torch.arange(5))
    alone = sample_images(model, torch.tensor([3]))
    assert (together[3].int() - alone[0].int()).abs().max() <= 1
    assert together.float().std() > 10


def test_the_network_counts_time_to_a_thousand() -> None:
    model, seen = build(channels=(8, 16)), []
    model.network.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    model(torch.zeros(1, 3, 16, 16), torch.tensor([0.25]))
    assert [each.tolist() for each in seen] == [[250.0]]


def test_default_channels_lead_to_four_pixels_or_are_published() -> None:
    assert denoiser_channels("small", 16) == (32, 64, 64)
    assert denoiser_channels("small", 32) == (32, 64, 64, 64)
    assert denoiser_channels("unet", 32) == (128, 256, 256, 256)
    assert denoiser_channels("dit", 32) == (384,)


@pytest.mark.parametrize("options", KINDS)
def test_the_layer_of_the_alignment_is_there(options: dict[str, Any]) -> None:
    model = build(**options)
    assert model.get_submodule(model.alignment_layer) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "mlp"}, "network must be one of small, unet, dit, got 'mlp'"),
        ({"channels": (8, 12)}, r"small must be multiples of 8, got \(8, 12\)"),
        ({"channels": ()}, r"multiples of 8, got \(\)"),
        ({"network": "unet", "channels": (32,)}, r"unet must be multiples of 64, got \(32,\)"),
        ({"network": "dit", "channels": (64, 64)}, r"one width, got channels \(64, 64\)"),
        ({"channels": (8,) * 6}, r"multiple of 32 px.*channels \(8, 8, 8, 8, 8, 8\), got 16"),
        ({"num_blocks": 0}, "num_blocks must be one or more .* got 0 and 0.0"),
        ({"dropout": 1.0}, "got 1 and 1.0"),
        ({"channels": (80_000,)}, r"channels \(80000,\)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(**options)


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_a_missing_package_is_named_with_its_remedy(
    network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "nacgen.system.places.find_spec", lambda name: None if name == "diffusers" else find(name)
    )
    message = rf"network {network} needs diffusers, .*pip install 'nacgen\[flow\]'.*network small"
    with pytest.raises(ConfigurationError, match=message):
        build(network=network, channels=(64,))
    build(channels=(8, 8))
