import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
import yaml

from nacgen.comparison.arms import check_arms
from nacgen.comparison.options import CompareConfig
from nacgen.errors import (
    ConfigurationError,
    LockedError,
    NacgenError,
    NonFiniteError,
    StorageError,
)
from nacgen.metrics.extractors import efficientnet, inception
from nacgen.system.locks import lock_folder
from nacgen.training.config import parse
from recipes import compare

# Stands for train_gan.py: leaves a run folder with invented scores at once.
STUB = """
import argparse, hashlib, json, os, pathlib, yaml
parser = argparse.ArgumentParser()
for flag in ("preset", "config", "init", "seed", "run-dir", "total-images", "encoder", "data-dir",
             "discriminator.mode", "score.extractor", "run.num-threads"):
    parser.add_argument(f"--{flag}")
parser.set_defaults(init="nac")
file = parser.parse_known_args()[0].config
if file:
    parser.set_defaults(**yaml.safe_load(pathlib.Path(file).read_text()))
flags = parser.parse_args()
flags.config = None
if "EDIT" in os.environ:
    pathlib.Path(os.environ["EDIT"]).write_text("preset: smoke\\ndata_dir: two\\n")
folder, seed = pathlib.Path(flags.run_dir), int(flags.seed)
total = int(flags.total_images or 25600)
if os.environ.get("FAIL") == folder.name:
    raise SystemExit("no such encoder")
if folder.name in os.environ.get("DIVERGE", "").split():
    print("the loss is not finite")
    raise SystemExit(3)
folder.mkdir(exist_ok=True)
(folder / "starts").open("a").write("x")
config = {**vars(flags), "seed": seed, "total_images": total,
          "dataset": getattr(flags, "dataset", "digits"), "run_dir": str(folder)}
if config["encoder"] and (encoder := pathlib.Path(config["encoder"])).is_dir():
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in encoder.iterdir()}
    made = {"configuration": "x", "inputs": {"encoder": digests}}
    (folder / "fingerprints.json").write_text(json.dumps(made))
for name in ("discriminator.mode", "score.extractor"):
    if not config[name]:
        del config[name]
config.pop("score", None)
config.pop("run", None)
threads = config["run.num_threads"] = int(config["run.num_threads"])
(folder / "environment.json").write_text(json.dumps({"threads": threads, "device": "cpu"}))
(folder / "config.yaml").write_text(yaml.safe_dump(config))
end = {"random": 14.0, "nac": 11.5, "shuffled": 13.9}[flags.init] + 0.1 * seed
evaluations = [{"scores": {"fd_digits_classifier": {"value": value, "bias": 0.2}},
                "protocol": {"extractor": "digits_classifier", "seed": 0}, "warnings": []}
               for value in (2 * end, end)]
rows = [{"images_seen": total // 5, "evaluation": evaluations[0]},
        {"images_seen": total, "evaluation": evaluations[1]}]
(folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
summary = {"images_seen": total, "seconds": 1.0, "evaluation": evaluations[1]}
(folder / "summary.json").write_text(json.dumps(summary))
"""


@pytest.fixture(autouse=True)
def train_gan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stub in the recipe's place."""
    for recipe in ("train_gan", "train_vae"):
        (tmp_path / f"{recipe}.py").write_text(STUB)
    monkeypatch.setattr(compare, "RECIPES", tmp_path)
    monkeypatch.delenv("RANK", raising=False)


def run(tmp_path: Path, *flags: str) -> Path:
    argv = ["--run-dir", str(tmp_path / "runs"), *flags]
    compare.main(parse(CompareConfig, compare.PRESETS, argv))
    return tmp_path / "runs"


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return content


def test_every_arm_and_seed_is_trained_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run(tmp_path)
    captured = capsys.readouterr()
    printed = json.loads(captured.out.splitlines()[-1])
    (comparison,) = printed["comparisons"]
    assert (comparison["arm_a"], comparison["arm_b"]) == ("random", "nac")
    assert comparison["end"]["scores_a"] == [14.0, 14.1, 14.2]
    assert comparison["early"]["scores_b"] == [23.0, 23.2, 23.4]
    assert printed["run_dir"] == str(run_dir)
    assert printed["reports"] == [str(run_dir / "report.md"), str(run_dir / "report.html")]
    assert all(Path(path).is_file() for path in printed["reports"])
    assert (run_dir / "curve.svg").is_file()
    assert (run_dir / "forest.svg").is_file()
    assert printed["diverged"] == {"random": [], "nac": []}
    for text in (captured.err, (run_dir / "report.md").read_text()):
        assert comparison["verdict"] in text
        assert "They cannot show significance" in text


def test_a_second_call_trains_nothing_and_more_seeds_only_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run(tmp_path, "--seeds", "0")
    assert result(capsys)["comparisons"][0]["end"]["interval"] is None
    run(tmp_path, "--seeds", "0", "1", "--arms", "random", "nac", "shuffled")
    assert len(result(capsys)["comparisons"]) == 2
    starts = {folder.parent.name: folder.read_text() for folder in run_dir.glob("*/starts")}
    assert starts == {
        f"{arm}-seed{s}": "x" for arm in ("random", "nac", "shuffled") for s in (0, 1)
    }


def test_flags_reach_every_run_unchanged(tmp_path: Path) -> None:
    flags = ("--total-images", "640", "--encoder", "some encoder")
    run_dir = run(tmp_path, "--seeds", "3", "--preset", "smoke", *flags)
    for init in ("random", "nac"):
        config = yaml.safe_load((run_dir / f"{init}-seed3" / "config.yaml").read_text())
        assert (config["preset"], config["init"], config["seed"]) == ("smoke", init, 3)
        assert (config["total_images"], config["encoder"]) == (640, "some encoder")


def test_runs_without_scores_are_refused_before_they_are_trained(tmp_path: Path) -> None:
    arms = ("random", "nac=--init nac --score.extractor none")
    with pytest.raises(ConfigurationError, match=r"but arm nac has --score\.extractor none\. Give"):
        run(tmp_path, "--arms", *arms)
    assert not (tmp_path / "runs").exists()
    vae = ("--recipe", "train_vae", "--preset", "smoke", "--arms", *arms)
    with pytest.raises(ConfigurationError, match="but arm nac is scored by bits_per_dim"):
        run(tmp_path, *vae, "--metric", "fd_digits_classifier")
    message = (
        r"but nac of random, nac have --score\.extractor none\. Give --metric bits_per_dim, or"
    )
    with pytest.raises(ConfigurationError, match=message):
        run(tmp_path, *vae)
    check_arms(parse(CompareConfig, compare.PRESETS, [*vae, "--metric", "bits_per_dim"]))
    (control := tmp_path / "runs" / "random-seed0").mkdir(parents=True)  # complete
    (control / "summary.json").touch()
    (control / "config.yaml").write_text("preset: smoke")
    (control.parent / "config.yaml").write_text("arms: [random, nac]")
    with pytest.raises(ConfigurationError, match=message):
        run(tmp_path, *vae, "--seeds", "0")


def test_every_run_has_the_extractor_of_the_first_whatever_is_downloaded_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def extractors() -> list[str | None]:
        files = sorted((tmp_path / "runs").glob("*/config.yaml"))
        return [yaml.safe_load(file.read_text()).get("score.extractor") for file in files]

    judge = "efficientnet_lite0"
    monkeypatch.setattr(efficientnet, "is_installed", lambda: True)
    monkeypatch.setattr(inception, "is_at_hand", lambda: False)
    monkeypatch.setattr(compare, "report", lambda *_: None)
    own = {"preset": "folder", "dataset": "folder", "total_images": 640}
    file = template(tmp_path / "mine", **own, score={"extractor": None})
    flags = ("--run-config", file, "--arms", "random", "nac")
    run_dir = run(tmp_path, *flags, "--seeds", "0")
    assert "scores are fd_efficientnet_lite0, no FID" in capsys.readouterr().err
    assert extractors() == [judge] * 2
    monkeypatch.setattr(inception, "is_at_hand", lambda: True)
    run(tmp_path, *flags, "shuffled", "own=--init nac --score.extractor dinov2", "--seeds", "0")
    assert extractors() == [judge, "dinov2", judge, judge]
    # Runs that have begun are resumed with their own options; new ones join them.
    for arm in ("nac", "random"):
        (run_dir / f"{arm}-seed0" / "summary.json").unlink()
    config = yaml.safe_load((run_dir / "nac-seed0" / "config.yaml").read_text())
    del config["score.extractor"]
    (run_dir / "nac-seed0" / "config.yaml").write_text(yaml.safe_dump(config))
    run(tmp_path, *flags, "--seeds", "0", "1")
    assert extractors() == [None, judge, "dinov2", judge, judge, judge]
    rmtree(run_dir)
    run(tmp_path, *flags, "--seeds", "0")
    assert extractors() == ["inception"] * 2


def test_what_runs_chose_by_themselves_is_kept_for_those_that_are_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inception, "is_at_hand", lambda: True)
    monkeypatch.setattr(compare, "report", lambda *_: None)
    own = {"preset": "folder", "dataset": "folder", "total_images": 640}
    file = template(tmp_path / "mine", **own)
    run_dir = run(tmp_path, "--seeds", "0", "--run-config", file)
    for folder in run_dir.glob("*-seed0"):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config.pop("score.extractor") == "inception"
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        environment = {"threads": 1, "device": "cpu", "extractor": "efficientnet_lite0"}
        (folder / "environment.json").write_text(json.dumps(environment))
    run(tmp_path, "--seeds", "0", "1", "--run-config", file)
    config = yaml.safe_load((run_dir / "random-seed1" / "config.yaml").read_text())
    assert config["score.extractor"] == "efficientnet_lite0"


def test_its_configuration_is_a_valid_config_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run(tmp_path, "--seeds", "0", "1", "--jobs", "1")
    first = result(capsys)
    argv = ["--config", str(run_dir / "config.yaml")]
    again = parse(CompareConfig, compare.PRESETS, argv)
    assert (again.seeds, again.jobs, again.run_dir) == ((0, 1), 1, str(run_dir))
    assert again.arms == ("random", "nac")
    compare.main(again)
    assert result(capsys) == first


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--total-images", "640"), "total_images: 25600 there, 640 here"),
        (("--encoder", "other"), "encoder: None there, other here"),
        (("--preset", "smoke"), "preset: digits there, smoke here"),
        (("--recipe", "train_vae"), "recipe: train_gan there, train_vae here"),
        (
            ("--arms", "random", "nac=--init shuffled"),
            "arm nac: nac there, nac=--init shuffled here",
        ),
    ],
)
def test_a_folder_of_other_runs_is_refused(
    tmp_path: Path, flags: tuple[str, str], message: str
) -> None:
    before = (run(tmp_path, "--seeds", "0") / "config.yaml").read_text()
    with pytest.raises(ConfigurationError, match=rf"runs of another configuration \({message}\)"):
        run(tmp_path, "--seeds", "0", *flags)
    assert (tmp_path / "runs" / "config.yaml").read_text() == before


def test_an_arm_that_never_ran_may_be_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL", "b-seed0")
    with pytest.raises(NacgenError):
        run(
            tmp_path,
            "--seeds",
            "0",
            "--arms",
            "random",
            "b=--init nac --discriminator.mode partial",
        )
    monkeypatch.delenv("FAIL")
    run(tmp_path, "--seeds", "0", "--arms", "random", "b=--init nac --discriminator.mode frozen")


def test_an_arm_whose_configuration_file_was_edited_gets_no_further_seed(tmp_path: Path) -> None:
    file = tmp_path / "arm.yaml"
    file.write_text("preset: smoke\ndata_dir: one\n")
    arms = ("--arms", "random", f"nac=--init nac --config {file}")
    run(tmp_path, "--seeds", "0", "--total-images", "640", *arms)
    file.write_text("preset: smoke\ndata_dir: two  # edited\n")
    message = r"nac has changed since it was trained with seed 0 \(data_dir: one there, two here\)\. Bring it"
    with pytest.raises(ConfigurationError, match=message):
        run(tmp_path, "--seeds", "0", "1", *arms)
    assert not (tmp_path / "runs" / "nac-seed1").exists()
    assert not (tmp_path / "runs" / "random-seed1").exists()
    file.write_text("preset: smoke  # a remark\ndata_dir: one\n")
    run(tmp_path, "--seeds", "0", "1", *arms)


def test_an_arm_whose_configuration_file_was_edited_while_it_ran_is_not_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "arm.yaml"
    file.write_text("preset: smoke\ndata_dir: one\n")
    monkeypatch.setenv("EDIT", str(file))
    arms = ("--arms", f"random=--init random --config {file}", "nac")
    with pytest.raises(ConfigurationError, match=r"seed 0 \(data_dir: one there, two here\)"):
        run(tmp_path, "--seeds", "0", "1", "--jobs", "1", "--total-images", "640", *arms)
    assert not (tmp_path / "runs" / "report.md").exists()


def test_an_arm_whose_encoder_was_replaced_gets_no_further_seed(tmp_path: Path) -> None:
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    for name, content in (("config.json", "{}"), ("model.safetensors", "weights")):
        (encoder / name).write_text(content)
    flags = ("--encoder", str(encoder))
    run(tmp_path, "--seeds", "0", *flags)
    (encoder / "model.safetensors").write_text("other weights")
    message = (
        r"seed 0 \(encoder: .*safetensors 9a129038d9a0.* there, .*safetensors 53959fa102f3.* here\)"
    )
    with pytest.raises(ConfigurationError, match=message):
        run(tmp_path, "--seeds", "0", "1", *flags)
    (encoder / "model.safetensors").write_text("weights")
    run(tmp_path, "--seeds", "0", "1", *flags)


def test_seeds_are_0_or_more() -> None:
    with pytest.raises(
        ConfigurationError, match=r"seeds must be 0 or more, got \(0, -1\)\. Change"
    ):
        CompareConfig(seeds=(0, -1))


def test_an_arm_is_not_taken_for_one_whose_name_it_begins(tmp_path: Path) -> None:
    arms = ("--arms", "random", "nac", "nac-seedless=--init nac --discriminator.mode frozen")
    run(tmp_path, "--seeds", "0", *arms)
    run(tmp_path, "--seeds", "0", "1", *arms)


def test_what_is_added_is_trained_like_what_is_there(tmp_path: Path) -> None:
    run_dir = run(tmp_path, "--seeds", "0", "--total-images", "640", "--encoder", "mine")
    run(tmp_path, "--seeds", "0", "1")
    run(tmp_path, "--seeds", "0", "1", "--encoder", "mine")
    config = yaml.safe_load((run_dir / "nac-seed1" / "config.yaml").read_text())
    assert (config["total_images"], config["encoder"]) == (640, "mine")


def threads_of(run_dir: Path) -> dict[str, int]:
    files = sorted(run_dir.glob("*/config.yaml"))
    return {f.parent.name: int(yaml.safe_load(f.read_text())["run.num_threads"]) for f in files}


def test_every_run_has_the_threads_of_the_first_whatever_runs_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run(tmp_path, "--seeds", "0", "--jobs", "1")
    assert "training 2 runs, 1 side by side with 1 thread each\n" in capsys.readouterr().err
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["num_threads"] == 1
    monkeypatch.setattr("nacgen.comparison.arms.default_threads", lambda: 4)  # another machine
    run(tmp_path, "--seeds", "0", "1", "--jobs", "2")
    assert "training 2 runs, 2 side by side with 1 thread each\n" in capsys.readouterr().err
    file = template(tmp_path / "mine", run={"num_threads": 8, "timeout": 60})
    run(tmp_path, "--seeds", "0", "2", "--arms", "random", "nac", "shuffled", "--run-config", file)
    assert set(threads_of(run_dir).values()) == {1}
    assert len(threads_of(run_dir)) == 8
    with pytest.raises(ConfigurationError, match=r"configuration \(num_threads: 1 there, 2 here\)"):
        run(tmp_path, "--seeds", "0", "3", "--num-threads", "2")
    rmtree(run_dir / "nac-seed0")
    run(tmp_path, "--seeds", "0", "1", "--jobs", "2")
    assert "training 1 run, 1 side by side with 1 thread each\n" in capsys.readouterr().err


def test_a_comparison_of_an_earlier_version_goes_on_with_the_threads_of_its_runs(
    tmp_path: Path,
) -> None:
    run_dir = run(tmp_path, "--seeds", "0", "--num-threads", "3")
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    del config["num_threads"]
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config | {"jobs": 2}))
    run(tmp_path, "--config", str(run_dir / "config.yaml"), "--seeds", "0", "1")
    assert set(threads_of(run_dir).values()) == {3}
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["num_threads"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ("nac",)}, "2 to 40, all different, got nac"),
        ({"arms": ("nac", "nac")}, "2 to 40, all different, got nac nac"),
        ({"arms": ("nac", "NAC=--init random")}, "2 to 40, all different, got nac nac"),
        ({"seeds": (1, 1)}, "1 to 40, all different, got 1 1"),
        ({"seeds": ()}, "1 to 40, all different, got none"),
        ({"seeds": tuple(range(41))}, "1 to 40, all different, got 0 1 2"),
        (
            {"arms": ("random", "magic")},
            r"nac, random, shuffled, simclr, supervised\) or NAME=FLAGS, got 'magic'",
        ),
        ({"jobs": 0}, "jobs must be above 0, got 0"),
        ({"num_threads": 0}, "num_threads must be between 1 and 1024, got 0. Change --num-threads"),
        (
            {"arms": ("random", "a=--run.num-threads 2")},
            "but arm a sets run.num_threads. Give --seeds, --run-dir and --num-threads to the comparison",
        ),
        ({"target": 0.0}, "target must be a score, positive and finite, got 0"),
        ({"level": 1.0}, "level must lie between 0 and 1, got 1"),
        ({"arms": ("random", "a/b=--init nac")}, "is part of file names: .* got 'a/b'"),
        ({"arms": ("random", "a=--seed 3 --run-dir x")}, "but arm a sets run_dir, seed"),
        (
            {"arms": ("random", "a=--init 'nac")},
            r"words as in a shell, got .* \(No closing quotation\)",
        ),
        (
            {"arms": ("random", "a=--config mine"), "run_config": "yours"},
            "arm a has --config and run_config is yours",
        ),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        CompareConfig(**options)


def test_arms_of_flow_models_are_alignments() -> None:
    arms = CompareConfig(recipe="train_flow").parsed_arms
    assert [arm.flags for arm in arms] == [("--align", a) for a in ("none", "random", "nac")]
    mixed = CompareConfig(recipe="train_flow", arms=("simclr", "conv=--align nac --flip"))
    assert [arm.flags[1] for arm in mixed.parsed_arms] == ["simclr", "nac"]
    message = r'shuffled, simclr, supervised\) or NAME=FLAGS, got \'none\'.*"none=--init nac"'
    with pytest.raises(ConfigurationError, match=message):
        CompareConfig(arms=("none", "nac"))
    message = r'an alignment \(.*, none\) or NAME=FLAGS, got \'magic\'.*"magic=--align nac"'
    with pytest.raises(ConfigurationError, match=message):
        CompareConfig(recipe="train_flow", arms=("none", "magic"))


def test_every_arm_of_flow_models_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = STUB.replace('"init"', '"align"').replace("init=", "align=").replace(".init", ".align")
    (tmp_path / "train_flow.py").write_text(stub.replace('{"random"', '{"none": 15.0, "random"'))
    run_dir = run(tmp_path, "--recipe", "train_flow", "--seeds", "0")
    pairs = [(c["arm_a"], c["arm_b"]) for c in result(capsys)["comparisons"]]
    assert pairs == [("none", "random"), ("none", "nac")]
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["arms"] == [
        "none",
        "random",
        "nac",
    ]
    with pytest.raises(ConfigurationError, match="recipe: train_flow there, train_gan here"):
        run(tmp_path, "--seeds", "0")


def test_nothing_is_written_for_wrong_options(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path, "--seeds", "1", "1")
    with pytest.raises(ConfigurationError, match=r"one of digits, smoke, got 'nope'"):
        run(tmp_path, "--preset", "nope")
    assert not (tmp_path / "runs").exists()


def test_an_arm_may_have_any_flags_of_the_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = "own=--encoder 'my runs/nac-{seed}/encoder' --discriminator.mode=frozen"
    flags = ("--seeds", "4", "7", "--encoder", "shared", "--arms", "random", own)
    run_dir = run(tmp_path, *flags)
    assert result(capsys)["comparisons"][0]["arm_b"] == "own"
    for seed in (4, 7):
        config = yaml.safe_load((run_dir / f"own-seed{seed}" / "config.yaml").read_text())
        assert config["encoder"] == f"my runs/nac-{seed}/encoder"
        assert (config["discriminator.mode"], config["init"]) == ("frozen", "nac")
        control = yaml.safe_load((run_dir / f"random-seed{seed}" / "config.yaml").read_text())
        assert (control["encoder"], control["init"]) == ("shared", "random")
    run(tmp_path, *flags)  # its own encoder is no difference
    starts = [path.read_text() for path in run_dir.glob("*/starts")]
    assert starts == ["x"] * 4


def test_target_level_and_recipe_reach_the_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--target", "23.5", "--level", "0.5", "--recipe", "train_vae")
    (tmp_path / "train_gan.py").unlink()
    run(tmp_path, *flags)
    (comparison,) = result(capsys)["comparisons"]
    time = comparison["images_to_score"]
    assert (time["target"], time["images_b"]) == (23.5, [5120, 5120, 5120])
    assert comparison["end"]["level"] == 0.5
    assert comparison["is_claim"]


def test_a_run_that_diverges_is_left_out_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIVERGE", "nac-seed1")
    run_dir = run(tmp_path)
    captured = capsys.readouterr()
    printed = json.loads(captured.out.splitlines()[-1])
    assert printed["diverged"] == {"random": [], "nac": [1]}
    assert printed["comparisons"][0]["end"]["seeds"] == [0, 2]
    for text in (captured.err, (run_dir / "report.md").read_text()):
        assert "nac diverged (a loss was not finite) with seed 1: left out of every arm" in text
    monkeypatch.setenv("DIVERGE", " ".join(f"nac-seed{seed}" for seed in range(3)))
    for seed in (0, 2):
        (run_dir / f"nac-seed{seed}" / "summary.json").unlink()
    with pytest.raises(NonFiniteError, match=r"none is left: runs diverged \(nac: 0, 1, 2\)"):
        run(tmp_path)


def test_a_failed_run_ends_the_comparison_and_a_repeat_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAIL", "nac-seed1")
    with pytest.raises(NacgenError, match=r"nac-seed1 .* exit code 1\.[\s\S]*no such encoder"):
        run(tmp_path, "--jobs", "1")
    assert (tmp_path / "runs" / "nac-seed0" / "summary.json").is_file()
    assert not (tmp_path / "runs" / "report.md").exists()
    monkeypatch.delenv("FAIL")
    run(tmp_path)
    assert (tmp_path / "runs" / "nac-seed0" / "starts").read_text() == "x"
    assert result(capsys)["comparisons"][0]["end"]["num_lower"] == 3


def test_only_the_main_process_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert not run(tmp_path).exists()


def test_help_needs_neither_torch_nor_matplotlib() -> None:
    root = Path(compare.__file__).parents[1]
    code = (
        "import sys; sys.argv = ['compare', '--help']\n"
        "from recipes import compare\n"
        "try: compare.run_recipe(compare.main, compare.CompareConfig, compare.PRESETS)\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'matplotlib', 'numpy'} & sys.modules.keys()"
    )
    environment = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=environment, stdout=subprocess.DEVNULL
    )


def template(folder: Path, **options: Any) -> str:
    """Write the config.yaml of a finished train_gan.py run with its scores."""
    values = {"preset": "digits", "init": "shuffled", "seed": 9, "run_dir": "elsewhere"}
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(values | options))
    row = {"images_seen": 1, "evaluation": {"scores": {"fid": {"value": 1.0}}, "protocol": {}}}
    (folder / "metrics.jsonl").write_text(json.dumps(row))
    return str(folder / "config.yaml")


def test_a_run_config_gives_every_run_what_it_holds(tmp_path: Path) -> None:
    file = template(tmp_path / "mine", total_images=640, data_dir="my data", encoder="its own")
    run_dir = run(tmp_path, "--seeds", "3", "--run-config", file)
    for init in ("random", "nac"):
        config = yaml.safe_load((run_dir / f"{init}-seed3" / "config.yaml").read_text())
        assert (config["init"], config["seed"]) == (init, 3)
        assert config["run_dir"] == str(run_dir / f"{init}-seed3")
        assert (config["total_images"], config["data_dir"]) == (640, "my data")
        assert config["encoder"] == "its own"
    run(tmp_path, "--seeds", "3", "4")  # added runs are like those that are there
    added = yaml.safe_load((run_dir / "nac-seed4" / "config.yaml").read_text())
    assert (added["total_images"], added["data_dir"]) == (640, "my data")
    Path(file).unlink()  # the comparison has a copy
    run(tmp_path, "--seeds", "3", "4", "5")
    other = template(tmp_path / "other", data_dir="other data")
    with pytest.raises(ConfigurationError, match="data_dir: my data there, other data here"):
        run(tmp_path, "--seeds", "3", "--run-config", other)


def test_the_folder_is_called_after_the_run_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = template(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    argv = ["--seeds", "0", "--run-config", file]
    compare.main(parse(CompareConfig, compare.PRESETS, argv))
    assert (tmp_path / "runs" / "compare-train_gan-mine" / "report.html").is_file()
    assert CompareConfig(recipe="train_vae").folder == Path("runs/compare-train_vae-digits")


def test_a_metric_that_the_example_lacks_is_refused_at_once(tmp_path: Path) -> None:
    flags = ("--metric", "fd_digits_classifier", "--run-config", template(tmp_path / "mine"))
    with pytest.raises(ConfigurationError, match=r"fd_digits_classifier in .*mine, which has fid"):
        run(tmp_path, *flags)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--arms", "random", "b=--init nac --discriminator.mode frozn"),
            r"flags of arm b .*frozn \(see",
        ),
        (
            ("--arms", "random", "b=--batch-size 60"),
            r"flags of arm b .*got --batch-size 60 \(see above",
        ),
        (
            ("--arms", "random", "b=--total-images 640"),
            r"25,600 images \(random\), 640 images \(b\)",
        ),
        (("--metric", "fid"), r"got fid, but arm random is scored by fd_digits_classifier\."),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(
    tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        run(tmp_path, *flags)
    assert not (tmp_path / "runs").exists()


def test_a_comparison_is_no_run_config(tmp_path: Path) -> None:
    run_dir = run(tmp_path, "--seeds", "0")
    with pytest.raises(ConfigurationError, match=r"runs/config\.yaml is a comparison's"):
        run(tmp_path, "--run-config", str(run_dir / "config.yaml"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.yaml": "seed: 0\n", "report.md": "mine"}, "holds another kind of run"),
        ({"thesis.tex": "mine"}, "has no config.yaml"),
    ],
)
def test_a_foreign_folder_is_left_alone(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(ConfigurationError, match=f"hold a comparison, but {folder} {message}"):
        run(tmp_path)
    assert {path.name: path.read_text() for path in folder.iterdir()} == files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arms: 5", r"config\.yaml must hold a list of arms, got 5\. Correct it"),
        ("arms: [5]", r"config\.yaml must hold a list of arms, got \[5\]\. Correct it"),
        ("arms: [nac]\ntotal_images: x", r"total_images in .* must be of type int, got 'x'"),
        ("arms: [nac]\nnum_threads: x", r"num_threads in .* must be of type int, got 'x'"),
        ("arms: [nac]\nrun_config: 5", r"run_config in .* must be of type str, got 5"),
    ],
)
def test_a_damaged_comparison_is_named(tmp_path: Path, text: str, message: str) -> None:
    (folder := tmp_path / "runs").mkdir()
    (folder / "config.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        run(tmp_path)


def test_folders_of_other_names_are_no_runs_of_an_arm(tmp_path: Path) -> None:
    (folder := tmp_path / "runs").mkdir()
    (folder / "config.yaml").write_text("arms: [random, nac]")
    for seed in ("00", "\N{ARABIC-INDIC DIGIT THREE}", "9" * 30):
        (folder / f"nac-seed{seed}").mkdir()
        (folder / f"nac-seed{seed}" / "config.yaml").write_text("preset: other")
    run(tmp_path, "--seeds", "0")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(StorageError, match=f"{tmp_path / 'runs'} cannot be written .*File exists"):
        run(tmp_path)


def test_a_comparison_in_progress_keeps_others_out(tmp_path: Path) -> None:
    (folder := tmp_path / "runs").mkdir()
    with lock_folder(folder), pytest.raises(LockedError, match=f"in use by process {os.getpid()}"):
        run(tmp_path)
    assert [path.name for path in folder.iterdir()] == [".lock"]
    run(tmp_path, "--seeds", "0")
