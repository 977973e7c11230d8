"""Places of models and weights on disk, found without torch, so that a wrong path is told at once."""

from pathlib import Path

from nacgen.errors import CheckpointNotFoundError


def resolve_folder(path_or_id: str | Path) -> Path | None:
    """Find a local model folder, as given or among the released models in `checkpoints/`, if there is one."""
    package = Path(__file__).parents[1]
    for base in (Path(), package.parent, package):  # as given; source checkout; installed wheel
        try:
            if (base / path_or_id).is_dir():
                return base / path_or_id
        except OSError:  # longer than a path can be
            continue
    return None


def require_model(name: str | None, may_be_id: bool = True) -> None:
    """Raise a `CheckpointNotFoundError` if a name is neither that of a model folder nor, perhaps, a Hub id."""
    if name is None or resolve_folder(name) is not None:
        return
    is_id = name.count("/") == 1 and not name.startswith("checkpoints/")
    if not (may_be_id and is_id) or Path(name).exists():
        raise CheckpointNotFoundError(
            f"{name} is no model folder, and no Hub id (owner/name). Released ones are named checkpoints/<name>."
        )


def model_of_run(run_dir: str | Path) -> Path:
    """Return the folder of a run's generator or decoder."""
    for name in ("generator", "decoder"):
        if (Path(run_dir) / name).is_dir():
            return Path(run_dir) / name
    raise CheckpointNotFoundError(
        f"run_dir must hold a generator or a decoder, but {run_dir} has neither. Train one with "
        "nacgen train-gan or nacgen train-vae, or wait for the run's first evaluation."
    )


def require_weights(path: str | Path) -> None:
    """Raise a `CheckpointNotFoundError` unless a path is that of a file."""
    if not Path(path).is_file():
        raise CheckpointNotFoundError(
            f"a file of weights was expected, but {path} is none. Give a .safetensors, .pt, .pth or .ckpt file."
        )
