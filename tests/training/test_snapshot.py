"""What is saved of an update, and how it is put back: as a whole or not at all."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from nacgen.errors import CheckpointError
from nacgen.system.tensor_file import Tensors
from nacgen.training.snapshot import capture, restore


class Stepped:
    """Two modules, one of which an Adam trains, after one step."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.modules = {"net": torch.nn.Linear(2, 3), "watch": torch.nn.BatchNorm1d(2)}
        adam = torch.optim.Adam(self.modules["net"].parameters(), lr=0.1)
        self.optimizers = {"net": Accelerator(cpu=True).prepare(adam)}
        self.modules["net"](torch.randn(4, 2)).square().sum().backward()
        self.optimizers["net"].step()

    def update(self, batch: object) -> Tensors:
        raise AssertionError("nothing here takes a step")

    def copy(self) -> dict[str, Tensors]:
        return {p: {k: v.clone() for k, v in each.items()} for p, each in capture(self).items()}


def same(a: dict[str, Tensors], b: dict[str, Tensors]) -> bool:
    return a.keys() == b.keys() and all(
        a[p].keys() == b[p].keys() and all(torch.equal(a[p][k], b[p][k]) for k in a[p]) for p in a
    )


def test_an_update_is_put_back_bit_for_bit() -> None:
    first, second = Stepped(0), Stepped(1)
    saved = first.copy()
    assert saved.keys() == {"net", "watch", "optimizer_net"}
    assert not same(second.copy(), saved)
    restore(second, saved, Path("x"))
    assert same(second.copy(), saved)


def shorten(parts: dict[str, Tensors], part: str, key: str) -> None:
    parts[part][key] = parts[part][key][:-1]


def recast(parts: dict[str, Tensors], part: str, key: str) -> None:
    parts[part][key] = parts[part][key].double()


def lose(parts: dict[str, Tensors], part: str, key: str) -> None:
    del parts[part][key]


def rename(parts: dict[str, Tensors], part: str, key: str) -> None:
    parts[part][f"{key}_x"] = parts[part].pop(key)


def count(parts: dict[str, Tensors], part: str, key: str) -> None:
    parts[part][key] = torch.tensor(1)


@pytest.mark.parametrize(
    ("change", "part", "key", "message"),
    [
        (shorten, "net", "weight", r"net weight: \(2, 2\) float32 there, \(3, 2\) float32 here"),
        (
            recast,
            "watch",
            "running_var",
            r"watch running_var: \(2,\) float64 there, \(2,\) float32",
        ),
        (lose, "watch", "bias", r"watch bias: absent there, \(2,\) float32 here"),
        (
            rename,
            "net",
            "bias",
            r"2 differences: net bias: absent there.*; net bias_x: \(3,\) float32",
        ),
        (
            shorten,
            "optimizer_net",
            "exp_avg/net.bias",
            r"optimizer_net exp_avg of net.bias: \(2,\)",
        ),
        (
            recast,
            "optimizer_net",
            "exp_avg_sq/net.bias",
            "exp_avg_sq of net.bias: .* float64 there",
        ),
        (
            rename,
            "optimizer_net",
            "exp_avg/net.bias",
            "knows net.bias_x, which this optimizer does",
        ),
        (count, "optimizer_net", "step/net.bias", r"step of net.bias: \(\) int64 there, floating"),
    ],
)
def test_what_does_not_fit_is_listed_and_leaves_all_as_it_was(
    change: Callable[[dict[str, Tensors], str, str], None], part: str, key: str, message: str
) -> None:
    saved, update = Stepped(0).copy(), Stepped(1)
    change(saved, part, key)
    before = update.copy()
    with pytest.raises(CheckpointError, match=message):
        restore(update, saved, Path("x"))
    assert same(update.copy(), before)


def test_ten_of_many_differences_are_listed() -> None:
    update = Stepped(0)
    saved = update.copy()
    saved["net"] |= {f"x{i}": torch.zeros(1) for i in range(30)}
    with pytest.raises(CheckpointError, match="30 differences") as caught:
        restore(update, saved, Path("x"))
    assert str(caught.value).count(" there, ") == 10
