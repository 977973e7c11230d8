"""The content of a part: the same for the same code and values, another for others."""

import importlib
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import transforms

from nacgen.api.options import part_option
from nacgen.api.part_content import UntoldContentError, content_of
from tests.api import parts

WIDTH = 8


class Scale:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images * self.factor

    def flipped(self, images: torch.Tensor) -> torch.Tensor:
        return self(images).flip(3)


class Ends(nn.Module):
    def __init__(self, end: str) -> None:
        super().__init__()
        self.end, self.layer = end, nn.Linear(2, 2)


def closure(width: int) -> Callable[[], nn.Module]:
    return lambda: parts.DCGAN(width)


def with_default(width: int) -> Callable[[], nn.Module]:
    def make(width: int = width) -> nn.Module:
        return parts.DCGAN(width)

    return make


def at_prompt(text: str) -> Any:
    names: dict[str, Any] = {"__name__": "__main__", "nn": nn}
    exec(text, names)
    return names["f"]


def make(size: int) -> nn.Module:
    return nn.Linear(size, WIDTH)


PAIRS: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
    "partials": (partial(partial, parts.DCGAN), 8, 16),
    "partials of other functions": (partial, parts.DCGAN, parts.Critic),
    "partials of modules": (
        lambda bias: partial(parts.critic_of, nn.Linear(1, 1, bias=bias)),
        True,
        False,
    ),
    "closures": (closure, 8, 16),
    "closures over modules": (lambda m: lambda: m, parts.noisy, parts.mean_colors),
    "defaults": (with_default, 8, 16),
    "callable objects": (Scale, 0.1, 0.9),
    "methods": (lambda factor: Scale(factor).flipped, 0.1, 0.9),
    "modules with attributes": (Ends, "tanh", "sigmoid"),
    "torchvision": (
        lambda p: transforms.Compose([transforms.RandomHorizontalFlip(p)]),
        0.1,
        0.9,
    ),
    "code at a prompt": (lambda n: at_prompt(f"def f(): return nn.Linear({n}, 1)"), 1, 2),
    "globals at a prompt": (lambda n: at_prompt(f"w = {n}\ndef f(): return nn.Linear(w, 1)"), 1, 2),
    "classes at a prompt": (
        lambda n: at_prompt(f"class f(nn.Module):\n def forward(self, x): return {n} * x"),
        1,
        2,
    ),
    "what a function calls": (
        lambda n: at_prompt(f"def g(): return {n}\ndef f(): return nn.Linear(g(), 1)"),
        1,
        2,
    ),
    "tensors": (lambda x: partial(torch.add, torch.tensor(x)), 1.0, 2.0),
}


@pytest.mark.parametrize("name", PAIRS)
def test_parts_are_told_apart_by_what_they_hold(name: str) -> None:
    build, first, second = PAIRS[name]
    torch.manual_seed(0)
    told = part_option(build(first))
    torch.manual_seed(0)
    assert part_option(build(first)) == told
    torch.manual_seed(0)
    assert part_option(build(second)) != told


def test_a_global_of_a_module_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    told = content_of(make)
    monkeypatch.setattr(sys.modules[__name__], "WIDTH", 16)
    assert content_of(make) != told


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_packages_of_another_environment_are_installed(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / folder / "elsewhere.py"
    file.parent.mkdir()
    file.write_text("import threading\nLOCK = threading.Lock()\n\ndef f(x):\n    return LOCK, x\n")
    monkeypatch.syspath_prepend(str(file.parent))
    elsewhere = importlib.import_module("elsewhere")
    monkeypatch.delitem(sys.modules, "elsewhere")
    monkeypatch.setitem(sys.modules, "elsewhere", elsewhere)
    assert content_of(partial(elsewhere.f, 1)) != content_of(partial(elsewhere.f, 2))


def test_two_functions_in_a_line_are_told_apart() -> None:
    first, second = (lambda: parts.DCGAN(8)), (lambda: parts.DCGAN(16))
    assert content_of(first) != content_of(second)


def test_weights_of_a_module_do_not_count_but_its_shapes_do() -> None:
    assert content_of(nn.Linear(2, 3)) == content_of(nn.Linear(2, 3))
    assert content_of(nn.Linear(2, 3)) != content_of(nn.Linear(2, 4))


@pytest.mark.parametrize(
    "normalize", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm]
)
def test_hooks_and_parametrizations_are_told_alike(normalize: Any) -> None:
    told = []
    for _ in range(2):
        torch.manual_seed(0)  # the old one holds the normalized weight as an attribute
        told.append(content_of(normalize(nn.Linear(2, 3))))
    first, second = told
    assert first == second


def test_another_process_tells_the_same() -> None:
    code = (
        "from tests.api.test_part_content import *\n"
        "print(content_of(closure(8)), content_of(Scale(0.1)), content_of(parts.Critic), "
        "content_of({'a', 'b', 'c'}.union))"
    )
    told = [closure(8), Scale(0.1), parts.Critic, {"a", "b", "c"}.union]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == list(map(content_of, told))


def test_a_content_that_cannot_be_told_is_no_content(capsys: pytest.CaptureFixture[str]) -> None:
    scale = Scale(0.5)
    scale.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(UntoldContentError, match="a lock"):
        content_of(scale)
    assert part_option(scale) != part_option(scale)
    said = capsys.readouterr().err
    assert "cannot be told: it refers to a lock" in said
    assert "needs fresh=True or another run_dir" in said
