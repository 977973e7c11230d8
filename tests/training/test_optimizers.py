"""LARS against NumPy, its groups, and stopping and resuming."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.models.encoder import NACEncoder
from nacgen.training import optimizers
from nacgen.training.checkpoint import load_checkpoint, save_checkpoint
from nacgen.training.optimizers import LARS, build_optimizer, exclude_from_decay
from nacgen.training.snapshot import capture, restore
from tests.reference import lars as oracle

SHAPES = [(4, 3, 3, 3), (5, 7), (6,), ()]


def random_tensors(seed: int, scale: float = 1.0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=draw, dtype=torch.float64) for shape in SHAPES]


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("exclude", [False, True])
def test_five_steps_equal_the_oracle_at_a_changing_learning_rate(
    reference: bool, weight_decay: float, exclude: bool
) -> None:
    parameters = [nn.Parameter(w.clone()) for w in random_tensors(0)]
    optimizer = LARS(
        [{"params": parameters, "exclude": exclude}],
        lr=0.0,
        weight_decay=weight_decay,
        reference=reference,
    )
    expected = [(w.numpy(), np.zeros(w.shape)) for w in random_tensors(0)]
    for step in range(5):
        optimizer.param_groups[0]["lr"] = lr = 2.0 / (step + 1)
        gradients = random_tensors(step + 1, scale=0.1)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        expected = [
            oracle.step(
                weight,
                gradient.numpy(),
                velocity,
                lr=lr,
                momentum=0.9,
                weight_decay=weight_decay,
                exclude=exclude,
                reference=reference,
            )
            for (weight, velocity), gradient in zip(expected, gradients, strict=True)
        ]
    for parameter, (weight, velocity) in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), weight, rtol=1e-12)
        buffer = optimizer.state[parameter]["momentum_buffer"]
        np.testing.assert_allclose(buffer.numpy(), velocity, rtol=1e-12)


def stepped(weight: Tensor, gradient: Tensor, **options: float | bool) -> Tensor:
    parameter = nn.Parameter(weight.clone())
    parameter.grad = gradient
    LARS([parameter], lr=2.0, **{"weight_decay": 1e-6, **options}).step()
    return parameter.detach()


def test_a_zero_parameter_moves_by_its_gradient() -> None:
    assert stepped(torch.zeros(3), torch.ones(3)).tolist() == [-2.0] * 3


def test_a_zero_gradient_moves_nothing_but_by_decay() -> None:
    weight = torch.tensor([3.0, 4.0])
    torch.testing.assert_close(stepped(weight, torch.zeros(2)), weight * (1 - 2e-3))
    assert torch.equal(stepped(weight, torch.zeros(2), weight_decay=0.0), weight)
    assert torch.equal(stepped(torch.zeros(2), torch.zeros(2)), torch.zeros(2))


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e15])
def test_a_step_is_as_long_as_the_weight_allows_whatever_the_gradient(scale: float) -> None:
    weight = torch.tensor([3.0, 4.0])
    moved = stepped(weight, scale * torch.tensor([0.6, -0.8]), weight_decay=0.0) - weight
    length = float(moved.norm())
    # the square of 1e-30 is no float32: such a gradient counts as zero
    assert length == pytest.approx(2 * 1e-3 * 5 if scale > 1e-20 else 0.0, rel=1e-3, abs=1e-20)


def test_the_reference_never_moves_zeros_and_divides_zero_by_zero() -> None:
    assert torch.equal(stepped(torch.zeros(3), torch.ones(3), reference=True), torch.zeros(3))
    assert stepped(torch.zeros(3), torch.zeros(3), reference=True).isnan().all()


def test_the_reference_does_not_adapt_without_decay() -> None:
    weight, gradient = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0])
    moved = stepped(weight, gradient, reference=True, weight_decay=0.0)
    assert torch.equal(moved, weight - 2 * gradient)


def test_parameters_without_a_gradient_stay_and_get_no_state() -> None:
    with_gradient, without = (nn.Parameter(torch.ones(2)) for _ in range(2))
    with_gradient.grad = torch.ones(2)
    optimizer = LARS([with_gradient, without], lr=1.0)
    optimizer.step()
    assert torch.equal(without, torch.ones(2))
    assert list(optimizer.state) == [with_gradient]


def test_a_closure_is_called_with_gradients_on() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = LARS([parameter], lr=1.0)

    def closure() -> float:
        loss = parameter.square().sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 2.0
    assert float(parameter.detach()[0]) < 1


def test_biases_norms_and_scales_are_excluded_by_what_they_are() -> None:
    module = nn.ModuleDict(
        {
            "conv": nn.Conv2d(3, 4, 3),
            "plain": nn.BatchNorm2d(4),  # no "bn" in its name
            "grid": nn.LayerNorm((4, 5)),  # a norm whose weight has two axes
            "linear": nn.Linear(4, 2),
            "frozen": nn.Linear(2, 2).requires_grad_(False),
        }
    )
    module.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    module["tied"] = module["linear"]
    decayed, excluded = exclude_from_decay(module)
    names = {p: name for name, p in module.named_parameters()}
    assert {names[p] for p in decayed["params"]} == {"conv.weight", "linear.weight"}
    assert {names[p] for p in excluded["params"]} == {
        *("scale", "conv.bias", "linear.bias"),
        *("plain.weight", "plain.bias", "grid.weight", "grid.bias"),
    }
    assert len(decayed["params"]) + len(excluded["params"]) == 9
    assert (decayed["exclude"], excluded["exclude"], excluded["weight_decay"]) == (False, True, 0.0)


def test_every_trained_parameter_of_an_encoder_is_in_one_group() -> None:
    encoder = NACEncoder("tiny", code_dim=8)
    grouped = [p for group in exclude_from_decay(encoder) for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {p for p in encoder.parameters() if p.requires_grad}


def test_a_module_with_nothing_to_train_has_no_groups() -> None:
    assert exclude_from_decay(nn.Linear(2, 2).requires_grad_(False)) == []
    assert len(exclude_from_decay(nn.BatchNorm1d(3))) == 1


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    )


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> float:
    loss = torch.tensor(0.0)
    for step in steps:
        draw = torch.Generator().manual_seed(step % 2)
        images = torch.randn(16, 3, 8, 8, generator=draw)
        for group in optimizer.param_groups:
            group["lr"] = 1.0 / (step + 1)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images), torch.arange(16) % 5)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


BUILDERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "lars": lambda network: build_optimizer("lars", network, 1.0, 1e-4),
    "reference": lambda network: build_optimizer("lars", network, 1.0, 1e-4, reference=True),
    "adamw": lambda network: build_optimizer("adamw", network, 1.0, 1e-4),
    "sgd": lambda network: build_optimizer("sgd", network, 1.0, 1e-4),
}


def update_of(network: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    wrapped = SimpleNamespace(optimizer=optimizer)
    return SimpleNamespace(modules={"model": network}, optimizers={"model": wrapped})


@pytest.mark.parametrize("name", BUILDERS)
def test_stopping_and_resuming_changes_no_bit(name: str, tmp_path: Path) -> None:
    straight = small_network()
    train(straight, BUILDERS[name](straight), range(7))

    stopped = small_network()
    optimizer = BUILDERS[name](stopped)
    train(stopped, optimizer, range(3))
    save_checkpoint(tmp_path, capture(update_of(stopped, optimizer)), {}, 3)

    loaded = load_checkpoint(tmp_path)
    assert loaded is not None
    resumed = small_network()
    optimizer = BUILDERS[name](resumed)
    restore(update_of(resumed, optimizer), loaded[0], tmp_path)
    train(resumed, optimizer, range(3, 7))
    for key, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key


def test_accelerate_wraps_it_and_keeps_the_groups() -> None:
    network, plain = small_network(), small_network()
    accelerator = Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(network, build_optimizer("lars", network, 1.0, 1e-4))
    train(prepared, optimizer, range(3))
    train(plain, build_optimizer("lars", plain, 1.0, 1e-4), range(3))
    assert [group["exclude"] for group in optimizer.optimizer.param_groups] == [False, True]
    for key, tensor in plain.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[key]), key


def test_lars_overfits_one_batch() -> None:
    network = small_network()
    optimizer = build_optimizer("lars", network, 20.0, 1e-6)
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(images), torch.arange(16) % 5)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05


def test_a_step_never_waits_for_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network()
    optimizers = [BUILDERS[name](network) for name in ("lars", "reference")]
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)

    def waits(*arguments: object) -> None:
        raise AssertionError("a tensor's value was asked for")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy", "cpu"):
        monkeypatch.setattr(Tensor, name, waits)
    for optimizer in optimizers:
        optimizer.step()


@pytest.mark.gpu
def test_a_step_never_waits_for_the_gpu() -> None:
    network = small_network().cuda()
    optimizer = build_optimizer("lars", network, 1.0, 1e-4)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_builder_errors_name_the_optimizer() -> None:
    network = small_network()
    with pytest.raises(ConfigurationError, match="one of lars, adamw, sgd, got 'lamb'"):
        build_optimizer("lamb", network, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="reference=True for sgd"):
        build_optimizer("sgd", network, 1.0, reference=True)


def test_lars_takes_the_same_steps_whatever_the_cache_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = []
    for cached in (1, 40, 10**9):
        monkeypatch.setattr(optimizers, "CACHED", cached)
        draw = torch.Generator().manual_seed(0)
        parameters = [nn.Parameter(torch.randn(n, 3, generator=draw)) for n in (2, 7, 1, 20, 3)]
        for parameter in parameters[:-1]:  # the last one has no gradient
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        lars = LARS(parameters, 0.3, weight_decay=1e-2)
        lars.step()
        lars.step()
        weights.append(torch.cat([p.detach() for p in parameters]))
    assert torch.equal(weights[0], weights[2])
    assert torch.equal(weights[1], weights[2])
