"""The tensors that are saved of an update: taking them, and putting them back."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nacgen.errors import CheckpointError
from nacgen.system.tensor_file import Tensors
from nacgen.training.update import Update

MOST_DIFFERENCES = 10  # in an error message


def capture(update: Update) -> dict[str, Tensors]:
    """Return all tensors of an update by part, `<module>` or `optimizer_<name>`; they share its memory."""
    modules = dict(update.modules)
    names = _parameter_names(modules)
    parts = {
        name: {k: v.detach() for k, v in module.state_dict().items()}
        for name, module in modules.items()
    }
    for name, optimizer in update.optimizers.items():
        parts[f"optimizer_{name}"] = {
            f"{slot}/{names[parameter]}": value.detach()
            for parameter, slots in optimizer.optimizer.state.items()
            for slot, value in slots.items()
        }
    return parts


def restore(update: Update, parts: Mapping[str, Tensors], source: Path) -> None:
    """Put the tensors that `capture` returned into an update of the same configuration, all of them or none."""
    modules = dict(update.modules)
    optimizers = {f"optimizer_{name}": each.optimizer for name, each in update.optimizers.items()}
    expected = {*modules, *optimizers}
    if set(parts) != expected:
        raise CheckpointError(
            f"the checkpoint in {source} should hold {sorted(expected)}, but holds {sorted(parts)}. "
            "Resume with the version and configuration that wrote it."
        )
    names = _parameter_names(modules)
    differences = [
        f"{part} {difference}"
        for part in sorted(expected)
        for difference in (
            _module_differences(parts[part], modules[part])
            if part in modules
            else _slot_differences(parts[part], optimizers[part], names)
        )
    ]
    if differences:
        raise CheckpointError(
            f"the checkpoint in {source} does not fit, {len(differences)} differences: "
            f"{'; '.join(differences[:MOST_DIFFERENCES])}. Resume with the configuration that wrote it."
        )
    for name, module in modules.items():
        module.load_state_dict(parts[name])
    for name, optimizer in optimizers.items():
        parameters = _trained(optimizer, names)
        for key, value in parts[name].items():
            slot, _, parameter = key.partition("/")
            device = "cpu" if slot == "step" else parameters[parameter].device
            optimizer.state[parameters[parameter]][slot] = value.to(device)


def _parameter_names(modules: Mapping[str, nn.Module]) -> dict[Tensor, str]:
    return {p: f"{m}.{name}" for m in modules for name, p in modules[m].named_parameters()}


def _trained(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    return {names[p]: p for group in optimizer.param_groups for p in group["params"]}


def _module_differences(saved: Tensors, module: nn.Module) -> Iterable[str]:
    state = module.state_dict()
    for name in sorted(saved.keys() | state.keys()):
        there, here = _kind(saved.get(name)), _kind(state.get(name))
        if there != here:
            yield f"{name}: {there} there, {here} here"


def _slot_differences(
    saved: Tensors, optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]
) -> Iterable[str]:
    """Compare slots, each of which is a number (a count of steps) or has its parameter's shape and dtype."""
    parameters = _trained(optimizer, names)
    for key, value in saved.items():
        slot, _, name = key.partition("/")
        if name not in parameters:
            yield f"knows {name}, which this optimizer does not train"
        elif value.ndim and _kind(value) != _kind(parameters[name]):
            yield f"{slot} of {name}: {_kind(value)} there, {_kind(parameters[name])} here"
        elif not value.dtype.is_floating_point:
            yield f"{slot} of {name}: {_kind(value)} there, floating point here"


def _kind(tensor: Any) -> str:
    if tensor is None:
        return "absent"
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
