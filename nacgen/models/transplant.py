"""Putting a pretrained encoder into a generative model.

BatchNorm is folded into the convolutions, which makes the discriminator a function of each image alone:
gradient penalties are exact and no buffers remain that several processes would have to share. Controls
(`source="random"`, `"shuffled"`) take the same path, so arms differ in weights only.
"""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nacgen.data.randomness import generator, seeded
from nacgen.errors import CheckpointError, ConfigurationError
from nacgen.models.backbones import Backbone, calibrate_batch_norm
from nacgen.models.encoder import NACEncoder
from nacgen.models.gan import Discriminator
from nacgen.models.precision import plain_float32

Mode = Literal["init", "partial", "frozen"]
Source = Literal["encoder", "random", "shuffled"]
PROBE_TOLERANCE = 1e-4  # of the largest value, or of 1 where all are smaller


@dataclass(frozen=True)
class TransplantReport:
    """What went where.

    Args:
        target: What was built.
        mode: How the trunk trains.
        source: Where the trunk's weights come from.
        loaded: Tensors of the encoder that the trunk holds, BatchNorm's folded into them; of the controls,
            those that have their place in it.
        skipped: Tensors of the encoder left behind, with the reason.
        parameter_share: Share of the target's parameters that the trunk holds, 0 to 1.
        trainable_share: Share of the target's parameters that will train, 0 to 1.
        probe_difference: Largest difference between the trunk's last feature map and that of the encoder
            in evaluation mode, on the probe images, over the latter's largest value (or 1, if that is less).
    """

    target: str
    mode: str
    source: str
    loaded: tuple[str, ...]
    skipped: dict[str, str]
    parameter_share: float
    trainable_share: float
    probe_difference: float

    def __str__(self) -> str:
        tensors, share = len(self.loaded), f"{self.parameter_share:.0%} of the parameters"
        origin = {
            "encoder": f"{tensors} tensors of the encoder loaded, {len(self.skipped)} left behind, {share}",
            "random": f"a control with the encoder's architecture and random weights in {share}",
            "shuffled": f"a control with {tensors} tensors of the encoder, each shuffled, in {share}",
        }[self.source]
        return (
            f"{self.target}, mode {self.mode}: {origin}, {self.trainable_share:.0%} trainable, "
            f"probe difference {self.probe_difference:.1e}"
        )


@dataclass(frozen=True)
class Transplant:
    """The module, how its parameters train, and the report.

    Args:
        module: Ready to train.
        trunk_lr_multiplier: Learning rate of transplanted parameters relative to that of new ones.
        report: What went where.
    """

    module: Discriminator
    trunk_lr_multiplier: float
    report: TransplantReport

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """Parameter groups for a torch optimizer; frozen parameters are in none.

        Args:
            lr: Learning rate of new parameters.

        Returns:
            Groups with `params` and `lr`.
        """
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                groups[name.startswith("trunk.")].append(parameter)
        rates = {True: lr * self.trunk_lr_multiplier, False: lr}
        return [{"params": groups[k], "lr": rates[k]} for k in (True, False) if groups[k]]


def transplant(
    encoder: NACEncoder,
    into: Literal["discriminator"] = "discriminator",
    mode: Mode = "init",
    *,
    image_size: int,
    source: Source = "encoder",
    calibration_images: Float[Tensor, "b 3 h w"] | None = None,
    trunk_lr_multiplier: float = 0.3,
    seed: int = 0,
) -> Transplant:
    """Build a discriminator whose trunk is a pretrained encoder.

    Args:
        encoder: The encoder; left as it is.
        into: `"discriminator"`.
        mode: `"init"`: everything trains, one head on the last stage. `"partial"`: the first half of the
            stages, stem included, is frozen. `"frozen"`: the trunk is frozen, every stage gets a head, and
            an RGB branch sees the colours.
        image_size: Height and width in pixels of the images to be judged.
        source: `"encoder"`: its weights. `"random"`: He initialisation. `"shuffled"`: its weights permuted
            within each tensor, the same statistics without the knowledge. Both controls set their
            BatchNorm statistics on `calibration_images` before folding, a data-dependent
            initialisation; without it a folded random network has no scale and the comparison is rigged.
        calibration_images: In [-1, 1]; needed by the controls, probe images for all.
        trunk_lr_multiplier: Learning rate of the trunk relative to the heads.
        seed: Of the controls' weights and of the heads.

    Returns:
        The discriminator, on the encoder's device, with parameter groups and a report.

    Raises:
        ConfigurationError: An unknown choice, images too small for the encoder, or a control without
            calibration images.
        CheckpointError: The folded trunk does not reproduce the encoder.
    """
    _check_choice("into", into, ("discriminator",))
    _check_choice("mode", mode, ("init", "partial", "frozen"))
    _check_choice("source", source, ("encoder", "random", "shuffled"))
    if not trunk_lr_multiplier > 0:
        raise ConfigurationError(
            f"trunk_lr_multiplier must be above 0, got {trunk_lr_multiplier}. Use mode frozen to not train "
            "the trunk."
        )
    if source != "encoder" and calibration_images is None:
        raise ConfigurationError(
            f"source {source!r} sets its scale on calibration_images, but none were given. Pass a batch of "
            "training images in [-1, 1]."
        )
    probe = calibration_images
    if probe is None:
        shape = (16, 3, image_size, image_size)
        probe = torch.rand(shape, generator=generator(seed, "probe")) * 2 - 1

    with plain_float32("cpu"):  # on every machine the same, wherever the encoder is
        model = copy.deepcopy(encoder).cpu().requires_grad_(True).eval()
        probe = probe.to(model.mean)
        if source == "random":
            model.backbone.reset_parameters(generator(seed, "random_trunk"))
        elif source == "shuffled":
            _shuffle_weights(model.backbone, generator(seed, "shuffled_trunk"))
        if source != "encoder":
            calibrate_batch_norm(model.backbone, lambda: model.feature_maps(probe))
        trunk = fold_batch_norm(model.backbone)
        difference = _probe_difference(model, trunk, probe)

    stages = list(trunk.stage_channels)
    num_frozen = {"init": 0, "partial": (len(stages) + 1) // 2, "frozen": len(stages)}[mode]
    with seeded(seed, "heads"):
        module = Discriminator(
            trunk,
            model.mean,
            model.std,
            image_size,
            taps=stages if mode == "frozen" else stages[-1:],
            frozen_stages=stages[:num_frozen],
            rgb_branch=mode == "frozen",
        )
    report = _report(encoder, module, mode, source, difference)
    return Transplant(module.to(encoder.mean.device), trunk_lr_multiplier, report)


def fold_batch_norm(trunk: Backbone) -> Backbone:
    """A copy of a trunk with every BatchNorm's evaluation-mode map folded into its convolution.

    Args:
        trunk: With BatchNorm; left as it is.

    Returns:
        A trunk with biased convolutions and identities in place of BatchNorm; it has no buffers.
    """
    folded = copy.deepcopy(trunk).eval()
    for owner, convolution, norm in list(folded.convolution_norm_pairs()):
        fused = fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm))
        setattr(owner, convolution, fused)
        setattr(owner, norm, nn.Identity())
    return folded.requires_grad_(True)  # fusing freezes the biases that it makes


def _probe_difference(model: NACEncoder, trunk: Backbone, probe: Tensor) -> float:
    """Largest relative difference between the last feature maps of an encoder and of its folded trunk."""
    with torch.no_grad():
        expected = list(model.feature_maps(probe).values())[-1]
        actual = list(trunk(model.normalize(probe)).values())[-1]
    largest, difference = float(expected.abs().max()), float((actual - expected).abs().max())
    relative = difference / max(1.0, largest)
    if not relative < PROBE_TOLERANCE:  # NaN too
        raise CheckpointError(
            f"the folded trunk must reproduce the encoder within {PROBE_TOLERANCE} of its largest value, but "
            f"differs by {difference:.2e} on the probe images, where values reach {largest:.2e}. Look for extreme "
            "or non-finite weights and BatchNorm statistics in the encoder."
        )
    return relative


def _shuffle_weights(trunk: Backbone, draw: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in trunk.parameters():
            order = torch.randperm(parameter.numel(), generator=draw).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))


def _report(
    encoder: NACEncoder, module: Discriminator, mode: str, source: str, difference: float
) -> TransplantReport:
    reasons = {"code_head": "makes codes, not features", "posterior_head": "only trains the code"}
    names = list(encoder.state_dict())
    counters = "BatchNorm's counter has no use once folded"
    skipped = {name: counters for name in names if name.endswith("num_batches_tracked")}
    skipped |= {n: reasons[n.split(".")[0]] for n in names if n.split(".")[0] in reasons}
    parameters = dict(module.named_parameters())
    total = sum(p.numel() for p in parameters.values())
    trunk = sum(p.numel() for name, p in parameters.items() if name.startswith("trunk."))
    trainable = sum(p.numel() for p in parameters.values() if p.requires_grad)
    return TransplantReport(
        target="discriminator",
        mode=mode,
        source=source,
        loaded=tuple(name for name in names if name not in skipped),
        skipped=skipped,
        parameter_share=trunk / total,
        trainable_share=trainable / total,
        probe_difference=difference,
    )


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigurationError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
