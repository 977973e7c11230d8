"""Options of a comparison and its arms. Does not import torch, which keeps `--help` fast."""

import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nacgen.errors import ConfigurationError
from nacgen.system.documents import read_yaml
from nacgen.system.places import require_model
from nacgen.training.config import MAX_THREADS, require_between, require_positive
from nacgen.training.old_options import RENAMED

MAX_PAIRS = 40  # 2^20 sums for each half of the pairs in the exact test
INITS = ("nac", "random", "shuffled", "simclr", "supervised")
Recipe = Literal["train_gan", "train_vae", "train_flow"]


def check_figures(level: float, target: float | None) -> None:
    """Raise a `ConfigurationError` unless the level is a probability and the target a score."""
    if not 0 < level < 1:
        raise ConfigurationError(f"level must lie between 0 and 1, got {level}. Use 0.05.")
    if target is not None and not 0 < target < math.inf:
        raise ConfigurationError(
            f"target must be a score, positive and finite, got {target}. Leave it out for the control's mean."
        )


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Options of a comparison; the options of its runs are those of their recipe."""

    is_one_process = True  # no field: launchers have nothing to do

    recipe: Recipe = "train_gan"
    """Recipe of every run."""
    preset: str = "digits"
    """Preset of every run, unless run_config is given."""
    config: str | None = None
    """YAML file whose values replace the preset's. For example the config.yaml of a comparison."""
    run_config: str | None = None
    """YAML file with the recipe's options for every run. For example the config.yaml of a run, whose seed, run_dir
    and run.num_threads are ignored, and whose init or align in arms that name one. None: that of the folder's
    runs, or the preset."""
    arms: tuple[str, ...] | None = None
    """Arms to compare, the control first. An arm is an initialization (nac, random, shuffled, simclr,
    supervised), for train_flow an alignment (none, too), or "NAME=FLAGS": flags of the recipe in quotes, in which
    {seed} is the seed of the run. None: random nac, for train_flow none random nac."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds of every arm."""
    metric: str | None = None
    """Metric to compare. None: FID, a Fréchet distance, or the first metric of the runs."""
    target: float | None = None
    """Score for which the images needed are counted. None: the mean of the control at the end."""
    level: float = 0.05
    """Error rate of all claims together; intervals contain the true mean in 1 - level of cases."""
    run_dir: str | None = None
    """Folder of the comparison and all its runs. A new or empty one, or that of a comparison to continue.
    Default: runs/compare-<recipe>-<preset>, or runs/compare-<recipe>-<folder of run_config>."""
    total_images: int | None = None
    """Length of every run, in images seen. None: that of the folder's runs, or the preset's."""
    encoder: str | None = None
    """Folder or Hub id of the encoder of every arm. None: that of the folder's runs, or the preset's."""
    jobs: int | None = None
    """Number of runs side by side; it changes no result. None: as many as there are cores for, two on a GPU."""
    num_threads: int | None = None
    """CPU threads of every run. None: that of the folder's runs, or 1; half of the cores beside a GPU."""

    def __post_init__(self) -> None:
        """Check arms, seeds and numbers."""
        arms = self.parsed_arms
        names = [arm.name.lower() for arm in arms]  # some file systems know no capitals
        for option, values, least in (("arms", names, 2), ("seeds", self.seeds, 1)):
            if not least <= len(values) <= MAX_PAIRS or len(set(values)) < len(values):
                came = " ".join(map(str, values)) or "none"
                raise ConfigurationError(
                    f"{option} must be {least} to {MAX_PAIRS}, all different, got {came}. Correct --{option}."
                )
        require_between(self, 0, math.inf, "seeds")
        require_positive(self, "jobs")
        require_between(self, 1, MAX_THREADS, "num_threads")
        check_figures(self.level, self.target)
        for arm in arms:
            if self.run_config is not None and "config" in arm.options:
                raise ConfigurationError(
                    f"a run has one configuration file, but arm {arm.name} has --config and run_config is "
                    f"{self.run_config}. Give one of them."
                )

    @property
    def arms_or_default(self) -> tuple[str, ...]:
        """Arms as they are named on the command line."""
        default = ("none", "random", "nac") if self.recipe == "train_flow" else ("random", "nac")
        return default if self.arms is None else self.arms

    @property
    def parsed_arms(self) -> "list[Arm]":
        """Arms with their flags."""
        return [parse_arm(text, self.recipe) for text in self.arms_or_default]

    @property
    def folder(self) -> Path:
        """Folder of the comparison and all its runs."""
        name = Path(self.run_config).resolve().parent.name if self.run_config else self.preset
        return Path(self.run_dir or f"runs/compare-{self.recipe}-{name}")

    def check_inputs(self) -> None:
        """Raise unless the file and the folder that options name exist; both are checked when they are read."""
        if self.run_config is not None:
            read_yaml(Path(self.run_config))
        require_model(self.encoder)


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: its name, and flags of the recipe in which `{seed}` is the seed of a run."""

    name: str
    flags: tuple[str, ...]

    @property
    def options(self) -> set[str]:
        """Names of the configuration fields that the flags set."""
        names = (flag[2:].split("=")[0] for flag in self.flags if flag.startswith("--"))
        fields = (re.sub(r"(^|\.)no_", r"\1", name.replace("-", "_")) for name in names)
        return {RENAMED.get(field, field) for field in fields}


def parse_arm(text: str, recipe: Recipe = "train_gan") -> Arm:
    """Read an arm of a recipe from the command line: what an encoder serves it with, or `NAME=FLAGS`."""
    is_flow = recipe == "train_flow"
    flag, kind = ("--align", "an alignment") if is_flow else ("--init", "an initialization")
    known = (*INITS, "none") if is_flow else INITS
    name, equals, flags = text.partition("=")
    if not equals:
        if name not in known:
            raise ConfigurationError(
                f"an arm is {kind} ({', '.join(known)}) or NAME=FLAGS, got {text!r}. "
                f'For example, use "{text}={flag} nac" and further flags.'
            )
        return Arm(name, (flag, name))
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
        raise ConfigurationError(
            f"the name of an arm is part of file names: letters, digits and . _ + -, got {name!r}. Rename it."
        )
    try:
        arm = Arm(name, tuple(shlex.split(flags)))
    except ValueError as error:
        raise ConfigurationError(
            f"the flags of arm {name} must be words as in a shell, got {flags!r} ({error}). Close the quote."
        ) from error
    if taken := arm.options & {"seed", "run_dir", "run.num_threads"}:
        raise ConfigurationError(
            "seed, run_dir and run.num_threads are set for each run, but arm "
            f"{name} sets {', '.join(sorted(taken))}. Give --seeds, --run-dir and --num-threads to the comparison."
        )
    return arm
