"""Every preset and every objective takes its first steps, on images of the size it is meant for."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from einops import repeat

from nacgen.data.datasets import ImageDataset
from nacgen.data.stream import ImageStream
from nacgen.errors import ConfigurationError, DataError
from nacgen.models.encoder import NACEncoder
from nacgen.pretraining import build as objectives
from nacgen.pretraining.options import (
    ModelConfig,
    NACConfig,
    OptimConfig,
    PretrainConfig,
    QueueConfig,
)
from nacgen.training.config import RunConfig
from nacgen.training.run import TrainingResult
from recipes.pretrain_nac import PRESETS, main

RUN = RunConfig(log_every=4, checkpoint_every=100, tracker="none")


def random_images(size: int, num_images: int = 24) -> ImageDataset:
    draw = torch.Generator().manual_seed(0)
    blocks = torch.randint(256, (num_images, 3, 4, 4), generator=draw, dtype=torch.uint8)
    blocks[-3:] = blocks[:3] ^ 1  # some are alike: features label pairs
    pixels = repeat(blocks, "n c h w -> n c (h r) (w s)", r=size // 4, s=size // 4)
    labels = torch.arange(num_images) % 2
    return ImageDataset("random", "train", pixels, labels, ("even", "odd"))


def run(
    config: PretrainConfig, folder: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> dict[str, object]:
    images = random_images(size)
    monkeypatch.setattr(objectives, "load_training_images", lambda *_: (images, images))
    data_dir = None if config.dataset == "digits" else str(folder.parent)  # no image of it is read
    main(replace(config, run_dir=str(folder), data_dir=data_dir, run=RUN))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(torch.tensor(row["loss"]).isfinite() for row in rows if "loss" in row)
    summary: dict[str, object] = json.loads((folder / "summary.json").read_text())
    return summary


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "digits" else pytest.mark.slow)
        for name in PRESETS
        if name != "smoke"
    ],
)
def test_every_preset_takes_its_first_steps(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    preset = PRESETS[name]
    small = replace(
        preset,
        total_images=8,
        batch_size=4,
        probe_every=100,
        views=replace(preset.views, size=preset.views.size and 32),
        queue=replace(preset.queue, size=11 if preset.queue.size else 0),
    )
    size = 16 if preset.dataset == "digits" else 32  # the least that every trunk takes
    summary = run(small, tmp_path / "run", size, monkeypatch)
    assert summary["images_seen"] == 8
    encoder = NACEncoder.from_pretrained(tmp_path / "run" / "encoder")
    assert encoder.options["backbone"] == preset.model.backbone
    channel = summary["channel"]
    assert channel["flip_probability"] == encoder.flip_probability
    assert channel["code_dim"] == encoder.code_dim
    assert channel["num_codes"] == (small.queue.size or 8)
    told = capsys.readouterr().err
    assert "checks of the encoder are good" in told
    noise = f"bits of a code with probability {encoder.flip_probability}"
    temperature = f"a temperature of {channel['temperature']:.3g}"
    assert f"{noise}, {temperature}; the report" in told  # nobody takes a cold channel unknowingly
    assert temperature in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "queue", "stages"),
    [
        ("nac", 0, ()),
        ("supervised", 0, ()),
        ("nac", 19, ()),
        ("simclr", 0, ("layer1",)),
    ],
)
def test_a_compiled_step_trains_as_it_does_otherwise(
    objective: str,
    queue: int,
    stages: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Traced alone; what Inductor makes of it is tested with the generator's."""
    sizes = []
    module_compile = torch.nn.Module.compile

    def backend(graph, example_inputs):  # type: ignore[no-untyped-def]
        def counted(*inputs):  # type: ignore[no-untyped-def]
            sizes.extend(len(x) for x in inputs if x.shape[1:] == (3, 16, 16))
            return graph(*inputs)

        return counted

    def trace(module: torch.nn.Module, **options: object) -> None:
        module_compile(module, backend=backend, **options)

    monkeypatch.setattr(torch.nn.Module, "compile", trace)
    config = replace(
        PRESETS["smoke"],
        objective=objective,  # type: ignore[arg-type]
        total_images=16,
        batch_size=8,
        queue=QueueConfig(size=queue),
        stages=stages,
    )
    run(config, tmp_path / "plain", 16, monkeypatch)
    assert not sizes
    model = replace(config.model, compile=True)
    run(replace(config, model=model), tmp_path / "traced", 16, monkeypatch)
    assert sizes == [8 if objective == "supervised" else 16] * 2  # the steps, and no probe
    one, other = (
        NACEncoder.from_pretrained(tmp_path / name / "encoder").state_dict()
        for name in ("plain", "traced")
    )
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("queue", "objective"),
    [
        (0, "nac"),
        *(
            pytest.param(queue, objective, marks=pytest.mark.slow)
            for queue, objective in (
                (0, "simclr"),
                (0, "supervised"),
                (0, "distillhash"),
                (19, "nac"),
                (19, "simclr"),
            )
        ),
    ],
)
def test_every_objective_resumes_to_the_same_weights(
    objective: str, queue: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(
        PRESETS["smoke"],
        objective=objective,  # type: ignore[arg-type]
        encoder="checkpoints/digits-nac" if objective == "distillhash" else None,
        total_images=24,
        batch_size=8,
        queue=QueueConfig(size=queue),
        stages=("layer1",) if objective == "nac" and not queue else (),
    )
    straight = tmp_path / "straight"
    run(config, straight, 16, monkeypatch)

    class StoppedError(Exception):
        pass

    stopped = tmp_path / "stopped"
    often = replace(RUN, checkpoint_every=8)
    images = random_images(16)
    monkeypatch.setattr(objectives, "load_training_images", lambda *_: (images, images))
    build = objectives.build_update

    def stops_at_the_last_step(*args, **kwargs):  # type: ignore[no-untyped-def]
        update = build(*args, **kwargs)
        steps = update.update

        def step(batch):  # type: ignore[no-untyped-def]
            if batch.images_seen == 16:
                raise StoppedError
            return steps(batch)

        update.update = step
        return update

    monkeypatch.setattr(objectives, "build_update", stops_at_the_last_step)
    with pytest.raises(StoppedError):
        main(replace(config, run_dir=str(stopped), run=often))
    monkeypatch.setattr(objectives, "build_update", build)
    main(replace(config, run_dir=str(stopped), run=often))
    first, second = (
        NACEncoder.from_pretrained(folder / "encoder").state_dict()
        for folder in (straight, stopped)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_labels_are_asked_for_where_they_are_needed(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    from PIL import Image

    for i in range(20):
        Image.new("RGB", (16, 16), (i, i, i)).save(tmp_path / "flat" / f"{i}.png")
    config = PretrainConfig(
        objective="supervised", dataset="folder", data_dir=str(tmp_path / "flat")
    )
    with pytest.raises(DataError, match="needs labels, but folder has none"):
        objectives.load_training_images(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 1, "total_images": 8}, "got 1"),
        ({"queue": QueueConfig(size=100)}, "256 or more, got 100"),
        (
            {"queue": QueueConfig(size=512), "objective": "supervised"},
            "has no effect with --objective supervised",
        ),
        ({"objective": "distillhash"}, "encoder is not given"),
        ({"nac": NACConfig(divide=True)}, "nac.divide has no effect without --queue.size"),
        (
            {"nac": NACConfig(divide=True, relaxation="direction"), "queue": QueueConfig(size=512)},
            "tanh or straight_through, got direction",
        ),
        ({"nac": NACConfig(own_row=False)}, "own_row has no effect with --nac.relaxation tanh"),
        (
            {"stages": ("layer1",), "queue": QueueConfig(size=512)},
            r"stages has no effect with --queue.size, got \('layer1',\)",
        ),
        (
            {"stages": ("layer1",), "objective": "supervised"},
            "stages has no effect with --objective supervised",
        ),
        (
            {"nac": NACConfig(relaxation="marginal"), "objective": "simclr"},
            "relaxation has no effect with --objective simclr, .* Leave --nac.relaxation at .* tanh",
        ),
        ({"temperature": 0.1}, "temperature has no effect with --objective nac"),
        ({"queue": QueueConfig(momentum=0.9)}, "queue.momentum has no effect without"),
        (
            {"encoder": "own", "model": ModelConfig(code_dim=64)},
            "model.code_dim has no effect with --encoder, .* got 64",
        ),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
    ],
)
def test_contradictions_are_refused_before_data_are_touched(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PretrainConfig(**options)  # type: ignore[arg-type]


def test_directions_need_a_shared_posterior(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelConfig(posterior="separate")
    config = PretrainConfig(nac=NACConfig(relaxation="direction"), model=model)
    with pytest.raises(ConfigurationError, match="posterior shared, got separate"):
        run(replace(config, total_images=8, batch_size=4), tmp_path / "run", 16, monkeypatch)


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (NACConfig, "code_penalty", -0.1),
        (QueueConfig, "momentum", 1.0),
        (OptimConfig, "weight_decay", -1e-4),
        (OptimConfig, "warmup_images", -5),
    ],
)
def test_numbers_without_a_meaning_name_their_flag(make: type, name: str, value: float) -> None:
    topic = make.__name__.removesuffix("Config").lower()
    with pytest.raises(
        ConfigurationError, match=f"got {value}. Change --{topic}.{name.replace('_', '-')}"
    ):
        make(**{name: value})


def test_the_cost_of_an_encoder_trained_further_is_that_of_both_runs() -> None:
    result = TrainingResult(640, 12.04, 50.0, {})
    first = {"images": 640, "seconds": 12.0, "hardware": "1 CPU core"}
    encoder = NACEncoder()
    cost = objectives.pretraining_cost(PRESETS["smoke"], encoder, result, "1 CPU core")
    assert cost == first
    further = replace(PRESETS["smoke"], encoder="the first")
    assert objectives.pretraining_cost(further, encoder, result, "a GPU") is None  # of unknown cost
    encoder.pretraining = first
    assert objectives.pretraining_cost(further, encoder, result, "a GPU") == {
        "images": 1280,
        "seconds": 24.0,
        "hardware": "1 CPU core, then a GPU",
    }


def test_stages_queue_and_temperature_reach_their_update() -> None:
    images, accelerator = random_images(16), Accelerator(cpu=True)
    stream = ImageStream(images, 4, 0)

    def built(**options: Any) -> Any:
        config = PretrainConfig(batch_size=4, total_images=8, **options)
        encoder = objectives.build_encoder(config)
        views = objectives.build_views(config.views)
        return objectives.build_update(config, accelerator, encoder, views, stream, images)

    simclr = built(objective="simclr", temperature=0.2, stages=("layer2",))
    assert simclr.temperature == 0.2
    assert list(simclr.modules["stage_heads"]) == ["layer2"]
    trained = {p for group in simclr.optimizers["encoder"].param_groups for p in group["params"]}
    assert trained >= {p for p in simclr.modules["stage_heads"].parameters() if p.requires_grad}
    nac = built(nac=NACConfig(relaxation="direction"), queue=QueueConfig(size=19))
    assert nac.options.relaxation == "direction"
    assert len(nac.keys.queue) == 19
