"""Calls of public functions: an argument that does not fit is told in the words of the function's user."""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, ParamSpec, TypeVar

from nacgen.errors import ArgumentError

P = ParamSpec("P")
R = TypeVar("R")


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that users call as `nacgen.<name>`: messages about its arguments name it so."""

    @functools.wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        check_call(f"nacgen.{function.__name__}", function, args, keywords)
        return function(*args, **keywords)

    call.__module__ = "nacgen"  # which Python names itself where a keyword is given twice
    return call


def check_call(
    label: str, function: Callable[..., Any], args: Sequence[Any], keywords: Mapping[str, Any]
) -> None:
    """Raise an `ArgumentError` unless a function takes these arguments and needs no others."""
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = {name: p for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    in_order = [name for name, p in known.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    by_order = in_order[: len(args)]
    needed = [name for name, p in known.items() if p.default is p.empty]
    if len(args) > len(in_order):
        raise ArgumentError(
            f"{label} takes only {' and '.join(in_order)} without a name, got {len(args)} arguments without one. "
            'Give the others by name, as in preset="smoke" or image_size=16.'
        )
    if twice := [name for name in by_order if name in keywords]:
        raise ArgumentError(f"{label} takes {twice[0]} once, got it twice. Leave one out.")
    if not takes_any and (unknown := [name for name in keywords if name not in known]):
        raise ArgumentError(
            f"{label} takes {', '.join(known)}, got {unknown[0]!r}. {near_match(unknown[0], known)}"
        )
    if missing := [name for name in needed if name not in by_order and name not in keywords]:
        raise ArgumentError(
            f"{label} needs {', '.join(needed)}, got no {' and no '.join(missing)}. Give "
            f"{', '.join(f'{name}=...' for name in missing)}, too."
        )


def near_match(name: str, known: Collection[str]) -> str:
    """Return advice on an unknown name: the known one that resembles it or ends with it, or to leave it out."""
    near = get_close_matches(name, known, n=1) or [k for k in known if k.rpartition(".")[2] == name]
    return f"Did you mean {near[0]}?" if near else "Leave it out."
