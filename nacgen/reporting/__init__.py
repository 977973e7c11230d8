"""Many runs into one table, one chart, one verdict: `compare`, `compare_arms` and `load_run`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nacgen.reporting.comparison import compare as compare
    from nacgen.reporting.comparison import compare_arms as compare_arms
    from nacgen.reporting.runs import load_run as load_run

_HOMES = {
    "compare": "nacgen.reporting.comparison",
    "compare_arms": "nacgen.reporting.comparison",
    "load_run": "nacgen.reporting.runs",
}

__all__ = ["compare", "compare_arms", "load_run"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nacgen.reporting' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
