"""Optimizers: a step of LARS and of the averaged weights on the parameters of ResNet-50.

25.6 million numbers in 161 tensors, seeded gradients. LARS is set as timm's is by default: nothing is left out of
decay, momentum 0.9. The learning rate is constant, where both forms of momentum agree; timm's trust ratio divides
by |g| + d |w| in place of |g + d w|, so weights are compared without decay.
"""

from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import page
from nacgen.system.randomness import seeded
from nacgen.training.optimizers import LARS
from timing import Row, Size, Work, agree, in_turns, missing

LEARNING_RATE, DECAY = 0.3, 1e-4


def build(size: Size) -> nn.Module:
    """ResNet-50 with gradients, the same every time; ResNet-18 where it is quick."""
    with seeded(0, "benchmark"):
        models = torchvision.models
        network: nn.Module = size.of(models.resnet18, models.resnet18, models.resnet50)()
        for parameter in network.parameters():
            parameter.grad = 0.01 * torch.randn_like(parameter)
    return network


def flat(network: nn.Module) -> Tensor:
    """All parameters in one row."""
    return torch.cat([p.detach().flatten() for p in network.parameters()])


class LoopLARS:
    """One parameter after another, with the numbers of the trust ratio in Python, as LARS is often written.

    Args:
        network: To be trained.
        learning_rate: Of the steps.
        decay: Of the weights.
        spare_vectors: Whether biases and scales get neither decay nor trust ratio.
    """

    def __init__(
        self, network: nn.Module, learning_rate: float, decay: float, spare_vectors: bool = True
    ) -> None:
        self.parameters = list(network.parameters())
        self.velocities = [torch.zeros_like(p) for p in self.parameters]
        self.learning_rate, self.decay = learning_rate, decay
        self.spare_vectors = spare_vectors

    @torch.no_grad()
    def step(self) -> None:
        """V <- m v + lr t (g + d w), w <- w - v."""
        for parameter, velocity in zip(self.parameters, self.velocities, strict=True):
            assert parameter.grad is not None
            update, ratio = parameter.grad, 1.0
            if not (self.spare_vectors and parameter.ndim < 2):
                update = update + self.decay * parameter
                size, length = parameter.norm().item(), update.norm().item()
                ratio = 1e-3 * size / length if size > 0 and length > 0 else 1.0
            velocity.mul_(0.9).add_(self.learning_rate * ratio * update)
            parameter.sub_(velocity)


Build = Callable[[nn.Module, float], Callable[[], object]]


def compare(size: Size, peer: str, build_theirs: Build, decay: float) -> Row:
    """A peer's step beside ours: weights after three steps at a decay where both agree, then times."""

    def pair(decay: float) -> tuple[nn.Module, nn.Module, Work, Work]:
        their_network, network = build(size), build(size)
        ours = LARS(network.parameters(), LEARNING_RATE, weight_decay=decay).step
        return their_network, network, build_theirs(their_network, decay), ours

    their_network, network, theirs, ours = pair(decay)
    for _ in range(3):
        theirs()
        ours()
    what = f"weights after 3 steps, decay {decay:g},"
    agreement = agree(flat(their_network), flat(network), 1e-6, what)
    *_, theirs, ours = pair(DECAY)
    return in_turns(
        "LARS step", peer, theirs, ours, size.turns, agreement=agreement, calls=3, at_least=1
    )


def lars(size: Size) -> list[Row]:
    """Against timm's, in both its forms, and a loop."""
    loop = compare(
        size,
        "loop over parameters",
        lambda net, decay: LoopLARS(net, LEARNING_RATE, decay, False).step,
        DECAY,
    )
    if reason := missing("timm"):
        return [loop, Row(what="LARS step", peer="timm", at_least=1, skipped=reason)]
    from timm.optim.lars import Lars

    def build_timm(foreach: bool) -> Build:
        def build(network: nn.Module, decay: float) -> Work:
            weights = network.parameters()
            options = {"weight_decay": decay, "always_adapt": True, "foreach": foreach}
            return Lars(weights, LEARNING_RATE, 0.9, **options).step

        return build

    forms = {"timm, its default on a CPU": False, "timm, foreach": True}
    return [loop, *(compare(size, peer, build_timm(form), 0) for peer, form in forms.items())]


def ema(size: Size) -> list[Row]:
    """The average as runs keep it, against a loop."""
    network = build(size)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    average.n_averaged.fill_(1)
    loop_average = build(size)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1)

    @torch.no_grad()
    def theirs() -> None:
        pairs = zip(loop_average.state_dict().values(), network.state_dict().values(), strict=True)
        for mean, new in pairs:
            if mean.is_floating_point():
                mean.mul_(0.99).add_(new, alpha=0.01)
            else:
                mean.copy_(new)

    def ours() -> None:
        average.update_parameters(network)

    theirs()
    ours()
    agreement = agree(flat(loop_average), flat(average.module), 1e-6, "averages")
    what, peer = "average of weights and buffers", "loop over tensors"
    row = in_turns(what, peer, theirs, ours, size.turns, agreement=agreement, calls=3, at_least=1)
    return [row]


PARTS = {"lars": lars, "ema": ema}

if __name__ == "__main__":
    page.main(__doc__, __file__, PARTS, ("torchvision", "timm"))
