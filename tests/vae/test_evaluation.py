"""What is measured of a VAE, against a linear-Gaussian model whose evidence is known and against loops."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from nacgen import metrics
from nacgen.data.datasets import ImageDataset, load_splits
from nacgen.data.pixels import to_float, to_uint8
from nacgen.errors import ConfigurationError, DataError
from nacgen.functional.fidelity import psnr
from nacgen.metrics.run_scores import NO_SCORES
from nacgen.models.vae import VAE, Decoder
from nacgen.system.randomness import normal_rows, seeded
from nacgen.training.config import TrainingConfig
from nacgen.training.run import open_run
from nacgen.vae import evaluation as vae_evaluation
from nacgen.vae.evaluation import VAEEvaluation
from nacgen.vae.options import ScoreConfig
from tests.vae.small_vae import LinearEncoder


def evaluation(folder: Path, vae: nn.Module, held_out: Any = None, **score: Any) -> VAEEvaluation:
    train, test = load_splits("digits")
    options = ScoreConfig(**({"num_samples": 100, "bound_images": 3} | score))
    extractor = metrics.build_extractor("digits_classifier")
    held_out = test.subset(torch.arange(60)) if held_out is None else held_out
    with open_run("x", TrainingConfig(run_dir=str(folder))) as run:
        return VAEEvaluation(
            vae,  # type: ignore[arg-type]
            run,
            options,
            extractor,
            train.subset(torch.arange(200)),
            held_out,
        )


def small_vae() -> VAE:
    with seeded(0, "test"):
        return VAE(LinearEncoder(6), Decoder(16, 6, (16, 8, 8)))


def test_without_features_the_bounds_are_measured_and_nothing_else_is_scored(
    tmp_path: Path,
) -> None:
    made = evaluation(tmp_path, small_vae())
    made.extractor = made.reference = None
    result = made(made.run.config.total_images)
    assert list(result["evaluation"]["scores"]) == ["bits_per_dim"]
    assert result["evaluation"]["protocol"] == {"extractor": "none"}
    assert "importance_bound_64" in result
    assert not [name for name in result if "fd_" in name or name.startswith("evaluation_")]
    sheets = {path.name for path in (made.run.path / "samples").iterdir()}
    assert {"mixture.png", "reconstructions.png", "traversals.png"} < sheets
    assert NO_SCORES["scores"] == {}


def test_rate_distortion_and_their_like_are_means_over_images(tmp_path: Path) -> None:
    vae = small_vae()
    with torch.no_grad():  # so that some latent axes are active, and one is not
        vae.encoder.map.weight.mul_(1.5)  # type: ignore[operator, union-attr]
    measured, rate_by_axis = evaluation(tmp_path, vae).measure()
    held_out = load_splits("digits")[1].read(torch.arange(60))
    rates, distortions, ratios, means = [], [], [], []
    with torch.no_grad():
        for i, pixels in enumerate(held_out):
            image = to_float(pixels[None])
            mean, log_variance = vae.posterior(image)
            posterior = Normal(mean, log_variance.exp().sqrt())
            z = mean + posterior.scale * normal_rows(0, "posterior", torch.tensor([i]), 6)
            rates.append(kl_divergence(posterior, Normal(0.0, 1.0)))
            distortions.append(-vae.decoder.likelihood(image, vae.decoder(z)))
            ratios.append(psnr(pixels[None], to_uint8(vae.decoder.images(mean))))
            means.append(mean)
    rate, distortion = torch.cat(rates).sum(1).mean(), torch.cat(distortions).mean()
    expected = {"rate": rate, "distortion": distortion, "elbo": -rate - distortion}
    expected |= {"bits_per_dim": (rate + distortion) / 768 / math.log(2)}
    expected |= {"psnr": torch.cat(ratios).mean()}
    for name, value in expected.items():
        assert measured[name] == pytest.approx(value.item(), rel=1e-4), name
    assert measured["active_units"] == int((torch.cat(means).var(0) > 0.01).sum())
    assert 0 < measured["active_units"] < 6
    assert -1 < measured["ssim"] < 1
    torch.testing.assert_close(rate_by_axis.float(), torch.cat(rates).mean(0), rtol=1e-4, atol=1e-5)


class LinearDecoder(nn.Module):
    """`x = W z + noise` in the first four pixels, whose evidence is a Gaussian's; a likelihood of densities."""

    def __init__(self) -> None:
        super().__init__()
        self.latent_dim, self.sigma = 2, 0.5
        draw = torch.Generator().manual_seed(0)
        self.weight = torch.randn(4, 2, generator=draw)
        self.likelihood = self._log_likelihood

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.weight.T

    def _log_likelihood(self, images: Tensor, outputs: Tensor) -> Tensor:
        return Normal(outputs, self.sigma).log_prob(images.flatten(1)[:, 116:120]).sum(1)

    def log_evidence(self, images: Tensor) -> Tensor:
        x = images.flatten(1)[:, 116:120].double()
        covariance = (self.weight @ self.weight.T).double() + self.sigma**2 * torch.eye(4).double()
        return torch.distributions.MultivariateNormal(torch.zeros(4).double(), covariance).log_prob(
            x
        )


class LinearVAE(nn.Module):
    """The posterior's mean, and not its covariance."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = decoder = LinearDecoder()
        weight = decoder.weight
        precision = torch.eye(2) + weight.T @ weight / decoder.sigma**2
        self.map = precision.inverse() @ weight.T / decoder.sigma**2
        self.log_variance = (2 * precision.inverse().diagonal()).log()

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean = images.flatten(1)[:, 116:120] @ self.map.T
        return mean, self.log_variance.expand_as(mean)


def test_images_that_are_met_exactly_leave_the_mean_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They count as if one of 768 values were off by one level."""
    infinite = torch.full((1,), math.inf)
    monkeypatch.setattr(vae_evaluation, "psnr", lambda a, b: infinite.expand(len(a)))
    measured, _ = evaluation(tmp_path, small_vae()).measure()
    assert measured["psnr"] == pytest.approx(10 * math.log10(255**2 * 768))


def test_bounds_rise_to_the_evidence_of_a_linear_gaussian_model(
    tmp_path: Path, as_users_run_it: None
) -> None:
    vae = LinearVAE()
    found = evaluation(tmp_path, vae, bound_images=3).importance_bounds()
    images = to_float(load_splits("digits")[1].read(torch.arange(3)))
    evidence = vae.decoder.log_evidence(images).mean().item()
    bounds = [found[f"importance_bound_{k}"] for k in (1, 64, 1_000)]
    assert bounds[0] < bounds[1] < bounds[2]
    assert bounds[0] < evidence - 0.1
    assert bounds[2] == pytest.approx(evidence, abs=0.02)
    assert found["bound_images"] == 3


def test_the_mixture_is_fitted_to_the_latents_and_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nacgen.vae.evaluation.COMPONENTS", 2)
    vae = small_vae()
    measures = evaluation(tmp_path, vae)
    mixture = measures.fit_mixture()
    pixels = measures.dataset.read(torch.arange(200))
    mean, log_variance = vae.posterior(to_float(pixels))
    noise = normal_rows(0, "aggregate", torch.arange(200), 6)
    z = (mean + log_variance.exp().sqrt() * noise).detach().double()
    torch.testing.assert_close(mixture.weights @ mixture.means, z.mean(0), rtol=1e-4, atol=1e-5)
    second = mixture.weights @ (mixture.means.square() + mixture.factors.square().sum(2))
    torch.testing.assert_close(second, z.square().mean(0) + 1e-3, rtol=1e-4, atol=1e-5)

    results = measures.conclude(measures.measure()[1])
    for name in ("mixture", "reconstructions"):
        value = results[f"fd_digits_classifier_{name}"]
        assert value == results[f"evaluation_{name}"]["scores"]["fd_digits_classifier"]["value"] > 0
    protocol = results["evaluation_reconstructions"]["protocol"]
    assert (protocol["reference"], protocol["num_samples"]) == ("digits/test", 60)
    assert results["evaluation_mixture"]["protocol"]["num_samples"] == 100
    sizes = {}
    for name in ("mixture", "reconstructions", "traversals"):
        with Image.open(tmp_path / "samples" / f"{name}.png") as picture:
            sizes[name] = picture.size
    # 18 px with their frames, twice enlarged; ten columns; six latent axes
    assert sizes == {
        "mixture": (360, 360),
        "reconstructions": (360, 360),
        "traversals": (360, 216),
    }


def test_sheets_show_images_above_reconstructions_and_one_axis_a_row(tmp_path: Path) -> None:
    vae = small_vae()
    measures = evaluation(tmp_path, vae)
    sheet = measures.reconstruction_sheet(10)
    chosen = torch.linspace(0, 59, 50).long()
    pixels = measures.held_out.read(chosen)
    assert torch.equal(sheet[20:30], pixels[10:20])
    assert torch.equal(sheet[30:40], measures.reconstruct(pixels[10:20]))
    rate_by_axis = torch.tensor([0.1, 0.9, 0.3, 0.0, 0.2, 0.5])
    moved = measures.traversals(rate_by_axis)
    z = vae.posterior(to_float(measures.held_out.read(torch.tensor([0]))))[0].detach()
    z[0, 5] = 3.0  # the second row's axis, at its end
    assert torch.equal(moved[19:20], measures.decode(z))


def test_images_by_number_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    measures = evaluation(tmp_path, small_vae())
    together = measures.generate(torch.arange(5))
    alone = measures.generate(torch.tensor([3]))
    assert (together[3].int() - alone[0].int()).abs().max() <= 1


def test_images_that_cannot_be_measured_are_refused_before_training(tmp_path: Path) -> None:
    test = load_splits("digits")[1]
    assert isinstance(test, ImageDataset)
    with pytest.raises(DataError, match="two held-out images or more, but digits/test has 1"):
        evaluation(tmp_path / "a", small_vae(), test.subset(torch.arange(1)))
    small = ImageDataset("digits", "test", test.images[:, :, :8, :8], test.labels)
    with pytest.raises(ConfigurationError, match="11 px or more for structural similarity, got 8"):
        evaluation(tmp_path / "b", small_vae(), small)
