"""Runs, files and flags of earlier versions. `old_run/gan` was stopped by a signal at 64 of 640 images."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nacgen.errors import ConfigurationError
from nacgen.gan.options import GANConfig
from nacgen.gan.presets import PRESETS as GAN_PRESETS
from nacgen.pretraining.options import PretrainConfig
from nacgen.pretraining.presets import PRESETS as PRETRAIN_PRESETS
from nacgen.training import old_options
from nacgen.training.config import parse
from nacgen.training.run_folder import check_folder
from nacgen.vae.options import VAEConfig
from nacgen.vae.presets import PRESETS as VAE_PRESETS
from tests.launch import python

ROOT, OLD = Path(__file__).parents[2], Path(__file__).parent / "old_run"


def train_gan(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = (
        "recipes/train_gan.py",
        *flags,
        "--config",
        folder / "config.yaml",
        "--run-dir",
        folder,
    )
    return python(*command, env={"OMP_NUM_THREADS": "1"})


def test_an_old_run_resumes_and_says_what_it_lacks(tmp_path: Path) -> None:
    folder = tmp_path / "gan"
    shutil.copytree(OLD / "gan", folder)
    old = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(old.replace("  beta2: 0.99\n", ""))
    other = parse(
        GANConfig,
        GAN_PRESETS,
        [*("--config", f"{folder}/config.yaml"), *("--run-dir", str(folder)), "--optim.beta2=0.9"],
    )
    with pytest.raises(
        ConfigurationError, match=r"\(optim.beta2: 0.99 \(default\) there, 0.9 here\)"
    ):
        check_folder(folder, other)
    ended = train_gan(folder)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["images_seen"] == 640
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seen = [
        row["images_seen"] for row in rows if "loss_generator" in row or "evaluation" not in row
    ]
    assert seen == list(range(64, 641, 64))
    assert (
        f"{folder} holds a run of an earlier version, which lacks options of today; it goes on with "
        "score.precision float32, generator.network residual, optim.beta2 0.99, augment.function None\n"
    ) in ended.stderr
    assert "discriminator.taps is now called discriminator.return_nodes" in ended.stderr
    changed = train_gan(folder, "--seed", "1")
    assert changed.returncode == 2
    assert "(seed: 0 there, 1 here)" in changed.stderr


@pytest.mark.parametrize(
    ("name", "config_class", "presets", "renamed"),
    [
        ("gan/config", GANConfig, GAN_PRESETS, {"taps": "return_nodes"}),
        ("vae-config", VAEConfig, VAE_PRESETS, {"felt_from": "is no longer an option"}),
        ("nac-config", PretrainConfig, PRETRAIN_PRESETS, {"greyscale": "grayscale"}),
    ],
)
def test_an_old_file_is_read_under_todays_names(
    name: str,
    config_class: Any,
    presets: Any,
    renamed: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    read = parse(config_class, presets, ["--config", f"{OLD}/{name}.yaml"])
    assert read.preset == "smoke"
    said = capsys.readouterr().err
    for old, new in renamed.items():
        assert old in said
        assert new in said


@pytest.mark.parametrize(
    ("flags", "option"),
    [
        (["--discriminator.taps", "stage1", "stage2"], ("stage1", "stage2")),
        (["--discriminator.taps=None"], None),
    ],
)
def test_an_old_flag_is_read_with_a_warning(
    flags: list[str], option: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    read = parse(GANConfig, GAN_PRESETS, ["--seed", "3", *flags, "--batch-size", "32"])
    assert (read.seed, read.discriminator.return_nodes, read.batch_size) == (3, option, 32)
    warning = "the command line: discriminator.taps is now called discriminator.return_nodes"
    assert warning in capsys.readouterr().err


def test_a_removed_option_may_hold_its_old_default_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    removed = {"optim.beta1": 0.5, "optim.widths": [1, 2], "optim.is_odd": False}
    monkeypatch.setattr(old_options, "REMOVED", removed)
    file = tmp_path / "old.yaml"

    def read(*flags: str) -> GANConfig:
        return parse(GANConfig, GAN_PRESETS, [*flags, "--seed", "3"])

    defaults = ["--optim.beta1", "0.5", "--optim.widths", "1", "2", "--optim.no-is-odd"]
    assert read(*defaults).seed == 3
    assert capsys.readouterr().err.count("is no longer an option") == 3
    file.write_text("optim:\n  beta1: 0.5\n  is_odd: false\n")
    assert read("--config", str(file)).seed == 3
    for flags in (["--optim.beta1=0.9"], ["--optim.widths", "1"], ["--optim.is-odd"]):
        with pytest.raises(ConfigurationError, match=r"optim\.\w+ must be .* the command line has"):
            read(*flags)
    file.write_text("optim:\n  beta1: 0.9\n")
    with pytest.raises(
        ConfigurationError, match=rf"optim.beta1 must be 0.5, .* but {file} has 0.9"
    ):
        read("--config", str(file))
