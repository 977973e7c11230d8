"""Measurements and pictures of a flow model while it trains: its score and sheets of samples."""

from typing import Any

import torch
from torch import Tensor

from nacgen import metrics
from nacgen.data.datasets import Dataset
from nacgen.data.pictures import write_grid
from nacgen.flow.update import FlowUpdate
from nacgen.metrics.extractors.base import FeatureExtractor
from nacgen.models.sampling import sample_images
from nacgen.training.generative import ScoreConfig
from nacgen.training.run import Run

COLUMNS, ZOOM = 10, 2


class FlowEvaluation:
    """Scores, pictures and copies of the averaged denoiser; every process calls it."""

    def __init__(
        self,
        update: FlowUpdate,
        run: Run,
        config: ScoreConfig,
        extractor: FeatureExtractor,
        dataset: Dataset,
    ) -> None:
        self.update, self.run = update, run
        self.config, self.extractor = config, extractor
        self.reference = metrics.ReferenceStatistics.compute(
            dataset, extractor, accelerator=run.accelerator
        )

    def __call__(self, images_seen: int) -> dict[str, Any]:
        """Score the averaged denoiser, draw its images and save it."""
        result = metrics.evaluate(
            self.generate,
            self.reference,
            extractor=self.extractor,
            num_samples=self.config.num_samples,
            accelerator=self.run.accelerator,
        )
        path = self.run.path / "samples" / f"images_{images_seen:08d}.png"
        with self.run.processes.failing_together(), self.run.writing("sample grid"):
            if self.run.is_main:
                write_grid(self.generate(torch.arange(COLUMNS**2)), path, COLUMNS, ZOOM)
        self.run.export(self.update.averaged_denoiser, "denoiser")
        return {"evaluation": result.to_dict()}

    def generate(self, indices: Tensor) -> Tensor:
        """Generate images of the averaged denoiser by number."""
        return sample_images(self.update.averaged_denoiser, indices, self.run.device)
