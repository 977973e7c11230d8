"""Several arms, each trained with several seeds by one recipe: their commands, and the folder of it all.

Without torch, so that `--help` stays fast.
"""

import dataclasses
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from nacgen.comparison.children import Child, run_children
from nacgen.errors import ConfigurationError, StorageError
from nacgen.system.documents import flatten, read_yaml
from nacgen.training.config import require_positive, to_dict

INITS = ("nac", "random", "shuffled", "simclr", "supervised")
OF_EACH_RUN = ("seed", "run_dir", "config")  # set by the comparison, run by run
RUN_CONFIG = "run_config.yaml"


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Options of a comparison; what a run is made of comes from its recipe."""

    recipe: Literal["train_gan", "train_vae"] = "train_gan"
    """Recipe of every run."""
    preset: str = "digits"
    """Preset of every run, without a run_config."""
    config: str | None = None
    """YAML file whose values replace the preset's; a comparison's config.yaml is one."""
    run_config: str | None = None
    """YAML file of the recipe's options for every run, a run's config.yaml say; its seed and run_dir do
    not matter, nor its init to an arm that names one. None: that of the folder's runs, or the preset."""
    arms: tuple[str, ...] = ("random", "nac")
    """What is compared, the first being the control: an initialisation, nac, random, shuffled, simclr or
    supervised; or "NAME=FLAGS", any flags of the recipe in quotes, in which {seed} is the run's seed."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds of every arm."""
    metric: str | None = None
    """Score compared. None: the runs' FID or Fréchet distance, or else their first."""
    target: float | None = None
    """Score whose first reaching is timed. None: the control's mean at the end."""
    level: float = 0.05
    """How often all claims together may be wrong; intervals hold the true mean in 1 - level of cases."""
    run_dir: str | None = None
    """Folder of the comparison and all its runs: new, empty, or a comparison's, which goes on.
    Default: runs/compare-<recipe>-<preset>, or runs/compare-<recipe>-<folder of run_config>."""
    total_images: int | None = None
    """Length of every run, in images seen. None: that of the folder's runs, or the preset's."""
    encoder: str | None = None
    """Encoder of every arm, a folder or a Hub id. None: as above."""
    jobs: int = 2
    """Runs side by side; each gets an equal share of the processor cores."""

    def __post_init__(self) -> None:
        """Check arms, seeds and numbers."""
        names = [parse_arm(text).name for text in self.arms]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ConfigurationError(
                f"arms must be two or more, all different, got {' '.join(names) or 'none'}. "
                "Use --arms random nac."
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigurationError(
                f"seeds must be one or more, all different, got "
                f"{' '.join(map(str, self.seeds)) or 'none'}. Use --seeds 0 1 2."
            )
        if self.jobs < 1:
            raise ConfigurationError(f"jobs must be at least 1, got {self.jobs}. Use --jobs 1.")
        if self.target is not None:
            require_positive(self, "target")
        if not 0 < self.level < 1:
            raise ConfigurationError(f"level must lie between 0 and 1, got {self.level}. Use 0.05.")
        for arm in map(parse_arm, self.arms):
            if self.run_config is not None and "config" in arm.options:
                raise ConfigurationError(
                    f"a run has one configuration file, but arm {arm.name} brings --config and run_config "
                    f"is {self.run_config}. Give one of them."
                )

    @property
    def folder(self) -> Path:
        """Where the comparison and all its runs lie."""
        name = Path(self.run_config).resolve().parent.name if self.run_config else self.preset
        return Path(self.run_dir or f"runs/compare-{self.recipe}-{name}")


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Args:
        name: What it is called, in reports and folders.
        flags: Of the recipe, with `{seed}` in the place of each run's seed.
    """

    name: str
    flags: tuple[str, ...]

    @property
    def options(self) -> set[str]:
        """The configuration fields that its flags set."""
        names = (flag[2:].split("=")[0] for flag in self.flags if flag.startswith("--"))
        return {re.sub(r"(^|\.)no_", r"\1", name.replace("-", "_")) for name in names}


def parse_arm(text: str) -> Arm:
    """Read an arm from the command line.

    Args:
        text: An initialisation, or `NAME=FLAGS`.

    Returns:
        The arm.

    Raises:
        ConfigurationError: It is neither, or sets what the comparison sets for each run.
    """
    name, equals, flags = text.partition("=")
    if not equals:
        if name not in INITS:
            raise ConfigurationError(
                f"an arm is an initialisation ({', '.join(INITS)}) or NAME=FLAGS, got {text!r}. "
                f'Use "{text}=--init nac" and further flags, say.'
            )
        return Arm(name, ("--init", name))
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
        raise ConfigurationError(
            f"an arm's name stands in file names: letters, digits and . _ + -, got {name!r}. Use another."
        )
    try:
        arm = Arm(name, tuple(shlex.split(flags)))
    except ValueError as error:
        raise ConfigurationError(
            f"the flags of arm {name} must be words as in a shell, got {flags!r} ({error}). Close the quote."
        ) from error
    if taken := arm.options & {"seed", "run_dir"}:
        raise ConfigurationError(
            f"seed and run_dir are set for each run, but arm {name} sets {', '.join(sorted(taken))}. "
            "Give --seeds and --run-dir to the comparison."
        )
    return arm


def train_arms(config: CompareConfig, recipe: Path) -> dict[str, dict[int, Path | None]]:
    """Train every run that is missing.

    Args:
        config: What `join_folder` gave.
        recipe: The script that trains one run.

    Returns:
        For each arm, by seed, the finished run's folder; None where the run diverged.

    Raises:
        NacgenError: A run failed in another way, see `run_children`.
        SystemExit: 143, when asked to stop.
    """
    arms = [parse_arm(text) for text in config.arms]
    children = {
        (arm.name, seed): Child(folder, train_command(config, recipe, arm, seed, folder))
        for seed in config.seeds  # outside, so that a stopped comparison holds whole pairs
        for arm in arms
        for folder in [config.folder / f"{arm.name}-seed{seed}"]
    }
    diverged = run_children(list(children.values()), config.jobs)
    runs: dict[str, dict[int, Path | None]] = {arm.name: {} for arm in arms}
    for (name, seed), child in children.items():
        runs[name][seed] = None if child in diverged else child.folder
    return runs


def train_command(
    config: CompareConfig, recipe: Path, arm: Arm, seed: int, folder: Path
) -> tuple[str, ...]:
    """The command that trains one arm with one seed; of flags given twice the later counts."""
    shared = {
        "--preset": None if config.run_config else config.preset,
        "--config": config.run_config,
        "--total-images": config.total_images,
        "--encoder": config.encoder,
    }
    given = [str(part) for option in shared.items() if option[1] is not None for part in option]
    own = [flag.replace("{seed}", str(seed)) for flag in arm.flags]
    return (
        sys.executable,
        str(recipe),
        *given,
        *own,
        "--seed",
        str(seed),
        "--run-dir",
        str(folder),
    )


def join_folder(config: CompareConfig) -> CompareConfig:
    """Look at the folder; what is missing in it is trained as its runs were, and no other way.

    Args:
        config: As the user gave it.

    Returns:
        The same with what the folder's comparison has and the user left open. Nothing is written.

    Raises:
        ConfigurationError: The folder holds something else, or runs of another configuration.
        StorageError: It is a file.
    """
    folder = config.folder
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"run_dir must be a folder, but {folder} is a file. Choose another.")
    before = _earlier_comparison(folder)
    asked = {} if config.run_config is None else read_template(Path(config.run_config))
    asked = {"preset": config.preset, **flatten(asked)}
    asked |= {k: v for k in ("total_images", "encoder") if (v := getattr(config, k)) is not None}
    differences: dict[str, None] = {}
    if before.get("recipe", config.recipe) != config.recipe:
        differences[f"recipe: {before['recipe']} there, {config.recipe} here"] = None
    known = {parse_arm(text).name: text for text in before.get("arms", ())}
    for text in config.arms:
        arm = parse_arm(text)
        files = [
            file
            for file in sorted(folder.glob(f"{arm.name}-seed*/config.yaml"))
            if file.parent.name.removeprefix(f"{arm.name}-seed").isdigit()
        ]
        if files and known.get(arm.name, text) != text:  # an arm without a run may be mended
            differences[f"arm {arm.name}: {known[arm.name]} there, {text} here"] = None
        for file in files:
            there = flatten(read_yaml(file))
            differences |= {
                f"{name}: {there[name]} there, {value} here": None
                for name, value in asked.items()
                if name not in arm.options and there.get(name, value) != value
            }
    if differences:
        raise ConfigurationError(
            f"{folder} holds runs of another configuration ({'; '.join(differences)}). Repeat it "
            "to go on, or choose another --run-dir."
        )
    kept: dict[str, Any] = {
        name: before.get(name) if getattr(config, name) is None else getattr(config, name)
        for name in ("run_config", "total_images", "encoder")
    }
    return dataclasses.replace(config, run_dir=str(folder), config=None, **kept)


def write_comparison(config: CompareConfig) -> CompareConfig:
    """Write config.yaml, and a copy of the run_config, into the folder of a comparison.

    Args:
        config: What `join_folder` gave.

    Returns:
        The same with the copy as its run_config.

    Raises:
        OSError: The folder cannot be written.
    """
    from nacgen.system.files import write_file

    folder = config.folder
    if config.run_config is not None:
        template = read_template(Path(config.run_config))
        write_file(folder / RUN_CONFIG, yaml.safe_dump(template, sort_keys=False))
        config = dataclasses.replace(config, run_config=str(folder / RUN_CONFIG))
    write_file(folder / "config.yaml", yaml.safe_dump(to_dict(config), sort_keys=False))
    return config


def read_template(path: Path) -> dict[str, Any]:
    """What a run_config says of every run.

    Args:
        path: The YAML file.

    Returns:
        Its options without those that differ from run to run.

    Raises:
        ConfigurationError: It cannot be read, or is a comparison's.
    """
    values = read_yaml(path)
    if "arms" in values:
        raise ConfigurationError(
            f"run_config must hold options of a training recipe, but {path} is a comparison's. Give it as "
            "--config, or name the config.yaml of one of its runs."
        )
    return {name: value for name, value in values.items() if name not in OF_EACH_RUN}


def _earlier_comparison(folder: Path) -> Mapping[str, Any]:
    """The configuration of the comparison in a folder; refuse a folder that holds anything else."""
    if (folder / "config.yaml").is_file():
        before = read_yaml(folder / "config.yaml")
        if "arms" in before:
            return before
        came = "holds another kind of run"
    elif folder.exists() and {path.name for path in folder.iterdir()} - {
        ".lock",
        ".config.yaml.new",
    }:
        came = "has no config.yaml"
    else:
        return {}
    raise ConfigurationError(
        f"run_dir must be new, empty, or hold a comparison, but {folder} {came}. "
        "Choose another --run-dir."
    )
