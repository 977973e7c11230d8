import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import nacgen.probes.regions.regions as module
from nacgen import NACEncoder
from nacgen.data.datasets import load_splits
from nacgen.data.pixels import to_float
from nacgen.probes.regions.regions import sampled_crossings, segment_crossings
from nacgen.probes.regions.segment_path import _take_overs
from nacgen.system.randomness import seeded
from tests.reference import regions as reference
from tests.reference import segments


def build(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Build a network in evaluation mode with random BatchNorm statistics."""
    with seeded(seed, "network"):
        network = make()
        for norm in network.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                nn.init.normal_(norm.running_mean, std=0.1)
                nn.init.uniform_(norm.running_var, 0.5, 1.5)
                if norm.affine:
                    nn.init.normal_(norm.bias, std=0.3)
    return network.double().eval()


def ends(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    start, end = torch.randn(2, *shape, generator=draw, dtype=torch.float64)
    return start, end


class Residual(nn.Module):
    """Fully connected, with a skip connection, as the reference writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = F.relu(self.second(x) + x)
        return torch.relu(self.third(x))

    def layers(self) -> list[reference.Layer]:
        return [
            (layer.weight.tolist(), layer.bias.tolist(), layer is self.second)
            for layer in (self.first, self.second, self.third)
        ]


class Pooled(nn.Module):
    """Max-pooling (of windows without overlap) behind a ReLU, average pooling behind max-pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.deep, self.head = nn.Conv2d(4, 6, 3, padding=1), nn.Linear(6, 5)

    def stem(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x), 3, 3, 1)
        x = F.adaptive_avg_pool2d(self.deep(x).relu(), 1)
        return self.head(x.flatten(1)).relu()


def switches_of_max(windows: Tensor) -> int:
    """Windows (n, p, k) along densely sampled points: another entry is largest, above zero."""
    value, index = windows.max(2)
    moved = (index[1:] != index[:-1]) & (value[1:] > 0) & (value[:-1] > 0)
    return int(moved.sum())


def test_one_hidden_layer_crosses_once_for_each_unit_that_changes_sign() -> None:
    network = build(lambda: nn.Sequential(nn.Linear(7, 200), nn.ReLU(), nn.Linear(200, 3)))
    start, end = ends(6, 7)
    before, behind = network[0](start), network[0](end)
    expected = (before.sign() != behind.sign()).sum(1)
    assert segment_crossings(network, start, end).tolist() == expected.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_deep_residual_networks_agree_with_exact_rational_arithmetic(seed: int) -> None:
    network = build(Residual, seed)
    start, end = ends(5, 5, seed=seed)
    start, end = 4 * start, 4 * end
    expected = [
        len(reference.crossings(network.layers(), a.tolist(), b.tolist()))
        for a, b in zip(start, end, strict=True)
    ]
    assert max(expected) > 7
    assert segment_crossings(network, start, end).tolist() == expected


def test_units_that_switch_together_are_one_boundary() -> None:
    network = nn.Sequential(nn.Linear(1, 3), nn.ReLU()).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0], [1.0], [-2.0]]))
        network[0].bias.zero_()
    start, end = torch.tensor([[-1.0]]), torch.tensor([[1.0]])
    assert segment_crossings(network, start, end).tolist() == [1]
    assert sampled_crossings(network, start, end, 10).tolist() == [3]  # ReLUs, not places


def test_convolutional_encoder_agrees_with_dense_sampling() -> None:
    encoder = build(lambda: NACEncoder(code_dim=12))
    start, end = ends(1, 3, 8, 8)
    end = torch.lerp(start, end, 0.01)  # few enough boundaries for 1,000 points to divide
    exact = segment_crossings(encoder.piecewise_linear_logits, start, end)
    assert exact.min() > 10
    assert (
        sampled_crossings(encoder.piecewise_linear_logits, start, end, 1000).tolist()
        == exact.tolist()
    )
    assert (sampled_crossings(encoder.piecewise_linear_logits, start, end, 4) <= exact).all()


def test_max_pooling_breaks_where_another_entry_takes_over() -> None:
    network = build(Pooled)
    start, end = ends(1, 2, 6, 6)
    points = torch.lerp(start, end, torch.linspace(0, 1, 4_001).double().view(-1, 1, 1, 1))
    with torch.no_grad():
        padded = F.pad(network.stem(points), (1, 1, 1, 1))
        windows = F.unfold(padded, 3, stride=3).unflatten(1, (4, 9)).transpose(2, 3).flatten(1, 2)
    relus = int(sampled_crossings(network, start, end, 4_001))
    take_overs = switches_of_max(windows)
    assert take_overs > 10
    assert int(segment_crossings(network, start, end)) == relus + take_overs


def test_the_upper_envelope_of_lines_is_found() -> None:
    left, right = (
        torch.rand(300, 7, generator=torch.Generator().manual_seed(s)).double() for s in (0, 1)
    )
    rows, places = _take_overs(left, right)
    times = torch.linspace(0, 1, 5001).double().view(1, -1, 1)
    top = torch.lerp(left[:, None], right[:, None], times).argmax(2)
    changes = top.diff(dim=1) != 0
    assert torch.bincount(rows, minlength=300).tolist() == changes.sum(1).tolist()
    assert torch.bincount(rows, minlength=300).max() > 2  # a third line between two
    at = torch.lerp(left[rows], right[rows], places[:, None]).sort(dim=1).values
    assert (at[:, -1] - at[:, -2]).abs().max() < 1e-12  # two are largest where they meet


def test_torchvision_and_our_encoder_with_the_same_weights_cross_the_same_boundaries() -> None:
    """torchvision adds and rectifies in place and uses modules, ours uses functions."""
    encoder = build(lambda: NACEncoder(backbone="resnet18", stem="standard", code_dim=4))
    theirs = torchvision.models.resnet18(num_classes=3).double().eval()
    missing = theirs.load_state_dict(encoder.backbone.state_dict(), strict=False)
    assert sorted(missing.missing_keys) == ["fc.bias", "fc.weight"]
    assert not missing.unexpected_keys
    start, end = ends(1, 3, 32, 32)
    end = torch.lerp(start, end, 5e-4)
    ours = segment_crossings(encoder.features, start, end)
    assert ours.min() > 5
    assert (
        segment_crossings(lambda x: theirs(encoder.normalize(x)), start, end).tolist()
        == ours.tolist()
    )


@pytest.mark.slow
def test_vgg_is_within_reach() -> None:
    encoder = build(lambda: NACEncoder(backbone="vgg16_bn", code_dim=4))
    start, end = ends(1, 3, 32, 32)
    assert int(segment_crossings(encoder.features, start, torch.lerp(start, end, 5e-5))) > 0


def test_float32_networks_are_counted_in_float64() -> None:
    network = build(
        lambda: nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU())
    )
    single = copy.deepcopy(network).float()
    start, end = (side.float() for side in ends(3, 4))
    rounded = copy.deepcopy(single).double()
    assert (
        segment_crossings(single, start, end).tolist()
        == segment_crossings(rounded, start.double(), end.double()).tolist()
    )


def equal_units(scale: float) -> nn.Sequential:
    """A chain whose first layer has units thrice, two of them scaled, so that these switch together."""
    network = build(
        lambda: nn.Sequential(nn.Linear(6, 90), nn.ReLU(), nn.Linear(90, 60), nn.ReLU())
    )
    with torch.no_grad():
        for values in (network[0].weight, network[0].bias):
            values[30:60], values[60:] = scale * values[:30], -values[:30] / scale
    return network


def convolutional() -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (3, 8, 8):
        layers += [nn.Conv2d(width, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: build(lambda: nn.Sequential(nn.Linear(6, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU())), (6,)),
        (lambda: equal_units(3.0), (6,)),
        (lambda: equal_units(1.0), (6,)),
        (lambda: build(convolutional), (3, 6, 6)),
    ],
)  # fmt: skip
def test_counts_are_those_of_float64_throughout(
    make: Callable[[], nn.Sequential], shape: tuple[int, ...]
) -> None:
    network, (start, end) = make(), ends(3, *shape)
    with torch.no_grad():
        expected = [
            segments.chain_crossings(network, *pair) for pair in zip(start, end, strict=True)
        ]
    assert min(expected) > 20
    assert segment_crossings(network, start, end).tolist() == expected
    assert segment_crossings(network.float(), start.float(), end.float()).tolist() == [
        segments.chain_crossings(network.double(), *pair)
        for pair in zip(start.float(), end.float(), strict=True)
    ]


def test_a_trained_encoder_is_counted_as_in_float64_throughout() -> None:
    """Between two images, one of them a constant, where units of all its pixels are equal."""
    encoder = NACEncoder.from_pretrained("checkpoints/digits-nac").eval()
    image = load_splits("digits")[1].read(torch.tensor([7, 8]))[:, :, 4:12, 4:12]
    start, end = to_float(image)
    end = torch.stack([torch.lerp(start, end, 0.2), torch.full_like(start, -0.9)])
    start = torch.stack([start, torch.full_like(start, -1.0)])
    found = segment_crossings(encoder.piecewise_linear_logits, start, end)
    encoder.double()
    with torch.no_grad():
        expected = [
            segments.encoder_crossings(encoder, *pair) for pair in zip(start, end, strict=True)
        ]
    assert min(expected) > 10
    assert found.tolist() == expected


def test_pieces_that_fit_into_memory_count_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(
        lambda: nn.Sequential(nn.Linear(4, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU())
    )
    start, end = ends(2, 4)
    whole = segment_crossings(network, start, end)
    assert whole.min() > 128  # more than one piece may hold
    monkeypatch.setattr(module, "MAX_VALUES", 1)
    assert segment_crossings(network, start, end).tolist() == whole.tolist()


def test_no_segment_and_a_point_cross_nothing() -> None:
    network = build(Residual)
    start, _ = ends(3, 5)
    assert segment_crossings(network, start, start).tolist() == [0, 0, 0]
    assert segment_crossings(network, start[:0], start[:0]).tolist() == []


def test_too_many_crossings_are_refused_before_and_during_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = build(lambda: nn.Sequential(nn.Linear(4, 300), nn.ReLU()))
    start, end = ends(2, 4)
    with pytest.raises(
        ValueError, match=r"max_crossings=20 boundaries, but segment \d crosses \d{3} or"
    ):
        segment_crossings(network, start, end, max_crossings=20)
    monkeypatch.setattr(module, "sampled_crossings", lambda *_: torch.zeros(2, dtype=torch.int64))
    with pytest.raises(
        ValueError, match=r"max_crossings=21 boundaries, but segment 0 crosses 91 or"
    ):
        segment_crossings(network, start, end, max_crossings=21)


class Odd(nn.Module):
    """A ReLU and one more operation."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(x.relu())


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (torch.sigmoid, "got 'sigmoid'"),
        (nn.GELU(), "got 'gelu'"),
        (lambda x: x.mT, "got '__get__'"),
        (lambda x: x * x, "got a mul"),
        (lambda x: 1 / x, "got '__r"),
        (lambda x: x.mean(0), r"mean made \(3, 4, 4\)"),
        (lambda x: x.flatten(), r"flatten made \(48,\)"),
        (lambda x: torch.cat([x, x]), r"cat made \(2, 3, 4, 4\)"),
        (nn.MaxPool2d(2, ceil_mode=True), "ceil_mode=True"),
        (nn.BatchNorm2d(3), "batch_norm came with training=True"),
        (lambda x: F.dropout(x, 0.5), "dropout came with training=True"),
    ],
)
def test_what_cannot_be_exact_is_refused(
    operation: Callable[[Tensor], Tensor], message: str
) -> None:
    network = Odd(operation).double().eval()
    if isinstance(operation, nn.BatchNorm2d):
        operation.train()
    with pytest.raises(ValueError, match=message):
        segment_crossings(network, *ends(2, 3, 4, 4))


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: torch.cat([x - 0.2, 1 - x], dim=1).relu(),
        lambda x: (x - x.mean((2, 3), keepdim=True)).relu() / 2,
        lambda x: (x.view(len(x), -1).reshape(len(x), 3, 16) - 0.5).relu(),
        lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1), value=-2.0), 2).sub(0.5).relu_(),
        lambda x: F.relu(x.add_(-0.3), inplace=True),
        lambda x: (-x + 0.4).relu(),
        lambda x: (2 * (0.8 - x).relu() - (x - 0.3).relu() - 0.4).relu(),
    ],
)
def test_affine_operations_agree_with_dense_sampling(
    operation: Callable[[Tensor], Tensor],
) -> None:
    network = Odd(operation).double().eval()
    start, end = ends(2, 3, 4, 4)
    sampled = sampled_crossings(network, start, end, 20_000)
    assert segment_crossings(network, start, end).tolist() == sampled.tolist()


def test_unusable_segments_are_named(as_users_run_it: None) -> None:
    network = build(Residual)
    start, end = ends(3, 5)
    with pytest.raises(ValueError, match=r"Residual\.training is True"):
        segment_crossings(network.train(), start, end)
    with pytest.raises(ValueError, match="at least one ReLU, got none"):
        segment_crossings(nn.Linear(5, 2).double().eval(), start, end)
