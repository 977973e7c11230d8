"""Options of earlier versions, and their translation in files and flags. Does not import torch."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from nacgen.errors import ConfigurationError
from nacgen.system.terminal import warn

# Today's names of options that were renamed.
RENAMED = {
    "discriminator.taps": "discriminator.return_nodes",
    "views.greyscale_probability": "views.grayscale_probability",
}
# Options that were removed, with the value that every run has now.
REMOVED: dict[str, Any] = {
    "augment.images_to_full": 500_000,
    "augment.target": 0.6,
    "discriminator.acts_from": 0.5,
    "discriminator.felt_from": 0.5,
    "discriminator.head_warmup_images": 0,
    "discriminator.largest_logit": 1_000.0,
    "discriminator.learning_rate": 1e-3,
    "discriminator.penalty_weight": 0.3,
    "discriminator.ramp_images": 0,
    "discriminator.stage_lr_decay": 1.0,
    "discriminator.start": 0.35,
    "discriminator.unfreeze_every": 0,
    "distillhash.noisy_share": 0.5,
    "distillhash.num_images": 5_000,
    "distillhash.num_neighbors": 20,
    "distillhash.num_neighbours": 20,
    "distillhash.quantization_weight": 0.1,
    "generator.compile": False,
    "model.capacity": None,
    "nac.num_draws": 1,
    "optim.largest_logit": 1_000.0,
    "optim.penalized": "both",
    "optim.penalty_every": 4,
    "optim.reference": False,
    "posterior.trunk_lr_multiplier": 1.0,
    "score.components": 10,
}


def upgrade(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Translate the options of an earlier version to today's names, and tell the user about each.

    Removed options are left out at their old default, and refused with another value. `source` is for messages.
    """
    upgraded = {}
    for name, value in values.items():
        if name not in REMOVED:
            upgraded[RENAMED.get(name, name)] = value
        elif value != REMOVED[name]:
            raise ConfigurationError(
                f"{name} must be {REMOVED[name]}, since it is no longer an option, but {source} has {value}. "
                "Leave it out, or use the version that knows it."
            )
        else:
            warn(f"{source}: {name} is no longer an option; it has its default and is left out")
        if name in RENAMED:
            warn(f"{source}: {name} is now called {RENAMED[name]}; use the new name")
    return upgraded


def upgrade_flags(flags: Sequence[str]) -> list[str]:
    """Translate the flags of options that were renamed, and drop those of options that were removed."""
    upgraded: list[str] = []
    is_dropped = False
    for i, flag in enumerate(flags):
        name, equals, value = flag.removeprefix("--").partition("=")
        topic, dot, last = name.replace("-", "_").rpartition(".")
        option = topic + dot + last.removeprefix("no_")
        if flag.startswith("--") and option in RENAMED:
            upgrade({option: None}, "the command line")
            (new,) = as_flags({RENAMED[option]: not last.startswith("no_")})
            upgraded.append(new + equals + value)
        elif flag.startswith("--") and option in REMOVED:
            is_dropped = True
            after = itertools.takewhile(lambda flag: not flag.startswith("--"), flags[i + 1 :])
            given = [value] if equals else list(after)
            given = [*as_flags({topic + dot + last: True}), *given]
            default = REMOVED[option]
            is_default = given == as_flags({option: default})
            upgrade({option: default if is_default else " ".join(given)}, "the command line")
        elif flag.startswith("--") or not is_dropped:
            is_dropped = False
            upgraded.append(flag)
    return upgraded


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Return the flags that set options to values, by dotted names; refuse a value that looks like a flag."""
    flags: list[str] = []
    for key, value in values.items():
        name = f"--{key}".replace("_", "-")
        words = value if isinstance(value, list) else [value]
        if flag := [word for word in words if isinstance(word, str) and word.startswith("--")]:
            raise ConfigurationError(
                f"a value of {key} in a file must not begin with --, got {flag[0]!r}. Correct the file."
            )
        if isinstance(value, bool):
            head, dot, last = name[2:].rpartition(".")
            flags.append(name if value else f"--{head}{dot}no-{last}")
        elif isinstance(value, list):
            flags += [name, *map(str, value)]
        else:
            flags += [name, str(value)]
    return flags
