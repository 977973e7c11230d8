import pytest
import torch
from torch import Tensor

from nacgen.errors import ConfigurationError
from nacgen.transplant.matching import match_tensors


def tensors(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


TRUNK = tensors(conv1__weight=(4, 3), layer1__conv1__weight=(4, 4), layer1__bn1__weight=(4,))


def test_equal_names_match_under_one_prefix() -> None:
    module = {f"net.body.{name}": x for name, x in TRUNK.items()} | tensors(
        net__head__weight=(1, 4)
    )
    pairs, skipped = match_tensors(TRUNK, module, "name")
    assert pairs == {name: f"net.body.{name}" for name in TRUNK}
    assert skipped == {}


def test_names_match_by_whole_parts() -> None:
    """`layer1` is no part of `layer10`, `conv1` none of `myconv1`; the deeper `conv1` is another one."""
    trunk = tensors(conv1__weight=(4, 3), layer1__conv1__weight=(4, 3), layer1__a__weight=(2,))
    module = tensors(
        myconv1__weight=(4, 3),
        conv1__weight=(4, 3),
        layer10__conv1__weight=(4, 3),
        layer10__a__weight=(2,),
        layer1__conv1__weight=(4, 3),
    )
    pairs, skipped = match_tensors(trunk, module, "name")
    names = ("conv1.weight", "layer1.conv1.weight")
    assert pairs == {name: name for name in names}
    assert skipped == {"layer1.a.weight": "no tensor of this name in the module"}
    module = tensors(net__layer10__conv1__weight=(4, 3), net__layer1__conv1__weight=(4, 3))
    pairs, skipped = match_tensors(trunk, module, {"layer1": "net.layer1"})
    assert pairs == {"layer1.conv1.weight": "net.layer1.conv1.weight"}
    with pytest.raises(ConfigurationError, match=r"of the module, got 'net\.layer'"):
        match_tensors(trunk, module, {"layer1": "net.layer"})
    with pytest.raises(ConfigurationError, match="of the encoder, got 'layer'"):
        match_tensors(trunk, module, {"layer": "net.layer1"})


def test_a_name_that_only_ends_alike_is_another_one() -> None:
    trunk, module = tensors(conv1__weight=(4, 3)), tensors(net__myconv1__weight=(4, 3))
    with pytest.raises(ConfigurationError, match="by name none does"):
        match_tensors(trunk, module, "name")


def test_another_shape_is_skipped_and_said() -> None:
    module = TRUNK | tensors(conv1__weight=(4, 5))
    pairs, skipped = match_tensors(TRUNK, module, "name")
    assert skipped == {"conv1.weight": "shape (4, 3), in the module (4, 5)"}
    assert set(pairs) == set(TRUNK) - {"conv1.weight"}


def test_two_equal_places_are_not_chosen_between() -> None:
    sides = ("left", "right")
    module = {f"{side}.{name}": x.clone() for side in sides for name, x in TRUNK.items()}
    with pytest.raises(ConfigurationError, match=r"got 2 .*'left\.', 'right\.'.*\{'': 'left'\}"):
        match_tensors(TRUNK, module, "name")
    pairs = match_tensors(TRUNK, module, {"": "right"})[0]
    assert pairs == {name: f"right.{name}" for name in TRUNK}


def test_the_most_particular_entry_of_a_mapping_counts() -> None:
    module = tensors(a__weight=(4, 3), b__conv1__weight=(4, 4), c=(4,))
    mapping = {"layer1": "b", "layer1.bn1.weight": "c"}
    pairs, skipped = match_tensors(TRUNK, module, mapping)
    assert pairs == {"layer1.conv1.weight": "b.conv1.weight", "layer1.bn1.weight": "c"}
    assert skipped == {"conv1.weight": "not in the mapping"}
    with pytest.raises(ConfigurationError, match=r"several go to b\.conv1\.weight"):
        match_tensors(TRUNK, module, {"layer1": "b", "conv1": "b.conv1"})


def test_layers_match_in_order_so_that_most_is_carried_over() -> None:
    trunk = tensors(a__weight=(4, 3), a__bias=(4,), b__weight=(4, 4), c__weight=(8, 4))
    module = tensors(w__weight=(8, 4), x__weight=(4, 3), y__weight=(7, 4), z__weight=(8, 4))
    pairs, skipped = match_tensors(trunk, module, "order")
    assert pairs == {"a.weight": "x.weight", "c.weight": "z.weight"}  # w comes too early
    assert skipped == {
        "a.bias": "no tensor of this name in the module",
        "b.weight": "no layer of its shape in order",
    }


def test_order_weighs_numbers_not_layers() -> None:
    trunk = tensors(large__weight=(50, 50), one__weight=(2,), two__weight=(3,))
    module = tensors(p__weight=(2,), q__weight=(3,), r__weight=(50, 50))
    assert match_tensors(trunk, module, "order")[0] == {"large.weight": "r.weight"}


def brute_force(trunk: list[int], module: list[int]) -> int:
    """Elements in the heaviest common subsequence of vectors, by trying everything."""
    if not trunk or not module:
        return 0
    skip = max(brute_force(trunk[1:], module), brute_force(trunk, module[1:]))
    return (
        max(skip, trunk[0] + brute_force(trunk[1:], module[1:])) if trunk[0] == module[0] else skip
    )


@pytest.mark.parametrize("seed", range(5))
def test_order_is_the_best_of_all_alignments(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    sizes = [torch.randint(1, 4, (6,), generator=draw).tolist() for _ in range(2)]
    trunk, module = ({f"{i}.weight": torch.zeros(n) for i, n in enumerate(s)} for s in sizes)
    pairs = match_tensors(trunk, module, "order")[0]
    assert sum(trunk[name].numel() for name in pairs) == brute_force(*sizes)
    places = [list(module).index(place) for place in pairs.values()]
    assert places == sorted(set(places))


@pytest.mark.parametrize("match", ["name", "order", {"conv1": "x"}])
def test_nothing_matched_is_an_error(match: str | dict[str, str]) -> None:
    with pytest.raises(
        ConfigurationError, match=r"none does\. The encoder has conv1\.weight \(4, 3\), .*x"
    ):
        match_tensors(TRUNK, tensors(x__weight=(9, 9)), match)


def test_an_unknown_manner_is_named(as_users_run_it: None) -> None:
    with pytest.raises(ConfigurationError, match=r"name, order or a mapping .* got 'shape'"):
        match_tensors(TRUNK, TRUNK, "shape")  # type: ignore[arg-type]


@pytest.mark.parametrize("match", ["name", "order"])
def test_statistics_and_biases_alone_are_no_match(match: str) -> None:
    trunk = {"conv1.weight": torch.zeros(4, 3), "bn1.weight": torch.zeros(4)}
    module = {"conv1.weight": torch.zeros(8, 3), "bn1.weight": torch.zeros(4)}
    with pytest.raises(ConfigurationError, match="at least one convolution"):
        match_tensors(trunk, module, match)  # type: ignore[arg-type]
    assert match_tensors(trunk, module, {"bn1": "bn1"})[0]  # asked for
