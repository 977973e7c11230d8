"""Measurements and pictures of a flow model while it trains: its score and sheets of samples."""

from typing import Any

import torch
from torch import Tensor

from nacgen.data.datasets import Dataset
from nacgen.data.pictures import write_grid
from nacgen.flow.update import FlowUpdate
from nacgen.metrics.extractors.base import FeatureExtractor
from nacgen.metrics.run_scores import build_score, draw_real_images, training_notes
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
        extractor: FeatureExtractor | None,
        dataset: Dataset,
    ) -> None:
        self.update, self.run, self.dataset = update, run, dataset
        self.score = build_score(extractor, dataset, config, run)
        draw_real_images(dataset, run, COLUMNS, ZOOM)

    def __call__(self, images_seen: int) -> dict[str, Any]:
        """Score the averaged denoiser, draw its images and save it."""
        result = self.score(self.generate)
        path = self.run.path / "samples" / f"images_{images_seen:08d}.png"
        with self.run.processes.failing_together(), self.run.writing("sample grid"):
            if self.run.is_main:
                write_grid(self.generate(torch.arange(COLUMNS**2)), path, COLUMNS, ZOOM)
        denoiser = self.update.averaged_denoiser
        denoiser.card_notes = training_notes(self.run, self.dataset, images_seen, result)
        self.run.export(denoiser, "denoiser")
        return {"evaluation": result}

    def generate(self, indices: Tensor) -> Tensor:
        """Generate images of the averaged denoiser by number."""
        return sample_images(self.update.averaged_denoiser, indices, self.run.device)
