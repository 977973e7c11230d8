"""Hidden states of a layer in any model, read by a forward hook that can be removed."""

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.models.own_network import evaluating
from nacgen.system.randomness import seeded


class HiddenState:
    """The latest output of a layer, kept until it is taken. Copies and pickles of it belong to no layer.

    So a copy of a model, for an average of its weights, neither overwrites the state nor keeps one of its own.
    """

    def __init__(self, layer: nn.Module | None = None, name: str = "") -> None:
        self.layer, self.name, self.value = layer, name, None
        self.handle = None if layer is None else layer.register_forward_hook(self)

    def __call__(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        """Keep the output; this is the hook. What checkpointing computes again in a backward pass is not kept."""
        if self.layer is not None and not _is_in_backward():
            self.value = output

    def __reduce__(self) -> tuple[type["HiddenState"], tuple[()]]:
        return HiddenState, ()

    def remove(self) -> None:
        """Take the hook away and forget the output."""
        if self.handle is not None:
            self.handle.remove()
        self.layer = self.handle = self.value = None

    def take(self) -> Tensor:
        """Return the latest output as a map `(b, c, h, w)` and forget it, so that no output is used twice."""
        if self.layer is None:
            raise RuntimeError(
                "an alignment must have its hook on a model, but this one was copied or its hook removed. Call "
                "nacgen.transplant again; its projector's weights are in state_dict()."
            )
        output, self.value = self.value, None
        if output is None:
            raise RuntimeError(
                f"the model must run before each call of its alignment, but layer {self.name!r} has given nothing "
                "since the last one. Call the model that was transplanted into, not a copy; if it was compiled "
                "and called before the transplant, call torch.compiler.reset() after it."
            )
        hidden = as_map(output, self.name)
        trains = any(parameter.requires_grad for parameter in self.layer.parameters())
        if trains and torch.is_grad_enabled() and not hidden.requires_grad:
            raise RuntimeError(
                f"the hidden state of {self.name!r} must carry a gradient, but the model ran without one. Run it "
                "outside of torch.no_grad() and without reentrant checkpointing, or call both under no_grad."
            )
        return hidden


def _is_in_backward() -> bool:
    """Tell whether autograd runs a backward pass; torch has no public function for it."""
    # A compiler that traces the hook knows no task of autograd.
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def as_map(output: Any, name: str) -> Tensor:
    """Return a layer's output as a map `(b, c, h, w)`: a tensor, or the first one of a tuple or of a mapping.

    Tokens `(b, n, c)` become a square map, row by row. Anything else is a `ConfigurationError`.
    """
    first: Any = output
    while isinstance(first, Mapping | tuple | list) and len(first) > 0:
        first = next(iter(first.values() if isinstance(first, Mapping) else first))
    if isinstance(first, Tensor) and first.is_floating_point():
        side = math.isqrt(first.shape[1]) if first.ndim == 3 else 0
        if side > 0 and side**2 == first.shape[1]:
            first = rearrange(first, "b (h w) c -> b c h w", h=side)
        if first.ndim == 4 and first.shape[-2:].numel() > 1:
            hidden: Tensor = first
            return hidden
    got = f"{first.dtype} {tuple(first.shape)}" if isinstance(first, Tensor) else type(first)
    raise ConfigurationError(
        f"layer {name!r} must give a map (b, c, h, w) or a square number of tokens (b, n, c), with two positions "
        f"or more, got {got}. Name a layer further up, or one within it."
    )


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """Return a submodule by its name in `named_modules`; a `ConfigurationError` lists what stands beside it."""
    named: dict[str, nn.Module] = dict(model.named_modules())
    layer = named.get(name) if isinstance(name, str) and name else None
    if layer is None:
        parent = str(name)
        while parent not in named:
            parent = parent.rpartition(".")[0]
        parts = ", ".join(_parts(named[parent], parent))
        raise ConfigurationError(
            f"layer must name a part of {type(model).__name__}, got {name!r}. "
            f"{f'Parts of {parent!r}' if parent else 'Its parts'}: {parts or 'none'}."
        )
    return layer


def _parts(module: nn.Module, prefix: str) -> list[str]:
    """List the children of a module by name, and those of a list in its place, for nothing calls the list."""
    names = []
    for name, child in module.named_children():
        place = f"{prefix}.{name}" if prefix else name
        is_list = isinstance(child, nn.ModuleList | nn.ModuleDict)
        names += _parts(child, place) if is_list else [place]
    return names


def run_once(
    model: nn.Module, image_size: int, inputs: Tensor | Sequence[Any] | Mapping[str, Any] | None
) -> None:
    """Call a model as it is used in evaluation, without gradient; it is left as it was.

    Without inputs it is called with one image `(1, 3, h, w)` and one time `(1,)`, both zero.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    default = (like.new_zeros(1, 3, image_size, image_size), like.new_zeros(1))
    given = default if inputs is None else (inputs,) if isinstance(inputs, Tensor) else inputs
    # Nothing is compiled before dynamo is imported, which takes a second.
    has_dynamo = "torch._dynamo" in sys.modules
    eagerly = torch.compiler.set_stance("force_eager") if has_dynamo else nullcontext()
    try:
        with torch.no_grad(), evaluating(model), seeded(0, "dry_run"), eagerly:
            model(**given) if isinstance(given, Mapping) else model(*given)
    except Exception as error:
        what = "an image and a time" if inputs is None else "example_inputs"
        said = str(error).partition("\n")[0]
        raised = f"{type(error).__name__}: {said:.300}".rstrip(".: ")
        raise ConfigurationError(
            f"model must take {what}, but {type(model).__name__} fails with {raised}. Pass as "
            "example_inputs the tensor, a tuple or a mapping of what its forward takes, on its device."
        ) from error
