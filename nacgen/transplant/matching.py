"""Matching of a trunk's tensors with places in a module that was written without knowing the trunk."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from nacgen.errors import ConfigurationError

Match = Literal["name", "order"] | Mapping[str, str]
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Matching:
    """Places of a trunk's tensors in a module.

    Args:
        pairs: Names of tensors in the trunk, and names of tensors of the same shape in the module.
        skipped: Names of the trunk's other tensors, and the reasons.
    """

    pairs: dict[str, str]
    skipped: dict[str, str]


def match_tensors(trunk: Tensors, module: Tensors, match: Match) -> Matching:
    """Find the place of each tensor of a trunk in a module.

    Args:
        trunk: Tensors of the trunk by name, in order.
        module: Tensors of the module by name, in order.
        match: `"name"`: equal names, after one prefix that all of them share in the module. `"order"`: layers with
            equal shapes of weights in the same order, chosen so that most numbers are copied. Or a mapping
            from names in the trunk to names in the module, each of a tensor or of a submodule with all its
            tensors; names are compared by whole parts between dots, so `layer1` does not match `layer10`.

    Returns:
        Pairs, and what is skipped.

    Raises:
        ConfigurationError: If there is no pair, or several places are equally good, or the mapping names what
            does not exist.

    Example:
        >>> import torch
        >>> weight = torch.zeros(4, 3, 3, 3)
        >>> match_tensors({"conv1.weight": weight}, {"net.0.weight": weight}, "order").pairs
        {'conv1.weight': 'net.0.weight'}
    """
    if match == "name":
        places, reason = _by_name(trunk, module), ""
    elif match == "order":
        places, reason = _by_order(trunk, module), "no layer of its shape in order"
    elif isinstance(match, Mapping):
        places, reason = _by_mapping(trunk, module, match), "not in the mapping"
    else:
        raise ConfigurationError(f"match must be name, order or a mapping of names, got {match!r}.")
    pairs, skipped = {}, {}
    for name, place in places.items():
        if place not in module:
            skipped[name] = "no tensor of this name in the module"
        elif module[place].shape != trunk[name].shape:
            here, there = tuple(trunk[name].shape), tuple(module[place].shape)
            skipped[name] = f"shape {here}, in the module {there}"
        else:
            pairs[name] = place
    # Norms, biases and counters carry no knowledge without a convolution, unless a mapping asks for them.
    least = min(2, max(tensor.ndim for tensor in trunk.values())) if isinstance(match, str) else 0
    if not any(trunk[name].ndim >= least for name in pairs):
        manner = match if isinstance(match, str) else "the mapping"
        raise ConfigurationError(
            f"at least one convolution of the encoder must fit into the module, but by {manner} none does. The "
            f"encoder has {_shapes(trunk)}; the module has {_shapes(module)}. Try another manner of matching, "
            "with dry_run=True."
        )
    return Matching(pairs, skipped | {name: reason for name in trunk if name not in places})


def _by_name(trunk: Tensors, module: Tensors) -> dict[str, str]:
    fits: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for place, tensor in module.items():
        for name in trunk:
            if f".{place}".endswith(f".{name}"):
                prefix = place.removesuffix(name)
                names[prefix] += 1
                fits[prefix] += tensor.shape == trunk[name].shape
    best = max((fits[p], names[p]) for p in names) if names else (0, 0)
    prefixes = [p for p in names if (fits[p], names[p]) == best]
    if len(prefixes) > 1 and best[0] > 0:
        raise ConfigurationError(
            f"one place in the module was expected for the encoder, got {len(prefixes)} that fit equally well: "
            f"under {', '.join(map(repr, prefixes))}. Choose with a mapping, such as "
            f"match={{'': {prefixes[0].rstrip('.')!r}}}."
        )
    prefix = prefixes[0] if prefixes else ""
    return {name: prefix + name for name in trunk}


def _by_mapping(trunk: Tensors, module: Tensors, mapping: Mapping[str, str]) -> dict[str, str]:
    for owner, known, names in (
        ("encoder", trunk, mapping),
        ("module", module, mapping.values()),
    ):
        for part in names:
            if not any(_is_within(name, part) for name in known):
                raise ConfigurationError(
                    f"match must name tensors or submodules of the {owner}, got {part!r}. It has "
                    f"{_shapes(known)}."
                )
    places: dict[str, str] = {}
    for name in trunk:
        parts = [part for part in mapping if _is_within(name, part)]
        if parts:
            part = max(parts, key=len)  # the most specific entry
            rest = name[len(part) :].lstrip(".")
            places[name] = ".".join(piece for piece in (mapping[part], rest) if piece)
    twice = [place for place, count in Counter(places.values()).items() if count > 1]
    if twice:
        raise ConfigurationError(
            f"match must lead each tensor to a place of its own, but several go to {', '.join(twice[:5])}."
        )
    return places


def _by_order(trunk: Tensors, module: Tensors) -> dict[str, str]:
    """Find the common subsequence of layers with the most elements of weights, by dynamic programming."""
    ours, theirs = _layers(trunk), _layers(module)
    rows, columns = list(ours), list(theirs)
    best = [[0] * (len(columns) + 1) for _ in range(len(rows) + 1)]  # of the layers from i and j on
    for i in reversed(range(len(rows))):
        for j in reversed(range(len(columns))):
            weight, place = ours[rows[i]]["weight"], theirs[columns[j]]["weight"]
            taken = weight.numel() + best[i + 1][j + 1] if weight.shape == place.shape else 0
            best[i][j] = max(taken, best[i + 1][j], best[i][j + 1])
    places: dict[str, str] = {}
    i = j = 0
    while i < len(rows) and j < len(columns):
        if best[i][j] == best[i][j + 1]:
            j += 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            for tensor in ours[rows[i]]:
                places[_join(rows[i], tensor)] = _join(columns[j], tensor)
            i, j = i + 1, j + 1
    return places


def _layers(tensors: Tensors) -> dict[str, dict[str, Tensor]]:
    """Group tensors by layer, for layers that have a weight."""
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        layer, _, own = name.rpartition(".")
        layers[layer][own] = tensor
    return {name: layer for name, layer in layers.items() if "weight" in layer}


def _join(layer: str, tensor: str) -> str:
    return f"{layer}.{tensor}" if layer else tensor


def _is_within(name: str, part: str) -> bool:
    return part == "" or name == part or name.startswith(f"{part}.")


def _shapes(tensors: Tensors) -> str:
    shown = [f"{name} {tuple(tensor.shape)}" for name, tensor in list(tensors.items())[:5]]
    return ", ".join(shown) + (", …" if len(tensors) > 5 else "")
