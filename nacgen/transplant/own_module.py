"""A module of the user's own, filled with a pretrained trunk."""

from collections.abc import Collection, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nacgen.errors import ConfigurationError
from nacgen.models.backbone import Backbone
from nacgen.models.encoder import NACEncoder
from nacgen.models.own_network import copied
from nacgen.system.precision import plain_float32
from nacgen.transplant.matching import Match, match_tensors
from nacgen.transplant.prepare import (
    COPY_ADVICE,
    Mode,
    PreparedTrunk,
    Source,
    relative_difference,
    unwrap,
)
from nacgen.transplant.report import (
    M,
    Transplant,
    TransplantReport,
    flop_share,
    shares,
    why_skipped,
)
from nacgen.transplant.trunk import BatchNorm, BatchNormUse, stage_parameters


def into_module(
    encoder: NACEncoder,
    module: M,
    *,
    mode: Mode = "init",
    match: Match = "name",
    dry_run: bool = False,
    image_size: int | None = None,
    source: Source = "encoder",
    calibration_images: Float[Tensor, "b 3 h w"] | None = None,
    batch_norm: BatchNormUse | None = None,
    frozen_stages: int | None = None,
    seed: int = 0,
) -> Transplant[M]:
    """Fill a module of your own with an encoder's trunk, in place. Its input is what `encoder.normalize` gives.

    A module in DataParallel or under torch.compile is filled within. A weight that layers share is filled once.

    Frozen BatchNorm stays in evaluation mode through every `train()`, by hooks that `remove_hooks()` of the result
    takes away. A module that cannot be filled or called is left as it was.

    Args:
        encoder: Pretrained encoder; it is not changed.
        module: Module to fill; it stays on its device.
        mode: `"init"`: everything trains. `"partial"`: the first stages are frozen. `"frozen"`: all of them are.
        match: `"name"`, `"order"` or a mapping, see `nacgen.transplant.matching.match_tensors`.
        dry_run: Only report what would be done; that nothing fits is no error then.
        image_size: Height and width in pixels of images to call the module with for the report; None for no call.
        source: As in `into_discriminator`.
        calibration_images: As in `into_discriminator`.
        batch_norm: `"fold"`, `"train"` or `"freeze"`. None folds it, but if the module has BatchNorm itself,
            trains it, or freezes it in mode frozen.
        frozen_stages: As in `into_discriminator`.
        seed: Seed of the controls' weights.

    Returns:
        The module with its parameter groups and a report.

    Raises:
        ConfigurationError: If no place or several match, choices exclude each other, or calling it fails.
        CheckpointError: If the trunk does not reproduce the encoder.

    Example:
        >>> from nacgen.models.encoder import NACEncoder
        >>> convolution = torch.nn.Conv2d(3, 16, kernel_size=3, padding=1)
        >>> part = into_module(NACEncoder(), convolution, match="order", image_size=16)
        >>> part.report.loaded["backbone.conv1.weight"]
        'weight'
    """
    own, prefix = unwrap(module, "module")
    if batch_norm is None:
        has_norm = any(isinstance(part, BatchNorm) for part in own.modules())
        batch_norm = "fold" if not has_norm else "freeze" if mode == "frozen" else "train"
    prepared = PreparedTrunk(
        encoder, mode, frozen_stages, image_size, source, calibration_images, batch_norm, seed
    )
    backbone, tensors = prepared.backbone, prepared.backbone.state_dict()
    pairs, left_behind = match_tensors(tensors, _tensors(own), match, may_fail=dry_run)
    stages = {
        stage: tuple(pairs[name] for name in names if name in pairs)
        for stage, names in stage_parameters(backbone).items()
    }
    frozen = {name for stage in list(stages)[: prepared.num_frozen] for name in stages[stage]}
    layers = {name.rpartition(".")[0]: place.rpartition(".")[0] for name, place in pairs.items()}
    new = {place: tensors[name] for name, place in pairs.items()}

    # Try everything on a copy, so that a module that fails is left as it was.
    is_trial = dry_run or image_size is not None
    target = copied("module", own, COPY_ADVICE) if is_trial else own
    hooks = _fill(target, new, frozen, batch_norm)
    share = difference = None
    if image_size is not None:
        images = prepared.model.normalize(prepared.probe)
        share, difference = _measure(target.cpu(), backbone, layers, images)
    skipped = {f"backbone.{name}": reason for name, reason in left_behind.items()}
    others = [name for name in prepared.encoder.state_dict() if not name.startswith("backbone.")]
    untouched = [name for name, _ in target.named_parameters() if name not in new]
    report = TransplantReport(
        target=type(own).__name__,
        loaded={f"backbone.{name}": place for name, place in pairs.items()},
        skipped=skipped | {name: why_skipped(name) for name in others},
        flop_share=share,
        probe_difference=difference,
        is_dry_run=dry_run,
        **prepared.choices,
        **shares(target, untouched),
    )
    if dry_run:
        hooks = []
    elif is_trial:
        hooks = _fill(own, new, frozen, batch_norm)
    stages = {stage: tuple(prefix + name for name in names) for stage, names in stages.items()}
    return Transplant(module, report, stages, tuple(hooks))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors themselves, by name; hooks may put others or other names into `state_dict`."""
    parameters = module.named_parameters(remove_duplicate=False)
    return dict(parameters) | dict(module.named_buffers(remove_duplicate=False))


def _fill(
    module: nn.Module, new: Mapping[str, Tensor], frozen: Collection[str], batch_norm: BatchNormUse
) -> list[RemovableHandle]:
    """Copy tensors to their places and freeze parameters; return the hooks on BatchNorm that is frozen."""
    places = _tensors(module)
    with torch.no_grad():
        for place, tensor in new.items():
            places[place].copy_(tensor)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if name in frozen:
            parameter.requires_grad_(False)
    hooks = []
    for name in dict.fromkeys(place.rpartition(".")[0] for place in new):
        layer = module.get_submodule(name)
        is_frozen = batch_norm == "freeze" or f"{name}.weight" in frozen or f"{name}.bias" in frozen
        if isinstance(layer, BatchNorm) and is_frozen:
            hooks.append(layer.register_forward_pre_hook(_evaluate))
    return hooks


def _evaluate(layer: nn.Module, inputs: object) -> None:
    layer.eval()


def _measure(
    module: nn.Module, backbone: Backbone, layers: Mapping[str, str], images: Tensor
) -> tuple[float, float | None]:
    """Return the share of operations, and the largest difference of a layer's output; None if none is called."""
    with plain_float32("cpu"), torch.no_grad():
        try:
            share = flop_share(module, (images[:1],), set(layers.values()))
        except Exception as error:
            raise ConfigurationError(
                f"{type(module).__name__} must take float32 images {tuple(images[:1].shape)} to be measured, "
                f"but fails ({type(error).__name__}: {error}). Nothing was loaded. Leave image_size out."
            ) from error
        expected, actual = dict[str, Tensor](), dict[str, Tensor]()
        for name, place in layers.items():  # clones, for a ReLU in place may follow
            for owner, part, outputs in ((backbone, name, expected), (module, place, actual)):
                owner.get_submodule(part).register_forward_hook(
                    lambda _, __, output, name=name, outputs=outputs: outputs.update(
                        {name: output.clone()}
                    )
                )
        backbone.eval()(images)
        module(images)
    common = [name for name in expected if name in actual]
    differences = [relative_difference(actual[name], expected[name]) for name in common]
    return share, max(differences, default=None)
