from dataclasses import replace

import pytest
import torch

from nacgen.data.augment import ViewPolicy
from nacgen.data.datasets import load_splits
from nacgen.data.pixels import to_float
from nacgen.errors import ConfigurationError, DataError
from nacgen.models.encoder import NACEncoder
from nacgen.probes import suite as module
from nacgen.probes.features import extract
from nacgen.probes.knn import knn_probe
from nacgen.probes.linear import fit_linear
from nacgen.probes.options import ProbeConfig
from nacgen.probes.regions.slices import slice_regions
from nacgen.probes.retrieval.evaluate import evaluate_retrieval
from nacgen.probes.suite import EncoderSuite, load_encoders, untrained_like

VIEWS = ViewPolicy(crop_scale=(0.5, 1.0), flip=False)
TRAIN, TEST = load_splits("digits")


@pytest.fixture(scope="module")
def encoder() -> NACEncoder:
    return NACEncoder.from_pretrained("checkpoints/digits-nac").eval()


def test_each_evaluator_gives_what_it_gives_alone(encoder: NACEncoder) -> None:
    config, said = ProbeConfig(evaluators=("linear", "knn", "retrieval")), list[str]()
    suite = EncoderSuite(TRAIN, TEST, VIEWS, config, say=lambda text, **_: said.append(text))
    found = suite(encoder)
    assert set(found) == {"linear", "knn", "retrieval", "seconds"}
    assert list(found["seconds"]) == ["features", "linear", "knn", "retrieval"]
    assert [name.strip() for name in said[::2]] == list(found["seconds"])
    assert said[1::2] == [f" {seconds:6.1f} s" for seconds in found["seconds"].values()]
    features = [extract(encoder.features, split) for split in (TRAIN, TEST)]
    labeled = features[0], TRAIN.labels, features[1], TEST.labels
    for fraction in (1.0, 0.1, 0.01):
        alone = fit_linear(*labeled, fraction, 0)
        assert found["linear"][f"{fraction:g}"]["top_1"] == alone.top_1
    assert [r.top_1 for r in knn_probe(*labeled, [20, 200])] == [
        found["knn"][k]["top_1"] for k in ("20", "200")
    ]
    codes = [extract(encoder.codes, split) for split in (TEST, TRAIN)]
    assert TEST.labels is not None
    assert TRAIN.labels is not None
    result = evaluate_retrieval(codes[0], TEST.labels, codes[1], TRAIN.labels)
    measured = found["retrieval"]["code"]
    assert measured["mean_average_precision"] == result.mean_average_precision
    assert measured["protocol"]["name"] == "split"
    assert set(found["retrieval"]) == {"code", "lsh"}  # 128 bits are more than 64 features hold


def test_codes_no_longer_than_the_features_meet_all_classical_codes() -> None:
    short = NACEncoder(code_dim=16).eval()
    found = EncoderSuite(TRAIN, TEST, VIEWS, ProbeConfig(evaluators=("retrieval",)))(short)
    assert set(found["retrieval"]) == {"code", "lsh", "pca", "itq"}


def test_slices_are_those_of_its_own_images(
    encoder: NACEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLICE_RESOLUTION", 24)
    found = EncoderSuite(TRAIN, TEST, VIEWS, ProbeConfig(evaluators=("regions",))).examples(encoder)
    codes, network = found.slices
    images = to_float(TEST.images[[0, (len(TEST) - 1) // 2, len(TEST) - 1]])
    assert torch.equal(to_float(found.slice_images), images)
    again = slice_regions(encoder.code_logits, images, 24, "code")
    assert torch.equal(codes.region_ids, again.region_ids)
    assert (codes.part, network.part) == ("code", "network")
    assert 1 < network.num_regions < 24**2  # the window shows regions
    assert found.retrieved is None


def test_regions_of_codes_on_the_sphere_are_those_of_plain_codes(encoder: NACEncoder) -> None:
    suite = EncoderSuite(
        TRAIN,
        TEST,
        VIEWS,
        ProbeConfig(evaluators=("regions",), num_segments=2, region_method="sampled"),
    )
    plain = NACEncoder(code_normalization="batch").eval()
    sphere = NACEncoder(code_normalization="sphere").eval()
    plain.load_state_dict(encoder.state_dict(), strict=False)
    sphere.load_state_dict(encoder.state_dict())
    measured = [suite(one)["regions"] for one in (plain, sphere)]
    assert measured[0]["between"] == measured[1]["between"]
    assert measured[0]["output_codes"] == measured[1]["output_codes"]


def test_the_images_nearest_by_code_are_retrieved(encoder: NACEncoder) -> None:
    found = EncoderSuite(TRAIN, TEST, VIEWS, ProbeConfig(evaluators=("retrieval",))).examples(
        encoder
    )
    assert found.slices == []
    assert found.retrieved is not None
    assert found.retrieved.neighbors.shape == (10, 10, 3, 16, 16)
    assert torch.equal(found.retrieved.queries[0], TEST.images[0])
    assert found.retrieved.is_relevant.float().mean() > 0.8
    assert (
        EncoderSuite(TRAIN, TEST, VIEWS, ProbeConfig(evaluators=("knn",)))
        .examples(encoder)
        .retrieved
        is None
    )


def test_untrained_encoders_differ_by_seed_and_are_calibrated(encoder: NACEncoder) -> None:
    images = to_float(TRAIN.images[:200])
    first, again, other = (untrained_like(encoder, images, seed) for seed in (0, 0, 1))
    assert first.options == encoder.options
    codes = [e.codes(images) for e in (first, again, other)]
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])
    assert not first.training
    logits = first.piecewise_linear_logits(images)  # before the sphere
    assert logits.mean(0).abs().max() < 0.01 * logits.std()  # statistics of these images


def test_entries_name_trained_and_untrained_encoders(encoder: NACEncoder) -> None:
    path = "checkpoints/digits-nac"
    entries = ("untrained", f"NAC={path}", "other=untrained", path)
    loaded = load_encoders(entries, TRAIN)
    assert [(name, source) for name, source, _ in loaded] == [
        ("untrained", "untrained"),
        ("NAC", path),
        ("other", "untrained"),
        ("digits-nac", path),
    ]
    images = to_float(TEST.images[:50])
    codes = [one.codes(images) for _, _, one in loaded]
    assert torch.equal(codes[1], encoder.codes(images))
    assert not torch.equal(codes[0], codes[2])  # another seed


def test_labels_are_asked_for(encoder: NACEncoder) -> None:
    suite = EncoderSuite(
        replace(TRAIN, labels=None), TEST, VIEWS, ProbeConfig(evaluators=("linear",))
    )
    with pytest.raises(DataError, match="label"):
        suite(encoder)


def test_neighbors_and_measurements_are_asked_for(encoder: NACEncoder) -> None:
    few = TRAIN.subset(torch.arange(12))
    suite = EncoderSuite(few, TEST, VIEWS, ProbeConfig(evaluators=("knn",)))
    with pytest.raises(DataError, match="knn needs 20 training images or more, got 12"):
        suite(encoder)
    with pytest.raises(
        ConfigurationError, match=r"at least one of linear, linear_sgd, .* got none"
    ):
        ProbeConfig(evaluators=())
