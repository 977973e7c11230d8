"""Studies of docs/studies: their trials are runs that the recipes accept."""

import json
import math
import runpy
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import update_bn

from nacgen.data.pixels import to_float
from nacgen.functional.closed_form import closed_form_loss, temperature_of_channel
from nacgen.functional.nac import channel_capacity, marginal_posterior_logits
from nacgen.pretraining.nac import NACUpdate
from nacgen.pretraining.options import NACConfig, PretrainConfig
from nacgen.pretraining.presets import PRESETS
from nacgen.probes.regions.regions import sampled_crossings, segment_crossings
from nacgen.training.config import parse

STUDIES = Path(__file__).parents[2] / "docs" / "studies"


def test_the_arms_of_the_objectives_are_as_their_names_say() -> None:
    study = runpy.run_path(str(STUDIES / "objective.py"))
    assert study["PROBES"].keys() <= PRESETS.keys()
    arms = study["all_arms"]()
    assert len({*map(tuple, arms.values())}) == len(arms)
    assert not {*study["SEEDS"]["search"]} & {*study["SEEDS"]["confirm"]}
    assert parse(PretrainConfig, PRESETS, arms["authors-p0.1"]) == PRESETS["digits-authors"]
    for form in ("direction", "closed_form"):  # temperatures and stages are those of SimCLR
        names = {a.removeprefix(form) for a in arms if a.startswith(f"{form}-") and "-K" not in a}
        assert names == {a.removeprefix("simclr") for a in arms if a.startswith("simclr")}
    for name in (
        "sampled",
        "direction-T0.2-stages",
        "closed_form-T0.5",
        "direction_out-T0.2",
        "closed_form-T0.2-K512",
    ):
        config = parse(PretrainConfig, PRESETS, arms[name])
        assert config.stages == (("layer1", "layer2") if name.endswith("stages") else ())
        assert config.nac.own_row == ("out" not in name)
        if name == "sampled":
            assert config == PretrainConfig()
        else:
            found = temperature_of_channel(config.model.flip_probability, config.model.code_dim)
            assert config.model.code_dim == (512 if name.endswith("K512") else 128)
            assert abs(found - float(name.split("-T")[1][:3])) < 1e-3
    assert parse(PretrainConfig, PRESETS, arms["simclr-T0.35-stages"]).temperature == 0.35


def test_departures_from_the_closed_form_stand_apart_and_are_as_their_names_say() -> None:
    study = runpy.run_path(str(STUDIES / "objective.py"))
    variant = runpy.run_path(str(STUDIES / "variants.py"))["variant"]
    arms, others = study["variant_arms"](), study["all_arms"]()
    assert not arms.keys() & others.keys()
    configs = {}
    for name, (*words, flags) in (
        (n, (*f[: f[0][0] != "-"], f[f[0][0] != "-" :])) for n, f in arms.items()
    ):
        configs[name] = parse(PretrainConfig, PRESETS, flags)
        for word in words:
            assert isinstance(variant(word, configs[name]), partial)
    for code_dim in (64, 128, 275):
        model = configs[f"variant-capacity-K{code_dim}"].model
        capacity = code_dim * channel_capacity(model.flip_probability)
        assert (model.code_dim, capacity) == (code_dim, pytest.approx(math.log(256), abs=0.01))
    assert configs["variant-batch512"].batch_size == 512


def test_stopped_gradients_are_those_of_the_code_sent_alone() -> None:
    study = runpy.run_path(str(STUDIES / "variants.py"))
    logits = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    posterior, constant = marginal_posterior_logits(logits.roll(4, 0), 0.4), logits.clone()

    def gradient(name: str) -> torch.Tensor:
        update = study[name].__new__(study[name])
        update.encoder = SimpleNamespace(flip_probability=0.4)
        update.options = NACConfig(relaxation="closed_form")
        sent = logits.clone().requires_grad_()
        others = marginal_posterior_logits(sent.roll(4, 0), 0.4)
        batch: Any = None
        update.rows_of_loss(batch, sent, others, sent.roll(4, 0)).sum().backward()
        assert sent.grad is not None
        return sent.grad

    sent = logits.clone().requires_grad_()
    (alone,) = torch.autograd.grad(closed_form_loss(sent, posterior, 0.4, constant).sum(), sent)
    (mixture,) = torch.autograd.grad(closed_form_loss(sent, posterior, 0.4).sum(), sent)
    torch.testing.assert_close(gradient("StoppedOthers"), alone)
    torch.testing.assert_close(gradient("StoppedPosterior"), mixture)
    assert not torch.allclose(alone, mixture)


def test_falling_noise_goes_from_the_first_temperature_to_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = runpy.run_path(str(STUDIES / "variants.py"))
    update = study["FallingNoise"].__new__(study["FallingNoise"])
    update.first, update.last, update.total_images = 0.5, 0.02, 1000
    update.encoder = SimpleNamespace(flip_probability=0.3, code_dim=128)
    monkeypatch.setattr(NACUpdate, "update", lambda self, batch: self.encoder.flip_probability)
    found = [
        temperature_of_channel(update.update(SimpleNamespace(images_seen=n)), 128)
        for n in (0, 500, 1000)
    ]
    assert found == pytest.approx([0.5, 0.1, 0.02])


def test_regions_of_a_perceptron_are_those_that_dense_sampling_finds() -> None:
    study = runpy.run_path(str(STUDIES / "regions.py"))
    torch.manual_seed(0)
    config = PretrainConfig()
    train, test = study["load_training_images"](config)
    images = to_float(train.read(torch.arange(256)))
    for is_last in (False, True):  # then the code is the pattern of the last ReLUs
        encoder = study["Perceptron"](0.3, is_last)
        update_bn([images], encoder.eval())
        assert torch.equal(encoder.codes(images), encoder.features(images) > 0) == is_last
    ends = study["segments"](test, config, 1)["orbit"]
    exact = segment_crossings(encoder.features, *ends)
    assert exact.tolist() == sampled_crossings(encoder.features, *ends, 4_001).tolist()
    assert 0 < segment_crossings(partial(encoder.features, depth=-3), *ends) < exact


def test_segments_join_two_classes_an_image_and_its_view_and_noise() -> None:
    study = runpy.run_path(str(STUDIES / "regions.py"))
    config = PretrainConfig()
    _, test = study["load_training_images"](config)
    found = study["segments"](test, config, 16)
    images = to_float(test.read(torch.arange(len(test)))).flatten(1)
    start, end = (
        test.labels[torch.cdist(x.flatten(1), images).argmin(1)] for x in found["between"]
    )
    assert (start != end).all()
    assert torch.equal(found["orbit"][0], found["between"][0])
    assert found["noise"][0].std() == pytest.approx(3**-0.5, abs=0.02)


def test_ratios_are_to_the_untrained_network_of_the_same_seed(tmp_path: Path) -> None:
    study = runpy.run_path(str(STUDIES / "regions.py"))
    counts = {"untrained": (10, 20), "simclr-T0.5": (20, 80)}
    for name, seed in product(counts, (0, 1)):
        count = counts[name][seed]
        figures = {"linear_probe": 0.5, "between": [count], "orbit": [count], "noise": [count]}
        (tmp_path / f"resnet-{name}-seed{seed}.json").write_text(json.dumps(figures))
    row = next(r for r in study["table"](tmp_path).splitlines() if r.startswith("| resnet-simclr"))
    assert row.split(" | ")[1:5] == ["2", "0.500 ± 0.000", "50 ± 42", "3.00 ± 1.41"]
