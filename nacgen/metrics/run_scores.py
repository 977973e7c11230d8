"""The features that a run is scored by: those that its options name, those that suit its images, or none."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nacgen.data.datasets import Dataset
from nacgen.errors import CheckpointNotFoundError
from nacgen.metrics.evaluation import evaluate
from nacgen.metrics.extractors import efficientnet, inception
from nacgen.metrics.extractors.base import FeatureExtractor
from nacgen.metrics.extractors.build import INSTEAD, build_extractor
from nacgen.metrics.inputs import ImageSource
from nacgen.metrics.reference import ReferenceStatistics
from nacgen.training.generative import HOW_TO_SCORE, ScoreConfig
from nacgen.training.loop import Goal
from nacgen.training.run import Run

# What a run logs in place of an evaluation's result.
NO_SCORES: dict[str, Any] = {
    "scores": {},
    "protocol": {"extractor": "none"},
    "warnings": ["unscored: samples are compared with no images, as --score.extractor none asks."],
}


def build_run_extractor(config: ScoreConfig, run: Run) -> FeatureExtractor | None:
    """Build the extractor that a run is scored by; every process calls it.

    Returns:
        The extractor, or None where nothing is to be scored. Where the options name none, it is the released
        classifier for the digits, a classifier of your own where its folder is given as weights, and else
        Inception, or EfficientNet-Lite0 where Inception's weights are not at hand and the extra `judge` is
        installed.

    Raises:
        CheckpointNotFoundError: The weights are not there; the message says how to get them.
    """
    name: str | None = config.extractor
    if name == "none":
        _say(run, NO_SCORES["warnings"][0])
        return None
    if name is None and run.config.dataset == "digits":
        name = "digits_classifier"
    elif name is None and config.weights is not None:
        name = "classifier" if Path(config.weights).is_dir() else "inception"
    elif name is None:
        has_judge = run.processes.agree(efficientnet.is_installed())
        has_inception = run.processes.agree(inception.is_at_hand())
        name = efficientnet.NAME if has_judge and not has_inception else "inception"
        if name == efficientnet.NAME:
            _say(run, f"{INSTEAD} --score.extractor inception downloads them.")
    try:
        return build_extractor(
            name, weights=config.weights, precision=config.precision, device=run.device
        )
    except CheckpointNotFoundError as error:
        if config.extractor is not None:
            raise
        raise CheckpointNotFoundError(f"{error} {HOW_TO_SCORE}") from error


def build_score(
    extractor: FeatureExtractor | None, dataset: Dataset, config: ScoreConfig, run: Run
) -> Callable[[ImageSource], dict[str, Any]]:
    """Return a function that scores generated images against a dataset and returns what a run logs of it.

    Without an extractor nothing is generated and `NO_SCORES` is returned. Every process calls both.
    """
    if extractor is None:
        return lambda generate: NO_SCORES
    reference = ReferenceStatistics.compute(dataset, extractor, accelerator=run.accelerator)

    def score(generate: ImageSource) -> dict[str, Any]:
        return evaluate(
            generate,
            reference,
            extractor=extractor,
            num_samples=config.num_samples,
            accelerator=run.accelerator,
        ).to_dict()

    return score


def fingerprint_of(extractor: FeatureExtractor | None) -> str | None:
    """Return the fingerprint of an extractor; None where there is none."""
    return None if extractor is None else extractor.fingerprint


def goal_of(extractor: FeatureExtractor | None) -> Goal | None:
    """Return the goal of a run that is scored by an extractor: a lower Fréchet distance. None: there is none."""
    if extractor is None:
        return None
    return Goal(f"evaluation.scores.{extractor.score_name}.value", "lower")


def _say(run: Run, line: str) -> None:
    if run.is_main:
        print(line, file=sys.stderr)
