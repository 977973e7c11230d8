from dataclasses import replace

import pytest
import torch

from nacgen.data.augment import ViewPolicy, random_view
from nacgen.data.datasets import ImageDataset, load_dataset
from nacgen.data.pixels import to_float
from nacgen.data.stream import Batch
from nacgen.models.encoder import NACEncoder
from nacgen.probes.health import code_health
from nacgen.probes.linear import linear_probe
from nacgen.probes.report import EncoderProbe, thin

VIEWS = ViewPolicy(crop_scale=(0.5, 1.0), flip=False)


def few(split: str, n: int = 120) -> ImageDataset:
    dataset = load_dataset("digits", split)
    assert isinstance(dataset, ImageDataset)
    return dataset.subset(torch.arange(n))


@pytest.fixture
def encoder() -> NACEncoder:
    torch.manual_seed(0)
    encoder = NACEncoder(code_dim=16)
    encoder.train()
    encoder(to_float(few("train").images))  # statistics that are not zero and one
    return encoder


def test_figures_are_those_of_features_and_codes_in_evaluation_mode(encoder: NACEncoder) -> None:
    train, test = few("train"), few("test", 60)
    report = EncoderProbe(train, test, VIEWS)(encoder)
    assert train.labels is not None
    assert test.labels is not None
    encoder.eval()
    with torch.no_grad():
        features = [encoder.features(to_float(split.images)) for split in (train, test)]
        accuracy = linear_probe(features[0], train.labels, features[1], test.labels)
        batch = Batch(test.images, None, 0, 0, 60, 0)
        views = [random_view(batch, VIEWS, f"probe_view_{i}") for i in (1, 2)]
        (code_1, posterior_1), (code_2, posterior_2) = (encoder(view) for view in views)
    expected = code_health(
        torch.cat([code_1, code_2]),
        torch.cat([posterior_2, posterior_1]),  # each predicted from the other view of its image
        encoder.flip_probability,
        features=features[1],
    )
    assert report.linear_probe == pytest.approx(accuracy, abs=1e-9)
    assert report.health.information.nac_bound == pytest.approx(expected.information.nac_bound)
    assert report.health.view_flip_rate == pytest.approx(expected.view_flip_rate)
    assert report.health.feature_rank == pytest.approx(expected.feature_rank, rel=1e-3)
    assert report.health.protocol == expected.protocol
    assert str(report) == f"linear probe {report.linear_probe:.3f}\n{report.health}"


@pytest.mark.parametrize("training", [True, False])
def test_the_encoder_is_left_as_it_came(encoder: NACEncoder, training: bool) -> None:
    encoder.train(training)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    EncoderProbe(few("train"), few("test"), VIEWS)(encoder)
    assert all(module.training == training for module in encoder.modules())
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in encoder.parameters())


def test_the_mode_is_restored_after_an_error(encoder: NACEncoder) -> None:
    probe = EncoderProbe(few("train"), few("test"), VIEWS)
    with torch.no_grad():
        encoder.backbone.conv1.weight.fill_(torch.nan)  # type: ignore[operator, union-attr]
    with pytest.raises(ValueError, match="must be finite"):
        probe(encoder)
    assert encoder.training


def test_figures_are_the_same_every_time(encoder: NACEncoder) -> None:
    train, test = few("train"), few("test")
    first = EncoderProbe(train, test, VIEWS)(encoder)
    torch.manual_seed(5)
    torch.rand(3)  # what else is drawn does not matter
    state = torch.get_rng_state()
    assert EncoderProbe(train, test, VIEWS)(encoder) == first
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["train", "test", "several"])
def test_without_a_class_an_image_the_code_alone_is_measured(
    encoder: NACEncoder, kind: str
) -> None:
    train, test = few("train"), few("test")
    labeled = EncoderProbe(train, test, VIEWS)(encoder)
    match kind:
        case "train":
            train = replace(train, labels=None)
        case "test":
            test = replace(test, labels=None)
        case "several":
            flags = torch.nn.functional.one_hot(train.labels % 3).bool()  # type: ignore[operator]
            train, test = replace(train, labels=flags), replace(test, labels=flags)
    report = EncoderProbe(train, test, VIEWS)(encoder)
    assert report.linear_probe is None
    assert report.health == labeled.health
    assert str(report).startswith("linear probe no labels\n")


def test_images_are_thinned_evenly() -> None:
    dataset = few("train", 101)
    assert thin(dataset, 101) is dataset
    kept = thin(dataset, 5)
    assert torch.equal(kept.read(torch.arange(5)), dataset.images[[0, 25, 50, 75, 100]])
    assert kept.labels is not None
    assert dataset.labels is not None
    assert torch.equal(kept.labels, dataset.labels[[0, 25, 50, 75, 100]])
