"""Which tensor of a trunk belongs where in a module that was written without knowing it."""

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
    """What goes where.

    Args:
        pairs: Name in the trunk and name in the module, of tensors of one shape.
        skipped: Name in the trunk, and why it goes nowhere.
    """

    pairs: dict[str, str]
    skipped: dict[str, str]


def match_tensors(trunk: Tensors, module: Tensors, match: Match) -> Matching:
    """Find the place of each tensor of a trunk in a module.

    Args:
        trunk: Its tensors by name, in order.
        module: Its tensors by name, in order.
        match: `"name"`: equal names, after one prefix that all of them share in the module. `"order"`: layers of
            equal weight shapes in the same order, chosen so that most numbers are carried over. Or a mapping
            from names in the trunk to names in the module, each of a tensor or of a submodule with all that
            is in it; names are compared by whole parts between dots, `layer1` is no part of `layer10`.

    Returns:
        Pairs, and what is skipped.

    Raises:
        ConfigurationError: No pair, several places that are equally good, or a mapping of what is not there.
    """
    if isinstance(match, str):
        if match not in ("name", "order"):
            raise ConfigurationError(
                f"match must be name, order or a mapping of names, got {match!r}."
            )
        found = (_by_name if match == "name" else _by_order)(trunk, module)
    else:
        found = _by_mapping(trunk, module, match)
    # Where of convolutions none fits, but norms, biases or counters do, no knowledge is carried over.
    least = min(2, max(tensor.ndim for tensor in trunk.values())) if isinstance(match, str) else 0
    if not any(trunk[name].ndim >= least for name in found.pairs):
        raise ConfigurationError(
            f"at least one convolution of the encoder must fit into the module, but by {_manner(match)} none "
            f"does. The encoder has {_shapes(trunk)}; the module has {_shapes(module)}. Try "
            "another manner of matching, with dry_run=True."
        )
    return found


def _by_name(trunk: Tensors, module: Tensors) -> Matching:
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
    return _checked(trunk, module, {name: prefix + name for name in trunk})


def _by_mapping(trunk: Tensors, module: Tensors, mapping: Mapping[str, str]) -> Matching:
    for known, names in ((trunk, mapping), (module, mapping.values())):
        for part in names:
            if not any(_is_within(name, part) for name in known):
                owner = "encoder" if known is trunk else "module"
                raise ConfigurationError(
                    f"match must name tensors or submodules of the {owner}, got {part!r}. It has "
                    f"{_shapes(known)}."
                )
    places: dict[str, str] = {}
    for name in trunk:
        parts = [part for part in mapping if _is_within(name, part)]
        if parts:
            part = max(parts, key=len)  # the most particular entry
            rest = name[len(part) :].lstrip(".")
            places[name] = ".".join(piece for piece in (mapping[part], rest) if piece)
    twice = [place for place, count in Counter(places.values()).items() if count > 1]
    if twice:
        raise ConfigurationError(
            f"match must lead each tensor to a place of its own, but several go to {', '.join(twice[:5])}."
        )
    found = _checked(trunk, module, places)
    unmapped = {name: "not in the mapping" for name in trunk if name not in places}
    return Matching(found.pairs, found.skipped | unmapped)


def _by_order(trunk: Tensors, module: Tensors) -> Matching:
    """The common subsequence of layers with the most elements of weights, by dynamic programming."""
    theirs, ours = _layers(module), _layers(trunk)
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
    found = _checked(trunk, module, places)
    unmatched = {name: "no layer of its shape in order" for name in trunk if name not in places}
    return Matching(found.pairs, found.skipped | unmatched)


def _layers(tensors: Tensors) -> dict[str, dict[str, Tensor]]:
    """Layers that have a weight, with their own tensors."""
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        layer, _, own = name.rpartition(".")
        layers[layer][own] = tensor
    return {name: layer for name, layer in layers.items() if "weight" in layer}


def _checked(trunk: Tensors, module: Tensors, places: Mapping[str, str]) -> Matching:
    pairs, skipped = {}, {}
    for name, place in places.items():
        if place not in module:
            skipped[name] = "no tensor of this name in the module"
        elif module[place].shape != trunk[name].shape:
            here, there = tuple(trunk[name].shape), tuple(module[place].shape)
            skipped[name] = f"shape {here}, in the module {there}"
        else:
            pairs[name] = place
    return Matching(pairs, skipped)


def _is_within(name: str, part: str) -> bool:
    return part == "" or name == part or name.startswith(f"{part}.")


def _join(layer: str, tensor: str) -> str:
    return f"{layer}.{tensor}" if layer else tensor


def _manner(match: Match) -> str:
    return match if isinstance(match, str) else "the mapping"


def _shapes(tensors: Tensors) -> str:
    shown = [f"{name} {tuple(tensor.shape)}" for name, tensor in list(tensors.items())[:5]]
    return ", ".join(shown) + (", …" if len(tensors) > 5 else "")
