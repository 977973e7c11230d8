"""What a user installs: its metadata agree, it declares what it imports, it carries its files."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

import nacgen

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def distribution_name(requirement: str) -> str:
    """Normalised name in a requirement, `pytorch_fid>=0.3` -> `pytorch-fid`."""
    name = re.split(r"[^\w.-]", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def third_party_modules(folder: str) -> set[str]:
    """Top-level modules that a folder's files import, the standard library's and ours left out."""
    modules: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    modules |= {alias.name.partition(".")[0] for alias in names}
                case ast.ImportFrom(module=str(module), level=0):
                    modules.add(module.partition(".")[0])
    return modules - sys.stdlib_module_names - {"nacgen"}


def test_importing_nacgen_is_cheap() -> None:
    program = (
        "import sys; before = set(sys.modules); import nacgen; print(*set(sys.modules) - before)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    added = set(done.stdout.split())
    assert "nacgen" in added
    assert {name.partition(".")[0] for name in added} - sys.stdlib_module_names <= {
        "nacgen",
        "lazy_loader",
    }
    assert {name for name in added if name.startswith("nacgen.")} == {"nacgen.version"}


def test_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert nacgen.__version__ == PROJECT["version"] == citation["version"]


def test_every_imported_package_is_a_declared_dependency() -> None:
    extras = PROJECT["optional-dependencies"]
    required = [*PROJECT["dependencies"], *extras["timm"], *extras["retrieval"]]
    declared = {distribution_name(requirement) for requirement in required}
    distributions = packages_distributions()
    for module in third_party_modules("nacgen") | third_party_modules("recipes"):
        names = {distribution_name(name) for name in distributions.get(module, [module])}
        assert names & declared, f"{module} is imported, but {names} is no dependency"


def test_every_dependency_states_the_lower_bound_that_it_is_tested_at() -> None:
    extras = PROJECT["optional-dependencies"]
    for requirement in (*PROJECT["dependencies"], *extras["test"], *extras["timm"]):
        assert re.fullmatch(r"[\w-]+>=[\d.]+|nacgen\[\w+\]", requirement), (
            f"{requirement} has no plain lower bound"
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel installs, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", folder, wheel]
    subprocess.run(command, check=True)
    return folder


def outside(
    installed: Path, folder: Path, *command: str | Path
) -> subprocess.CompletedProcess[str]:
    """Run a command in an empty folder, with the installed package and without the checkout."""
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_wheel_holds_package_types_data_checkpoints_and_recipes(wheel: Path) -> None:
    packed = set(ZipFile(wheel).namelist())
    checkpoints = {
        f"nacgen/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "checkpoints").rglob("*")
        if path.is_file()
    }
    recipes = {f"nacgen/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.py")}
    assert checkpoints
    assert recipes
    assert packed >= checkpoints | recipes | {"nacgen/py.typed", "nacgen/data/digits.npz"}
    assert {name.partition("/")[0] for name in packed} == {
        "nacgen",
        f"nacgen-{nacgen.__version__}.dist-info",
    }


FILES = """
import importlib, json
from nacgen.cli import RECIPES
from nacgen.system.places import resolve_folder
from nacgen.training.generative import DIGITS_ENCODER
names = ["nacgen", *(f"nacgen.recipes.{recipe}" for recipe in RECIPES.values())]
files = [importlib.import_module(name).__file__ for name in names]
print(json.dumps([*files, str(resolve_folder(DIGITS_ENCODER))]))
"""


def test_the_installed_command_finds_recipes_and_checkpoints_outside_a_checkout(
    installed: Path, tmp_path: Path
) -> None:
    found = json.loads(outside(installed, tmp_path, sys.executable, "-c", FILES).stdout)
    assert [path for path in found if not Path(path).is_relative_to(installed)] == []
    command = installed / "bin" / "nacgen"
    version = outside(installed, tmp_path, command, "version").stdout
    assert version.startswith(f"nacgen {nacgen.__version__} (Python ")
    assert outside(installed, tmp_path, command, "train-gan", "--help").stdout.startswith(
        f"usage: {command.name} train-gan "
    )
    missing = outside(installed, tmp_path, command, "sample", "--run-dir", "nowhere")
    assert (missing.returncode, missing.stdout) == (5, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_installed_command_trains_compares_and_is_launched(
    installed: Path, tmp_path: Path
) -> None:
    command, module = installed / "bin" / "nacgen", "nacgen.recipes.train_gan"
    smoke = ("--preset", "smoke", "--run-dir")
    launch = ("accelerate.commands.launch", "--cpu", "-m", module)
    threads = ("--run.num-threads", "1")  # of which a launcher has its own default
    for words in (
        [command, "train-gan", *smoke, "alone", *threads],
        [sys.executable, "-m", *launch, *smoke, "launched", *threads],
        [command, "compare", *smoke, "compared", "--seeds", "0"],
    ):
        done = outside(installed, tmp_path, *words)
        assert done.returncode == 0, done.stderr[-2000:]
    scores = [
        json.loads((tmp_path / name / "summary.json").read_text())["evaluation"]["scores"]
        for name in ("alone", "launched")
    ]
    assert scores[0] == scores[1]
    assert (tmp_path / "compared" / "report.html").is_file()
