"""Models as folders of `config.json`, `model.safetensors` and `README.md`, read strictly and never unpickled.

Other files in a folder are ignored, and no file outside it is read.
"""

import inspect
import tempfile
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import save

from nacgen.errors import CheckpointError, CheckpointNotFoundError
from nacgen.system.documents import strict_json
from nacgen.system.files import read_regular, sync_folder, write_file
from nacgen.system.hub import download
from nacgen.system.tensor_file import read_tensor_file, require_finite

MAX_CONFIG_BYTES = 1_000_000
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"


def resolve_folder(path_or_id: str | Path) -> Path | None:
    """Find a local model folder, as given or among the released models in `checkpoints/`, if there is one."""
    package = Path(__file__).parents[1]
    for base in (Path(), package.parent, package):  # as given; source checkout; installed wheel
        if (base / path_or_id).is_dir():
            return base / path_or_id
    return None


class PretrainedModel(PyTorchModelHubMixin):
    """A mixin that saves and loads a module whose constructor takes plain keywords.

    The constructor's arguments become `config.json`; what `model_card` returns becomes `README.md`.
    """

    def model_card(self) -> str:
        """Return Markdown that describes the model."""
        return f"# {type(self).__name__}\n\nA model of the nacgen library.\n"

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> str | None:
        """Write the model's folder. Readers see the old folder or the new one, never a mixture.

        The options are those of `huggingface_hub.ModelHubMixin.save_pretrained`. If they push the model to the
        Hub, the address of the commit is returned.
        """
        target = Path(save_directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as room:
            new, old = Path(room) / "new", Path(room) / "old"
            kwargs.setdefault("repo_id", target.name)
            result: str | None = super().save_pretrained(new, **kwargs)
            config = (new / CONFIG_FILE).read_bytes()
            old_config = target / CONFIG_FILE
            if old_config.is_file() and old_config.read_bytes() == config:  # only new weights
                for file in (CARD_FILE, WEIGHTS_FILE):
                    (new / file).replace(target / file)
                sync_folder(target)
                return result
            write_file(new / CONFIG_FILE, config)  # the Hub's client does not sync it
            try:
                if target.exists():
                    target.rename(old)
                new.rename(target)
            except BaseException:
                if old.exists() and not target.exists():
                    old.rename(target)
                raise
            sync_folder(target.parent)
        return result

    def _save_pretrained(self, save_directory: Path) -> None:
        assert isinstance(self, torch.nn.Module)
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        write_file(save_directory / WEIGHTS_FILE, save(tensors, metadata={"format": "pt"}))
        write_file(save_directory / CARD_FILE, self.model_card())

    @classmethod
    def from_pretrained(  # type: ignore[override]  # fewer options: no pickles, nothing but strict
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None
    ) -> Self:
        """Load a model from a folder or the Hub.

        Args:
            pretrained_model_name_or_path: Path of a folder, `"checkpoints/<name>"` for a released model wherever
                the program runs, or a Hub id `owner/name`.
            revision: Branch, tag or commit of a Hub model.

        Returns:
            The model on the CPU, in evaluation mode.

        Raises:
            CheckpointNotFoundError: There is no such folder or Hub model, or it lacks a file.
            CheckpointError: The configuration or the weights do not fit; up to ten differences are listed.

        Example:
            >>> encoder = nacgen.NACEncoder.from_pretrained("checkpoints/digits-nac")
            >>> encoder.backbone_name, encoder.code_dim
            ('tiny', 128)
        """
        name = str(pretrained_model_name_or_path)
        config_path, weights_path = _find_files(name, revision)
        config = _read_config(cls, config_path)
        try:
            with torch.device("meta"):  # takes no memory before the weights are known to fit
                outline: Any = cls(**config)
            file = read_tensor_file(weights_path, outline.state_dict(), weights_path.parent)
            require_finite(file.tensors, str(weights_path))
            model: Any = cls(**config)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"{config_path} does not describe a {cls.__name__}: {error}"
            ) from error
        model.load_state_dict(file.tensors)
        return model.eval()  # type: ignore[no-any-return]


def _find_files(name: str, revision: str | None) -> tuple[Path, Path]:
    folder = resolve_folder(name)
    if folder is not None:
        for file in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / file).is_file():
                raise CheckpointNotFoundError(
                    f"a model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}, but {folder} has no {file}. "
                    "Give the folder that save_pretrained wrote; pickled weights are not read."
                )
        return folder / CONFIG_FILE, folder / WEIGHTS_FILE
    if name.count("/") != 1 or name.startswith((".", "/", "checkpoints/")):
        raise CheckpointNotFoundError(
            f"{name} is no model folder, and no Hub id (owner/name) either. Check the path; released "
            "models are named checkpoints/<name>."
        )
    config, weights = download(name, (CONFIG_FILE, WEIGHTS_FILE), revision)
    return config, weights


def _read_config(cls: type, path: Path) -> dict[str, Any]:
    try:
        config = strict_json(read_regular(path, MAX_CONFIG_BYTES, path.parent))
    except OSError as error:
        raise CheckpointError(
            f"{path} must be a small file that can be read, but is not ({error}). Save the model again."
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({error}). Save the model again."
        ) from error
    known = set(inspect.signature(cls).parameters)
    unknown = sorted(set(config) - known) if isinstance(config, dict) else [type(config).__name__]
    if unknown:
        raise CheckpointError(
            f"{path} must hold arguments of {cls.__name__} ({', '.join(sorted(known))}), got also "
            f"{', '.join(unknown)}. Load it with the class that wrote it."
        )
    return config  # type: ignore[no-any-return]
