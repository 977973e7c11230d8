"""Numbers that make no sense, and full disks, as a user meets them."""

import json
import resource
from pathlib import Path

import pytest
import yaml

from nacgen.errors import ConfigurationError
from nacgen.gan import options as gan_options
from nacgen.pretraining.classifier_options import ClassifierConfig
from tests.launch import python
from tests.recipes.test_recipes import run, start

INFINITY, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("topic", "name", "values"),
    [
        ("Optim", "learning_rate", [0.0, -1.0, NAN, INFINITY]),
        ("Optim", "penalty_weight", [-0.1, NAN]),
        ("Optim", "ema_half_life", [0.0]),
        ("Optim", "final_penalty_weight", [-0.1, INFINITY]),
        ("Optim", "beta2", [-0.1, 1.0, 1.1]),
        ("Optim", "discriminator_steps", [0]),
        ("Optim", "micro_batches", [0]),
        ("Augment", "translation", [-0.1, 1.1]),
        ("Augment", "cutout", [-0.1, 1.1, NAN]),
        ("Discriminator", "trunk_lr_multiplier", [-1.0, 0.0, INFINITY]),
        ("Generator", "latent_dim", [0]),
        ("Generator", "channels", [(16, 0, 8)]),
    ],
)
def test_a_gan_refuses_numbers_without_a_meaning(
    topic: str, name: str, values: list[object]
) -> None:
    config_class = getattr(gan_options, f"{topic}Config")
    flag = f"--{topic.lower()}.{name.replace('_', '-')}"
    for value in values:
        with pytest.raises(ConfigurationError) as caught:
            config_class(**{name: value})
        assert f"got {value}. Change {flag}." in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight_decay", -1.0),
        ("learning_rate", 0.0),
        ("smallest_crop", 0.0),
        ("smallest_crop", 1.1),
        ("channels", ()),
    ],
)
def test_a_classifier_refuses_numbers_without_a_meaning(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ClassifierConfig(**{name: value})  # type: ignore[arg-type]
    assert f"got {value}. Change --{name.replace('_', '-')}." in str(caught.value)


MISTAKES = {
    "train_gan --seeed 1": 2,
    "train_gan --preset digts": 2,
    "train_gan --config nowhere.yaml": 2,
    "train_gan --encoder runs/no/where": 5,
    "train_gan --preset folder --data-dir docs": 2,
    "train_gan --encoder checkpoints/digits-nac --preset folder": 2,
    "pretrain_nac --dataset cifar10": 2,
    "probe_encoder --dataset imagenet": 2,
    "train_vae --preset folder --data-dir nowhere": 4,
    "train_vae --perceptual nac --perceptual-encoder runs/no/where": 5,
    "train_flow --align magic": 2,
    "train_flow --align none --preset folder --data-dir nowhere": 4,
    "train_flow --encoder runs/no/where": 5,
    "pretrain_nac --encoder runs/no/where": 5,
    "train_classifier --dataset folder --data-dir nowhere": 4,
    "probe_encoder --encoders NAC=runs/no/where": 5,
    "evaluate_images nowhere": 4,
    "evaluate_images digits/train nowhere.npz": 4,
    "evaluate_images stats nowhere": 4,
    "sample --run-dir nowhere": 5,
    "convert_encoder --input nowhere --output new": 5,
    "compare --run-config nowhere.yaml": 2,
    "compare --encoder runs/no/where": 5,
}


def test_a_mistake_on_the_command_line_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    for name in ("metrics.jsonl", "results.json"):
        (tmp_path / name).touch()
    mistakes = MISTAKES | {
        f"{recipe} --run-dir {tmp_path}": 2
        for recipe in ("train_gan", "pretrain_nac", "probe_encoder")
    }
    code = """
import contextlib, io, json, runpy, sys
found = {}
for command in sys.argv[1:]:
    name, *flags = command.split()
    sys.argv, said = [f"recipes/{name}.py", *flags], io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        found[command] = [end.code, "torch" in sys.modules, said.getvalue()]
print(json.dumps(found))
"""
    done = python("-c", code, *mistakes)
    found = json.loads(done.stdout)
    assert {command: code for command, (code, _, _) in found.items()} == mistakes, found
    assert [command for command, (_, has_torch, _) in found.items() if has_torch] == []
    for command, (_, _, said) in found.items():
        word = command.split()[-1].removeprefix("NAC=")
        assert word in said or word in ("1", "docs", "new"), said


@pytest.mark.slow
def test_the_shortest_run_of_a_classifier_is_scored(tmp_path: Path) -> None:
    flags = ("--total-images", "2", "--batch-size", "2")
    assert run("train_classifier", tmp_path / "run", *flags, launch=())["images_seen"] == 2


@pytest.mark.parametrize(
    "size", [6_000, *(pytest.param(size, marks=pytest.mark.slow) for size in (1_024, 60_000))]
)
def test_a_full_disk_is_one_message_and_exit_code_6(tmp_path: Path, size: int) -> None:
    folder = tmp_path / "run"
    done = python(
        # -B, and caches in a place of their own: nobody else is to read files that were cut off.
        *("-B", "recipes/train_gan.py", "--preset", "smoke"),
        *("--run-dir", folder, "--run.tracker", "tensorboard"),
        env={"MPLCONFIGDIR": str(tmp_path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert done.returncode == 6, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert "error: the " in done.stderr
    assert str(folder) in done.stderr


def test_a_comparison_leaves_a_finished_run_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    config = yaml.safe_dump({"seed": 0, "init": "nac", "run_dir": str(folder)})
    (folder / "config.yaml").write_text(config)
    done = start("recipes/compare.py", "--preset", "smoke", "--run-dir", str(folder))
    assert done.returncode == 2
    assert f"but {folder} holds another kind of run" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]
    assert (folder / "config.yaml").read_text() == config
