"""LARS in NumPy, one parameter and one step at a time, written from SimCLR's appendix."""

import numpy as np

Array = np.ndarray


def step(
    weight: Array,
    gradient: Array,
    velocity: Array,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float = 1e-3,
    exclude: bool = False,
    reference: bool = False,
) -> tuple[Array, Array]:
    """The weight and the velocity after one step."""
    decays = not exclude and weight_decay > 0
    adapts = decays if reference else not exclude
    update = gradient + weight_decay * weight if decays else gradient
    ratio = 1.0
    if adapts:
        size, update_size = np.sqrt((weight**2).sum()), np.sqrt((update**2).sum())
        if reference:  # both guards hold for every norm
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = trust_coefficient * size / update_size
        elif size > 0 and update_size > 0:
            ratio = trust_coefficient * size / update_size
    with np.errstate(invalid="ignore"):
        velocity = momentum * velocity + lr * ratio * update
    return weight - velocity, velocity
