"""Retrieval measures as loops over items and over every order of ties, written from their definitions."""

from collections.abc import Iterator
from itertools import groupby, permutations, product

Bits = list[bool]


def hamming(a: Bits, b: Bits) -> int:
    return sum(x != y for x, y in zip(a, b, strict=True))


def shared_ones(a: Bits, b: Bits) -> int:
    return sum(x and y for x, y in zip(a, b, strict=True))


def average_precision(ranked: list[bool], top: int | None = None) -> float:
    """Mean, over the relevant items among the first `top`, of the precision at their rank."""
    found, total = 0, 0.0
    for rank, relevant in enumerate(ranked[:top], start=1):
        if relevant:
            found += 1
            total += found / rank
    return total / found if found else 0.0


def precision(ranked: list[bool], top: int) -> float:
    return sum(ranked[:top]) / top


def orders(distances: list[int], relevant: list[bool]) -> Iterator[list[bool]]:
    """Relevance in every order that sorts the distances, each order of tied items once."""
    items = sorted(zip(distances, relevant, strict=True), key=lambda item: item[0])
    groups = [
        [is_relevant for _, is_relevant in group]
        for _, group in groupby(items, key=lambda item: item[0])
    ]
    for choice in product(*(permutations(group) for group in groups)):
        yield [is_relevant for group in choice for is_relevant in group]
