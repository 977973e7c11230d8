"""Putting a pretrained encoder into a generative model, or into a module of your own.

BatchNorm is folded into the convolutions, which makes a discriminator a function of each image alone:
gradient penalties are exact and no buffers remain that several processes would have to share. Controls
(`source="random"`, `"shuffled"`) take the same path, so arms differ in weights only.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeVar, Unpack, get_args, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.errors import CheckpointError, ConfigurationError
from nacgen.models.backbone import Backbone
from nacgen.models.encoder import NACEncoder
from nacgen.system.precision import plain_float32
from nacgen.system.randomness import generator, seeded
from nacgen.transplant.controls import Source, source_of_weights
from nacgen.transplant.discriminator import Discriminator
from nacgen.transplant.heads import HeadName
from nacgen.transplant.matching import Match
from nacgen.transplant.own_module import fill_module
from nacgen.transplant.perceptual import PerceptualDistance
from nacgen.transplant.report import SKIPPED, Transplant, TransplantReport, flop_share
from nacgen.transplant.request import (
    Mode,
    SpectralNorm,
    Target,
    TransplantOptions,
    check_calibration_images,
    check_choice,
    check_request,
)
from nacgen.transplant.spectral import cap_trunk, normalize_heads
from nacgen.transplant.trunk import BatchNormUse, Trunk, fold_batch_norm, stage_parameters
from nacgen.transplant.vae_encoder import VAEEncoder

M = TypeVar("M", bound=nn.Module)
BatchNorm = nn.modules.batchnorm._BatchNorm
PROBE_TOLERANCE = 1e-4  # of the largest value, or of 1 where all are smaller


@overload
def transplant(
    encoder: NACEncoder,
    into: Literal["discriminator"] = "discriminator",
    mode: Mode | None = None,
    **options: Unpack[TransplantOptions],
) -> Transplant[Discriminator]: ...
@overload
def transplant(
    encoder: NACEncoder,
    into: Literal["vae_encoder"],
    mode: Mode | None = None,
    **options: Unpack[TransplantOptions],
) -> Transplant[VAEEncoder]: ...
@overload
def transplant(
    encoder: NACEncoder,
    into: Literal["perceptual"],
    mode: Mode | None = None,
    **options: Unpack[TransplantOptions],
) -> Transplant[PerceptualDistance]: ...
@overload
def transplant(
    encoder: NACEncoder, into: M, mode: Mode | None = None, **options: Unpack[TransplantOptions]
) -> Transplant[M]: ...


def transplant(
    encoder: NACEncoder,
    into: Target | nn.Module = "discriminator",
    mode: Mode | None = None,
    *,
    image_size: int | None = None,
    source: Source = "encoder",
    calibration_images: Float[Tensor, "b 3 h w"] | None = None,
    batch_norm: BatchNormUse | None = None,
    frozen_stages: int | None = None,
    return_nodes: Sequence[str] | None = None,
    rgb_branch: bool | None = None,
    head: HeadName | None = None,
    spectral_norm: SpectralNorm | None = None,
    num_classes: int | None = None,
    latent_dim: int | None = None,
    match: Match | None = None,
    dry_run: bool | None = None,
    seed: int = 0,
) -> Transplant[Any]:
    """Build a model, or fill one of yours, with a pretrained encoder's trunk.

    Args:
        encoder: The encoder; left as it is.
        into: `"discriminator"`: `module(images)` gives logits. `"vae_encoder"`: `module(images)` gives mean and
            log-variance. `"perceptual"`: `module(images, others)` gives a distance. Or a module of your own, which
            is filled in place and stays where it is; its input must be what `encoder.normalize` gives.
        mode: `"init"`, the default: everything trains. `"partial"`: the first stages are frozen. `"frozen"`: the
            trunk is frozen, all stages are tapped, and an RGB branch sees the colours; a perceptual distance
            knows this mode only, and has no branch.
        image_size: Height and width in pixels; a perceptual distance takes any size, and a module of your own
            is not called where it is None, so that nothing is measured.
        source: `"encoder"`, or a control: `"random"`, `"shuffled"`, see `nacgen.transplant.controls`.
        calibration_images: In [-1, 1]; needed by the controls, probe images for all.
        batch_norm: `"fold"`, `"freeze"` (evaluation statistics) or `"train"`; the last makes a module depend on
            the batch, and gradient penalties with it. None: fold; in a module of your own that has BatchNorm
            itself, train, or freeze in mode frozen.
        frozen_stages: Of mode partial, how many of the first stages are frozen; None for half of them, rounded
            up, the stem being one.
        return_nodes: Stages that are read; None for the last, or for all where the trunk is frozen.
        rgb_branch: A small trainable network on the pixels; None where the trunk is frozen.
        head: Of a discriminator: `"basis"` (the default), `"linear"` or `"projected"`.
        spectral_norm: Of a discriminator: `"none"` (the default), `"heads"`, or `"cap"`, which also keeps each
            convolution of the trunk from growing beyond its first largest singular value.
        num_classes: Of a discriminator: condition on labels by projection, `module(images, labels)`.
        latent_dim: Of a VAE encoder: length of `z`.
        match: Into a module of your own: `"name"` (the default), `"order"` or a mapping, see
            `nacgen.transplant.matching.match_tensors`.
        dry_run: Into a module of your own: only report what would be done.
        seed: Of the controls' weights and of all that is new.

    Returns:
        The module on the encoder's device, with parameter groups and a report.

    Raises:
        ConfigurationError: An unknown choice, an option that the target does not have, images too small for the
            encoder, taps that do not exist, a control without calibration images, or nothing that matches.
        CheckpointError: The trunk does not reproduce the encoder.
    """
    given = {
        "image_size": image_size,
        "frozen_stages": frozen_stages,
        "return_nodes": return_nodes,
        "rgb_branch": rgb_branch,
        "head": head,
        "spectral_norm": spectral_norm,
        "num_classes": num_classes,
        "latent_dim": latent_dim,
        "match": match,
        "dry_run": dry_run,
    }
    if isinstance(into, str):
        check_choice("into", into, get_args(Target))
    target = into if isinstance(into, str) else "module"
    if mode is None:
        mode = "frozen" if target == "perceptual" else "init"
    if image_size is not None and image_size < 1:
        raise ConfigurationError(f"image_size must be 1 pixel or more, got {image_size}.")
    if batch_norm is None:
        batch_norm = "fold"
        if not isinstance(into, str) and any(isinstance(m, BatchNorm) for m in into.modules()):
            batch_norm = "freeze" if mode == "frozen" else "train"
    check_request(target, mode, source, batch_norm, given)
    if calibration_images is not None:
        check_calibration_images(calibration_images, image_size)
    size = image_size if image_size is not None else encoder.backbone.total_stride
    stages = list(encoder.backbone.stage_channels)
    half = (len(stages) + 1) // 2 if frozen_stages is None else frozen_stages
    num_frozen = {"init": 0, "partial": half, "frozen": len(stages)}[mode]
    if not 0 <= num_frozen <= len(stages):
        raise ConfigurationError(
            f"frozen_stages must be 0 to {len(stages)} of {', '.join(stages)}, got {num_frozen}."
        )

    with plain_float32("cpu"):  # on every machine the same, wherever the encoder is
        model = source_of_weights(encoder, source, calibration_images, seed)
        probe = _probe_images(calibration_images, size, seed).to(model.mean)
        backbone = fold_batch_norm(model.backbone) if batch_norm == "fold" else model.backbone
        difference = _probe_difference(model, backbone, probe)
        if not isinstance(into, str):
            return fill_module(
                into,
                model,
                backbone,
                probe if image_size is not None else None,
                match="name" if match is None else match,
                num_frozen=num_frozen,
                mode=mode,
                source=source,
                batch_norm=batch_norm,
                dry_run=bool(dry_run),
            )
        trunk = Trunk(backbone, model.mean, model.std, num_frozen, batch_norm)
        if mode == "frozen":
            return_nodes = stages if return_nodes is None else return_nodes
            rgb_branch = True if rgb_branch is None else rgb_branch
        module: Discriminator | VAEEncoder | PerceptualDistance
        with seeded(seed, "heads"):
            if into == "discriminator":
                module = Discriminator(
                    trunk, size, return_nodes, head or "basis", bool(rgb_branch), num_classes
                )
                _bound_weights(module, spectral_norm or "none")
            elif into == "vae_encoder":
                module = VAEEncoder(trunk, size, latent_dim or 0, return_nodes, bool(rgb_branch))
            else:
                module = PerceptualDistance(trunk, return_nodes)
        report = _report(
            encoder,
            module,
            probe[:1],
            target=target,
            mode=mode,
            source=source,
            batch_norm=batch_norm,
            probe_difference=difference,
        )
    names = {
        stage: tuple(f"trunk.backbone.{name}" for name in parameters)
        for stage, parameters in stage_parameters(backbone).items()
    }
    return Transplant(module.to(encoder.mean.device), report, names)


def _probe_images(calibration_images: Tensor | None, size: int, seed: int) -> Tensor:
    if calibration_images is not None:
        return calibration_images
    return torch.rand(16, 3, size, size, generator=generator(seed, "probe")) * 2 - 1


def _probe_difference(model: NACEncoder, backbone: Backbone, probe: Tensor) -> float:
    """Largest relative difference between the last feature maps of an encoder and of its folded trunk."""
    with torch.no_grad():
        expected = list(model.feature_maps(probe).values())[-1]
        actual = list(backbone(model.normalize(probe)).values())[-1]
    largest, difference = float(expected.abs().max()), float((actual - expected).abs().max())
    relative = difference / max(1.0, largest)
    if not relative < PROBE_TOLERANCE:  # NaN too
        raise CheckpointError(
            f"the folded trunk must reproduce the encoder within {PROBE_TOLERANCE} of its largest value, but "
            f"differs by {difference:.2e} on the probe images, where values reach {largest:.2e}. Look for extreme "
            "or non-finite weights and BatchNorm statistics in the encoder."
        )
    return relative


def _bound_weights(module: Discriminator, spectral_norm: SpectralNorm) -> None:
    if spectral_norm == "cap":
        cap_trunk(module.trunk)
    if spectral_norm != "none":
        normalize_heads(module.heads)
        if module.rgb_branch is not None:
            normalize_heads(module.rgb_branch)


def _report(
    encoder: NACEncoder,
    module: Discriminator | VAEEncoder | PerceptualDistance,
    probe: Tensor,
    **choices: Any,
) -> TransplantReport:
    convolutions = {}
    if choices["batch_norm"] == "fold":
        names = {part: name for name, part in encoder.named_modules()}
        for owner, convolution, norm in encoder.backbone.convolution_norm_pairs():
            convolutions[names[getattr(owner, norm)]] = names[getattr(owner, convolution)]
    loaded, skipped = {}, {}
    for name in encoder.state_dict():
        layer, _, tensor = name.rpartition(".")
        if name in ("mean", "std"):
            loaded[name] = f"trunk.{name}"
        elif not name.startswith("backbone."):
            skipped[name] = SKIPPED[name.partition(".")[0]]
        elif layer not in convolutions:
            loaded[name] = f"trunk.{name}"
        elif tensor == "num_batches_tracked":
            skipped[name] = "BatchNorm's counter has no use once folded"
        else:
            loaded[name] = f"trunk.{convolutions[layer]}"
    parameters = dict(module.named_parameters())
    new = {name: p for name, p in parameters.items() if not name.startswith("trunk.")}
    total = sum(p.numel() for p in parameters.values())
    inputs = (probe, probe) if isinstance(module, PerceptualDistance) else (probe,)
    if isinstance(module, Discriminator) and module.num_classes is not None:
        inputs = (probe, torch.zeros(1, dtype=torch.long))
    return TransplantReport(
        loaded=loaded,
        skipped=skipped,
        untouched=tuple(new),
        parameter_share=1 - sum(p.numel() for p in new.values()) / total,
        flop_share=flop_share(module, inputs, ["trunk"]),
        trainable_share=sum(p.numel() for p in parameters.values() if p.requires_grad) / total,
        **choices,
    )
