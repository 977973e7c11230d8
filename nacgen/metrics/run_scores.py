"""The features that a run is scored by: those that its options name, those that suit its images, or none."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from nacgen.data.datasets import Dataset
from nacgen.data.options import REAL_IMAGES
from nacgen.data.pictures import write_grid
from nacgen.data.provenance import data_note
from nacgen.errors import CheckpointNotFoundError
from nacgen.metrics.evaluation import evaluate
from nacgen.metrics.extractors import efficientnet, inception
from nacgen.metrics.extractors.base import FeatureExtractor
from nacgen.metrics.extractors.build import INSTEAD, build_extractor
from nacgen.metrics.inputs import ImageSource
from nacgen.metrics.reference import ReferenceStatistics
from nacgen.system.documents import flatten
from nacgen.system.processes import Processes
from nacgen.system.randomness import generator
from nacgen.system.terminal import literal
from nacgen.training.config import to_dict
from nacgen.training.environment import read_environment
from nacgen.training.generative import DEFAULTS, HOW_TO_SCORE, ScoreConfig
from nacgen.training.loop import Goal
from nacgen.training.parts import NO_PARTS, Parts
from nacgen.training.run import Run
from nacgen.training.run_folder import SAMPLES

# What a run logs in place of an evaluation's result.
NO_SCORES: dict[str, Any] = {
    "scores": {},
    "protocol": {"extractor": "none"},
    "warnings": ["unscored: samples are compared with no images, as --score.extractor none asks."],
}


def build_run_extractor(
    config: ScoreConfig, run: Run, parts: Parts = NO_PARTS
) -> FeatureExtractor | None:
    """Build the extractor that a run is scored by; every process calls it.

    Returns:
        The extractor, or None where nothing is to be scored. Where the options name none, it is the released
        classifier for the digits, a classifier of your own where its folder is given as weights, and else
        Inception, or EfficientNet-Lite0 where Inception's weights are not at hand and the extra `judge` is
        installed. A resumed run keeps the one that it began with.

    Raises:
        CheckpointNotFoundError: The weights are not there; the message says how to get them.
    """
    name: str | None = config.extractor
    before = None
    if name == "none":
        run.say(NO_SCORES["warnings"][0])
        return None
    if name is None and run.config.dataset == "digits":
        name = "digits_classifier"
    elif name is None and config.weights is not None:
        name = "classifier" if Path(config.weights).is_dir() else "inception"
    elif name is None:
        name = before = _recorded(run)
        if name is None:
            name = default_extractor(run.processes)
            if name == efficientnet.NAME:
                run.say(f"{INSTEAD} --score.extractor inception downloads them.")
        run.environment["extractor"] = name
    try:
        return build_extractor(
            name,
            weights=config.weights,
            precision=config.precision,
            device=run.device,
            given=parts.extractor,
        )
    except CheckpointNotFoundError as error:
        if config.extractor is not None or before is not None:  # others would be refused
            raise
        raise CheckpointNotFoundError(f"{error} {HOW_TO_SCORE}") from error


def default_extractor(processes: Processes) -> str:
    """Return the extractor of runs that name none, of images other than the digits; every process calls it."""
    has_judge = processes.agree(efficientnet.is_installed())
    has_inception = processes.agree(inception.is_at_hand())
    return efficientnet.NAME if has_judge and not has_inception else "inception"


def build_score(
    extractor: FeatureExtractor | None, dataset: Dataset, config: ScoreConfig, run: Run
) -> Callable[[ImageSource], dict[str, Any]]:
    """Return a function that scores generated images against a dataset and returns what a run logs of it.

    Without an extractor nothing is generated and `NO_SCORES` is returned. Every process calls both.
    """
    if extractor is None:
        return lambda generate: NO_SCORES
    reference = compute_reference(extractor, dataset, run)

    def score(generate: ImageSource) -> dict[str, Any]:
        return evaluate(
            generate,
            reference,
            extractor=extractor,
            num_samples=config.num_samples,
            accelerator=run.accelerator,
        ).to_dict()

    return score


def compute_reference(
    extractor: FeatureExtractor, dataset: Dataset, run: Run
) -> ReferenceStatistics:
    """Compute the statistics that a run's images are compared with, and say so; every process calls it."""
    run.say(f"computing {extractor.name} features of {len(dataset):,} images to compare with")
    return ReferenceStatistics.compute(dataset, extractor, accelerator=run.accelerator)


def draw_real_images(dataset: Dataset, run: Run, columns: int, zoom: int) -> None:
    """Draw training images, the same in every run, beside which its samples are shown; every process calls it."""
    columns = min(columns, len(dataset))
    chosen = torch.randperm(len(dataset), generator=generator(0, "real"))[: columns**2]
    whole = len(chosen) // columns * columns
    with run.processes.failing_together(), run.writing("sample grid"):
        if run.is_main:
            path = run.path / SAMPLES / REAL_IMAGES
            write_grid(dataset.read(chosen[:whole]), path, columns, zoom)


def training_notes(
    run: Run, dataset: Dataset, images_seen: int, evaluation: Mapping[str, Any]
) -> str:
    """Describe in Markdown, for a model card, how a model was trained, and its scores with their protocol."""
    options = flatten(to_dict(run.config))
    names = ["preset", "init", "align"]
    if not Path(str(options.get("encoder"))).is_absolute():  # a folder of this machine tells nobody
        names += ["encoder"]
    start = [f"{name} {options[name]}" for name in names if options.get(name)]
    recipe = str(run.environment["recipe"]).replace("_", "-")
    notes = [
        f"Trained by `nacgen {recipe}` ({literal(', '.join(start))}), {images_seen:,} images seen, seed "
        f"{run.config.seed}, on {literal(run.hardware)}. {data_note(dataset)}"
    ]
    if evaluation["scores"]:
        rows = [
            f"| `{name}` | {each['value']:.4g} |" for name, each in evaluation["scores"].items()
        ]
        protocol = ", ".join(f"{key} {value}" for key, value in evaluation["protocol"].items())
        notes += ["\n".join(["| score | value |", "| --- | ---: |", *rows])]
        notes += [f"Protocol of the scores: {literal(protocol)}."]
    return "\n\n".join([*notes, *map(literal, evaluation["warnings"])])


def fingerprint_of(extractor: FeatureExtractor | None) -> str | None:
    """Return the fingerprint of an extractor; None where there is none."""
    return None if extractor is None else extractor.fingerprint


def goal_of(extractor: FeatureExtractor | None) -> Goal | None:
    """Return the goal of a run that is scored by an extractor: a lower Fréchet distance. None: there is none."""
    if extractor is None:
        return None
    return Goal(f"evaluation.scores.{extractor.score_name}.value", "lower")


def _recorded(run: Run) -> str | None:
    """Return the default that a run began with, None for a new run and where its folder does not say."""
    there = (read_environment(run.path) or {}).get("extractor") if run.has_begun else None
    return next((name for name in DEFAULTS if run.processes.agree(there == name)), None)
