"""Matching of a trunk's tensors with places in a module that was written without knowing the trunk."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from nacgen.errors import ConfigurationError

Match = Literal["name", "order"] | Mapping[str, str]
Tensors = Mapping[str, Tensor]


def match_tensors(
    trunk: Tensors, module: Tensors, match: Match, *, may_fail: bool = False
) -> tuple[dict[str, str], dict[str, str]]:
    """Return places in a module by names in a trunk, and reasons why the trunk's other tensors have none.

    It is an error if there is no pair, unless it may fail, or several places are equally good.

    With `"name"`, names are equal after one prefix that all of them share in the module. With `"order"`, layers
    with equal shapes of weights follow in the same order, chosen so that most numbers are copied. A mapping leads
    from names in the trunk to names in the module, each of a tensor or of a submodule with all its tensors; names
    are compared by whole parts between dots, so `layer1` does not match `layer10`.
    """
    if match == "name":
        places, reason = _by_name(trunk, module), ""
    elif match == "order":
        places, reason = _by_order(trunk, module), "no layer of its shape in order"
    elif isinstance(match, Mapping):
        places, reason = _by_mapping(trunk, module, match), "not in the mapping"
    else:
        raise ConfigurationError(f"match must be name, order or a mapping of names, got {match!r}.")
    pairs, skipped = dict[str, str](), dict[str, str]()
    first: dict[tuple[object, ...], str] = {}  # name of each tensor, which layers may share
    homes = {}
    for place, x in module.items():
        memory = (x.untyped_storage().data_ptr(), x.storage_offset(), x.shape)
        homes[place] = first.setdefault(memory, place)
    for name, place in places.items():
        if place not in module:
            skipped[name] = "no tensor of this name in the module"
        elif module[place].shape != trunk[name].shape:
            here, there = tuple(trunk[name].shape), tuple(module[place].shape)
            skipped[name] = f"shape {here}, in the module {there}"
        elif (home := homes[place]) in pairs.values():
            skipped[name] = f"its place {place} is shared with {home}, which is filled"
        else:
            pairs[name] = home
    # Norms, biases and counters carry no knowledge without a convolution, unless a mapping asks for them.
    least = min(2, max(tensor.ndim for tensor in trunk.values())) if isinstance(match, str) else 0
    if not any(trunk[name].ndim >= least for name in pairs):
        if may_fail:
            alone = dict.fromkeys(pairs, "nothing without a convolution, of which none fits")
            return {}, skipped | alone | {n: reason for n in trunk if n not in places}
        manner = match if isinstance(match, str) else "the mapping"
        raise ConfigurationError(
            f"at least one convolution of the encoder must fit into the module, but by {manner} none does. The "
            f"encoder has {_shapes(trunk)}; the module has {_shapes(module)}. Try another "
            "match; with dry_run=True the report gives the reason of each tensor."
        )
    return pairs, skipped | {name: reason for name in trunk if name not in places}


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
    prefixes = [p for p in names if (fits[p], names[p]) == best] or [""]
    if len(prefixes) > 1 and best[0] > 0:
        raise ConfigurationError(
            f"the encoder must have one place in the module, got {len(prefixes)} that fit equally well: under "
            f"{', '.join(map(repr, prefixes))}. Choose one, such as match={{'': {prefixes[0].rstrip('.')!r}}}."
        )
    return {name: prefixes[0] + name for name in trunk}


def _by_mapping(trunk: Tensors, module: Tensors, mapping: Mapping[str, str]) -> dict[str, str]:
    sides = (("encoder", trunk, mapping.keys()), ("module", module, mapping.values()))
    for owner, known, names in sides:
        for part in names:
            if not any(_is_within(name, part) for name in known):
                raise ConfigurationError(
                    f"match must name tensors or submodules of the {owner}, got {part!r}. It has {_shapes(known)}."
                )
    places: dict[str, str] = {}
    for name in trunk:
        parts = [part for part in mapping if _is_within(name, part)]
        if parts:
            part = max(parts, key=len)  # the most specific entry
            rest = name[len(part) :].lstrip(".")
            places[name] = f"{mapping[part]}.{rest}".strip(".")
    twice = [place for place, count in Counter(places.values()).items() if count > 1]
    if twice:
        raise ConfigurationError(
            f"match must lead each tensor to a place of its own, but several go to {', '.join(twice[:5])}."
        )
    return places


def _by_order(trunk: Tensors, module: Tensors) -> dict[str, str]:
    """Find the common subsequence of layers with the most elements of weights, by dynamic programming."""
    ours, theirs = _layers(trunk), _layers(module)
    best = [[0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]  # of the layers from i and j on
    for i, (layer, _) in reversed(list(enumerate(ours))):
        for j, (other, _) in reversed(list(enumerate(theirs))):
            weight = trunk[f"{layer}weight"]
            is_equal = weight.shape == module[f"{other}weight"].shape
            taken = weight.numel() + best[i + 1][j + 1] if is_equal else 0
            best[i][j] = max(taken, best[i + 1][j], best[i][j + 1])
    places: dict[str, str] = {}
    i = j = 0
    while i < len(ours) and j < len(theirs):
        if best[i][j] == best[i][j + 1]:
            j += 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            places |= {ours[i][0] + tensor: theirs[j][0] + tensor for tensor in ours[i][1]}
            i, j = i + 1, j + 1
    return places


def _layers(tensors: Tensors) -> list[tuple[str, list[str]]]:
    """List the layers that have a weight, each as its name with a dot, and the names of its tensors."""
    layers: dict[str, list[str]] = defaultdict(list)
    for name in tensors:
        own = name.rpartition(".")[2]
        layers[name.removesuffix(own)].append(own)
    return [(layer, own) for layer, own in layers.items() if "weight" in own]


def _is_within(name: str, part: str) -> bool:
    return part == "" or name == part or name.startswith(f"{part}.")


def _shapes(tensors: Tensors) -> str:
    shown = [f"{name} {tuple(tensor.shape)}" for name, tensor in list(tensors.items())[:5]]
    return ", ".join(shown) + (", …" if len(tensors) > 5 else "")
