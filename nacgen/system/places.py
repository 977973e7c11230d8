"""Places of models, weights and packages, found without torch, so that what is missing is told at once."""

from importlib.util import find_spec
from pathlib import Path

from nacgen.errors import CheckpointNotFoundError, ConfigurationError


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
    """Return the folder of a run's generator, decoder or denoiser."""
    for name in ("generator", "decoder", "denoiser"):
        if (Path(run_dir) / name).is_dir():
            return Path(run_dir) / name
    raise CheckpointNotFoundError(
        f"run_dir must hold a generator, a decoder or a denoiser, but {run_dir} has none. Train one with nacgen "
        "train-gan, train-vae or train-flow, or wait for the run's first evaluation."
    )


def require_weights(path: str | Path) -> None:
    """Raise a `CheckpointNotFoundError` unless a path is that of a file."""
    if not Path(path).is_file():
        raise CheckpointNotFoundError(
            f"a file of weights was expected, but {path} is none. Give a .safetensors, .pt, .pth or .ckpt file."
        )


def require_diffusers(what: str) -> None:
    """Raise a `ConfigurationError` that names what needs diffusers, unless it is installed."""
    if find_spec("diffusers") is None:
        raise ConfigurationError(
            f"{what} needs diffusers, which is not installed. Run `pip install 'nacgen[flow]'`, or use network "
            "small."
        )
