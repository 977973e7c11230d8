"""Slow, literal transcription of the adversarial losses of arXiv:2501.05441.

With `f(t) = -log(1 + exp(-t))`, which increases, and logits that are high for real images, the discriminator
maximises `f(D(x) - D(G(z)))` and the generator `f(D(G(z)) - D(x))`, over pairs of a real image and a fake one.
"""

import math
from collections.abc import Callable


def f(t: float) -> float:
    """`-log(1 + exp(-t))`."""
    return -math.log1p(math.exp(-t))


def discriminator_loss(real: list[list[float]], fake: list[list[float]]) -> list[float]:
    """What the discriminator minimises for each pair: it wants real images above fake ones."""
    losses = []
    for heads_real, heads_fake in zip(real, fake, strict=True):
        values = [-f(a - b) for a, b in zip(heads_real, heads_fake, strict=True)]
        losses.append(sum(values) / len(values))
    return losses


def generator_loss(real: list[list[float]], fake: list[list[float]]) -> list[float]:
    """What the generator minimises for each pair: it wants fake images above real ones."""
    losses = []
    for heads_real, heads_fake in zip(real, fake, strict=True):
        values = [-f(b - a) for a, b in zip(heads_real, heads_fake, strict=True)]
        losses.append(sum(values) / len(values))
    return losses


def classic_losses(
    name: str, real: list[list[float]], fake: list[list[float]]
) -> tuple[list[float], list[float]]:
    """What discriminator and generator minimise without pairing, averaged over heads.

    Hinge as in arXiv:1802.05957, equations 16 and 17; the non-saturating game as in arXiv:1406.2661, with the
    probability of being real `p(t) = 1 / (1 + exp(-t))`.
    """
    discriminator, generator = [], []
    for heads_real, heads_fake in zip(real, fake, strict=True):
        of_discriminator, of_generator = [], []
        for a, b in zip(heads_real, heads_fake, strict=True):
            if name == "hinge":
                of_discriminator.append(-min(0.0, -1 + a) - min(0.0, -1 - b))
                of_generator.append(-b)
            else:
                p_real, p_fake = 1 / (1 + math.exp(-a)), 1 / (1 + math.exp(-b))
                of_discriminator.append(-math.log(p_real) - math.log(1 - p_fake))
                of_generator.append(-math.log(p_fake))
        discriminator.append(sum(of_discriminator) / len(of_discriminator))
        generator.append(sum(of_generator) / len(of_generator))
    return discriminator, generator


def squared_gradient_norm(
    function: Callable[[list[float]], float], image: list[float], step: float = 1e-5
) -> float:
    """Squared norm of a function's gradient at one image, by central differences."""
    total = 0.0
    for i in range(len(image)):
        above, below = list(image), list(image)
        above[i] += step
        below[i] -= step
        total += ((function(above) - function(below)) / (2 * step)) ** 2
    return total
