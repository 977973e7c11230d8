"""Result of a transplant: the module, its parameter groups, and a report on every tensor."""

import math
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nacgen.errors import ConfigurationError
from nacgen.transplant.hidden_state import HiddenState

M = TypeVar("M", bound=nn.Module)
SKIPPED = {  # parts of an encoder besides its backbone
    "code_head": "makes codes, not features",
    "posterior_head": "only trains the code",
    "posterior_scale": "only trains the code",
    "mean": "pass images through `encoder.normalize`",
    "std": "pass images through `encoder.normalize`",
}


def why_skipped(name: str) -> str:
    """Return the reason why a tensor of an encoder outside of its backbone is left behind."""
    return SKIPPED.get(name.partition(".")[0], "no part of the trunk")


@dataclass(frozen=True, kw_only=True)
class TransplantReport:
    """A record of every tensor's place and of the trunk's share in the module.

    Differences are relative to the largest value or to 1; None where the two cannot be compared.
    """

    target: str  # name of the model that was built, or class of the module that was filled
    mode: str
    source: str  # origin of the weights
    batch_norm: str
    loaded: dict[str, str]  # encoder's (or control's) tensor -> place, folded or as it was
    skipped: dict[str, str]  # encoder's tensor that was left behind -> reason
    untouched: tuple[str, ...]  # target's parameters that no tensor of the encoder went to
    parameter_share: float  # fraction of the target's parameters that came from the encoder
    flop_share: float | None  # fraction of the operations on one image in such layers, if measured
    trainable_share: float  # fraction of the target's parameters that will train
    probe_difference: float | None  # largest difference of features on the probe images
    is_dry_run: bool = False  # nothing was loaded, and the report says what would be

    def __str__(self) -> str:
        tensors, part = len(self.loaded), f"{self.parameter_share:.0%} of the parameters"
        loaded = "would be loaded" if self.is_dry_run else "loaded"
        origin = {
            "encoder": f"{tensors} tensors of the encoder {loaded}, {len(self.skipped)} left behind, {part}",
            "random": f"a control with the encoder's architecture and random weights in {part}",
            "shuffled": f"a control with {tensors} tensors of the encoder, each shuffled, in {part}",
        }[self.source]
        return (
            f"{self.target}, mode {self.mode}: {origin}, {self.trainable_share:.0%} trainable, "
            f"probe difference {_difference(self.probe_difference)}"
        )

    def to_markdown(self) -> str:
        """Return a table of figures, and one of tensors grouped by their places.

        Example:
            >>> from nacgen import NACEncoder
            >>> from nacgen.transplant import into_discriminator
            >>> report = into_discriminator(NACEncoder(), image_size=16).report
            >>> report.to_markdown().splitlines()[0]
            '# Transplant into discriminator'
        """
        title = "Dry run of a transplant" if self.is_dry_run else "Transplant"
        reasons: dict[str, list[str]] = defaultdict(list)
        for name, reason in self.skipped.items():
            reasons[reason].append(name)
        groups: list[tuple[str, Collection[str], str]] = [
            ("loaded", self.loaded, f"into {_layers(self.loaded.values())}" if self.loaded else "")
        ]
        groups += [("left behind", names, why) for why, names in reasons.items()]
        if self.untouched:
            groups.append(("untouched", self.untouched, "the target's own"))
        lines = [
            f"# {title} into {self.target}",
            "",
            "| | |",
            "| --- | --- |",
            f"| mode | {self.mode} |",
            f"| weights from | {self.source} |",
            f"| BatchNorm | {self.batch_norm} |",
            f"| share of parameters | {self.parameter_share:.1%} |",
            f"| share of FLOPs | {_number(self.flop_share, '.1%')} |",
            f"| trainable parameters | {self.trainable_share:.1%} |",
            f"| probe difference | {_difference(self.probe_difference)} |",
            "",
            "| tensors | number | of | |",
            "| --- | ---: | --- | --- |",
        ]
        for group, names, remark in groups:
            lines.append(f"| {group} | {len(names)} | {_layers(names)} | {remark} |")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Transplant(Generic[M]):
    """A module that holds a pretrained trunk and is ready to train, with its parameter groups and a report."""

    module: M
    report: TransplantReport
    stages: dict[str, tuple[str, ...]]  # names of the trunk's parameters in each, stem first
    hooks: tuple[RemovableHandle | HiddenState, ...] = ()
    """Hooks on a module of your own, for frozen BatchNorm or an alignment."""

    def remove_hooks(self) -> None:
        """Take all hooks away: frozen BatchNorm follows `train()` again, an alignment reads its model no more.

        Parameters stay frozen until you thaw them.
        """
        for hook in self.hooks:
            hook.remove()

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
        """Return parameter groups for a torch optimizer: the stages, last one first, then the new parameters.

        Each carries `start_images` and `ramp_images`. From these `nacgen.training.update.group_factor` computes a
        factor on its learning rate, so that heads can warm up alone and stages join from the top.

        Args:
            lr: Learning rate of new parameters.
            trunk_multiplier: Learning rate of the last stage relative to `lr`.
            stage_decay: Learning rate of each stage relative to the one above it.
            start_images: Number of images seen before the last stage trains.
            unfreeze_every: Number of images between a stage's start and that of the stage below it.
            ramp_images: Number of images over which a stage's learning rate rises from 0.

        Returns:
            Groups with `params`, `lr`, `start_images` and `ramp_images`, without frozen parameters.

        Raises:
            ConfigurationError: If a number is out of range, or nothing trains.

        Example:
            >>> from nacgen import NACEncoder
            >>> from nacgen.transplant import into_discriminator
            >>> part = into_discriminator(NACEncoder(), image_size=16, mode="partial")
            >>> [group["lr"] for group in part.param_groups(lr=0.4, trunk_multiplier=0.5, stage_decay=0.5)]
            [0.2, 0.1, 0.4]
        """
        rates = {"trunk_multiplier": trunk_multiplier, "stage_decay": stage_decay}
        times = {"start_images": start_images, "ramp_images": ramp_images}
        for name, value in (rates | times | {"unfreeze_every": unfreeze_every}).items():
            if not (0 <= value < math.inf) or (value == 0 and name in rates):
                bound = "above 0" if name in rates else "0 or more"
                raise ConfigurationError(
                    f"{name} must be a number {bound}, got {value}. Mode frozen does not train the trunk."
                )
        new = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        groups: list[dict[str, Any]] = []
        for stage in reversed(self.stages):
            params = [new.pop(name) for name in self.stages[stage] if name in new]
            if params:
                rate = lr * trunk_multiplier * stage_decay ** len(groups)
                groups.append({"params": params, "lr": rate} | times)
                times["start_images"] += unfreeze_every
        if new:
            params = list(new.values())
            groups.append({"params": params, "lr": lr, "start_images": 0, "ramp_images": 0})
        if not groups:
            raise ConfigurationError(
                f"something must train, but all parameters of {type(self.module).__name__} are frozen. Choose "
                "another mode, or add parameters of your own to it."
            )
        return groups


def shares(module: nn.Module, untouched: Collection[str]) -> dict[str, Any]:
    """Compute the fields of a report that depend on a module's parameters alone."""
    parameters = dict(module.named_parameters())
    total = sum(p.numel() for p in parameters.values())
    own = sum(parameters[name].numel() for name in untouched)
    trainable = sum(p.numel() for p in parameters.values() if p.requires_grad)
    return {
        "untouched": tuple(untouched),
        "parameter_share": 1 - own / total,
        "trainable_share": trainable / total,
    }


def flop_share(module: nn.Module, inputs: tuple[Tensor, ...], layers: Collection[str]) -> float:
    """Compute the fraction of a module's operations (convolutions, matrix products) in some of its layers.

    The module is called once and left in evaluation mode; no layer may be within another.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports triton if it is installed

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(*inputs)
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    own = sum(counts.get(f"{type(module).__name__}.{layer}", 0) for layer in layers)
    return float(own / max(1, counts["Global"]))


def _number(value: float | None, form: str) -> str:
    return "not measured" if value is None else format(value, form)


def _difference(value: float | None) -> str:
    is_comparable = value is None or math.isfinite(value)
    return (
        _number(value, ".1e") if is_comparable else "not comparable (feature maps differ in size)"
    )


def _layers(names: Collection[str]) -> str:
    """List the modules that hold tensors, at most two names deep: `backbone.conv1`, `backbone.layer1`, ..."""
    places = dict.fromkeys(".".join(name.split(".")[:-1][:2]) or name for name in names)
    return ", ".join(f"`{place}`" for place in places)
