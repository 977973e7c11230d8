"""Probes of an encoder before and during its pretraining, which its model card shows."""

import copy
from dataclasses import asdict
from typing import Any

from torch.optim.swa_utils import update_bn

from nacgen.data.augment import ViewPolicy
from nacgen.data.datasets import Dataset
from nacgen.data.pixels import to_float
from nacgen.data.provenance import data_note
from nacgen.data.stream import ImageStream
from nacgen.models.encoder import NACEncoder
from nacgen.pretraining.options import PretrainConfig
from nacgen.probes.report import EncoderProbe
from nacgen.probes.suite import untrained_like
from nacgen.training.loop import Goal
from nacgen.training.run import Run


class PretrainingEvaluation:
    """Reports of an encoder by the images it has seen, from none on; every process makes them."""

    def __init__(
        self,
        config: PretrainConfig,
        run: Run,
        encoder: NACEncoder,
        views: ViewPolicy,
        stream: ImageStream,
        train_set: Dataset,
        test_set: Dataset,
    ) -> None:
        self.config, self.run, self.encoder, self.train_set = config, run, encoder, train_set
        self.probe = EncoderProbe(train_set, test_set, views, run.device)
        first = encoder
        if encoder.given_arguments():
            first = copy.deepcopy(encoder)  # whose first weights may be pretrained
            images = to_float(train_set.read(stream.indices(0))).to(run.device)
            update_bn([images], first)
        elif config.encoder is None:
            # With BatchNorm as in training, not with means of 0 and variances of 1.
            images = to_float(train_set.read(stream.indices(0))).to(run.device)
            first = untrained_like(encoder, images, config.seed)
        run.say("measuring the untrained encoder")
        self.reports = {0: self.probe(first)}

    @property
    def goal(self) -> Goal:
        """The score whose best checkpoint is kept: the linear probe, or without labels the bound."""
        has_labels = self.reports[0].linear_probe is not None
        return Goal("linear_probe" if has_labels else "health.information.nac_bound", "higher")

    def __call__(self, images_seen: int) -> dict[str, Any]:
        """Probe the encoder, and write it into the run folder."""
        report = self.reports[images_seen] = self.probe(self.encoder)
        for warning in report.health.warnings:
            self.run.say(f"warning at {images_seen:,} images: {warning}")
        untrained, trained = (str(r).replace("\n", "\n    ") for r in (self.reports[0], report))
        self.encoder.card_notes = (
            f"Trained for {self.config.objective} on {self.train_set.name}/{self.train_set.split}, "
            f"{images_seen:,} images seen, seed {self.config.seed}. {data_note(self.train_set)}\n\n"
            f"Untrained:\n\n    {untrained}\n\nTrained:\n\n    {trained}"
        )
        self.run.export(self.encoder, "encoder")
        return asdict(report)
