"""Every preset takes its first steps, on images of the size it is meant for; contradictions are refused first."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nacgen.data import datasets
from nacgen.data.datasets import ImageDataset
from nacgen.errors import ConfigurationError, DataError, DivergenceError
from nacgen.gan.adaptive import AdaptiveAugmentation
from nacgen.gan.options import (
    DiscriminatorConfig,
    GANConfig,
    GeneratorConfig,
    OptimConfig,
)
from nacgen.gan.update import GANUpdate
from nacgen.metrics import run_scores
from nacgen.metrics.extractors.base import CallableExtractor
from nacgen.metrics.run_scores import NO_SCORES
from nacgen.models.gan import Generator
from nacgen.training.config import DataConfig, RunConfig
from nacgen.training.generative import ScoreConfig
from nacgen.training.monitors import DivergenceMonitor
from recipes.train_gan import PRESETS, main

RUN = RunConfig(log_every=4, checkpoint_every=8, tracker="none")
SNGAN = DiscriminatorConfig(network="sngan")
PICTURES = {"interpolation.png", "real.png", "training.gif"}


def random_images(size: int, split: str = "train", num_images: int = 20) -> ImageDataset:
    draw = torch.Generator().manual_seed(len(split))
    pixels = torch.randint(256, (num_images, 3, size, size), generator=draw, dtype=torch.uint8)
    labels = torch.arange(num_images) % 2
    return ImageDataset("random", split, pixels, labels, ("even", "odd"))


def mean_colors(images: Tensor) -> Tensor:
    return images.float().mean((2, 3)) / 255


@pytest.fixture
def on_random_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random images of the asked size in place of files, mean colours in place of Inception."""
    extractor = CallableExtractor(mean_colors, name="colours", feature_dim=3, version="1")
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, split, data_dir, image_size, **_: random_images(image_size or 16, split),
    )
    monkeypatch.setattr(
        datasets,
        "load_test_split",
        lambda train, *_, **options: random_images(train.image_size, "test"),
    )
    monkeypatch.setattr(run_scores, "build_extractor", lambda *_, **options: extractor)


def small(preset: GANConfig, folder: Path, num_steps: int = 2) -> GANConfig:
    channels = preset.generator.channels
    size = preset.data.image_size or (16 if preset.dataset == "digits" else 32)
    return replace(
        preset,
        encoder="checkpoints/digits-nac" if preset.needs_encoder else None,
        total_images=4 * num_steps,
        batch_size=4,
        run_dir=str(folder),
        data_dir=str(folder.parent),
        data=DataConfig(image_size=size),
        generator=replace(preset.generator, channels=channels and (8,) * len(channels)),
        score=replace(preset.score, num_samples=8, every=100),
        run=RUN,
    )


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("on_random_images")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "digits" else pytest.mark.slow)
        for name in PRESETS
        if name != "smoke"
    ],
)
def test_every_preset_takes_its_first_steps(name: str, tmp_path: Path) -> None:
    steps = max(2, PRESETS[name].optim.discriminator_steps)  # one of the generator
    config = small(PRESETS[name], tmp_path / "run", steps)
    main(config)
    *training, last = rows(tmp_path / "run")
    assert len(training) == steps
    assert "loss_generator" in training[-1]
    assert ("r1_penalty" in training[-1]) == (PRESETS[name].optim.penalty_weight > 0)
    assert ("augment_probability" in training[-1]) == PRESETS[name].augment.adaptive
    assert all(np.isfinite(list(row.values())).all() for row in training)
    assert {"logits_train", "logits_held_out", "logits_generated", "overfitting"} < set(last)
    generator = Generator.from_pretrained(tmp_path / "run" / "generator")
    assert generator.image_size == config.data.image_size
    files = {path.name for path in (tmp_path / "run" / "samples").iterdir()}
    assert files == PICTURES | {f"images_{4 * steps:08d}.png"}


@pytest.mark.usefixtures("on_random_images")
def test_a_run_may_be_left_unscored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset = small(PRESETS["digits"], tmp_path / "run")
    main(replace(preset, score=replace(preset.score, extractor="none")))
    assert rows(tmp_path / "run")[-1]["evaluation"] == json.loads(json.dumps(NO_SCORES))
    files = {path.name for path in (tmp_path / "run" / "samples").iterdir()}
    assert files == PICTURES | {"images_00000008.png"}
    assert "has seen 8 images; its samples were not scored" in capsys.readouterr().err


@pytest.mark.usefixtures("on_random_images")
@pytest.mark.parametrize("network", ["encoder", "sngan"])
def test_a_conditional_run_draws_a_class_in_each_column(network: str, tmp_path: Path) -> None:
    config = replace(
        small(PRESETS["digits"], tmp_path / "run"),
        encoder=None,
        init="random",
        conditional=True,
        discriminator=DiscriminatorConfig(network=network),  # type: ignore[arg-type]
        optim=OptimConfig(micro_batches=2, learning_rate=0.05),
    )
    main(config)
    generator = Generator.from_pretrained(tmp_path / "run" / "generator")
    assert generator.num_classes == 2
    with Image.open(tmp_path / "run" / "samples" / "images_00000008.png") as picture:
        size = 2 * 18 * 10
        assert picture.size == (size, size)


@pytest.mark.usefixtures("on_random_images")
def test_a_resumed_run_repeats_the_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that is saved besides weights: ADA's probability, last values, penalties that change."""
    preset = small(PRESETS["folder"], tmp_path / "straight", 6)
    optim = replace(preset.optim, discriminator_steps=2, micro_batches=2, final_penalty_weight=0.1)
    config = replace(preset, optim=optim, data=DataConfig(image_size=16))
    monkeypatch.setattr(AdaptiveAugmentation.__init__, "__defaults__", (-1.0, 64.0))
    main(config)

    class StoppedError(Exception):
        pass

    step = GANUpdate.update

    def stops(self, batch):  # type: ignore[no-untyped-def]
        if batch.images_seen == 20:
            raise StoppedError
        return step(self, batch)

    config = replace(config, run_dir=str(tmp_path / "stopped"))
    monkeypatch.setattr(GANUpdate, "update", stops)
    with pytest.raises(StoppedError):
        main(config)
    monkeypatch.setattr(GANUpdate, "update", step)
    main(config)
    assert rows(tmp_path / "straight") == rows(tmp_path / "stopped")
    assert rows(tmp_path / "straight")[-2]["augment_probability"] == 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"discriminator": SNGAN},
            "got init nac. Give --init random",
        ),
        ({"optim": OptimConfig(micro_batches=3)}, "got 64 and 3. Change one of --batch-size"),
        (
            {"generator": GeneratorConfig(block="sngan"), "optim": OptimConfig(micro_batches=2)},
            "over the whole batch, got 2 micro-batches",
        ),
        (
            {"discriminator": SNGAN, "init": "random", "encoder": "own"},
            "encoder has no effect with",
        ),
        (
            {"discriminator": replace(SNGAN, head="linear"), "init": "random"},
            "discriminator.head has no effect .* got linear. Leave --discriminator.head at .* basis",
        ),
        (
            {"discriminator": DiscriminatorConfig(mode="frozen", trunk_lr_multiplier=1.0)},
            "trunk_lr_multiplier has no effect with --discriminator.mode frozen",
        ),
        (
            {"optim": OptimConfig(penalty_weight=0.0, final_penalty_weight=0.0)},
            "final_penalty_weight has no effect with --optim.penalty-weight 0, got 0",
        ),
    ],
)
def test_contradictions_are_refused_before_data_are_touched(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        GANConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("init", ["simclr", "supervised"])
def test_arms_without_a_released_encoder_say_how_to_get_one(init: str) -> None:
    config = GANConfig(init=init)  # type: ignore[arg-type]
    with pytest.raises(
        ConfigurationError, match=rf"--init {init} .*nacgen pretrain --objective {init} "
    ):
        config.check_inputs()
    replace(config, encoder="checkpoints/digits-nac").check_inputs()
    GANConfig(
        dataset="cifar10",
        data_dir="images",
        init="random",
        discriminator=SNGAN,
        score=ScoreConfig(extractor="inception"),
    ).check_inputs()  # has no encoder


@pytest.mark.usefixtures("on_random_images")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"discriminator": DiscriminatorConfig(return_nodes=("layer9",))}, "layer9"),
        ({"data": DataConfig(image_size=20)}, "doubled once or more .* got 20"),
        ({"generator": GeneratorConfig(channels=(8, 8))}, r"got 16 px with channels \(8, 8\)"),
    ],
)
def test_networks_that_do_not_fit_leave_no_run_behind(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    config = small(PRESETS["digits"], tmp_path / "run")
    with pytest.raises(ConfigurationError, match=message):
        main(replace(config, **options))  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("on_random_images")
def test_logits_beyond_their_bound_from_checkpoint_to_checkpoint_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(PRESETS["digits"], tmp_path / "run", 6)
    monkeypatch.setattr(DivergenceMonitor, "bound", 1e-9)
    with pytest.raises(DivergenceError, match=r"since 0 images seen .* at 8") as stopped:
        main(config)
    assert stopped.value.exit_code == 3
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))  # none was good


@pytest.mark.usefixtures("on_random_images")
def test_a_conditional_run_needs_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlabeled = replace(random_images(16), labels=None, class_names=())
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **options: unlabeled)
    config = replace(small(PRESETS["digits"], tmp_path / "run"), conditional=True)
    with pytest.raises(
        DataError, match="one class for each image, but the train split of random has none"
    ):
        main(config)
    labeled = random_images(16)
    test = replace(unlabeled, split="test")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **options: labeled)
    monkeypatch.setattr(datasets, "load_test_split", lambda *_, **options: test)
    with pytest.raises(DataError, match="one class for each image, but the test split of random"):
        main(config)
    assert not (tmp_path / "run").exists()
