"""nacgen: pretrain an encoder with Neural Activation Coding and put it into a generative model.

Public names are loaded when first used, so that importing the package does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nacgen import metrics as metrics
    from nacgen import reporting as reporting
    from nacgen.functional.nac import nac_bound as nac_bound
    from nacgen.models.encoder import NACEncoder as NACEncoder
    from nacgen.models.transplant import transplant as transplant

__version__ = "0.1.0"

_HOMES = {
    "NACEncoder": "nacgen.models.encoder",
    "transplant": "nacgen.models.transplant",
    "nac_bound": "nacgen.functional.nac",
    "metrics": "nacgen",
    "reporting": "nacgen",
}

__all__ = ["NACEncoder", "__version__", "metrics", "nac_bound", "reporting", "transplant"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nacgen' has no attribute {name!r}")
    if _HOMES[name] == "nacgen":
        return import_module(f"nacgen.{name}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
