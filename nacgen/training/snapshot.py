"""From an update to the tensors that are saved of it, and back."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nacgen.errors import CheckpointError
from nacgen.training.checkpoint import Tensors
from nacgen.training.update import Update

MOST_DIFFERENCES = 10  # that an error lists


def capture(update: Update) -> dict[str, Tensors]:
    """All tensors of an update's modules and optimizers.

    Args:
        update: The method.

    Returns:
        Tensors by part, `<module>` or `optimizer_<name>`, and name; on the CPU they share the update's memory.
    """
    modules = dict(update.modules)
    names = _parameter_names(modules)
    parts = {
        name: {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
        for name, module in modules.items()
    }
    for name, optimizer in update.optimizers.items():
        parts[f"optimizer_{name}"] = optimizer_tensors(optimizer.optimizer, names)
    return parts


def restore(update: Update, parts: Mapping[str, Tensors], source: Path) -> None:
    """Put captured tensors back, all of them or none.

    Args:
        update: Of the same configuration.
        parts: As `capture` gave them.
        source: Where they come from, for the error.

    Raises:
        CheckpointError: Parts, names, shapes or dtypes differ; nothing of the update is changed, and up to ten
            differences are listed.
    """
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
        _fill_slots(optimizer, names, parts[name])


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> Tensors:
    """An optimizer's slots under the names of its parameters.

    Args:
        optimizer: Any torch optimizer whose state is tensors.
        names: Name of each parameter.

    Returns:
        `{"<slot>/<parameter>": tensor}`.
    """
    return {
        f"{slot}/{names[parameter]}": value.detach().cpu().contiguous()
        for parameter, slots in optimizer.state.items()
        for slot, value in slots.items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: Tensors
) -> None:
    """Put slots written by `optimizer_tensors` back.

    Args:
        optimizer: Over the same parameters.
        names: Name of each parameter.
        tensors: The slots.

    Raises:
        CheckpointError: A slot does not fit; the optimizer is unchanged.
    """
    differences = list(_slot_differences(tensors, optimizer, names))
    if differences:
        raise CheckpointError(
            f"the checkpoint's optimizer does not fit: {'; '.join(differences[:MOST_DIFFERENCES])}. Resume with "
            "the configuration that wrote it."
        )
    _fill_slots(optimizer, names, tensors)


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
    """A slot is a number, the count of steps say, or has its parameter's shape and dtype."""
    parameters = _trained(optimizer, names)
    for key, value in saved.items():
        slot, _, name = key.partition("/")
        if name not in parameters:
            yield f"knows {name}, which this optimizer does not train"
        elif value.ndim and _kind(value) != _kind(parameters[name]):
            yield f"{slot} of {name}: {_kind(value)} there, {_kind(parameters[name])} here"
        elif not value.dtype.is_floating_point:
            yield f"{slot} of {name}: {_kind(value)} there, floating point here"


def _fill_slots(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: Tensors
) -> None:
    parameters = _trained(optimizer, names)
    for key, value in tensors.items():
        slot, _, name = key.partition("/")
        device = "cpu" if slot == "step" else parameters[name].device
        optimizer.state[parameters[name]][slot] = value.to(device)


def _kind(tensor: Any) -> str:
    if tensor is None:
        return "absent"
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
