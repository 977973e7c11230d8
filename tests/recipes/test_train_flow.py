"""The flow recipe as a user starts it."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from nacgen.flow.options import FlowConfig
from nacgen.models.denoiser import Denoiser
from nacgen.models.sampling import sample_images
from nacgen.pretraining.options import PretrainConfig
from nacgen.training.config import parse
from recipes import pretrain_nac, train_flow
from recipes.evaluate_images import EvaluateConfig, score
from tests.recipes.test_recipes import TWO_PROCESSES, fails, rows, run, start


@pytest.mark.slow
def test_a_flow_is_trained_scored_sampled_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "flow"
    summary = run("train_flow", folder)
    assert summary["images_seen"] == 192
    assert summary["pretraining"]["images"] > 0
    value = summary["evaluation"]["scores"]["fd_digits_classifier"]["value"]
    assert value > 0
    names = {"loss_flow", "loss_alignment", "loss", "gradient_norm"}
    assert all(names <= row.keys() for row in rows(folder) if "evaluation" not in row)
    report = (folder / "report.md").read_text()
    assert report.startswith("# digits: nac alignment, seed 0\n")
    assert "(samples/images_00000192.png)" in report
    score(EvaluateConfig(reference="digits", generated=str(folder), json=True))
    again = json.loads(capsys.readouterr().out)
    assert again["protocol"] == summary["evaluation"]["protocol"]
    found = again["scores"]["fd_digits_classifier"]["value"]
    assert found == pytest.approx(value, rel=1e-4)
    made = start("recipes/sample.py", "--run-dir", str(folder), "--num-images", "10")
    assert json.loads(made.stdout)["num_images"] == 10
    assert Denoiser.from_pretrained(folder / "denoiser").image_size == 16
    repeated = start("recipes/train_flow.py", "--config", str(folder / "config.yaml"))
    assert json.loads(repeated.stdout.splitlines()[-1]) == summary  # its own configuration


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_and_score_as_one(tmp_path: Path) -> None:
    two = run("train_flow", tmp_path / "two", launch=TWO_PROCESSES)
    one = run("train_flow", tmp_path / "one", launch=())
    here, there = (rows(tmp_path / name)[0] for name in ("two", "one"))
    for name in there:
        assert here[name] == pytest.approx(there[name], rel=1e-5), name
    models = (Denoiser.from_pretrained(tmp_path / n / "denoiser") for n in ("one", "two"))
    first, second = (sample_images(model, torch.arange(10)).int() for model in models)
    assert (first - second).abs().max() <= 2  # six steps of rounding apart
    values = [s["evaluation"]["scores"]["fd_digits_classifier"]["value"] for s in (one, two)]
    assert values[0] == pytest.approx(values[1], rel=1e-2)
    # Stopped halfway, two processes resume bit for bit.
    half = tmp_path / "half"
    shutil.copytree(tmp_path / "two", half)
    shutil.rmtree(half / "checkpoints" / "step_000000000192")
    (half / "summary.json").unlink()
    (half / "denoiser" / "model.safetensors").unlink()
    (kept,) = (half / "checkpoints").iterdir()
    written = kept.stat().st_mtime_ns
    assert run("train_flow", half, launch=TWO_PROCESSES)["evaluation"] == two["evaluation"]
    weights = "denoiser/model.safetensors"
    assert (half / weights).read_bytes() == (tmp_path / "two" / weights).read_bytes()
    assert kept.stat().st_mtime_ns == written  # it did not start over


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--align", "simclr"], 2, "--align simclr needs an encoder that was pretrained so"),
        (["--alignment.stage", "layer7"], 2, "stage must be one of stem, layer1, layer2, layer3"),
        (["--data.image-size", "18"], 2, "image_size must be a multiple of 4 px"),
        (
            ["--network.num-blocks", "4"],
            2,
            "num_blocks has no effect with --network.kind small, wh",
        ),
        (["--alignment.until", "0"], 2, "until must be above 0, got 0.0. Change --alignment.until"),
        (["--batch-size", "1600", "--total-images", "1600"], 4, "a batch of 1600"),
    ],
)
def test_bad_input_is_one_message_and_an_exit_code(
    flags: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, text = fails(train_flow, capsys, "--run-dir", str(tmp_path / "run"), *flags)
    assert found == code, text
    assert message in text
    assert not (tmp_path / "run").exists()


def test_the_help_trains_on_own_images_without_a_classifier() -> None:
    text = str(train_flow.__doc__)
    own = re.findall(r"own=\((.*)\)", text)[0]
    commands = re.findall(r'nacgen (\S+) "\$\{own\[@\]\}" (.*)', text)
    assert [name for name, _ in commands] == ["pretrain", "train-flow"]
    first, second = (f"{own} {flags}".split() for _, flags in commands)
    encoder = parse(PretrainConfig, pretrain_nac.PRESETS, first)
    flow = parse(FlowConfig, train_flow.PRESETS, second)
    assert flow.encoder == f"{encoder.run_dir}/encoder"
    assert (flow.score.extractor, flow.score.weights) == (None, None)


def test_a_missing_package_is_told_before_anything_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nacgen.system.places.find_spec", lambda name: None)
    flags = ("--run-dir", str(tmp_path / "run"), "--network.kind", "dit")
    found, text = fails(train_flow, capsys, *flags)
    assert (found, text.count("error:")) == (2, 1)
    assert "network dit needs diffusers, which is not installed. Run `pip install" in text
    assert not (tmp_path / "run").exists()
