"""Measurements and pictures of a VAE: bounds on held-out images, scores of samples, sheets of images."""

import math
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from nacgen import metrics
from nacgen.data.datasets import Dataset
from nacgen.data.pixels import to_float, to_uint8
from nacgen.errors import ConfigurationError, DataError
from nacgen.functional.fidelity import WINDOW, psnr, ssim
from nacgen.functional.mixture import GaussianMixture
from nacgen.functional.vae import (
    bits_per_dim,
    gaussian_kl_by_axis,
    importance_bound,
    log_importance_weights,
)
from nacgen.metrics.extractors.base import FeatureExtractor
from nacgen.metrics.run_scores import COLUMNS, ModelEvaluation
from nacgen.models.vae import VAE
from nacgen.system.randomness import generator, normal_rows
from nacgen.training.run import Run
from nacgen.vae.options import ScoreConfig

BOUNDS = (64, 1_000)  # samples of the importance-weighted bounds
CHUNK = 250  # images that pass a network at a time
MOST_LATENTS = 10_000  # training images that the mixture is fitted to
COMPONENTS = 10  # Gaussians of that mixture
ACTIVE_VARIANCE = 0.01  # of posterior means; Burda et al. 2016, arXiv:1509.00519, section 5.1
REACH = 3.0  # largest latent of a traversal, in standard deviations of the prior


class VAEEvaluation(ModelEvaluation):
    """Measurements and pictures of a VAE; every process calls it, and all get the same values.

    Every draw is a function of the image's number, so values depend neither on the batch size nor on the number of
    processes. Images are the likelihood's expectations, without its noise; reconstructions are of posterior means.
    Samples are compared with the training images; bounds and reconstructions are of held-out images.
    """

    def __init__(
        self,
        vae: VAE,
        run: Run,
        config: ScoreConfig,
        extractor: FeatureExtractor | None,
        train: Dataset,
        held_out: Dataset,
    ) -> None:
        self.vae, self.held_out, self.bound_images = vae, held_out, config.bound_images
        if held_out.image_size < WINDOW:
            raise ConfigurationError(
                f"images must be {WINDOW} px or more for structural similarity, got {held_out.image_size}. Raise "
                "--data.image-size."
            )
        if len(held_out) < 2:
            raise DataError(
                f"a VAE is measured on two held-out images or more, but {held_out.name}/{held_out.split} has "
                f"{len(held_out)}. Give more images."
            )
        super().__init__(vae.decoder, "decoder", run, config, extractor, train)

    def __call__(self, images_seen: int) -> dict[str, Any]:
        """Measure the bound and score samples from the prior; at the end, do all of `conclude`, too."""
        measured, rate_by_axis = self.measure()
        self.draw_samples(images_seen)
        evaluation = self.score(self.generate, "samples from the prior")
        images = f"{self.held_out.name}/{self.held_out.split}"
        evaluation["scores"] |= {
            "bits_per_dim": {
                "value": measured["bits_per_dim"],
                "settings": {"images": images, "num_images": len(self.held_out)},
            }
        }
        self.keep(images_seen, evaluation)
        is_last = images_seen >= self.run.config.total_images
        ending = self.conclude(rate_by_axis) if is_last else {}
        return {**measured, **ending, "evaluation": evaluation}

    def conclude(self, rate_by_axis: Tensor) -> dict[str, Any]:
        """Score reconstructions and samples from a mixture, draw them and traversals, and measure tight bounds."""
        mixture = self.fit_mixture()

        def from_mixture(indices: Tensor) -> Tensor:
            draws = normal_rows(0, "mixture", indices, 1 + self.vae.decoder.latent_dim)
            z = mixture.transport(torch.special.ndtr(draws[:, 0]), draws[:, 1:])
            return self.decode(z.float())

        def reconstructed(indices: Tensor) -> Tensor:
            return self.reconstruct(self.held_out.read(indices))

        results = {
            "mixture": self.score(from_mixture, f"samples from {COMPONENTS} Gaussians"),
            "reconstructions": self.score(reconstructed, "reconstructions", self.held_out),
        }
        self.draw("mixture.png", lambda: from_mixture(torch.arange(COLUMNS**2)))
        columns = min(COLUMNS, len(self.held_out))
        self.draw("reconstructions.png", lambda: self.reconstruction_sheet(columns), columns)
        self.draw("traversals.png", lambda: self.traversals(rate_by_axis))
        if self.extractor is None:
            return self.importance_bounds()
        name = self.extractor.score_name
        values = {
            f"{name}_{kind}": result["scores"][name]["value"] for kind, result in results.items()
        }
        whole = {f"evaluation_{kind}": result for kind, result in results.items()}
        return {**self.importance_bounds(), **values, **whole}

    @torch.no_grad()
    def measure(self) -> tuple[dict[str, float], Tensor]:
        """Measure means over all held-out images, in nats, and the rate of each latent axis, `(z,)`."""
        width = self.vae.decoder.latent_dim
        totals = torch.zeros(3 + width, dtype=torch.float64, device=self.device)
        means = metrics.StatsAccumulator(width, self.device)
        own = self.run.processes.take(torch.arange(len(self.held_out)))
        for rows in filter(len, own.split(CHUNK)):
            pixels = self.held_out.read(rows).to(self.device)
            images = to_float(pixels)
            noise = normal_rows(0, "posterior", rows, width).to(self.device)
            mean, log_variance, outputs = self.vae(images, noise)
            means.update(mean)
            made = to_uint8(self.vae.decoder.images(mean))
            # Equal images count as if one value were off by one level, not as infinity.
            most = 10 * math.log10(255**2 * pixels[0].numel())
            values = [-self.vae.decoder.likelihood(images, outputs)]
            values += [psnr(pixels, made).clamp_max(most), ssim(pixels, made)]
            kl = gaussian_kl_by_axis(mean, log_variance)
            totals += torch.cat([torch.stack(values, dim=1), kl], dim=1).double().sum(dim=0)
        means.reduce()
        totals = self.run.accelerator.reduce(totals, "sum") / len(self.held_out)
        distortion, mean_psnr, mean_ssim = totals[:3].tolist()
        rate_by_axis = totals[3:].cpu()
        rate = float(rate_by_axis.sum())
        variances = means.result().covariance.diagonal()
        measured = {
            "elbo": -(rate + distortion),
            "rate": rate,
            "distortion": distortion,
            "bits_per_dim": bits_per_dim(rate + distortion, 3 * self.held_out.image_size**2),
            "active_units": int((variances > ACTIVE_VARIANCE).sum()),
            "psnr": mean_psnr,
            "ssim": mean_ssim,
        }
        return measured, rate_by_axis

    @torch.no_grad()
    def importance_bounds(self) -> dict[str, float]:
        """Compute bounds from 1, 64 and 1,000 posterior samples of the first held-out images, in nats."""
        number, decoder = min(self.bound_images, len(self.held_out)), self.vae.decoder
        totals = torch.zeros(1 + len(BOUNDS), dtype=torch.float64, device=self.device)
        for index in self.run.processes.take(torch.arange(number)).tolist():
            images = to_float(self.held_out.read(torch.tensor([index])).to(self.device))
            mean, log_variance = self.vae.posterior(images)
            draw = generator(0, "importance", index)
            noise = torch.randn(max(BOUNDS), decoder.latent_dim, generator=draw).to(self.device)
            z = mean + torch.exp(0.5 * log_variance) * noise
            parts = z.split(CHUNK)
            scores = [
                decoder.likelihood(images.expand(len(p), -1, -1, -1), decoder(p)) for p in parts
            ]
            log_weights = log_importance_weights(torch.cat(scores), z, noise, log_variance[0])
            rows = rearrange(log_weights.double(), "n -> n 1")
            totals += torch.cat([importance_bound(rows, k) for k in (1, *BOUNDS)])
        bounds = (self.run.accelerator.reduce(totals, "sum") / number).tolist()
        names = [f"importance_bound_{k}" for k in (1, *BOUNDS)]
        return dict(zip(names, bounds, strict=True)) | {"bound_images": number}

    @torch.no_grad()
    def fit_mixture(self) -> GaussianMixture:
        """Fit a Gaussian mixture to one posterior sample of each training image, or of 10,000 of them."""
        count = min(len(self.dataset), MOST_LATENTS)
        rows = torch.linspace(0, len(self.dataset) - 1, count).long()
        latents = []
        for part in rows.split(CHUNK):  # all of them on every process: a sum would differ in bits
            images = to_float(self.dataset.read(part).to(self.device))
            mean, log_variance = self.vae.posterior(images)
            noise = normal_rows(0, "aggregate", part, mean.shape[1]).to(self.device)
            latents.append(mean + torch.exp(0.5 * log_variance) * noise)
        components = min(COMPONENTS, count)
        return GaussianMixture.fit(torch.cat(latents), components, generator(0, "mixture"))

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return the expected images of latents, uint8."""
        return to_uint8(self.vae.decoder.images(z.to(self.device)))

    @torch.no_grad()
    def reconstruct(self, pixels: Tensor) -> Tensor:
        """Return the expected images of the posterior means of uint8 images."""
        return self.decode(self.vae.posterior(to_float(pixels.to(self.device)))[0])

    def reconstruction_sheet(self, columns: int) -> Tensor:
        """Return evenly spaced held-out images in up to five rows, each row above its reconstructions."""
        count = min(5, len(self.held_out) // columns) * columns
        rows = torch.linspace(0, len(self.held_out) - 1, count).long()
        pixels = self.held_out.read(rows).to(self.device)
        pair = torch.stack([pixels, self.reconstruct(pixels)])
        return rearrange(pair, "v (r k) c h w -> (r v k) c h w", k=columns)

    @torch.no_grad()
    def traversals(self, rate_by_axis: Tensor) -> Tensor:
        """Return the first held-out image with one latent axis moved in each row, the highest rate first."""
        axes = rate_by_axis.argsort(descending=True)[:COLUMNS]
        image = to_float(self.held_out.read(torch.tensor([0])).to(self.device))
        z = repeat(self.vae.posterior(image)[0].cpu(), "1 z -> r k z", r=len(axes), k=COLUMNS)
        z = z.clone()
        for row, axis in enumerate(axes.tolist()):
            z[row, :, axis] = torch.linspace(-REACH, REACH, COLUMNS)
        return self.decode(rearrange(z, "r k z -> (r k) z"))
