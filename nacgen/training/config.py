"""Configuration: frozen dataclasses, filled from a preset, then a YAML file, then flags.

All three pass one parser, so a wrong key or type gives the same message in each. This module does not import
torch, which keeps `--help` fast.
"""

import argparse
import contextlib
import dataclasses
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, TypeVar, get_origin

from nacgen.data.options import SPLITS, require_data
from nacgen.errors import ConfigurationError
from nacgen.system.documents import LARGEST_WHOLE, flatten, read_yaml
from nacgen.system.places import require_model
from nacgen.training.old_options import as_flags, upgrade, upgrade_flags

Config = TypeVar("Config")
LARGEST_FLOAT = 3.4e38  # of float32
LARGEST_SIDE = 4_096  # pixels that an image is resized to
LONGEST_WAIT = 31_536_000  # seconds, a year
MAX_THREADS = 1_024
# Options that a word without a flag was probably meant for, the likeliest first.
MEANT = ("input", "encoders", "arms", "data_dir", "run_dir")
# Presets that `parse` has seen, by class of configuration.
_presets: dict[type, Mapping[str, Any]] = {}


def require_positive(config: object, *names: str) -> None:
    """Raise `ConfigurationError` unless the named numbers, or tuples of them, are finite and above 0, or None."""
    _require(config, names, lambda number: 0 < number < math.inf, "above 0")


def require_between(config: object, low: float, high: float, *names: str) -> None:
    """Raise `ConfigurationError` unless the named numbers, or tuples of them, are finite, in bounds, or None."""
    bounds = f"{low} or more" if high == math.inf else f"between {low} and {high}"
    _require(config, names, lambda number: low <= number <= high and number < math.inf, bounds)


def _require(
    config: object, names: Iterable[str], is_right: Callable[[float], bool], bounds: str
) -> None:
    for name in names:
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if value is not None and not (numbers and all(map(is_right, numbers))):
            flag = flag_of(config, name)
            raise ConfigurationError(f"{name} must be {bounds}, got {value}. Change {flag}.")


def refuse_unheeded(config: Any, is_unheeded: bool, names: Iterable[str], reason: str) -> None:
    """Raise `ConfigurationError` for an option without effect whose value is neither the default nor the preset's.

    Nothing is checked unless `is_unheeded`. Names have dots, such as "optim.penalty_weight"; "optim" stands for
    all of its fields. The reason is the cause for the message, such as "with --objective simclr".
    """
    if not is_unheeded:
        return
    preset = preset_of(config, config.preset) or type(config)
    for name in names:
        # The class holds the defaults of its fields; a second instance would be checked as well.
        value, default, of_preset = map(attrgetter(name), (config, type(config), preset))
        if dataclasses.is_dataclass(value):
            inner = [f"{name}.{field.name}" for field in dataclasses.fields(value)]
            refuse_unheeded(config, True, inner, reason)
        elif value not in (default, of_preset):
            flag = f"--{name.replace('_', '-')}"
            raise ConfigurationError(
                f"{name} has no effect {reason}, got {value}. Leave {flag} at its default, {default}."
            )


def preset_of(config: Config, name: str) -> Config | None:
    """Return a preset for a class of configurations, None if `parse` has not seen it."""
    return _presets.get(type(config), {}).get(str(name))


def flag_of(config: object, name: str) -> str:
    """Return the flag of a field, for example `--seed`, or `--optim.learning-rate` for an `OptimConfig`."""
    topic = type(config).__name__.removesuffix("Config").lower()
    return f"--{'' if hasattr(config, 'preset') else f'{topic}.'}{name.replace('_', '-')}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Options of reading images."""

    image_size: int | None = None
    """Height and width of images, in pixels. Others are resized; None keeps all as they are."""
    skip_bad: bool = False
    """Leave out image files that cannot be read, one in a hundred at most; they are listed in skipped.txt."""
    cache: str | None = None
    """Folder that keeps decoded images of small files, so that they are decoded once; none: keep none. Default:
    nacgen in XDG_CACHE_HOME or in the system's folder of caches."""

    def __post_init__(self) -> None:
        require_between(self, 1, LARGEST_SIDE, "image_size")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Options of log, checkpoints and trackers. Times are given in images seen by all processes."""

    log_every: int = 640
    """Images between two rows of metrics.jsonl."""
    checkpoint_every: int = 6400
    """Images between two checkpoints; the last two are kept, and the one of the best evaluation."""
    timeout: int = 600
    """Seconds that a process waits for another before it ends the run."""
    tracker: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """Second destination of metrics, besides metrics.jsonl."""
    num_threads: int | None = None
    """CPU threads of each process; another number rounds sums otherwise. None: that of the run to resume, else
    OMP_NUM_THREADS, else the cores of this machine that the process may use, shared by the processes on it.
    Under a launcher, which sets OMP_NUM_THREADS to 1 by itself, a 1 must be given here."""

    def __post_init__(self) -> None:
        require_positive(self, "log_every", "checkpoint_every")
        require_between(self, 1, LONGEST_WAIT, "timeout")
        require_between(self, 1, MAX_THREADS, "num_threads")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The flags that every training recipe shares."""

    preset: str = "digits"
    """Named settings to start from."""
    config: str | None = None
    """YAML file whose values replace the preset's. For example the config.yaml of a run, which also names the
    run's folder: give --run-dir for another run."""
    dataset: str = "digits"
    """digits (embedded), cifar10, cifar100, mnist, fashion-mnist, stl10, flickr25k, imagenet or folder."""
    data_dir: str | None = None
    """Folder of the dataset's files."""
    run_dir: str | None = None
    """Folder of the run, resumed if it is there. It must have the same configuration.
    Default: runs/<name>-seed<seed>, where the name has recipe and preset."""
    fresh: bool = False
    """Start over, and move the earlier run aside. Its files go to <run folder>.old-1 and so on."""
    seed: int = 0
    """Seed of all random numbers."""
    total_images: int = 25_600
    """Length of training, in images seen. All processes count together."""
    batch_size: int = 64
    """Images in one step over all processes together."""
    data: DataConfig = DataConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        require_positive(self, "total_images", "batch_size")
        require_between(self, 0, math.inf, "seed")
        if self.total_images % self.batch_size:
            whole = max(1, self.total_images // self.batch_size) * self.batch_size
            raise ConfigurationError(
                f"total_images must be a multiple of batch_size, got {self.total_images} and "
                f"{self.batch_size}. Use --total-images {whole}."
            )

    @property
    def run_name(self) -> str:
        """Name of the default run folder without the seed: recipe and settings, with a hyphen between."""
        return self.preset

    def folder(self, name: str) -> Path:
        """Return the path of the run folder, for a run of this name."""
        return Path(self.run_dir or f"runs/{name}-seed{self.seed}")

    def check_inputs(self) -> None:
        """Raise unless the dataset and folders that options name exist; their contents are checked when read."""
        require_data(self.dataset, self.data_dir)
        for name in ("encoder", "perceptual_encoder"):
            require_model(getattr(self, name, None))


def parse(
    config_class: type[Config],
    presets: Mapping[str, Config],
    argv: Sequence[str] | None = None,
    recipe: ModuleType | None = None,
) -> Config:
    """Read a configuration from a preset, a YAML file and flags (`argv`), each overruling the one before.

    Presets are configurations by name; the first is the default. `--help` shows the first lines of the recipe's
    docstring and the options that people change, `--help-all` everything.

    Raises:
        ConfigurationError: The preset is unknown, or the configuration contradicts itself.
        SystemExit: 2 for a wrong flag, key or type, after a message that names the file if the flags alone are
            right; 0 for `--help`.
    """
    flags = upgrade_flags(sys.argv[1:] if argv is None else argv)
    _presets[config_class] = presets
    first_pass = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first_pass.add_argument("--preset")
    first_pass.add_argument("--config")
    chosen, _ = first_pass.parse_known_args(flags)
    file_values = {}
    if chosen.config is not None:
        file_values = upgrade(flatten(read_yaml(Path(chosen.config))), chosen.config)
        if helps := [
            n for n in file_values if str(n).replace("-", "_").startswith(("help", "tyro_"))
        ]:
            raise ConfigurationError(
                f"{chosen.config} must hold options, but {helps[0]} belongs on the command line. Remove it."
            )
    preset = chosen.preset or file_values.get("preset") or next(iter(presets))
    if not isinstance(preset, str) or preset not in presets:
        source = "" if chosen.preset or not file_values else f" in {chosen.config}"
        known = ", ".join(presets)
        raise ConfigurationError(f"preset must be one of {known}, got {preset!r}{source}.")
    start: Config = dataclasses.replace(presets[preset], preset=preset)  # type: ignore[type-var]
    if recipe is not None and not {"-h", "--help"}.isdisjoint(flags):
        from nacgen.training.help import short_help

        print(short_help(start, presets, recipe))
        raise SystemExit(0)

    def read(args: list[str], is_quiet: bool = False) -> Config:
        import tyro  # options can be made and checked without a command line

        return tyro.cli(
            config_class,
            default=start,
            args=args,
            prog=sys.argv[0],
            description=None if recipe is None else recipe.__doc__,
            console_outputs=not is_quiet,
        )

    if "--help-all" in flags:
        read(["--help"])
    # Positional arguments stay in front: a flag of the file that takes several words would take them.
    words = list(itertools.takewhile(lambda flag: not flag.startswith("-"), flags))
    if words:
        _refuse_word(words[0], config_class, presets)
    try:
        config = read(words + as_flags(file_values) + flags[len(words) :])
    except SystemExit as end:
        if end.code and file_values:
            with contextlib.suppress(SystemExit):
                read(flags, is_quiet=True)
                print(f"The fault lies in {chosen.config}.", file=sys.stderr)
        raise
    for name, value in flatten(to_dict(config)).items():
        given = file_values.get(name)
        if isinstance(value, str) and given is not None and not isinstance(given, str):
            raise ConfigurationError(
                f"{name} must be text, but {chosen.config} has {given!r:.50} of type {type(given).__name__}, "
                "which may be spelled in another way. Put it in quotes."
            )
        for number in value if isinstance(value, list) else [value]:
            largest = LARGEST_WHOLE if isinstance(number, int) else LARGEST_FLOAT
            if isinstance(number, int | float) and not abs(number) < largest:
                raise ConfigurationError(
                    f"{name} must be a number below {largest:.2g} in size, got {str(number)[:40]}. Correct "
                    f"--{name.replace('_', '-')}."
                )
    return config


def _refuse_word(word: str, config_class: Any, presets: Mapping[str, Any]) -> None:
    """Raise for a word in front of all flags, of a command that takes none, and say what was probably meant."""
    kinds = {field.name: field.type for field in dataclasses.fields(config_class)}
    if any(get_origin(kind) is Annotated for kind in kinds.values()):
        return
    meant = next(
        (f"--{name.replace('_', '-')} {word}" for name in MEANT if name in kinds), "no word"
    )
    if word in presets:
        meant = f"--preset {word}"
    elif word in SPLITS and "dataset" in kinds:
        meant = f"--dataset {word}"
    elif meant.startswith("--data-dir") and "folder" in presets:
        meant = f"--preset folder {meant}"
    raise ConfigurationError(f"options begin with --, got {word!r}. Did you mean {meant}?")


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as nested plain values for YAML or JSON, without `fresh`, which no run keeps."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        plain[field.name] = list(value) if isinstance(value, tuple) else value
    plain.pop("fresh", None)
    return plain
