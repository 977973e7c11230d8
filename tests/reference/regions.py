"""Linear regions along a line, in exact rational arithmetic: step from one boundary to the next."""

from fractions import Fraction

Vector = list[Fraction]
Layer = tuple[list[list[float]], list[float], bool]


def crossings(layers: list[Layer], start: list[float], end: list[float]) -> list[Fraction]:
    """Where a fully connected ReLU network changes its activation pattern, strictly inside (0, 1).

    A layer is (weights, biases, skip): its input, if `skip`, is added before the ReLU.
    """
    found = []
    t = Fraction(0)
    while True:
        t = _next_boundary(layers, start, end, t)
        if t >= 1:
            return found
        found.append(t)


def _next_boundary(
    layers: list[Layer], start: list[float], end: list[float], t: Fraction
) -> Fraction:
    """The first place behind t at which any unit switches; 1 if there is none before."""
    first, last = [Fraction(x) for x in start], [Fraction(x) for x in end]
    value = [a + t * (b - a) for a, b in zip(first, last, strict=True)]
    slope = [b - a for a, b in zip(first, last, strict=True)]
    nearest = Fraction(1)
    for weights, biases, skip in layers:
        z = [_dot(row, value) + Fraction(bias) for row, bias in zip(weights, biases, strict=True)]
        dz = [_dot(row, slope) for row in weights]
        if skip:
            z = [a + b for a, b in zip(z, value, strict=True)]
            dz = [a + b for a, b in zip(dz, slope, strict=True)]
        for a, b in zip(z, dz, strict=True):
            if a * b < 0:
                nearest = min(nearest, t - a / b)
        is_on = [a > 0 or (a == 0 and b > 0) for a, b in zip(z, dz, strict=True)]
        value = [a if on else Fraction(0) for a, on in zip(z, is_on, strict=True)]
        slope = [b if on else Fraction(0) for b, on in zip(dz, is_on, strict=True)]
    return nearest


def _dot(row: list[float], vector: Vector) -> Fraction:
    return sum((Fraction(w) * x for w, x in zip(row, vector, strict=True)), Fraction(0))
