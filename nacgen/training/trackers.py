"""Trackers beside `metrics.jsonl`: they are installed and logged in before anything is built."""

import importlib
import importlib.util
import os

from nacgen.errors import ConfigurationError


def require_tracker(name: str) -> None:
    """Raise a `ConfigurationError` unless a tracker can start; Accelerate would ignore one that is not installed.

    The first process asks W&B, which takes a key from its environment or files, or asks the user for one at a
    terminal. In another mode than online, for example `WANDB_MODE=offline`, none is needed.
    """
    if name != "none" and importlib.util.find_spec(name) is None:
        raise ConfigurationError(
            f"run.tracker {name} needs the package {name}, which is not installed. "
            f"pip install {name}, or use --run.tracker none."
        )
    is_first = os.environ.get("RANK", "0") == "0"
    if name == "wandb" and is_first and os.environ.get("WANDB_MODE", "online") == "online":
        refusal = importlib.import_module("wandb.errors").Error
        try:
            importlib.import_module("wandb").login()
        except refusal as error:
            raise ConfigurationError(
                f"run.tracker wandb needs a login, but W&B says: {error}. Run `wandb login`, set WANDB_API_KEY or "
                "WANDB_MODE=offline, or use --run.tracker none."
            ) from error
