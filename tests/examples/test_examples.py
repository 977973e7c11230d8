"""The worked examples do what their first lines say."""

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import nacgen
from nacgen.data.datasets import load_dataset
from nacgen.data.pixels import to_float
from nacgen.data.stream import ImageStream
from tests.docs.pages import make_folder

FOLDER = Path(__file__).parents[2] / "examples"


def main_of(name: str) -> Callable[..., Any]:
    torch.manual_seed(0)
    main: Callable[..., Any] = runpy.run_path(str(FOLDER / f"{name}.py"))["main"]
    return main


def test_a_torchvision_classifier_learns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    nacgen.NACEncoder("resnet18", "standard").save_pretrained(tmp_path / "encoder")
    losses, accuracy = main_of("torchvision_classifier")(tmp_path / "encoder", steps=8)
    assert sum(losses[-2:]) < sum(losses[:2]) - 0.5
    assert 0.1 < accuracy <= 1
    dry, markdown = capsys.readouterr().out.split("#", 1)
    assert "120 tensors of the encoder would be loaded" in dry
    assert "| untouched | 2 | `fc` |" in markdown


def test_an_own_discriminator_tells_images_apart(capsys: pytest.CaptureFixture[str]) -> None:
    last = main_of("own_discriminator")(steps=25)[-10:]
    assert sum(real - fake for real, fake in last) / 10 > 0.5
    assert "| loaded | 14 |" in capsys.readouterr().out


def test_an_own_dcgan_sees_images_as_its_encoder_does() -> None:
    encoder = nacgen.NACEncoder.from_pretrained("checkpoints/digits-nac")
    example = runpy.run_path(str(FOLDER / "own_dcgan.py"))
    discriminator = example["start_from"](encoder)
    images = to_float(load_dataset("digits").read(torch.arange(4)))
    seen: list[torch.Tensor] = []
    discriminator.convolutions[0].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    assert discriminator(images).shape == (4,)
    torch.testing.assert_close(seen[0], encoder.normalize(images))
    # The layers are the encoder's: its random control gives others.
    again, control = (example["start_from"](e) for e in (encoder, nacgen.NACEncoder()))
    weights = [each.convolutions[2].weight for each in (discriminator, again, control)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.slow
def test_an_own_dcgan_is_trained_from_an_encoder_and_from_random_weights(tmp_path: Path) -> None:
    score = {"num_samples": 20, "every": 16}
    options = {"preset": "smoke", "total_images": 32, "batch_size": 16, "score": score}
    scores = main_of("own_dcgan")(str(tmp_path), **options)
    assert scores["nac"] != scores["random"]


def test_images_with_labels_in_a_table_are_pretrained_on_and_classified(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    options = {"batch_size": 16, "total_images": 32, "probe_every": 32, "run_dir": tmp_path / "run"}
    options["optim"] = {"warmup_images": 16}
    accuracy = main_of("csv_labels")(str(folder / "photos"), str(folder / "photos.csv"), **options)
    assert accuracy > 0.6


def test_an_autoencoder_learns_in_pixels_and_in_features() -> None:
    pytest.importorskip("diffusers")
    rows = main_of("diffusers_autoencoder")(steps=25, batch_size=16)
    for first, last in zip(rows[0], rows[-1], strict=True):
        assert last < 0.7 * first


def test_a_denoiser_learns_velocities_and_features() -> None:
    pytest.importorskip("diffusers")
    rows = main_of("diffusers_unet")(steps=15, batch_size=16)
    for first, last in zip(rows[0], rows[-1], strict=True):
        assert last < 0.9 * first


def test_the_page_on_alignment_does_what_it_says() -> None:
    """Its blocks run in order, and find what its table has."""
    pytest.importorskip("diffusers")
    text = (FOLDER.parent / "docs" / "alignment.md").read_text("utf-8")
    stream = ImageStream(load_dataset("digits"), 16, seed=0)
    found: dict[str, Any] = {"batches": [to_float(stream.batch(16 * i).images) for i in range(4)]}
    torch.manual_seed(0)
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, found)
    assert found["loss"] < 1.7  # 2.1 at first
    assert not found["denoiser"].mid_block._forward_hooks
    rows = re.findall(r"\| (stem|layer\d) \| \S+ \|" + r" (\S+) \|" * 4, text)
    assert len(rows) == 4
    for stage, *values in rows:
        for column, value in zip(found["columns"], values, strict=True):
            assert column[stage] == pytest.approx(float(value), abs=6e-4)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_fits_on_a_page(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60
