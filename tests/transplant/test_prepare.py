import torch

from nacgen.models.encoder import NACEncoder
from nacgen.transplant.prepare import source_of_weights
from nacgen.transplant.transplant import transplant
from tests.transplant.conftest import images


def convolutions(trunk: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().flatten() for k, v in trunk.named_parameters() if v.ndim == 4}


def test_random_weights_know_nothing_of_the_encoder(encoder: NACEncoder) -> None:
    controls = [source_of_weights(encoder, "random", images(), seed).backbone for seed in (3, 4)]
    first, second, own = (convolutions(trunk) for trunk in (*controls, encoder.backbone))
    for name, weights in own.items():
        for a, b in ((first, own), (second, own), (first, second)):
            correlation = torch.corrcoef(torch.stack([a[name], b[name]]))[0, 1]
            assert correlation.abs() < 5 / len(weights) ** 0.5, name


def test_shuffled_weights_keep_their_values_and_lose_their_places(encoder: NACEncoder) -> None:
    control = source_of_weights(encoder, "shuffled", images(), 0).backbone
    shuffled, own = convolutions(control), convolutions(encoder.backbone)
    for name, weights in own.items():
        assert torch.equal(shuffled[name].sort().values, weights.sort().values), name
        assert (shuffled[name] == weights).float().mean() < 0.05, name


def test_controls_have_their_scale_from_the_calibration_images(encoder: NACEncoder) -> None:
    """With random weights a folded convolution gives what BatchNorm would: mean zero, variance one."""
    calibration = 0.3 * images(64) + 0.4
    part = transplant(encoder, source="random", image_size=16, calibration_images=calibration)
    trunk, x = part.module.trunk.backbone, encoder.normalize(calibration)
    with torch.no_grad():
        first = trunk.get_submodule("conv1")(x)
        second = trunk.get_submodule("layer1.0.conv1")(first.relu())
    for maps in (first, second):
        assert maps.mean((0, 2, 3)).abs().max() < 1e-3
        assert (maps.var((0, 2, 3)) - 1).abs().max() < 1e-2
