"""Steps that all transplants share: origin of the weights, folding, comparison with the encoder, report.

BatchNorm is folded into the convolutions, which makes a discriminator a function of each image alone: gradient
penalties are exact, and no buffers remain that several processes would have to share. Controls (`source="random"`,
`"shuffled"`) have the encoder's architecture and none of its knowledge; they take the same path, so experiments
differ in weights only. Encoders of other methods are not controls: pass them as the encoder.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel, update_bn

from nacgen.data.pixels import check_batch
from nacgen.errors import CheckpointError, ConfigurationError, check_choice
from nacgen.models.encoder import NACEncoder
from nacgen.models.folder import check_memory
from nacgen.models.own_network import copied
from nacgen.system.precision import plain_float32
from nacgen.system.randomness import generator
from nacgen.transplant.report import (
    M,
    Transplant,
    TransplantReport,
    flop_share,
    shares,
    why_skipped,
)
from nacgen.transplant.trunk import BatchNormUse, Trunk, fold_batch_norm, stage_parameters

Mode = Literal["init", "partial", "frozen"]
Source = Literal["encoder", "random", "shuffled"]
WRAPPERS = (nn.DataParallel, DistributedDataParallel, AveragedModel)
COPY_ADVICE = (
    "Make pruning permanent, remove what cannot be copied, or leave image_size and dry_run out."
)
PROBE_TOLERANCE = 1e-4  # relative to the largest value, or to 1 if all are smaller


class PreparedTrunk:
    """A copy of an encoder, or a control of it, with the same features; BatchNorm is folded if that is chosen.

    The arguments are those of `into_discriminator`; without an image size the smallest that fits is taken.
    `probe` are the images in [-1, 1] that `backbone` and encoder were compared on.
    """

    def __init__(
        self,
        encoder: NACEncoder,
        mode: Mode,
        frozen_stages: int | None,
        image_size: int | None,
        source: Source,
        calibration_images: Float[Tensor, "b 3 h w"] | None,
        batch_norm: BatchNormUse,
        seed: int,
    ) -> None:
        encoder = unwrap(encoder, "encoder")[0]
        if not isinstance(encoder, NACEncoder):
            got = repr(encoder) if isinstance(encoder, str) else f"a {type(encoder).__name__}"
            raise ConfigurationError(
                f"encoder must be a nacgen.NACEncoder, got {got:.200}. Load a folder with "
                "NACEncoder.from_pretrained, and convert other networks' weights with nacgen convert."
            )
        if image_size is not None and not (type(image_size) is int and image_size > 0):
            raise ConfigurationError(f"image_size must be a number of pixels, got {image_size!r}.")
        check_memory(16 * 3 * (image_size or 0) ** 2, f"images of {image_size} px")
        check_choice("mode", mode, get_args(Mode))
        check_choice("source", source, get_args(Source))
        check_choice("batch_norm", batch_norm, get_args(BatchNormUse))
        if mode == "frozen" and batch_norm == "train":
            raise ConfigurationError(
                "a frozen trunk needs batch_norm 'fold' or 'freeze', got batch_norm 'train' in mode frozen."
            )
        stages = list(encoder.backbone.stage_channels)
        if not encoder.backbone.has_stages:
            if mode != "frozen":
                encoder.backbone.stages()  # which says why it cannot be
            batch_norm = "freeze"  # nobody knows which convolution a BatchNorm belongs to
        half, all_stages = (len(stages) + 1) // 2, len(stages)
        if frozen_stages is None:
            frozen_stages = {"init": 0, "partial": half, "frozen": all_stages}[mode]
        elif mode != "partial":
            raise ConfigurationError(
                f"frozen_stages belongs to mode partial, got {frozen_stages} in mode {mode}. Leave it out."
            )
        elif not 0 <= frozen_stages <= all_stages:
            raise ConfigurationError(
                f"frozen_stages must be 0 to {all_stages} of {', '.join(stages)}, got {frozen_stages}."
            )
        self.encoder, self.num_frozen = encoder, frozen_stages
        self.choices: dict[str, Any] = {"mode": mode, "source": source, "batch_norm": batch_norm}
        self.mode, self.batch_norm = mode, batch_norm

        # Compare backbone and encoder on the calibration images, or on noise.
        probe = calibration_images
        if probe is not None:
            _check_calibration_images(probe, image_size)
        else:
            size = encoder.backbone.total_stride if image_size is None else image_size
            probe = torch.rand(16, 3, size, size, generator=generator(seed, "probe")) * 2 - 1
        with plain_float32("cpu"):  # the same on every machine, whatever the encoder's device
            self.model = source_of_weights(encoder, source, calibration_images, seed)
            self.probe, self.backbone = probe.to(self.model.mean), self.model.backbone
            if batch_norm == "fold":
                self.backbone = fold_batch_norm(self.backbone)
            with torch.no_grad():
                expected = list(self.model.feature_maps(self.probe).values())[-1]
                actual = list(self.backbone(self.model.normalize(self.probe)).values())[-1]
        self.difference = relative_difference(actual, expected)
        if not self.difference < PROBE_TOLERANCE:  # also if it is NaN
            raise CheckpointError(
                f"the folded trunk must reproduce the encoder's features within {PROBE_TOLERANCE} of the largest "
                f"value, but differs by {self.difference:.1e} on the probe images. Look for extreme weights in it."
            )

    def trunk(self) -> Trunk:
        """Return the trunk as a module that takes images in [-1, 1]."""
        mean, std = self.model.mean, self.model.std
        return Trunk(self.backbone, mean, std, self.num_frozen, self.batch_norm)

    def inputs_of_heads(
        self, return_nodes: Sequence[str] | None, rgb_branch: bool | None
    ) -> tuple[Sequence[str] | None, bool]:
        """Return stages to read and whether to add an RGB branch; a frozen trunk has all of them by default."""
        is_frozen = self.mode == "frozen"
        if return_nodes is None and is_frozen:
            return_nodes = list(self.backbone.stage_channels)
        return return_nodes, is_frozen if rgb_branch is None else rgb_branch

    def finish(self, module: M, target: str, *inputs: Tensor) -> Transplant[M]:
        """Return a module built on the trunk with its report; `inputs` are arguments to count operations with."""
        folded: dict[str, str] = {}  # name of a BatchNorm layer -> name of its convolution
        if self.batch_norm == "fold":
            names = {part: name for name, part in self.encoder.named_modules()}
            for owner, convolution, norm in self.encoder.backbone.convolution_norm_pairs():
                folded[names[getattr(owner, norm)]] = names[getattr(owner, convolution)]
        loaded, skipped = {}, {}
        for name in self.encoder.state_dict():
            layer, _, tensor = name.rpartition(".")
            if name not in ("mean", "std") and not name.startswith("backbone."):
                skipped[name] = why_skipped(name)
            elif layer in folded and tensor == "num_batches_tracked":
                skipped[name] = "BatchNorm's counter has no use once folded"
            else:
                loaded[name] = f"trunk.{folded.get(layer, name)}"
        untouched = [n for n, _ in module.named_parameters() if not n.startswith("trunk.")]
        report = TransplantReport(
            target=target,
            loaded=loaded,
            skipped=skipped,
            flop_share=flop_share(module, inputs, ["trunk"]),
            probe_difference=self.difference,
            **self.choices,
            **shares(module, untouched),
        )
        stages = {
            stage: tuple(f"trunk.backbone.{name}" for name in names)
            for stage, names in stage_parameters(self.backbone).items()
        }
        return Transplant(module.train().to(self.encoder.mean.device), report, stages)


def unwrap(module: Any, name: str) -> tuple[Any, str]:
    """Return the module within DataParallel, an average, or a compiled one, and the prefix of its names there."""
    prefix = ""
    while isinstance(module, WRAPPERS) or "_orig_mod" in getattr(module, "_modules", {}):
        inner = "module" if isinstance(module, WRAPPERS) else "_orig_mod"
        module, prefix = getattr(module, inner), f"{prefix}{inner}."
    tensors = [*module.parameters(), *module.buffers()] if isinstance(module, nn.Module) else []
    if any(is_lazy(x) or x.is_meta for x in tensors) or isinstance(module, torch.jit.ScriptModule):
        raise ConfigurationError(
            f"{name} must hold numbers in Python, but is on the meta device, lazy or scripted. Build or load it "
            "on the CPU first, call a lazy module once, and script it afterwards."
        )
    return module, prefix


def source_of_weights(
    encoder: NACEncoder, source: Source, calibration_images: Tensor | None, seed: int
) -> NACEncoder:
    """Copy an encoder to the CPU in evaluation mode, with its own weights or those of a control.

    Controls set their BatchNorm statistics on the calibration images; else a folded random network has no scale.
    """
    model = copied("encoder", encoder, COPY_ADVICE).cpu().float().requires_grad_(True).eval()
    if source == "encoder":
        return model
    if not model.backbone.has_stages:
        model.backbone.reset_parameters()  # which says why it cannot be
    if calibration_images is None:
        raise ConfigurationError(
            f"source {source!r} needs calibration_images for its scale, got none. Pass a batch of training images."
        )
    if source == "random":
        model.backbone.reset_parameters(generator(seed, "random_trunk"))
    else:
        draw = generator(seed, "shuffled_trunk")
        with torch.no_grad():
            for parameter in model.backbone.parameters():
                order = torch.randperm(parameter.numel(), generator=draw)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    update_bn([model.normalize(calibration_images.to(model.mean))], model.backbone)
    return model


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    """Divide the largest difference by the largest expected value or 1; infinite if the shapes differ."""
    if actual.shape != expected.shape:
        return math.inf
    return float((actual - expected).abs().max()) / max(1.0, float(expected.abs().max()))


def _check_calibration_images(images: Tensor, image_size: int | None) -> None:
    check_batch(images, "calibration_images")
    height, width = images.shape[-2:]
    if image_size is not None and not height == width == image_size:
        raise ConfigurationError(
            f"calibration_images must have image_size, {image_size} px, got {height}x{width}. Resize them."
        )
    is_empty = images.numel() == 0 or images.is_meta
    if is_empty or not images.abs().max() <= 1.001:
        got = "without pixels" if is_empty else f"from {images.min():.4g} to {images.max():.4g}"
        raise ConfigurationError(
            f"calibration_images must be floats in [-1, 1], got {images.dtype} {got}. Bring uint8 images there "
            "with nacgen.data.pixels.to_float."
        )
