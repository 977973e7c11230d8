"""Measurements and pictures of a GAN while it trains: its score, its overfitting, sheets of samples."""

from typing import Any

import torch
from torch import Tensor

from nacgen.data.datasets import Dataset
from nacgen.data.pictures import write_gif
from nacgen.data.pixels import to_float
from nacgen.functional.gan import overfitting
from nacgen.gan.update import GANUpdate
from nacgen.metrics.extractors.base import FeatureExtractor
from nacgen.metrics.run_scores import COLUMNS, ZOOM, ModelEvaluation
from nacgen.models.own_network import evaluating
from nacgen.models.sampling import interpolate
from nacgen.system.randomness import generator as seeded_generator
from nacgen.training.generative import ScoreConfig
from nacgen.training.run import Run
from nacgen.training.run_folder import SAMPLES

NUM_COMPARED = 500  # images of each kind that overfitting is measured on


class GANEvaluation(ModelEvaluation):
    """Scores, pictures and copies of the averaged generator, and overfitting where images are held out."""

    def __init__(
        self,
        update: GANUpdate,
        run: Run,
        config: ScoreConfig,
        extractor: FeatureExtractor | None,
        dataset: Dataset,
        held_out: Dataset | None,
    ) -> None:
        self.update, self.held_out = update, held_out
        super().__init__(update.averaged_generator, "generator", run, config, extractor, dataset)

    def __call__(self, images_seen: int) -> dict[str, Any]:
        """Score the generator, draw its images and save it; measure overfitting."""
        evaluated = super().__call__(images_seen)
        return ({} if self.held_out is None else self.compare_logits(self.held_out)) | evaluated

    @torch.no_grad()
    def compare_logits(self, held_out: Dataset) -> dict[str, float]:
        """Compute mean logits of training, held-out and generated images, and overfitting from them.

        The images are the same at every position and not augmented; the generator is the one that trains.
        """
        update, logits = self.update, {}
        for kind, images in (("train", self.dataset), ("held_out", held_out)):
            chosen = torch.randperm(len(images), generator=seeded_generator(0, "judged"))
            chosen = chosen[:NUM_COMPARED].sort().values
            labels = None
            if update.generator.num_classes is not None:
                assert images.labels is not None
                labels = images.labels[chosen].to(self.device)
            pixels = to_float(images.read(chosen)).to(self.device)
            logits[kind] = self._logits(pixels, labels)
            if kind == "train":
                z = update.generator.latent_dim
                draw = seeded_generator(0, "judged")
                latents = torch.randn(len(chosen), z, generator=draw).to(self.device)
                with evaluating(update.generator):
                    fakes = update.generator(latents, labels)
                logits["generated"] = self._logits(fakes, labels)
        measured = overfitting(logits["train"], logits["held_out"], logits["generated"])
        means = {f"logits_{kind}": float(values.mean()) for kind, values in logits.items()}
        return means | {"overfitting": float(measured)}

    def _logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return the mean logit over heads of each image."""
        given = {} if labels is None else {"labels": labels}
        with evaluating(self.update.discriminator):  # spectral norm counts no step
            logits: Tensor = self.update.discriminator(images, full_precision=True, **given)
        return logits.reshape(len(images), -1).mean(1)

    def draw_ending(self) -> None:
        """Draw an interpolation strip, and a GIF of the sample grids; every process calls it."""
        generator, folder = self.update.averaged_generator, self.run.path / SAMPLES
        self.draw(
            "interpolation.png", lambda: interpolate(generator, COLUMNS, COLUMNS, self.device)
        )
        with self.run.processes.failing_together(), self.run.writing("pictures"):
            if self.run.is_main:
                write_gif(sorted(folder.glob("images_*.png")), folder / "training.gif", ZOOM)
