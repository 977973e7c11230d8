"""Optimizers by name: LARS for large batches, AdamW, SGD. Biases and norms are left out of weight decay.

Source:
    You, Gitman & Ginsburg 2017, arXiv:1708.03888; in the form of Chen et al. 2020, arXiv:2002.05709.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from nacgen.errors import ConfigurationError, check_choice

OptimizerName = Literal["lars", "adamw", "sgd"]
ParamGroups = list[dict[str, Any]]
CACHED = 2**16  # numbers; with gradient, velocity and update 1 MiB
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class LARS(torch.optim.Optimizer):
    """Stochastic gradient descent with steps in proportion to the norm of each parameter.

    With gradient `g`, weight decay `d`, learning rate `r` and momentum `m`, for each parameter `w`:

        u = g + d w
        v <- m v + r t u,    t = trust_coefficient * |w| / |u|;    t = 1 where |w| or |u| is 0
        w <- w - v

    The velocity holds steps that are scaled by the learning rate already, as in SimCLR and optax: a change of
    the learning rate does not change earlier steps. (torch's SGD scales the sum of them instead.)
    Differs from the paper, as SimCLR does: |u| stands for |g| + d |w|.

    The parameters of a group with `exclude=True` get neither decay nor trust ratio: `v <- m v + r g`.
    A step is a fixed number of `foreach` calls for each group and never waits for the device. On a CPU a step
    takes a few parameters at a time, which stay in the cache between the calls.

    Args:
        params: Parameters, or groups as `exclude_from_decay` returns them.
        lr: Learning rate, zero or more; large, since a step is a thousandth of it times |w|.
        momentum: Factor on the velocity, in [0, 1).
        weight_decay: Factor on the weights that are added to the gradient, zero or more.
        trust_coefficient: Length of a step relative to |w|, above zero.
        exclude: Default of the groups.
        reference: Follow the code of the NAC paper's authors, for comparison. Its trust ratio has no guard: a
            parameter of zeros never moves, and becomes NaN if its gradient is zero too. Without weight decay
            it has no trust ratio.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(4))
        >>> optimizer = LARS([weight], lr=1.0)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> weight[0].item()
        0.999...
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        exclude: bool = False,
        reference: bool = False,
    ) -> None:
        numbers = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        numbers["trust_coefficient"] = trust_coefficient
        super().__init__(params, numbers | {"exclude": exclude, "reference": reference})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient; return the loss of the closure, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameters in _portions([p for p in group["params"] if p.grad is not None]):
                self._step_group(group, parameters)
        return loss

    def _step_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        velocities = [self.state[p]["momentum_buffer"] for p in parameters]
        lr, decay, reference = group["lr"], group["weight_decay"], group["reference"]
        torch._foreach_mul_(velocities, group["momentum"])
        if group["exclude"] or (reference and decay == 0):
            torch._foreach_add_(velocities, gradients, alpha=lr)
        else:
            updates = torch._foreach_add(gradients, parameters, alpha=decay)
            sizes = torch.stack(torch._foreach_norm(parameters))
            update_sizes = torch.stack(torch._foreach_norm(updates))
            ratios = group["trust_coefficient"] * sizes / update_sizes
            if not reference:  # the authors' guards ask for norms >= 0, which all norms are
                ratios = torch.where((sizes > 0) & (update_sizes > 0), ratios, 1.0)
            torch._foreach_addcmul_(velocities, updates, (lr * ratios).unbind())
        torch._foreach_sub_(parameters, velocities)


def _portions(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield all parameters on a GPU at once, those on a CPU by about `CACHED` numbers."""
    portion: list[Tensor] = []
    for parameter in parameters:
        portion.append(parameter)
        if parameter.device.type == "cpu" and sum(p.numel() for p in portion) >= CACHED:
            yield portion
            portion = []
    if portion:
        yield portion


def exclude_from_decay(module: nn.Module) -> ParamGroups:
    """Split a module's trainable parameters into groups with and without weight decay, for any optimizer.

    Parameters of normalization layers have no decay, nor have those with fewer than two axes: biases, scales.
    """
    decayed: dict[nn.Parameter, None] = {}  # ordered, and each once even where modules share it
    excluded: dict[nn.Parameter, None] = {}
    for owner in module.modules():
        for parameter in owner.parameters(recurse=False):
            if not parameter.requires_grad or parameter in decayed or parameter in excluded:
                continue
            is_excluded = parameter.ndim < 2 or isinstance(owner, NORMS)
            (excluded if is_excluded else decayed)[parameter] = None
    groups = [
        {"params": list(decayed), "exclude": False},
        {"params": list(excluded), "exclude": True, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(
    name: OptimizerName,
    module: nn.Module,
    learning_rate: float,
    weight_decay: float = 0.0,
    reference: bool = False,
) -> torch.optim.Optimizer:
    """Build an optimizer over a module's parameters, without weight decay on biases and norms.

    Args:
        name: `"lars"`, `"adamw"` or `"sgd"`, which has Nesterov momentum; the momentum of both is 0.9.
        module: Module to train.
        learning_rate: Peak learning rate; the loop multiplies it by its schedule.
        weight_decay: Weight decay, decoupled for AdamW and added to the gradient for the others.
        reference: Use LARS as the NAC paper's authors do, see `LARS`, with weight decay on every parameter.

    Raises:
        ConfigurationError: The name is unknown, or `reference` is set for another optimizer than LARS.
        ValueError: The module has nothing to train.
    """
    check_choice("optimizer", name, get_args(OptimizerName))
    if reference and name != "lars":
        raise ConfigurationError(
            f"only lars has a reference form, got reference=True for {name}. Leave it out."
        )
    groups = exclude_from_decay(module)
    if name == "lars":
        trained = [p for p in module.parameters() if p.requires_grad]
        params: Iterable[Any] = trained if reference else groups
        return LARS(params, learning_rate, weight_decay=weight_decay, reference=reference)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=weight_decay)
    return torch.optim.SGD(groups, learning_rate, 0.9, weight_decay=weight_decay, nesterov=True)
