"""What a transplant gives: the module, how it trains, and what went where."""

import math
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from nacgen.errors import ConfigurationError

M = TypeVar("M", bound=nn.Module)
SKIPPED = {  # parts of an encoder besides its backbone
    "code_head": "makes codes, not features",
    "posterior_head": "only trains the code",
    "posterior_scale": "only trains the code",
    "mean": "pass images through `encoder.normalize`",
    "std": "pass images through `encoder.normalize`",
}


@dataclass(frozen=True, kw_only=True)
class TransplantReport:
    """What went where.

    Args:
        target: What was built, or the class of the module that was filled.
        mode: How the transplanted part trains.
        source: Where its weights come from.
        batch_norm: What became of BatchNorm.
        loaded: Tensors of the encoder by name, and where in the target each is, itself or folded; of the
            controls, those that have their place in it.
        skipped: Tensors of the encoder left behind, with the reason.
        untouched: The target's own parameters that no tensor of the encoder went to.
        parameter_share: Share of the target's parameters that are the encoder's, 0 to 1.
        flop_share: Share of the target's floating-point operations on an image that they take part in, 0 to
            1; None where no image size is known.
        trainable_share: Share of the target's parameters that will train, 0 to 1.
        probe_difference: Largest difference between the last feature map of the encoder's in evaluation mode
            and the target's, on the probe images, over the former's largest value (or 1, if that is less);
            None where the two cannot be compared.
        is_dry_run: Nothing was loaded; this is what would be.
    """

    target: str
    mode: str
    source: str
    batch_norm: str
    loaded: dict[str, str]
    skipped: dict[str, str]
    untouched: tuple[str, ...]
    parameter_share: float
    flop_share: float | None
    trainable_share: float
    probe_difference: float | None
    is_dry_run: bool = False

    def __str__(self) -> str:
        tensors, processes = len(self.loaded), f"{self.parameter_share:.0%} of the parameters"
        loaded = "would be loaded" if self.is_dry_run else "loaded"
        origin = {
            "encoder": f"{tensors} tensors of the encoder {loaded}, {len(self.skipped)} left behind, {processes}",
            "random": f"a control with the encoder's architecture and random weights in {processes}",
            "shuffled": f"a control with {tensors} tensors of the encoder, each shuffled, in {processes}",
        }[self.source]
        return (
            f"{self.target}, mode {self.mode}: {origin}, {self.trainable_share:.0%} trainable, "
            f"probe difference {_number(self.probe_difference, '.1e')}"
        )

    def to_markdown(self) -> str:
        """The report as a table of figures, and one of tensors grouped by what became of them."""
        title = "Dry run of a transplant" if self.is_dry_run else "Transplant"
        figures = {
            "mode": self.mode,
            "weights from": self.source,
            "BatchNorm": self.batch_norm,
            "share of parameters": f"{self.parameter_share:.1%}",
            "share of FLOPs": _number(self.flop_share, ".1%"),
            "trainable parameters": f"{self.trainable_share:.1%}",
            "probe difference": _number(self.probe_difference, ".1e"),
        }
        fates: list[tuple[str, Collection[str], str]] = [
            ("loaded", self.loaded, f"into {_summary(self.loaded.values())}")
        ]
        reasons: dict[str, list[str]] = defaultdict(list)
        for name, reason in self.skipped.items():
            reasons[reason].append(name)
        fates += [("left behind", names, reason) for reason, names in reasons.items()]
        if self.untouched:
            fates.append(("untouched", self.untouched, "the target's own"))
        lines = [f"# {title} into {self.target}", "", "| | |", "| --- | --- |"]
        lines += [f"| {name} | {value} |" for name, value in figures.items()]
        lines += ["", "| tensors | number | of | |", "| --- | ---: | --- | --- |"]
        lines += [
            f"| {fate} | {len(names)} | {_summary(names)} | {reason} |"
            for fate, names, reason in fates
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Transplant(Generic[M]):
    """The module, how its parameters train, and the report.

    Args:
        module: Ready to train.
        report: What went where.
        stages: Names of the transplanted parameters of each stage, stem first.
    """

    module: M
    report: TransplantReport
    stages: dict[str, tuple[str, ...]]

    def param_groups(
        self,
        lr: float,
        *,
        trunk_multiplier: float = 0.3,
        stage_decay: float = 1.0,
        start_images: int = 0,
        unfreeze_every: int = 0,
        ramp_images: int = 0,
    ) -> list[dict[str, Any]]:
        """Parameter groups for a torch optimizer: one for each stage, the last first, then the new ones.

        Each carries `start_images` and `ramp_images`, from which `nacgen.training.update.group_factor` makes a
        factor on its learning rate. So the heads can warm up alone and stages join from the top.

        Args:
            lr: Learning rate of new parameters.
            trunk_multiplier: Learning rate of the last stage relative to that.
            stage_decay: Learning rate of each stage relative to the one above it.
            start_images: Images seen before the last stage trains.
            unfreeze_every: Images between a stage's start and that of the stage below.
            ramp_images: Images over which a stage's learning rate rises from 0.

        Returns:
            Groups with `params`, `lr`, `start_images` and `ramp_images`; what is frozen is in none.

        Raises:
            ConfigurationError: A number is out of range, or nothing trains.
        """
        rates = {"trunk_multiplier": trunk_multiplier, "stage_decay": stage_decay}
        times = {
            "start_images": start_images,
            "unfreeze_every": unfreeze_every,
            "ramp_images": ramp_images,
        }
        for name, value in (rates | times).items():
            if not (0 <= value < math.inf) or (value == 0 and name in rates):
                bound = "0 or more" if name in times else "above 0"
                raise ConfigurationError(
                    f"{name} must be a number {bound}, got {value}. Mode frozen does not train the trunk."
                )
        new = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        groups: list[dict[str, Any]] = []
        for stage in reversed(self.stages):
            params = [new.pop(name) for name in self.stages[stage] if name in new]
            if params:
                depth = len(groups)
                rate = lr * trunk_multiplier * stage_decay**depth
                start = start_images + depth * unfreeze_every
                groups.append({"params": params, "lr": rate, "start_images": start})
        for group in groups:
            group["ramp_images"] = ramp_images
        if new:
            params = list(new.values())
            groups.append({"params": params, "lr": lr, "start_images": 0, "ramp_images": 0})
        if not groups:
            raise ConfigurationError(
                f"something must train, but all parameters of {type(self.module).__name__} are frozen. Choose "
                "another mode, or add parameters of your own to it."
            )
        return groups


def flop_share(module: nn.Module, inputs: tuple[Tensor, ...], layers: Collection[str]) -> float:
    """Share of a module's floating-point operations that some of its layers take.

    Args:
        module: Called once in evaluation mode, and left as it was.
        inputs: Of the call.
        layers: Names of submodules, none within another.

    Returns:
        0 to 1; products of convolutions and matrices are counted.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports triton where it is installed

    modes = {part: part.training for part in module.modules()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(*inputs)
    for part, is_training in modes.items():
        part.training = is_training
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    own = sum(counts.get(f"{type(module).__name__}.{layer}", 0) for layer in layers)
    return float(own / max(1, counts["Global"]))


def _number(value: float | None, form: str) -> str:
    return "not measured" if value is None else format(value, form)


def _summary(names: Collection[str]) -> str:
    """`backbone.conv1`, `backbone.layer1`, ...: modules that hold the tensors, at most two names deep."""
    places = dict.fromkeys(".".join(name.split(".")[:-1][:2]) or name for name in names)
    return ", ".join(f"`{place}`" for place in places)
