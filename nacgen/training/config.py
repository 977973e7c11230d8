"""Configuration: frozen dataclasses, filled from a preset, then a YAML file, then flags.

All three pass one parser, so a wrong key or type gives the same message in each. This module does not import
torch, which keeps `--help` fast.
"""

import argparse
import contextlib
import dataclasses
import itertools
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import tyro

from nacgen.errors import (
    EXIT_INTERRUPTED,
    ConfigurationError,
    NacgenError,
    StorageError,
    is_storage_failure,
)
from nacgen.system.documents import flatten, read_yaml
from nacgen.system.signals import stop_with_launcher

Config = TypeVar("Config")
# Metadata of a field that tells what to do with a run, not what the run is.
UNRECORDED = {"is_recorded": False}
# Options of earlier versions: today's names of those that were renamed, old defaults of those that were removed.
RENAMED = {
    "discriminator.taps": "discriminator.return_nodes",
    "views.greyscale_probability": "views.grayscale_probability",
}
REMOVED: dict[str, Any] = {  # with the value that every run has now
    "augment.images_to_full": 500_000,
    "augment.target": 0.6,
    "discriminator.acts_from": 0.5,
    "discriminator.felt_from": 0.5,
    "discriminator.largest_logit": 1_000.0,
    "discriminator.learning_rate": 1e-3,
    "discriminator.penalty_weight": 0.3,
    "discriminator.ramp_images": 0,
    "discriminator.stage_lr_decay": 1.0,
    "discriminator.start": 0.35,
    "distillhash.noisy_share": 0.5,
    "distillhash.num_images": 5_000,
    "distillhash.num_neighbors": 20,
    "distillhash.num_neighbours": 20,
    "distillhash.quantization_weight": 0.1,
    "generator.compile": False,
    "model.capacity": None,
    "optim.largest_logit": 1_000.0,
    "optim.penalized": "both",
    "optim.reference": False,
    "score.components": 10,
}


def require_positive(config: object, *names: str) -> None:
    """Raise unless the named fields of a configuration are finite and above zero.

    Args:
        config: Dataclass instance.
        names: Names of number fields, or of fields that hold several numbers.

    Raises:
        ConfigurationError: A number is not above zero, or not finite.
    """
    for name in names:
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if not numbers or not all(0 < number < math.inf for number in numbers):
            raise ConfigurationError(
                f"{name} must be above 0, got {value}. Change {flag_of(config, name)}."
            )


def require_between(config: object, low: float, high: float, *names: str) -> None:
    """Raise unless the named fields of a configuration are finite and lie between two bounds.

    Args:
        config: Dataclass instance.
        low: Smallest allowed value.
        high: Largest allowed value; infinity for no bound.
        names: Names of number fields.

    Raises:
        ConfigurationError: A number is out of bounds, or not finite.
    """
    for name in names:
        value = getattr(config, name)
        if not (low <= value <= high and math.isfinite(value)):
            bounds = f"{low} or more" if high == math.inf else f"between {low} and {high}"
            raise ConfigurationError(
                f"{name} must be {bounds}, got {value}. Change {flag_of(config, name)}."
            )


def refuse_unheeded(config: Any, is_unheeded: bool, names: Iterable[str], reason: str) -> None:
    """Raise where an option is set that has no effect beside the others.

    Args:
        config: Configuration of a recipe, a dataclass instance.
        is_unheeded: Whether the options have no effect; otherwise nothing is checked.
        names: Names of fields with dots, such as "optim.penalty_every"; "optim" stands for all of its fields.
        reason: Cause for the message, such as "with --objective simclr".

    Raises:
        ConfigurationError: One of the options differs from its default.
    """
    if not is_unheeded:
        return
    # The fields' defaults, not a second instance, which would be checked as well.
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in names:
        topic, *rest = name.split(".")
        value, default = getattr(config, topic), defaults[topic]
        for part in rest:
            value, default = getattr(value, part), getattr(default, part)
        if dataclasses.is_dataclass(value):
            inner = [f"{name}.{field.name}" for field in dataclasses.fields(value)]
            refuse_unheeded(config, True, inner, reason)
        elif value != default:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigurationError(
                f"{name} has no effect {reason}, got {value}. Leave {flag} at its default, {default}."
            )


def flag_of(config: object, name: str) -> str:
    """Return the flag of a field, for example `--seed`, or `--optim.learning-rate` for an `OptimConfig`.

    Args:
        config: Dataclass instance; the class of a nested one is named after the field that holds it.
        name: Name of the field.

    Returns:
        The flag in full.
    """
    topic = type(config).__name__.removesuffix("Config").lower()
    return f"--{'' if hasattr(config, 'preset') else f'{topic}.'}{name.replace('_', '-')}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How images are read."""

    image_size: int | None = None
    """Height and width in pixels that images are brought to; None keeps them as they are."""
    skip_bad: bool = False
    """Leave out image files that cannot be read, one in a hundred at most; they are listed in
    skipped.txt."""

    def __post_init__(self) -> None:
        """Check the number."""
        if self.image_size is not None:
            require_positive(self, "image_size")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Options of log, checkpoints and trackers. Times are given in images seen by all processes."""

    log_every: int = 640
    """Images between two rows of metrics.jsonl."""
    checkpoint_every: int = 6400
    """Images between two checkpoints; the last two are kept, and the one of the best evaluation."""
    timeout: int = 600
    """Seconds that a process waits for another before it gives the run up."""
    tracker: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """Where metrics go besides metrics.jsonl."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_positive(self, "log_every", "checkpoint_every", "timeout")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The flags that every training recipe shares."""

    preset: str = "digits"
    """Named settings to start from."""
    config: str | None = None
    """YAML file whose values replace the preset's; a run's config.yaml is one, and names its folder:
    give --run-dir for another run."""
    dataset: str = "digits"
    """digits (embedded), cifar10, cifar100, stl10, flickr25k, imagenet or folder."""
    data_dir: str | None = None
    """Where the dataset's files lie."""
    run_dir: str | None = None
    """Run folder; resumed where it holds a run of the same configuration.
    Default: runs/<recipe>-<preset>-seed<seed>."""
    fresh: bool = dataclasses.field(default=False, metadata=UNRECORDED)
    """Start over: what the run folder holds is moved aside, to <run folder>.old-1 and so on."""
    seed: int = 0
    """Everything random is a function of it."""
    total_images: int = 25_600
    """Length of training, in images seen by all processes together."""
    batch_size: int = 64
    """Images in one step over all processes together."""
    data: DataConfig = DataConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_positive(self, "total_images", "batch_size")
        if self.total_images % self.batch_size:
            whole = max(1, self.total_images // self.batch_size) * self.batch_size
            raise ConfigurationError(
                f"total_images must be a multiple of batch_size, got {self.total_images} and "
                f"{self.batch_size}. Use --total-images {whole}."
            )


def parse(
    config_class: type[Config],
    presets: Mapping[str, Config],
    argv: Sequence[str] | None = None,
    description: str | None = None,
) -> Config:
    """Read a configuration from a preset, a YAML file and flags, each overruling the one before.

    Args:
        config_class: Frozen dataclass with fields `preset` and `config`.
        presets: Configurations by name; the first is the default.
        argv: Flags; by default those of the command line.
        description: Text that `--help` shows.

    Returns:
        The configuration.

    Raises:
        ConfigurationError: The preset is unknown, or the configuration contradicts itself.
        SystemExit: 2 for a wrong flag, key or type, after a message that names the file if the flags alone are
            right; 0 for `--help`.
    """
    flags = _upgrade_flags(sys.argv[1:] if argv is None else argv)
    first_pass = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first_pass.add_argument("--preset")
    first_pass.add_argument("--config")
    chosen, _ = first_pass.parse_known_args(flags)
    file_values = {}
    if chosen.config is not None:
        file_values = upgrade(flatten(read_yaml(Path(chosen.config))), chosen.config)
    preset = chosen.preset or file_values.get("preset") or next(iter(presets))
    if not isinstance(preset, str) or preset not in presets:
        source = "" if chosen.preset or not file_values else f" in {chosen.config}"
        raise ConfigurationError(
            f"preset must be one of {', '.join(presets)}, got {preset!r}{source}."
        )

    def read(args: list[str], is_quiet: bool = False) -> Config:
        return tyro.cli(
            config_class,
            default=dataclasses.replace(presets[preset], preset=preset),  # type: ignore[type-var]
            args=args,
            description=description,
            console_outputs=not is_quiet,
        )

    # Positional arguments stay in front: a flag of the file that takes several words would take them.
    words = list(itertools.takewhile(lambda flag: not flag.startswith("-"), flags))
    try:
        return read(words + _as_flags(file_values) + flags[len(words) :])
    except SystemExit as end:
        if end.code and file_values:
            with contextlib.suppress(SystemExit):
                read(flags, is_quiet=True)
                print(f"The fault lies in {chosen.config}.", file=sys.stderr)
        raise


def run_recipe(
    main: Callable[[Config], None], config_class: type[Config], presets: Mapping[str, Config]
) -> None:
    """Parse the command line, run a recipe, and end with its exit code.

    Args:
        main: Function of the recipe.
        config_class: Class of its configuration.
        presets: Configurations by name; the first is the default.

    Raises:
        SystemExit: With the code of the error: 2 configuration, 3 non-finite loss, 4 data, 5 checkpoint,
            6 storage, 7 locked, 8 another process lost; 143 if a signal stopped the run and it was saved; 130 if
            it was interrupted and not saved.
    """
    stop_with_launcher()
    threading.excepthook = _report_thread
    try:
        main(parse(config_class, presets, description=sys.modules["__main__"].__doc__))
    except KeyboardInterrupt:
        print("interrupted; the same command starts again from the last save", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as raised:
        error = _error_of_all(raised)
        if isinstance(error, NacgenError):
            _exit(str(error), error.exit_code)
        if not is_storage_failure(error):
            raise error from None if error is raised else raised
        _exit(
            f"the system refuses a file ({error}). Free space, choose another --run-dir, or mend the "
            "permissions; the same command goes on from the last save.",
            StorageError.exit_code,
        )


def _error_of_all(error: Exception) -> Exception:
    """Return the error of this process, or that of another process if it caused this one."""
    if "torch.distributed" not in sys.modules:
        return error
    from nacgen.system.lost_processes import agreed_error

    return agreed_error(error)


def _report_thread(args: threading.ExceptHookArgs) -> None:
    """Report a full disk in a tracker's thread in one line; the main thread meets it with the next row."""
    if args.exc_value is not None and is_storage_failure(args.exc_value):
        print(f"a tracker could not write: {args.exc_value}", file=sys.stderr)
    else:
        threading.__excepthook__(args)


def _exit(message: str, code: int) -> NoReturn:
    rank = os.environ.get("RANK", "0")
    source = "error" if rank == "0" else f"error on process {rank}"
    print(f"{source}: {message}", file=sys.stderr)
    sys.exit(code)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as nested plain values for YAML or JSON.

    Args:
        config: Dataclass instance.

    Returns:
        The fields in order, without those that are `UNRECORDED`; tuples become lists.
    """
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        if not field.metadata.get("is_recorded", True):
            continue
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        plain[field.name] = list(value) if isinstance(value, tuple) else value
    return plain


def upgrade(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Translate the options of an earlier version, and tell the user about each.

    Args:
        values: Values by dotted name.
        source: Path of the file that they come from, or `"the command line"`.

    Returns:
        Values by today's names; options that were removed are left out.

    Raises:
        ConfigurationError: An option that was removed has another value than its old default.

    Example:
        >>> upgrade({"views.greyscale_probability": 0.2, "seed": 1}, "config.yaml")
        {'views.grayscale_probability': 0.2, 'seed': 1}
    """
    upgraded = {}
    for name, value in values.items():
        if name in REMOVED and value != REMOVED[name]:
            raise ConfigurationError(
                f"{name} must be {REMOVED[name]}, since it is no longer an option, but {source} has {value}. "
                "Leave it out, or use the version that knows it."
            )
        if name in REMOVED:
            warn(f"{source}: {name} is no longer an option; it has its default and is left out")
        else:
            upgraded[RENAMED.get(name, name)] = value
        if name in RENAMED:
            warn(f"{source}: {name} is now called {RENAMED[name]}; use the new name")
    return upgraded


def warn(message: str) -> None:
    """Print a message to stderr, on the first process alone.

    Args:
        message: Text of one line.
    """
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr)


def _upgrade_flags(flags: Sequence[str]) -> list[str]:
    """Translate the flags of options that were renamed, and drop those of options that were removed."""
    upgraded: list[str] = []
    is_dropped = False
    for i, flag in enumerate(flags):
        name, equals, value = flag.removeprefix("--").partition("=")
        topic, dot, last = name.replace("-", "_").rpartition(".")
        option = topic + dot + last.removeprefix("no_")
        if flag.startswith("--") and option in RENAMED:
            upgrade({option: None}, "the command line")
            (new,) = _as_flags({RENAMED[option]: not last.startswith("no_")})
            upgraded.append(new + equals + value)
        elif flag.startswith("--") and option in REMOVED:
            is_dropped = True
            given = [value] if equals else _values_after(flags, i)
            given = [*_as_flags({topic + dot + last: True}), *given]
            is_default = given == _as_flags({option: REMOVED[option]})
            upgrade(
                {option: REMOVED[option] if is_default else " ".join(given)}, "the command line"
            )
        elif flag.startswith("--") or not is_dropped:
            is_dropped = False
            upgraded.append(flag)
    return upgraded


def _values_after(flags: Sequence[str], i: int) -> list[str]:
    return list(itertools.takewhile(lambda flag: not flag.startswith("--"), flags[i + 1 :]))


def _as_flags(values: Mapping[str, Any]) -> list[str]:
    """Return the flags that set options to values, which have dotted names."""
    flags: list[str] = []
    for key, value in values.items():
        name = f"--{key}".replace("_", "-")
        if isinstance(value, bool):
            head, dot, last = name[2:].rpartition(".")
            flags.append(name if value else f"--{head}{dot}no-{last}")
        elif isinstance(value, list):
            flags += [name, *map(str, value)]
        else:
            flags += [name, str(value)]
    return flags
