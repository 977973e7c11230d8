from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from nacgen.data.datasets import load_dataset
from nacgen.data.image_sets import ImageSet, open_folder
from nacgen.data.pixels import to_uint8
from nacgen.errors import ConfigurationError, DataNotFoundError
from nacgen.metrics import ReferenceStatistics, build_extractor, evaluate, sources
from nacgen.metrics.options import EvaluateConfig, ExtractorConfig
from nacgen.metrics.sources import RunImages, Source, as_generator, describe, open_sources
from nacgen.models.denoiser import Denoiser
from nacgen.models.gan import Generator
from nacgen.models.vae import Decoder
from nacgen.system.processes import Processes
from nacgen.system.randomness import normal_rows, seeded
from tests.data.files import write_photographs
from tests.metrics.means import ChannelMeans, dataset


def opened(name: object, **options: object) -> Source:
    (source,) = open_sources([str(name)], ExtractorConfig(**options), "cpu")  # type: ignore[arg-type]
    return source


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({"score": {"num_samples": 40}}))
    with seeded(0, "test"):
        Generator(16, 8, (16, 8, 8), num_classes=3).save_pretrained(folder / "generator")
    return folder


@pytest.fixture
def vae_run(run: Path) -> Path:
    (run / "generator").rename(run / "gone")
    with seeded(0, "test"):
        Decoder(16, 8, (16, 8, 8)).save_pretrained(run / "decoder")
    return run


def test_a_run_is_scored_on_image_i_from_seed_i(run: Path) -> None:
    images = opened(run)
    assert isinstance(images, RunImages)
    assert len(images) == 40
    indices = torch.tensor([7, 0, 30])
    generator = Generator.from_pretrained(run / "generator")
    with torch.no_grad():
        expected = to_uint8(generator(normal_rows(0, "sample", indices, 8), indices % 3))
    assert torch.equal(images.read(indices), expected)
    assert torch.equal(images.read(indices[:1]), expected[:1])
    assert list(describe(images)) == [f"{run}/ema: 40 images, 16x16 px"]


def test_evaluate_takes_the_path_of_a_run(run: Path) -> None:
    for num_samples, seed in ((None, 0), (30, 0), (20, 1)):
        options = {"extractor": ChannelMeans(), "seed": seed}
        found = evaluate(run, dataset(), num_samples=num_samples, **options)  # type: ignore[arg-type]
        expected = evaluate(
            opened(run).read,
            dataset(),
            num_samples=num_samples or 40,
            **options,  # type: ignore[union-attr]
        )
        assert found == expected


def test_a_vaes_run_is_scored_on_samples_from_the_prior(vae_run: Path) -> None:
    images = opened(vae_run)
    assert isinstance(images, RunImages)
    decoder = Decoder.from_pretrained(vae_run / "decoder")
    indices = torch.tensor([7, 0, 30])
    with torch.no_grad():
        expected = to_uint8(decoder.images(normal_rows(0, "sample", indices, 8)))
    assert torch.equal(images.read(indices), expected)
    read, num_samples, label = as_generator(images, Processes())
    assert (num_samples, label) == (40, "samples from the prior")
    assert torch.equal(read(indices), expected)  # type: ignore[operator]


def test_a_flows_run_is_scored_on_images_of_its_averaged_denoiser(run: Path) -> None:
    (run / "generator").rename(run / "gone")
    with seeded(0, "test"):
        denoiser = Denoiser(16, channels=(8, 16)).eval()
    denoiser.save_pretrained(run / "denoiser")
    images = opened(run)
    assert isinstance(images, RunImages)
    indices = torch.tensor([7, 0])
    expected = to_uint8(denoiser.images(normal_rows(0, "sample", indices, 768)))
    assert torch.equal(images.read(indices), expected)
    assert list(describe(images)) == [f"{run}/ema: 40 images, 16x16 px"]


def test_images_of_a_run_are_drawn_with_a_line_for_each_tenth(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = opened(run)
    assert isinstance(images, RunImages)
    other = SimpleNamespace(process_index=1, num_processes=2, device=torch.device("cpu"))
    for processes, drawn in ((Processes(), 10), (other, 0)):
        read, _, _ = as_generator(images, processes)
        for indices in torch.arange(40).split(4):
            read(indices)  # type: ignore[operator]
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == drawn
        assert not lines or lines[0].startswith("4 of 40 images (10%), ")


def test_the_number_of_a_runs_images_can_be_chosen(run: Path) -> None:
    images = opened(run, num_samples=5)
    assert isinstance(images, RunImages)
    assert len(images) == 5
    with pytest.raises(
        ConfigurationError, match="num_samples must be between 2 and 100000000, got 1"
    ):
        opened(run, num_samples=1)
    for score in ("score: [1]", "other: 1", "score: {num_samples: 12}"):
        (run / "config.yaml").write_text(score)
        assert len(opened(run)) == (12 if "12" in score else 2_000)
    for number in ("1", "many", "1000000000000", "null", "2.5"):
        (run / "config.yaml").write_text(f"score: {{num_samples: {number}}}")
        with pytest.raises(ConfigurationError, match=r"config.yaml must be between 2 and 1000000"):
            opened(run)


def test_a_run_without_a_model_is_named(run: Path) -> None:
    (run / "generator" / "config.json").unlink()
    with pytest.raises(DataNotFoundError, match=f"{run}/generator"):
        opened(run)
    (run / "generator").rename(run / "gone")
    with pytest.raises(DataNotFoundError, match=f"but {run} has none"):
        opened(run)


def test_images_and_statistics_are_found_by_what_names_them(tmp_path: Path) -> None:
    write_photographs(tmp_path / "images", ["a.png", "cat/b.png"], (9, 9))
    found = opened(tmp_path / "images")
    assert isinstance(found, ImageSet)
    assert found == open_folder(tmp_path / "images")
    first, note = describe(found)
    assert first == f"{tmp_path}/images/all: 2 images, 9x9 px"
    assert note.startswith("nested: 1 of 2 images")
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(2), sigma=np.eye(2))
    assert opened(tmp_path / "statistics.npz") == tmp_path / "statistics.npz"
    np.savez(tmp_path / "images.npz", np.zeros((2, 5, 4, 3), np.uint8))
    found = opened(tmp_path / "images.npz")
    assert list(describe(found)) == [f"{tmp_path}/images.npz/all: 2 images, 4x5 px"]


def test_statistics_are_scored_with_the_features_that_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = load_dataset("digits", "test")
    extractor = build_extractor("digits_classifier")
    made = ReferenceStatistics.compute(images.images[:80], extractor)
    files = {
        "digits": (made, "digits_classifier", None, None),
        # Files of earlier versions name no extractor; released weights are known by their fingerprint.
        "earlier": (replace(made, extractor=None, resize=None), "digits_classifier", None, None),
        "layer": (_with(made, "inception_dims192", "clean"), "inception", "clean", 192),
        "inception": (_with(made, "inception", "pytorch_fid"), "inception", "pytorch_fid", None),
        "lite": (_with(made, "efficientnet_lite0", "bilinear"), "efficientnet_lite0", None, None),
        "own": (_with(made, "colors", "unknown"), "inception", None, None),
    }
    asked: list[tuple[Any, ...]] = []

    def build(name: str, *, resize: Any, dims: Any, **_: Any) -> Any:
        asked.append((name, resize, dims))
        return extractor

    monkeypatch.setattr(sources, "build_extractor", build)
    here = Processes()
    for name, (statistics, *expected) in files.items():
        statistics.save(path := tmp_path / f"{name}.npz")
        sources.load_extractor(EvaluateConfig(), [path], here)
        assert asked.pop() == tuple(expected), name
        sources.load_extractor(EvaluateConfig(extractor="dinov2"), [path], here)
        assert asked.pop()[0] == "dinov2"
    _with(made, "nac_encoder", "none").save(path)
    with pytest.raises(
        ConfigurationError, match="hold features of nac_encoder, whose weights must"
    ):
        sources.load_extractor(EvaluateConfig(), [path], here)


def _with(made: ReferenceStatistics, extractor: str, resize: str) -> ReferenceStatistics:
    print_of_another = f"sha256:{extractor}"
    return replace(made, extractor=extractor, resize=resize, extractor_fingerprint=print_of_another)
