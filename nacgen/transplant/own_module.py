"""Filling a module of the user's own with a pretrained trunk."""

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.models.backbone import Backbone
from nacgen.models.encoder import NACEncoder
from nacgen.transplant.matching import Match, match_tensors
from nacgen.transplant.report import SKIPPED, Transplant, TransplantReport, flop_share
from nacgen.transplant.trunk import stage_parameters

M = TypeVar("M", bound=nn.Module)
Norm = nn.modules.batchnorm._BatchNorm


def fill_module(
    module: M,
    model: NACEncoder,
    backbone: Backbone,
    probe: Tensor | None,
    *,
    match: Match,
    num_frozen: int,
    mode: str,
    source: str,
    batch_norm: str,
    dry_run: bool,
) -> Transplant[M]:
    """Copy a trunk's tensors to their places in a module, freeze what is to be frozen, and report.

    A frozen BatchNorm stays in evaluation mode whatever `train()` says.

    Args:
        module: Filled in place, unless this is a dry run.
        model: The encoder that the trunk is of, on the CPU.
        backbone: The trunk, folded or as it was.
        probe: Images in [-1, 1]; the module is called with them normalised. None to measure nothing.
        match: See `nacgen.transplant.matching.match_tensors`.
        num_frozen: How many of the trunk's first stages never train.
        mode: For the report.
        source: For the report.
        batch_norm: For the report; `"freeze"` keeps every filled BatchNorm in evaluation mode.
        dry_run: Leave the module as it is.

    Returns:
        The module, its stages, and the report.

    Raises:
        ConfigurationError: Nothing matches, or in several ways, or the module cannot be called with the probe.
    """
    filled = copy.deepcopy(module) if dry_run else module
    tensors = backbone.state_dict()
    places = {name: x for name, x in filled.state_dict().items() if isinstance(x, Tensor)}
    found = match_tensors(tensors, places, match)
    if probe is not None:
        _check_call(filled, model.normalize(probe[:1]))
    with torch.no_grad():
        for name, place in found.pairs.items():
            places[place].copy_(tensors[name])
    stages = {
        stage: tuple(found.pairs[name] for name in names if name in found.pairs)
        for stage, names in stage_parameters(backbone).items()
    }
    parameters = dict(filled.named_parameters())
    frozen = {name for stage in list(stages)[:num_frozen] for name in stages[stage]}
    for name, parameter in filled.named_parameters(remove_duplicate=False):
        if name in frozen:
            parameter.requires_grad_(False)
    layers = {
        name.rpartition(".")[0]: place.rpartition(".")[0] for name, place in found.pairs.items()
    }
    for place in layers.values():
        layer = filled.get_submodule(place)
        is_frozen = batch_norm == "freeze" or {f"{place}.weight", f"{place}.bias"} & frozen
        if isinstance(layer, Norm) and is_frozen:
            layer.register_forward_pre_hook(_evaluate)
    total = sum(p.numel() for p in parameters.values())
    loaded = [parameters[place] for place in found.pairs.values() if place in parameters]
    difference = processes = None
    if probe is not None:
        measured, images = copy.deepcopy(filled).cpu().eval(), model.normalize(probe)
        difference = _probe_difference(backbone, measured, layers, images)
        processes = flop_share(measured, (images[:1],), set(layers.values()))
    skipped = {f"backbone.{name}": reason for name, reason in found.skipped.items()}
    others = [name for name in model.state_dict() if not name.startswith("backbone.")]
    report = TransplantReport(
        target=type(module).__name__,
        mode=mode,
        source=source,
        batch_norm=batch_norm,
        loaded={f"backbone.{name}": place for name, place in found.pairs.items()},
        skipped=skipped | {name: SKIPPED[name.partition(".")[0]] for name in others},
        untouched=tuple(n for n in parameters if n not in set(found.pairs.values())),
        parameter_share=sum(p.numel() for p in loaded) / total,
        flop_share=processes,
        trainable_share=sum(p.numel() for p in parameters.values() if p.requires_grad) / total,
        probe_difference=difference,
        is_dry_run=dry_run,
    )
    return Transplant(module, report, stages)


def _check_call(module: nn.Module, images: Tensor) -> None:
    """Call a copy, before the module is changed."""
    try:
        with torch.no_grad():
            copy.deepcopy(module).cpu().eval()(images)
    except Exception as error:
        raise ConfigurationError(
            f"{type(module).__name__} must take float32 images {tuple(images.shape)} to be measured, "
            f"but fails ({type(error).__name__}: {error}). Nothing was loaded. Leave image_size out to fill it "
            "without a call."
        ) from error


def _evaluate(layer: nn.Module, inputs: object) -> None:
    layer.eval()


def _probe_difference(
    backbone: Backbone, module: nn.Module, layers: dict[str, str], images: Tensor
) -> float | None:
    """Largest difference of any filled layer's output from the trunk's, relative to the trunk's largest.

    Infinite where shapes differ; None where the module calls none of the layers.
    """
    expected: dict[str, Tensor] = {}
    actual: dict[str, Tensor] = {}
    for name, place in layers.items():  # clones, for a ReLU in place may follow
        for owner, part, outputs in ((backbone, name, expected), (module, place, actual)):
            owner.get_submodule(part).register_forward_hook(
                lambda _, __, output, name=name, outputs=outputs: outputs.update(
                    {name: output.clone()}
                )
            )
    with torch.no_grad():
        backbone.eval()(images)
        module(images)
    differences = [
        math.inf
        if actual[name].shape != output.shape
        else float((actual[name] - output).abs().max() / output.abs().max().clamp_min(1))
        for name, output in expected.items()
        if name in actual
    ]
    return max(differences, default=None)
