"""The functions of the package are its commands: the same weights, images in hand, nothing left behind."""

import hashlib
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import nacgen
from nacgen.api.calling import as_function
from nacgen.api.options import configure
from nacgen.data.datasets import load_dataset
from nacgen.errors import ConfigurationError
from nacgen.models.encoder import NACEncoder
from nacgen.system.terminal import print_result
from recipes import pretrain_nac, train_gan

SMALL: dict[str, Any] = {
    "total_images": 32,
    "batch_size": 16,
    "score": {"num_samples": 20, "every": 16},
    "run": {"tracker": "none", "num_threads": 1},
}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digits(n: int = 40) -> Tensor:
    return load_dataset("digits").read(torch.arange(n))


def gan(folder: Path, *arguments: Any, **options: Any) -> nacgen.TrainedRun:
    return nacgen.train_gan(
        *arguments, preset="smoke", run_dir=folder, **(SMALL | {"extractor": "none"} | options)
    )


def call(monkeypatch: pytest.MonkeyPatch, recipe: Any, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", [recipe.__name__, *flags])
    recipe.run()


def test_train_gan_gives_the_weights_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--preset", "smoke", "--run.num-threads", "1", "--total-images", "64")
    call(monkeypatch, train_gan, *flags, "--run-dir", str(tmp_path / "command"))
    capsys.readouterr()
    run = nacgen.train_gan(
        preset="smoke", run_dir=tmp_path / "call", total_images=64, run={"num_threads": 1}
    )
    assert capsys.readouterr().out == ""
    name = "generator/model.safetensors"
    assert sha256(run.path / name) == sha256(tmp_path / "command" / name)
    log = "metrics.jsonl"
    assert (run.path / log).read_text() == (tmp_path / "command" / log).read_text()
    assert list(run.scores) == ["fd_digits_classifier"]
    assert run.curve("fd_digits_classifier")[64] == run.scores["fd_digits_classifier"]


def test_pretrain_gives_the_weights_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--preset", "smoke", "--run.num-threads", "1", "--total-images", "128")
    flags += ("--batch-size", "64", "--optim.warmup-images", "64")
    call(monkeypatch, pretrain_nac, *flags, "--run-dir", str(tmp_path / "command"))
    encoder = nacgen.pretrain(
        preset="smoke",
        run_dir=tmp_path / "call",
        total_images=128,
        batch_size=64,
        **{"optim.warmup_images": 64, "run.num_threads": 1},
    )
    # Its configuration holds the seconds it took; the tensors are the same.
    there = NACEncoder.from_pretrained(tmp_path / "command/encoder").state_dict()
    assert all(torch.equal(x, there[name]) for name, x in encoder.state_dict().items())
    assert encoder.run.path == tmp_path / "call"
    assert not encoder.training


def test_images_in_hand_train_an_encoder_and_a_gan(tmp_path: Path) -> None:
    images = digits(80)
    encoder = nacgen.pretrain(
        images,
        preset="smoke",
        run_dir=tmp_path / "nac",
        total_images=64,
        batch_size=32,
        run={"tracker": "none"},
    )
    run = gan(tmp_path / "gan", images, encoder=encoder, extractor="digits_classifier")
    config = run.config
    assert (config["dataset"], config["data"]["image_size"]) == ("given", 16)
    assert Path(config["encoder"]).parent == tmp_path / "encoders"
    assert run.samples(3).shape == (3, 3, 16, 16)
    assert "nacgen compare" not in (run.path / "report.md").read_text()  # it has no images
    # The same call again returns the run that is there.
    written = (run.path / "summary.json").stat().st_mtime_ns
    again = gan(tmp_path / "gan", images, encoder=encoder, extractor="digits_classifier")
    assert again.path == run.path
    assert (run.path / "summary.json").stat().st_mtime_ns == written


def test_a_finished_run_is_not_that_of_other_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = "checkpoints/digits-nac"
    gan(tmp_path / "run", digits(40), encoder=encoder)
    capsys.readouterr()
    with pytest.raises(ConfigurationError, match=r"but of other images than these\. Give"):
        gan(tmp_path / "run", 255 - digits(40), encoder=encoder)
    assert "repeated" not in capsys.readouterr().err


def test_a_run_is_resumed_with_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nacgen.gan.update import GANUpdate

    whole = gan(tmp_path / "whole", digits(), encoder="checkpoints/digits-nac")
    update = GANUpdate.update

    def interrupted(self: GANUpdate, batch: Any) -> Any:
        if batch.images_seen == 16:
            signal.raise_signal(signal.SIGINT)
        return update(self, batch)

    options = {"total_images": 48}
    with monkeypatch.context() as patch:
        patch.setattr(GANUpdate, "update", interrupted)
        with pytest.raises(KeyboardInterrupt, match="stopped and saved; the same call goes on"):
            gan(tmp_path / "parts", digits(), encoder="checkpoints/digits-nac", **options)
    parts = gan(tmp_path / "parts", digits(), encoder="checkpoints/digits-nac", **options)
    whole = gan(
        tmp_path / "whole", digits(), encoder="checkpoints/digits-nac", fresh=True, **options
    )
    name = "generator/model.safetensors"
    assert sha256(parts.path / name) == sha256(whole.path / name)


def test_a_folder_of_photos_is_trained_on(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    draw = np.random.default_rng(0)
    for i in range(20):
        pixels = draw.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{i}.png")
    run = gan(
        tmp_path / "run",
        tmp_path / "photos",
        encoder="checkpoints/digits-nac",
        data={"image_size": 16},
    )
    assert run.config["dataset"] == "folder"
    assert run.samples(2).shape == (2, 3, 16, 16)


def test_an_unknown_option_names_the_one_that_was_meant(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"'learning_rate'. Did you mean optim.learning_ra"
    ):
        nacgen.train_gan(learning_rate=1e-3)
    with pytest.raises(ConfigurationError, match=r"'total_image'. Did you mean total_images"):
        nacgen.train_gan(total_image=32)
    with pytest.raises(ConfigurationError, match=r"optim.learning_rate='fast'.*float"):
        nacgen.train_gan(optim={"learning_rate": "fast"})
    with pytest.raises(ConfigurationError, match=r"preset must be one of digits.*got 'digit'"):
        nacgen.pretrain(preset="digit")


def test_arguments_of_the_function_are_known_and_given_once() -> None:
    with pytest.raises(
        TypeError, match=r"nacgen\.pretrain takes images.*'bakbone'.*mean backbone\?"
    ):
        nacgen.pretrain(bakbone="tiny")
    with pytest.raises(TypeError, match=r"generator\.network is given twice.*Linear"):
        nacgen.train_gan(generator=nn.Linear(2, 2), **{"generator.network": "a:b"})
    with pytest.raises(TypeError, match="got them as images and by data_dir"):
        nacgen.train_vae("photos", data_dir="others")


def test_a_configuration_file_names_its_preset(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("preset: smoke\n")
    assert configure("train_gan", None, {"config": str(file)}).preset == "smoke"


def test_images_held_out_need_images_in_hand(tmp_path: Path) -> None:
    for images in (tmp_path, str(tmp_path), None):
        with pytest.raises(ConfigurationError, match="held_out belongs to images that are in hand"):
            nacgen.train_gan(images, held_out=digits(4))


def test_a_network_is_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"encoder must be a nacgen.NACEncoder.*Linear"):
        gan(tmp_path / "run", digits(), encoder=nn.Linear(2, 2))


def test_images_named_given_cannot_be_found_by_a_command(tmp_path: Path) -> None:
    run = gan(tmp_path / "run", digits(), encoder="checkpoints/digits-nac")
    with pytest.raises(ConfigurationError, match="handed over in Python and that no file holds"):
        nacgen.train_gan(config=str(run.path / "config.yaml"), run_dir=tmp_path / "other")


def test_a_run_shows_itself_in_a_notebook(tmp_path: Path) -> None:
    run = gan(tmp_path / "run", extractor=None)
    html = run._repr_html_()
    assert "fd_digits_classifier" in html
    assert "data:image/png;base64," in html
    assert str(run.report) in html
    assert repr(run).startswith(f"TrainedRun('{run.path}': fd_digits_classifier ")


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    torch.manual_seed(3)
    handler, threads = signal.getsignal(signal.SIGINT), torch.get_num_threads()
    streams, before = (sys.stdout, sys.stderr), torch.random.get_rng_state()
    gan(tmp_path / "one")
    gan(tmp_path / "two")
    assert signal.getsignal(signal.SIGINT) is handler
    assert torch.get_num_threads() == threads
    assert (sys.stdout, sys.stderr) == streams
    assert torch.equal(torch.random.get_rng_state(), before)
    name = "generator/model.safetensors"
    assert sha256(tmp_path / "one" / name) == sha256(tmp_path / "two" / name)


def test_generators_that_a_command_seeds_are_left_as_they_were() -> None:
    before = torch.random.get_rng_state()
    with as_function():
        torch.manual_seed(7)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_result_is_returned_and_what_a_network_prints_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with as_function():
        print("of a network")
        print_result({"fid": 1.0})
    assert capsys.readouterr().out == "of a network\n"
    print_result({"fid": 1.0})
    assert capsys.readouterr().out == '{"fid": 1.0}\n'


def test_a_scheduler_sees_the_exit_code_of_a_stopped_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nacgen.gan.update import GANUpdate

    update = GANUpdate.update

    def interrupted(self: GANUpdate, batch: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return update(self, batch)

    monkeypatch.setattr(GANUpdate, "update", interrupted)
    with pytest.raises(SystemExit) as end:
        gan(tmp_path / "run")
    assert end.value.code == 143


@pytest.mark.slow
def test_every_method_trains_on_images_in_hand(tmp_path: Path) -> None:
    released, images = "checkpoints/digits-nac", digits(60)
    pairs = [(image, i % 3) for i, image in enumerate(images)]
    options: dict[str, Any] = {"preset": "smoke", **SMALL, "extractor": "none"}
    vae = nacgen.train_vae(
        images[:50],
        held_out=images[50:],
        encoder=released,
        run_dir=tmp_path / "vae",
        **(options | {"score": SMALL["score"] | {"bound_images": 2}}),
    )
    flow = nacgen.train_flow(images, encoder=released, run_dir=tmp_path / "flow", **options)
    for run in (vae, flow):
        assert run.samples(2).shape == (2, 3, 16, 16)
    del options["score"], options["extractor"]
    classifier = nacgen.train_classifier(pairs, run_dir=tmp_path / "classifier", **options)
    assert classifier.model(torch.zeros(1, 3, 16, 16)).shape == (1, 3)
    with pytest.raises(
        ConfigurationError, match=r"samples come from a generative model.*Classifier"
    ):
        classifier.samples(2)
