"""Reports: one run, or the encoders of several runs, as a page."""

from importlib import import_module
from typing import Any

from lazy_loader import attach

_load, __dir__, __all__ = attach(__name__, submod_attrs={"recorded_runs": ["load_run"]})


def __getattr__(name: str) -> Any:
    if name in ("compare", "compare_arms"):  # names of 0.1.0, kept: the one import upwards
        return getattr(import_module("nacgen.comparison"), name)
    return _load(name)
