"""Parts of a user's own: found by `package.module:function`, or handed over in Python and named after it."""

import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Collection
from typing import Any

from nacgen.errors import ConfigurationError

OWN = "own:"  # in front of the name of what was handed over in Python
TIMM = "timm:"  # in front of the name of a model of timm
REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_own(name: object) -> bool:
    """Return True for the name of a part of the user's own: `module:function`, or one handed over."""
    if not isinstance(name, str) or name.startswith(TIMM):
        return False
    return name.startswith(OWN) or REFERENCE.fullmatch(name) is not None


def check_part(option: str, name: str | None, known: Collection[str]) -> None:
    """Raise a `ConfigurationError` for a name that is neither built in nor the user's own; nothing is imported."""
    if name is not None and name not in known and not is_own(name):
        raise ConfigurationError(
            f"{option} must be one of {', '.join(known)}, or package.module:function, got {name!r}."
        )


def find_part(option: str, name: str, given: Any = None) -> Any:
    """Return the part of a name: the one that was handed over, or what `package.module:function` leads to.

    The module is imported from where Python imports from, the current folder first.

    Raises:
        ConfigurationError: The part was handed over to another call, or there is no such module or function.
    """
    if name.startswith(OWN):
        if given is None:
            raise ConfigurationError(
                f"{option} is {name}, a part that was handed over in Python and that no file holds. Hand it over "
                "again, as in nacgen.train_gan(..., generator=my_generator), or name it package.module:function."
            )
        return given
    module_name, _, path = name.partition(":")
    before = list(sys.path)
    try:
        sys.path.insert(0, "")  # as `python -m` does; the command `nacgen` has its own folder there
        part: Any = importlib.import_module(module_name)
        for attribute in path.split("."):
            part = getattr(part, attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"{option} must name something that can be imported, package.module:function, but {name} cannot "
            f"({type(error).__name__}: {error}). Look at the spelling; the module is searched in the current "
            "folder and where Python finds packages."
        ) from error
    finally:
        sys.path[:] = before
    return part


def call_with_known(part: Any, **known: Any) -> Any:
    """Call a function or class with those of some keywords that it names; one that needs others is refused."""
    try:
        signature = inspect.signature(part)
    except (TypeError, ValueError):  # built in
        return part()
    # `**keywords` are no request: a network's class mostly hands them on to another.
    taken = {name: x for name, x in known.items() if name in signature.parameters}
    try:
        signature.bind(**taken)
    except TypeError as error:
        label = getattr(part, "__qualname__", part)
        raise ConfigurationError(
            f"{label} is called with those keywords of {', '.join(known) or 'none'} that it takes, but has "
            f"others without a default ({error}). Give them one, for example by functools.partial."
        ) from error
    return part(**taken)


def own_name(part: Any, content: str) -> str:
    """Return the name by which a configuration knows a part that was handed over; `content` tells it from others.

    Example:
        >>> own_name(dict, "two layers")
        'own:dict-334c038d'
    """
    label = getattr(part, "__qualname__", type(part).__qualname__)
    return f"{OWN}{label}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
