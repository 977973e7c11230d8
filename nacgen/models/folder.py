"""Models as folders: `config.json`, `model.safetensors`, `README.md`. Strict, and never unpickled."""

import inspect
import json
import tempfile
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import nacgen
from nacgen.errors import CheckpointError, CheckpointNotFoundError

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"


def resolve_folder(path_or_id: str | Path) -> Path | None:
    """Find a local model folder: as given, or among the released ones in `checkpoints/`.

    Args:
        path_or_id: A path, `"checkpoints/<name>"` for a released model, or a Hub id.

    Returns:
        The folder, or None where no such folder exists.
    """
    package = Path(nacgen.__file__).parent
    for base in (Path(), package.parent, package):  # as given; source checkout; installed wheel
        if (base / path_or_id).is_dir():
            return base / path_or_id
    return None


class PretrainedModel(PyTorchModelHubMixin):
    """Saving, strict loading and the Hub for a module whose constructor takes plain keywords.

    The constructor's arguments become `config.json`; what `model_card` returns becomes `README.md`.
    """

    def model_card(self) -> str:
        """Markdown that describes the model."""
        return f"# {type(self).__name__}\n\nA model of the nacgen library.\n"

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> str | None:
        """Write the model folder; a reader sees the old folder or the new one, never a mixture.

        Args:
            save_directory: The folder; replaced where it exists.
            kwargs: As in `huggingface_hub.ModelHubMixin.save_pretrained`.

        Returns:
            The commit's address when pushed to the Hub.
        """
        target = Path(save_directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as room:
            new, old = Path(room) / "new", Path(room) / "old"
            kwargs.setdefault("repo_id", target.name)
            result: str | None = super().save_pretrained(new, **kwargs)
            try:
                if target.exists():
                    target.rename(old)
                new.rename(target)
            except BaseException:
                if old.exists() and not target.exists():
                    old.rename(target)
                raise
        return result

    def _save_pretrained(self, save_directory: Path) -> None:
        assert isinstance(self, torch.nn.Module)
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        save_file(tensors, save_directory / WEIGHTS_FILE, metadata={"format": "pt"})
        (save_directory / CARD_FILE).write_text(self.model_card(), encoding="utf-8")

    @classmethod
    def from_pretrained(  # type: ignore[override]  # fewer options: no pickles, nothing but strict
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None
    ) -> Self:
        """Load a model from a folder or the Hub.

        Args:
            pretrained_model_name_or_path: A folder, `"checkpoints/<name>"`, or a Hub id `owner/name`.
            revision: Branch, tag or commit of a Hub model.

        Returns:
            The model on the CPU, in evaluation mode.

        Raises:
            CheckpointNotFoundError: No such folder or Hub model, or a file is missing in it.
            CheckpointError: The configuration or the weights do not fit, with up to ten differences.
        """
        name = str(pretrained_model_name_or_path)
        config_path, weights_path = _find_files(name, revision)
        config = _read_config(cls, config_path)
        try:
            model = cls(**config)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"{config_path} does not describe a {cls.__name__}: {error}"
            ) from error
        assert isinstance(model, torch.nn.Module)
        model.load_state_dict(read_tensors(weights_path, model.state_dict()))
        model.eval()
        return model


def read_tensors(path: Path, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read a safetensors file that must hold exactly the expected names, shapes and dtypes.

    Args:
        path: The file.
        expected: What the model holds; nothing is read unless all of it fits.

    Returns:
        The tensors, on the CPU.

    Raises:
        CheckpointError: The file is damaged or does not fit; up to ten differences are listed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in found.items()}
            differences = _differences(shapes, {k: tuple(v.shape) for k, v in expected.items()})
            if not differences:
                tensors = {name: file.get_tensor(name) for name in expected}
                differences = [
                    f"{name}: {tensors[name].dtype} in the file, {tensor.dtype} in the model"
                    for name, tensor in expected.items()
                    if tensors[name].dtype != tensor.dtype
                ]
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is no whole safetensors file ({error}). Save it again."
        ) from error
    if differences:
        raise CheckpointError(
            f"{path} does not fit the model, {len(differences)} differences: "
            f"{'; '.join(differences[:10])}. Load it into the model that wrote it."
        )
    return tensors


def _differences(
    found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]
) -> list[str]:
    return (
        [f"{name} is missing" for name in expected if name not in found]
        + [f"{name} is unexpected" for name in found if name not in expected]
        + [
            f"{name}: {found[name]} in the file, {shape} in the model"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ]
    )


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
    try:
        config, weights = (
            Path(hf_hub_download(name, file, revision=revision))
            for file in (CONFIG_FILE, WEIGHTS_FILE)
        )
    except Exception as error:  # the Hub's client raises a dozen unrelated types
        raise CheckpointNotFoundError(
            f"{name} is no local folder and could not be had from the Hub ({type(error).__name__}: "
            f"{error}). Check the path, or the name and the connection."
        ) from error
    return config, weights


def _read_config(cls: type, path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({error}). Save the model again."
        ) from error
    known = set(inspect.signature(cls).parameters)
    if not isinstance(config, dict) or not set(config) <= known:
        unknown = (
            sorted(set(config) - known) if isinstance(config, dict) else [type(config).__name__]
        )
        raise CheckpointError(
            f"{path} must hold arguments of {cls.__name__} ({', '.join(sorted(known))}), got also "
            f"{', '.join(unknown)}. Load it with the class that wrote it."
        )
    return config
