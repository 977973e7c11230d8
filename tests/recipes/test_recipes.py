"""Every recipe's smoke preset as a user starts it, and bad input with its exit code."""

import inspect
import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nacgen.errors import ConfigurationError
from nacgen.gan.options import GANConfig
from nacgen.models.encoder import NACEncoder
from nacgen.models.gan import Generator
from nacgen.training import command
from nacgen.training.generative import ScoreConfig
from recipes import train_gan
from recipes.evaluate_images import EvaluateConfig, score
from tests.data.files import write_photographs
from tests.launch import python

ROOT = Path(__file__).parents[2]
LAUNCH = ("-m", "accelerate.commands.launch", "--cpu")
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def fails(recipe: ModuleType, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[Any, str]:
    """Run a recipe of this process that is to fail; return its exit code and its message on one line."""
    config_class = inspect.get_annotations(recipe.main)["config"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["recipe", *flags])
        patch.setattr(threading, "excepthook", threading.excepthook)
        patch.setattr(command, "stop_with_launcher", lambda: None)
        with pytest.raises(SystemExit) as ended:
            command.run_recipe(recipe.main, config_class, recipe.PRESETS)
    message = " ".join(capsys.readouterr().err.replace("│", " ").split())  # out of its box
    return ended.value.code, message


def start(*command: str) -> subprocess.CompletedProcess[str]:
    return python(*command)


def run(recipe: str, folder: Path, *flags: str, launch: tuple[str, ...] = LAUNCH) -> dict[str, Any]:
    flags = (*flags, "--run.num-threads", "1")  # whatever the launcher; tests run side by side
    done = start(
        *launch, f"recipes/{recipe}.py", "--preset", "smoke", "--run-dir", str(folder), *flags
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


@pytest.mark.slow
def test_pretraining_leaves_an_encoder_that_trains_a_gan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run("pretrain_nac", tmp_path / "nac")
    assert summary["images_seen"] == 512
    encoder = NACEncoder.from_pretrained(summary["encoder"])
    assert encoder.code_dim == 128
    gan = run("train_gan", tmp_path / "gan", "--encoder", summary["encoder"])
    assert gan["pretraining"] == encoder.pretraining
    assert gan["pretraining"]["images"] == 512
    assert gan["pretraining"]["seconds"] == pytest.approx(summary["seconds"], abs=0.05)
    scores = gan["evaluation"]["scores"]
    assert scores["fd_digits_classifier"]["value"] > 0
    assert Generator.from_pretrained(tmp_path / "gan" / "generator").image_size == 16
    for name in ("config.yaml", "environment.json", "report.html", "curve.svg"):
        assert (tmp_path / "gan" / name).is_file()
    score(EvaluateConfig(reference="digits", generated=str(tmp_path / "gan"), json=True))
    again = json.loads(capsys.readouterr().out)
    assert again["protocol"] == gan["evaluation"]["protocol"]
    value = again["scores"]["fd_digits_classifier"]["value"]
    assert value == pytest.approx(scores["fd_digits_classifier"]["value"], rel=1e-4)
    repeated = start("recipes/train_gan.py", "--config", str(tmp_path / "gan" / "config.yaml"))
    assert json.loads(repeated.stdout.splitlines()[-1]) == gan  # its own configuration: complete


def test_classifier_recipe(tmp_path: Path) -> None:
    assert 0 <= run("train_classifier", tmp_path / "run", launch=())["test_accuracy"] <= 1


@pytest.mark.slow
def test_one_process_needs_no_launcher(tmp_path: Path) -> None:
    run("train_classifier", tmp_path / "launched")
    run("train_classifier", tmp_path / "plain", launch=())
    weights = "classifier/model.safetensors"
    launched, plain = (tmp_path.joinpath(n, weights).read_bytes() for n in ("launched", "plain"))
    assert launched == plain


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_and_score_as_one(tmp_path: Path) -> None:
    two = run("train_gan", tmp_path / "two", launch=TWO_PROCESSES)
    one = run("train_gan", tmp_path / "one", launch=())
    here, there = (rows(tmp_path / name)[0] for name in ("two", "one"))
    # The discriminator's values are older than the first update, and the loss of the generator does not see the
    # rounding errors that Adam's first step, of one size for every weight, makes of vanishing gradients.
    names = ("loss", "logits", "r1", "r2", "gradient_norm_discriminator")
    names = [name for name in there if name.startswith(names)]
    assert len(names) == 7
    for name in names:
        assert here[name] == pytest.approx(there[name], rel=1e-5, abs=1e-7), name
    first, second = (
        run["evaluation"]["scores"]["fd_digits_classifier"]["value"] for run in (one, two)
    )
    assert second == pytest.approx(first, rel=1e-2)  # six steps of rounding apart


@pytest.mark.slow
def test_runs_side_by_side_have_the_bits_of_runs_one_after_another(tmp_path: Path) -> None:
    folders = [tmp_path / jobs for jobs in ("1", "2")]
    for folder in folders:
        flags = ("--preset", "smoke", "--seeds", "0", "--jobs", folder.name)
        done = start("recipes/compare.py", *flags, "--run-dir", str(folder))
        assert done.returncode == 0, done.stderr[-3000:]
    for name in ("metrics.jsonl", "generator/model.safetensors"):
        for arm in ("random-seed0", "nac-seed0"):
            one, two = (folder.joinpath(arm, name).read_bytes() for folder in folders)
            assert one == two, (arm, name)


@pytest.mark.distributed
def test_two_processes_pretrain_one_encoder(tmp_path: Path) -> None:
    summary = run("pretrain_nac", tmp_path / "nac", launch=TWO_PROCESSES)
    assert summary["images_seen"] == 512
    assert NACEncoder.from_pretrained(summary["encoder"]).code_dim == 128
    assert [row["images_seen"] for row in rows(tmp_path / "nac") if "loss" in row] == [
        *range(128, 513, 128)
    ]


@pytest.mark.slow
def test_images_of_ones_own_take_three_commands(tmp_path: Path) -> None:
    """Pretraining, a classifier for the score, the GAN: as the docstring of train_gan says."""
    names = [f"{name}/{i:03d}.png" for name in ("ant", "bee") for i in range(80)]
    write_photographs(tmp_path / "images", names, (40, 36))
    data = ("--dataset", "folder", "--data-dir", str(tmp_path / "images"))
    data += ("--data.image-size", "32")
    encoder = run("pretrain_nac", tmp_path / "nac", *data, launch=())["encoder"]
    classifier = run("train_classifier", tmp_path / "classifier", *data, launch=())["classifier"]
    networks = ("--encoder", encoder, "--score.weights", classifier)
    networks += ("--score.extractor", "classifier")
    gan = run("train_gan", tmp_path / "gan", *data, *networks, launch=())
    assert gan["evaluation"]["scores"]["fd_folder_classifier"]["value"] > 0
    protocol = gan["evaluation"]["protocol"]
    assert (protocol["extractor"], protocol["reference"]) == ("folder_classifier", "folder/train")
    assert protocol["num_reference"] == 160  # all of them: nothing has to be held out
    assert Generator.from_pretrained(tmp_path / "gan" / "generator").image_size == 32


@pytest.mark.slow
def test_photographs_without_labels_or_network_take_two_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of odd sizes and formats; the judge of the tests' extra scores them."""
    names = [f"{i:03d}.{('png', 'jpg', 'webp')[i % 3]}" for i in range(60)]
    write_photographs(tmp_path / "photos", names, (40, 36))
    write_photographs(tmp_path / "photos", names[:20], (33, 50))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    own = ("--preset", "folder", "--data-dir", str(tmp_path / "photos"), "--data.image-size", "32")
    own += ("--total-images", "64", "--batch-size", "16", "--run.tracker", "none")
    tiny = ("--model.backbone", "tiny")
    encoder = run("pretrain_nac", tmp_path / "nac", *own, *tiny, launch=())["encoder"]
    few = ("--encoder", encoder, "--score.num-samples", "20")
    gan = run("train_gan", tmp_path / "gan", *own, *few, launch=())
    assert list(gan["evaluation"]["scores"]) == ["fd_efficientnet_lite0"]
    assert gan["evaluation"]["protocol"]["num_reference"] == 60


@pytest.mark.parametrize("given", [{}, {"score": ScoreConfig(extractor="inception")}])
def test_other_images_need_an_encoder_of_their_own(given: dict[str, Any]) -> None:
    options = GANConfig(dataset="folder", data_dir="docs", **given)
    message = r"none for folder\. Run nacgen pretrain .* A/encoder\. .* train-classifier .* none"
    with pytest.raises(ConfigurationError, match=message):
        options.check_inputs()
    replace(options, dataset="digits").check_inputs()
    replace(options, encoder="checkpoints/digits-nac").check_inputs()


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--preset", "huge"], 2, "projected, folder, smoke, got 'huge'"),
        (["--dataset", "svhn"], 2, "imagenet, folder, got 'svhn'"),
        (["--init", "magic"], 2, "invalid choice 'magic'"),
        (["--score.extractor", "eyes"], 2, "got 'eyes'"),
        (["--total-images", "100"], 2, "multiple of batch_size, got 100 and 64"),
        (["--dataset", "folder", "--data-dir", "no/such"], 4, "no/such does not exist"),
        (["--batch-size", "1600", "--total-images", "1600"], 4, "a batch of 1600"),
        (["--encoder", "no/such/encoder"], 5, "no/such/encoder is no model folder"),
        (["--run-dir", "README.md"], 6, "README.md is a file"),
    ],
)
def test_bad_input_is_one_message_and_an_exit_code(
    flags: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = [] if "--run-dir" in flags else ["--run-dir", str(tmp_path / "run")]
    found, text = fails(train_gan, capsys, *folder, *flags)
    assert found == code, text
    assert message in text
    assert not (tmp_path / "run").exists()


HELP_OF_ALL = """
import runpy, sys
for sys.argv in ([recipe, "--help"] for recipe in sys.argv[1:]):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        assert end.code == 0, end.code
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_help_loads_nothing_but_the_parser() -> None:
    """What keeps `--help` under a second; torch alone takes several."""
    recipes = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "recipes").glob("*.py"))
    done = start("-c", HELP_OF_ALL, *recipes)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("usage: ") == len(recipes) == 10
    assert "--optim.learning-rate" in done.stdout
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {"nacgen", "tyro", "yaml"} <= loaded
    heavy = {"accelerate", "huggingface_hub", "matplotlib", "numpy", "PIL", "safetensors", "torch"}
    assert not loaded & heavy
