"""NT-Xent and InfoNCE as loops over rows and axes, written from the papers."""

import math

Rows = list[list[float]]


def cosine(a: list[float], b: list[float]) -> float:
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def nt_xent(view_1: Rows, view_2: Rows, temperature: float) -> list[float]:
    """-log exp(s(i, j)/t) / sum over k != i of exp(s(i, k)/t), j the other view of i's image."""
    rows = view_1 + view_2
    num_images = len(view_1)
    values = []
    for i, row in enumerate(rows):
        j = i + num_images if i < num_images else i - num_images
        others = sum(
            math.exp(cosine(row, other) / temperature) for k, other in enumerate(rows) if k != i
        )
        values.append(-math.log(math.exp(cosine(row, rows[j]) / temperature) / others))
    return values


def info_nce(queries: Rows, positives: Rows, queue: Rows, temperature: float) -> list[float]:
    """-log exp(q.k+/t) / (exp(q.k+/t) + sum over the queue of exp(q.k/t))."""
    values = []
    for query, positive in zip(queries, positives, strict=True):
        right = math.exp(cosine(query, positive) / temperature)
        wrong = sum(math.exp(cosine(query, key) / temperature) for key in queue)
        values.append(-math.log(right / (right + wrong)))
    return values
