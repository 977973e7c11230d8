"""Measurements and pictures of a GAN while it trains: its score, its overfitting, sheets of samples."""

from typing import Any

import torch
from torch import Tensor

from nacgen.data.datasets import Dataset
from nacgen.data.pictures import write_gif, write_grid
from nacgen.data.pixels import to_float
from nacgen.functional.gan import overfitting
from nacgen.gan.update import GANUpdate
from nacgen.metrics.extractors.base import FeatureExtractor
from nacgen.metrics.run_scores import build_score, draw_real_images, training_notes
from nacgen.models.sampling import interpolate, sample_images
from nacgen.system.randomness import generator as seeded_generator
from nacgen.training.generative import ScoreConfig
from nacgen.training.run import Run

COLUMNS, ZOOM = 10, 2
NUM_COMPARED = 500  # images of each kind that overfitting is measured on


class GANEvaluation:
    """Scores, pictures and copies of the averaged generator; every process calls it."""

    def __init__(
        self,
        update: GANUpdate,
        run: Run,
        config: ScoreConfig,
        extractor: FeatureExtractor | None,
        dataset: Dataset,
        held_out: Dataset | None,
    ) -> None:
        self.update, self.run, self.device = update, run, run.device
        self.dataset, self.held_out = dataset, held_out
        self.score = build_score(extractor, dataset, config, run)
        draw_real_images(dataset, run, COLUMNS, ZOOM)

    def __call__(self, images_seen: int) -> dict[str, Any]:
        """Score the generator, draw its images and save it; measure overfitting where images are held out."""
        result = self.score(self.generate)
        path = self.run.path / "samples" / f"images_{images_seen:08d}.png"
        with self.run.processes.failing_together(), self.run.writing("sample grid"):
            if self.run.is_main:
                write_grid(self.generate(torch.arange(COLUMNS**2)), path, COLUMNS, ZOOM)
        generator = self.update.averaged_generator
        generator.card_notes = training_notes(self.run, self.dataset, images_seen, result)
        self.run.export(generator, "generator")
        logits = {} if self.held_out is None else self.compare_logits(self.held_out)
        return {**logits, "evaluation": result}

    def generate(self, indices: Tensor) -> Tensor:
        """Generate images of the averaged generator by number."""
        return sample_images(self.update.averaged_generator, indices, self.device)

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
                was_training = update.generator.training
                fakes = update.generator.eval()(latents, labels)
                update.generator.train(was_training)
                logits["generated"] = self._logits(fakes, labels)
        measured = overfitting(logits["train"], logits["held_out"], logits["generated"])
        means = {f"logits_{kind}": float(values.mean()) for kind, values in logits.items()}
        return means | {"overfitting": float(measured)}

    def _logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return the mean logit over heads of each image."""
        given = {} if labels is None else {"labels": labels}
        discriminator = self.update.discriminator
        was_training = discriminator.training
        discriminator.eval()  # spectral norm counts no step
        logits: Tensor = discriminator(images, full_precision=True, **given)
        discriminator.train(was_training)
        return logits.reshape(len(images), -1).mean(1)

    def draw_ending(self) -> None:
        """Draw an interpolation strip, and a GIF of the sample grids, on the main process."""
        if not self.run.is_main:
            return
        folder = self.run.path / "samples"
        images = interpolate(self.update.averaged_generator, COLUMNS, COLUMNS, self.device)
        with self.run.writing("pictures"):
            write_grid(images, folder / "interpolation.png", COLUMNS, ZOOM)
            write_gif(sorted(folder.glob("images_*.png")), folder / "training.gif", ZOOM)
