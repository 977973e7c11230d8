"""The VAE recipe as a user starts it."""

import json
from pathlib import Path

import pytest

from nacgen.models.vae import Decoder
from recipes import train_vae
from tests.recipes.test_recipes import TWO_PROCESSES, fails, run, start

SWITCHES = ("--adversarial", "--perceptual", "nac", "--posterior.mode", "partial")


@pytest.mark.slow
def test_a_vae_with_every_switch_is_trained_measured_and_reported(tmp_path: Path) -> None:
    folder = tmp_path / "vae"
    summary = run("train_vae", folder, *SWITCHES)
    assert summary["elbo"] == pytest.approx(-summary["rate"] - summary["distortion"])
    bounds = [summary[f"importance_bound_{k}"] for k in (1, 64, 1_000)]
    assert bounds[0] < bounds[1] < bounds[2]
    assert 0 < summary["bits_per_dim"] < 9
    scores = summary["evaluation"]["scores"]
    assert scores["bits_per_dim"] == {
        "value": summary["bits_per_dim"],
        "settings": {"images": "digits/test", "num_images": 355},
    }
    names = ("fd_digits_classifier_mixture", "fd_digits_classifier_reconstructions")
    for value in (scores["fd_digits_classifier"]["value"], *(summary[name] for name in names)):
        assert value > 0
    assert summary["pretraining"]["images"] > 0
    assert Decoder.from_pretrained(folder / "decoder").latent_dim == 32
    report = (folder / "report.md").read_text()
    for name in ("images_00000192", "reconstructions", "traversals", "mixture"):
        assert (folder / "samples" / f"{name}.png").is_file()
        assert f"(samples/{name}.png)" in report
    assert "`importance_bound_1000`" in report
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-2])
    assert {"elbo", "perceptual_distance", "adaptive_weight", "loss_discriminator"} <= set(last)
    again = start("recipes/train_vae.py", "--config", str(folder / "config.yaml"))
    assert json.loads(again.stdout.splitlines()[-1]) == summary  # its own configuration: complete


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_and_measure_as_one(tmp_path: Path) -> None:
    two = run("train_vae", tmp_path / "two", launch=TWO_PROCESSES)
    one = run("train_vae", tmp_path / "one", launch=())
    for name in ("elbo", "rate", "distortion", "importance_bound_1000", "psnr", "ssim"):
        assert two[name] == pytest.approx(one[name], rel=1e-3), name
    assert two["active_units"] == one["active_units"]
    for name in ("fd_digits_classifier_mixture", "fd_digits_classifier_reconstructions"):
        assert two[name] == pytest.approx(one[name], rel=1e-2), name


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--init", "simclr"], 2, "--init simclr needs an encoder that was pretrained so"),
        (["--adversarial", "--batch-size", "1600", "--total-images", "1600"], 4, "a batch of 1600"),
    ],
)
def test_bad_input_is_one_message_and_an_exit_code(
    flags: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, text = fails(train_vae, capsys, "--run-dir", str(tmp_path / "run"), *flags)
    assert found == code, text
    assert message in text
    assert not (tmp_path / "run").exists()
