import json
import math
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nacgen.data.datasets import ImageDataset, load_dataset
from nacgen.errors import DataError
from nacgen.models.encoder import NACEncoder
from nacgen.probes import linear_sgd
from nacgen.probes.linear_sgd import linear_probe_sgd


def colors(n: int, split: str = "train", num_classes: int = 7) -> ImageDataset:
    """Return noisy images; their class is their brightness."""
    draw = torch.Generator().manual_seed(n)
    labels = torch.arange(n) % num_classes
    base = (40 + 25 * labels).reshape(n, 1, 1, 1)
    noise = torch.randint(-10, 10, (n, 3, 8, 8), generator=draw)
    return ImageDataset("colors", split, (base + noise).to(torch.uint8), labels)


def moments(images: Tensor) -> Tensor:
    mean = images.mean((1, 2, 3))
    return torch.stack([mean**i for i in range(4)], 1) * 3


def test_it_learns_what_can_be_separated() -> None:
    train, test = colors(140), colors(70, "test")
    options = {"epochs": 60, "batch_size": 35}
    result = linear_probe_sgd(moments, train, test, **options)
    assert result.top_1 > 0.8
    assert result.top_5 == 1.0
    assert result == linear_probe_sgd(moments, train, test, **options)
    assert result != linear_probe_sgd(moments, train, test, **options, seed=1)


def test_steps_follow_the_size_of_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.SGD.step

    def spy(self: torch.optim.SGD) -> None:
        group = self.param_groups[0]
        assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 0)
        rates.append(group["lr"])
        step(self)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    result = linear_probe_sgd(moments, colors(50), colors(14), epochs=4, batch_size=30)
    assert len(rates) == result.protocol["num_steps"] == math.ceil(4 * 50 / 30)
    assert rates == [0.5 * (1 + math.cos(math.pi * i / 7)) for i in range(7)]


def test_without_crops_it_is_plain_gradient_descent_on_the_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, test = colors(42), colors(14, "test")
    monkeypatch.setattr(linear_sgd, "SMALLEST_CROP", 1.0)
    result = linear_probe_sgd(moments, train, test, epochs=40, batch_size=42)  # blind to mirrors
    torch.manual_seed(0)
    x, labels = moments(train.images.float() / 127.5 - 1), train.labels
    classifier = nn.Linear(4, 7)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=1.0, momentum=0.9, nesterov=True)
    for step in range(40):
        optimizer.param_groups[0]["lr"] = 0.5 * (1 + math.cos(math.pi * step / 40))
        loss = F.cross_entropy(classifier(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # crops of the whole area still vary in shape; the start differs too
    assert result.train_loss == pytest.approx(float(loss.detach()), rel=0.1)


def test_crops_and_mirrors_reach_the_function_and_whole_images_the_test() -> None:
    seen: list[Tensor] = []

    def record(images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        seen.append(images)
        return images.flatten(1)

    train, test = colors(20), colors(14, "test")
    linear_probe_sgd(record, train, test, epochs=1, batch_size=20)
    torch.testing.assert_close(seen[-1], test.images.float() / 127.5 - 1)
    assert all(float(images.min()) >= -1 and float(images.max()) <= 1 for images in seen)
    whole = train.images.float() / 127.5 - 1
    unchanged = [any(torch.equal(view, image) for image in whole) for view in seen[0]]
    assert sum(unchanged) < 4  # now and then a crop is the whole image


def test_the_encoder_is_untouched_and_digits_are_read() -> None:
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    torch.manual_seed(0)
    encoder = NACEncoder("tiny", code_dim=8).eval()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    result = linear_probe_sgd(encoder.features, train, test, epochs=5, batch_size=128)
    assert result.top_1 > 0.2  # untrained features, five epochs; chance is 0.1
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_the_result_is_json_with_its_protocol() -> None:
    result = linear_probe_sgd(moments, colors(14), colors(7), epochs=2, batch_size=7)
    record = json.loads(json.dumps(asdict(result)))
    protocol = record["protocol"]
    assert (protocol["epochs"], protocol["num_steps"], protocol["batch_size"]) == (2, 4, 7)
    assert (protocol["augmentation"], protocol["smallest_crop"]) == ("crop and flip", 0.08)


def test_what_cannot_be_probed_is_named() -> None:
    train, test = colors(14), colors(7)
    short = {"epochs": 1, "batch_size": 7}
    with pytest.raises(ValueError, match=r"NACEncoder\.training is True"):
        linear_probe_sgd(NACEncoder("tiny").train().features, train, test, **short)
    with pytest.raises(DataError, match="train_labels must give each image's class, got None"):
        linear_probe_sgd(moments, replace(train, labels=None), test, **short)
    several = torch.ones(7, 3, dtype=torch.bool)
    with pytest.raises(DataError, match=r"test_labels .* multi-hot labels \(7, 3\)"):
        linear_probe_sgd(moments, train, replace(test, labels=several), **short)
    with pytest.raises(DataError, match="a batch of 1000 needs as many images"):
        linear_probe_sgd(moments, train, test)
    with pytest.raises(ValueError, match=r"its loss is nan at learning rate 1.0"):
        linear_probe_sgd(lambda images: moments(images) / 0, train, test, **short)
