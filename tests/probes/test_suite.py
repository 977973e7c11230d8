from pathlib import Path

import pytest
import torch

from nacgen.data.augment import ViewPolicy
from nacgen.data.datasets import load_splits
from nacgen.data.pixels import to_float
from nacgen.errors import DataError
from nacgen.models.encoder import NACEncoder
from nacgen.probes.features import extract
from nacgen.probes.knn import knn_probe
from nacgen.probes.linear import fit_linear
from nacgen.probes.regions.slices import slice_regions
from nacgen.probes.retrieval.evaluate import evaluate_retrieval
from nacgen.probes.suite import SLICE_RESOLUTION, EncoderSuite, untrained_like

VIEWS = ViewPolicy(crop_scale=(0.5, 1.0), flip=False)


@pytest.fixture(scope="module")
def encoder() -> NACEncoder:
    return NACEncoder.from_pretrained("checkpoints/digits-nac").eval()


def test_each_evaluator_gives_what_it_gives_alone(encoder: NACEncoder) -> None:
    train, test = load_splits("digits")
    suite = EncoderSuite(train, test, VIEWS, ("linear", "knn", "retrieval"))
    found = suite(encoder)
    assert set(found) == {"linear", "knn", "retrieval"}
    features = [extract(encoder.features, split) for split in (train, test)]
    labeled = features[0], train.labels, features[1], test.labels
    for fraction in (1.0, 0.1, 0.01):
        alone = fit_linear(*labeled, fraction, 0)
        assert found["linear"][f"{fraction:g}"]["top_1"] == alone.top_1
    assert [r.top_1 for r in knn_probe(*labeled, [20, 200])] == [
        found["knn"][k]["top_1"] for k in ("20", "200")
    ]
    codes = [extract(encoder.codes, split) for split in (test, train)]
    assert test.labels is not None
    assert train.labels is not None
    result = evaluate_retrieval(codes[0], test.labels, codes[1], train.labels)
    measured = found["retrieval"]["code"]
    assert measured["mean_average_precision"] == result.mean_average_precision
    assert measured["protocol"]["name"] == "split"
    assert set(found["retrieval"]) == {"code", "lsh"}  # 128 bits are more than 64 features hold


def test_codes_no_longer_than_the_features_meet_all_classical_codes() -> None:
    train, test = load_splits("digits")
    short = NACEncoder(code_dim=16).eval()
    found = EncoderSuite(train, test, VIEWS, ("retrieval",))(short)
    assert set(found["retrieval"]) == {"code", "lsh", "pca", "itq"}


def test_slices_are_those_of_its_own_images(encoder: NACEncoder) -> None:
    train, test = load_splits("digits")
    suite = EncoderSuite(train, test, VIEWS, ("regions",))
    codes, network = suite.slices(encoder)
    images = to_float(test.images[[0, (len(test) - 1) // 2, len(test) - 1]])
    assert torch.equal(to_float(suite.slice_images), images)
    again = slice_regions(encoder.code_logits, images, SLICE_RESOLUTION, "code")
    assert torch.equal(codes.region_ids, again.region_ids)
    assert (codes.part, network.part) == ("code", "network")
    assert 1 < network.num_regions < SLICE_RESOLUTION**2 / 2  # regions can be told from pixels


def test_regions_of_codes_on_the_sphere_are_those_of_plain_codes(encoder: NACEncoder) -> None:
    train, test = load_splits("digits")
    suite = EncoderSuite(train, test, VIEWS, ("regions",), num_segments=2)
    sphere = NACEncoder(code_normalization="sphere").eval()
    sphere.load_state_dict(encoder.state_dict())
    plain, found = (suite(one)["regions"] for one in (encoder, sphere))
    assert found["between"] == plain["between"]
    assert found["output_codes"] == plain["output_codes"]


def test_neighbours_are_drawn_only_with_retrieval(encoder: NACEncoder, tmp_path: Path) -> None:
    train, test = load_splits("digits")
    assert EncoderSuite(train, test, VIEWS, ("knn",)).draw({"NAC": encoder}, tmp_path) == {}
    pictures = EncoderSuite(train, test, VIEWS, ("retrieval",)).draw({"NAC": encoder}, tmp_path)
    assert list(pictures) == ["Nearest neighbours by code: NAC"]
    assert all(path.is_file() for path in pictures.values())


def test_untrained_encoders_differ_by_seed_and_speak_of_the_images(encoder: NACEncoder) -> None:
    images = to_float(load_splits("digits")[0].images[:200])
    first, again, other = (untrained_like(encoder, images, seed) for seed in (0, 0, 1))
    assert first.options == encoder.options
    codes = [e.codes(images) for e in (first, again, other)]
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])
    assert not first.training
    logits = first.piecewise_linear_logits(images)  # before the sphere
    assert logits.mean(0).abs().max() < 0.01 * logits.std()  # statistics of these images


def test_labels_are_asked_for(encoder: NACEncoder) -> None:
    from dataclasses import replace

    train, test = load_splits("digits")
    suite = EncoderSuite(replace(train, labels=None), test, VIEWS, ("linear",))
    with pytest.raises(DataError, match="label"):
        suite(encoder)
