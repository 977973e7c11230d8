"""Holds the code to the architecture: imports run one way, and nothing runs what it reads."""

import ast
from collections.abc import Iterator
from pathlib import Path, PurePath

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for room in ("nacgen", "recipes") for path in (ROOT / room).rglob("*.py"))

LAYERS = (
    ("functional", "base"),  # base: nacgen/errors.py and constants such as nacgen.__version__
    ("data",),
    ("models",),
    ("probes", "metrics"),
    ("training",),
    ("reporting",),
    ("facade",),  # nacgen/__init__.py and the public names it gives
    ("recipes",),
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}

FORBIDDEN_CALLS = {
    *("eval", "exec", "builtins.eval", "builtins.exec"),
    *("os.popen", "os.system", "runpy.run_path", "runpy.run_module", "shelve.open"),
    *("torch.hub.load", "torch.hub.load_state_dict_from_url", "torch.jit.load"),
    *("torch.distributed.checkpoint.load", "torch.package.PackageImporter"),
    *(
        f"{module}.{name}"
        for module in ("pickle", "marshal", "cloudpickle", "dill", "joblib")
        for name in ("load", "loads", "Unpickler")
    ),
    *(f"yaml.{prefix}load{all_}" for prefix in ("", "full_", "unsafe_") for all_ in ("", "_all")),
}
FORBIDDEN_METHODS = {"load_state"}  # of Accelerator: it unpickles
FORBIDDEN_KEYWORDS = {"allow_pickle", "shell", "trust_remote_code"}
UNPICKLING = {  # published and foreign formats, by readers that make arrays or tensors and nothing else
    ("nacgen/data/cifar.py", "pickle.Unpickler"),
    ("nacgen/metrics/inception.py", "torch.load"),
    ("nacgen/models/foreign.py", "torch.load"),
}


def room_of_module(module: str) -> str | None:
    """Room of a dotted name, None for what is not ours."""
    package, _, inner = module.partition(".")
    if package == "recipes" or (ROOT / "recipes" / f"{package}.py").exists():
        return "recipes"
    if package != "nacgen":
        return None
    name = inner.partition(".")[0]
    if name in ("", "errors") or name.startswith("__"):
        return "base"
    return name if name in LEVEL else "facade"


def room_of_file(path: PurePath) -> str | None:
    if path == PurePath("nacgen/__init__.py"):
        return "facade"
    return room_of_module(".".join(path.with_suffix("").parts))


def imported_names(path: PurePath, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import, and of each use of a bare `import nacgen`."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                package = path.parent.parts[: len(path.parent.parts) + 1 - level] if level else ()
                stem = ".".join([*package, *([module] if module else [])])
                yield from ((node.lineno, f"{stem}.{alias.name}") for alias in names)
            case ast.Attribute(value=ast.Name(id="nacgen"), attr=attribute):
                yield node.lineno, f"nacgen.{attribute}"


def wrong_arrows(path: PurePath, source: str) -> list[str]:
    """Imports of one file that do not go to a room on its left, or to its own."""
    room = room_of_file(path)
    assert room is not None
    wrong = []
    for line, name in imported_names(path, ast.parse(source)):
        target = room_of_module(name)
        is_own = target == room and room != "recipes"
        if target is not None and not is_own and LEVEL[target] >= LEVEL[room]:
            wrong.append(f"{path}:{line}: {room} must not import {name} ({target})")
    return wrong


def origins_in(tree: ast.AST) -> dict[str, str]:
    """What the names that a file imports stand for."""
    origins: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                origins |= {alias.asname: alias.name for alias in names if alias.asname}
            case ast.ImportFrom(module=str(module), names=names):
                origins |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in names}
    return origins


def full_name(node: ast.AST, origins: dict[str, str]) -> str:
    head, dot, tail = ast.unparse(node).partition(".")
    return origins.get(head, head) + dot + tail


def unpickling(path: PurePath, source: str) -> set[tuple[str, str]]:
    """Everything in a file that reads a pickle, safely or not: calls, names handed on, and base classes."""
    tree = ast.parse(source)
    origins = origins_in(tree)
    names = {
        full_name(node, origins)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name)
    }
    readers = {"torch.load", *(name for name in FORBIDDEN_CALLS if name.startswith("pickle."))}
    return {(path.as_posix(), name) for name in names & readers}


def unsafe_calls(path: PurePath, source: str) -> list[str]:
    """Calls of one file that can execute what they read."""
    tree = ast.parse(source)
    origins = origins_in(tree)
    unsafe = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = full_name(node.func, origins)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        switched_on = any(keywords.get(word, "False") != "False" for word in FORBIDDEN_KEYWORDS)
        unpickles = name == "torch.load" and keywords.get("weights_only") != "True"
        is_method = name.rpartition(".")[2] in FORBIDDEN_METHODS
        if name in FORBIDDEN_CALLS or is_method or switched_on or unpickles:
            unsafe.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    return unsafe


def test_the_walk_reaches_every_room() -> None:
    rooms = {room_of_file(path.relative_to(ROOT)) for path in FILES}
    assert rooms == set(LEVEL)


def test_imports_run_from_right_to_left() -> None:
    wrong = [
        arrow for path in FILES for arrow in wrong_arrows(path.relative_to(ROOT), path.read_text())
    ]
    assert not wrong, "\n".join(wrong)


def test_pickles_are_read_in_three_places_and_nowhere_else() -> None:
    found = [unpickling(path.relative_to(ROOT), path.read_text()) for path in FILES]
    assert set().union(*found) == UNPICKLING


def test_nothing_runs_what_it_reads() -> None:
    unsafe = [
        call for path in FILES for call in unsafe_calls(path.relative_to(ROOT), path.read_text())
    ]
    assert not unsafe, "\n".join(unsafe)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("nacgen/errors.py", "import nacgen.functional.nac"),
        ("nacgen/functional/nac.py", "from nacgen.errors import DataError"),
        ("nacgen/functional/nac.py", "from nacgen import __version__"),
        ("nacgen/functional/nac.py", "import nacgen"),
        ("nacgen/data/stream.py", "from nacgen.models import encoder"),
        ("nacgen/models/gan.py", "from nacgen import NACEncoder"),
        ("nacgen/models/gan.py", "from nacgen import training"),
        ("nacgen/models/gan.py", "import nacgen\nnacgen.metrics.evaluate()"),
        ("nacgen/models/gan.py", "from ..training import loop"),
        ("nacgen/models/gan.py", "from .. import training"),
        ("nacgen/models/gan.py", "def build():\n    import nacgen.training.loop"),
        ("nacgen/probes/linear.py", "import nacgen.metrics.evaluate"),
        ("nacgen/training/loop.py", "from nacgen.reporting import compare"),
        ("nacgen/reporting/runs.py", "from nacgen import *"),
        ("nacgen/reporting/runs.py", "from recipes.train_gan import main"),
        ("nacgen/__init__.py", "import recipes.train_gan"),
        ("recipes/train_vae.py", "from recipes import train_gan"),
        ("recipes/train_vae.py", "from . import train_gan"),
        ("recipes/train_vae.py", "import train_gan"),
    ],
)
def test_a_wrong_arrow_is_found(path: str, source: str) -> None:
    assert len(wrong_arrows(PurePath(path), source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("nacgen/functional/nac.py", "import torch\nfrom nacgen.functional.gan import hinge"),
        ("nacgen/data/stream.py", "from nacgen.errors import DataError"),
        ("nacgen/models/gan.py", "from . import encoder\nfrom ..functional import nac"),
        ("nacgen/models/gan.py", "from nacgen.data.randomness import generator"),
        ("nacgen/models/folder.py", "import nacgen\nprint(nacgen.__file__)"),
        ("nacgen/training/loop.py", "from nacgen import __version__, data, metrics"),
        ("nacgen/__init__.py", "from nacgen.reporting import compare"),
        ("recipes/compare.py", "import nacgen\nnacgen.reporting.compare()"),
    ],
)
def test_a_right_arrow_is_let_through(path: str, source: str) -> None:
    assert wrong_arrows(PurePath(path), source) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(file)",
        "import pickle as p\np.loads(data)",
        "from pickle import loads\nloads(data)",
        "from pickle import Unpickler as U\nU(file)",
        "torch.load(path)",
        "torch.hub.load(path, 'model')",
        "torch.jit.load(path)",
        "shelve.open(path)",
        "joblib.load(path)",
        "accelerator.load_state(path)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "torch.load(path, weights_only=False)",
        "from torch import load\nload(path)",
        "eval(text)",
        "exec(text)",
        "os.system(text)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.unsafe_load(text)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_an_unsafe_call_is_found(source: str) -> None:
    assert len(unsafe_calls(PurePath("nacgen/models/folder.py"), source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "encoder.eval()",
        "discriminator.module.eval()",
        "torch.load(path, weights_only=True)",
        "yaml.safe_load(text)",
        "np.load(path)",
        "np.load(path, allow_pickle=False)",
        "subprocess.run(['git', 'status'])",
    ],
)
def test_a_safe_call_is_let_through(source: str) -> None:
    assert unsafe_calls(PurePath("nacgen/models/folder.py"), source) == []
