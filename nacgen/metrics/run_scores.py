"""Scores, pictures and copies of a run's model, by features that its options name or that suit its images."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
from nacgen.metrics.run_reference import run_reference
from nacgen.models.sampling import ImageModel, sample_images
from nacgen.system.documents import flatten
from nacgen.system.own_parts import is_own
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

COLUMNS, ZOOM = 10, 2  # of sheets of images
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


class ModelEvaluation:
    """Scores, pictures and copies of a model while it trains; every process calls it, and all get the same values.

    Args:
        model: Model that makes images, as it is to be kept.
        name: Name of its folder in the run folder.
        dataset: Images that its images are compared with, by an extractor's features. Without an extractor the
            score is `NO_SCORES`.
    """

    def __init__(
        self,
        model: ImageModel,
        name: str,
        run: Run,
        config: ScoreConfig,
        extractor: FeatureExtractor | None,
        dataset: Dataset,
    ) -> None:
        self.model, self.name, self.dataset = model, name, dataset
        self.run, self.device, self.config, self.extractor = run, run.device, config, extractor
        self.reference: ReferenceStatistics | None = None
        if extractor is not None:
            # A function of one's own may give other values under the same fingerprint.
            self.reference = run_reference(dataset, extractor, run, not is_own(config.extractor))
        # Training images, the same in every run, beside which samples are shown.
        columns = min(COLUMNS, len(dataset))
        chosen = torch.randperm(len(dataset), generator=generator(0, "real"))[: columns**2]
        whole = len(chosen) // columns * columns
        self.draw(REAL_IMAGES, lambda: dataset.read(chosen[:whole]), columns)

    def __call__(self, images_seen: int) -> dict[str, Any]:
        """Score the model's images, draw some, and keep the model."""
        evaluation = self.score(self.generate)
        self.draw_samples(images_seen)
        self.keep(images_seen, evaluation)
        return {"evaluation": evaluation}

    def generate(self, indices: Tensor) -> Tensor:
        """Generate images by number."""
        return sample_images(self.model, indices, self.device)

    def score(
        self, generate: ImageSource, label: str | None = None, held_out: Dataset | None = None
    ) -> dict[str, Any]:
        """Score images against the training images, or as many as all held-out ones against these, if at all."""
        if self.extractor is None or self.reference is None:
            return NO_SCORES | {"scores": {}}
        return evaluate(
            generate,
            self.reference if held_out is None else held_out,
            extractor=self.extractor,
            num_samples=self.config.num_samples if held_out is None else len(held_out),
            accelerator=self.run.accelerator,
            model_label=label,
        ).to_dict()

    def draw(self, file: str, images: Callable[[], Tensor], columns: int = COLUMNS) -> None:
        """Draw a sheet of images, which the main process makes."""
        with self.run.processes.failing_together(), self.run.writing("sample grid"):
            if self.run.is_main:
                write_grid(images(), self.run.path / SAMPLES / file, columns, ZOOM)

    def draw_samples(self, images_seen: int) -> None:
        """Draw the model's first hundred images."""
        first = torch.arange(COLUMNS**2)
        self.draw(f"images_{images_seen:08d}.png", lambda: self.generate(first))

    def keep(self, images_seen: int, evaluation: Mapping[str, Any]) -> None:
        """Write the model into the run folder; its card tells how it was trained."""
        self.model.card_notes = training_notes(self.run, self.dataset, images_seen, evaluation)
        self.run.export(self.model, self.name)


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
