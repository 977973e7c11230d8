"""Models as folders of `config.json`, `model.safetensors` and `README.md`, read strictly and never unpickled.

Other files in a folder are ignored, and no file outside it is read.
"""

import hashlib
import inspect
import json
import time
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_url
from huggingface_hub.errors import HFValidationError
from torch import nn
from torch.overrides import TorchFunctionMode

from nacgen.errors import CheckpointError, CheckpointNotFoundError, ConfigurationError
from nacgen.system.documents import strict_json
from nacgen.system.files import read_regular, storage_errors, write_file
from nacgen.system.hub import download
from nacgen.system.places import require_model, resolve_folder
from nacgen.system.precision import default_float32
from nacgen.system.tensor_file import (
    list_differences,
    read_tensor_file,
    require_finite,
    serialized,
)

MAX_CONFIG_BYTES = 1_000_000
MAX_NUMBERS = 2**32  # of one layer; 16 GiB
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
CARD_MARK = "library_name: nacgen"  # in every model card
SEAL = "\n<!-- Replaced by save_pretrained until it is edited. SHA-256: "
SEAL_END = b" -->\n"
DIGEST = "config_sha256"  # in the header of the weights, of the configuration they belong to
ATTEMPTS, PAUSE_S = 20, 0.1  # of a reader, until a writer has written both files


class MixedFolderError(CheckpointError):
    """A configuration and weights that were not saved together."""


def check_memory(numbers: int, what: str) -> None:
    """Raise a `ConfigurationError` if a layer or images would hold more numbers than a machine has room for."""
    if numbers > MAX_NUMBERS:
        raise ConfigurationError(
            f"a layer, a queue or images may hold {MAX_NUMBERS:,} numbers (16 GiB), but {what:.200} make more. "
            "Choose smaller ones."
        )


class PretrainedModel(PyTorchModelHubMixin):
    """A mixin that saves and loads a module whose constructor takes plain keywords.

    The constructor's arguments become `config.json`; what `model_card` returns becomes `README.md`.
    """

    def model_card(self) -> str:
        """Return Markdown that describes the model."""
        return f"---\n{CARD_MARK}\n---\n# {type(self).__name__}\n\nA model of the nacgen library.\n"

    def configuration(self) -> dict[str, Any]:
        """Return the constructor's arguments, as plain values."""
        config: Any = self._hub_mixin_config  # which the mixin made from the arguments
        return dict(config or {})

    def given_arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments that no file can hold, such as a network of the user's own."""
        return {}

    def save_pretrained(
        self, save_directory: str | Path, *, push_to_hub: bool = False, **kwargs: Any
    ) -> str | None:
        """Write `config.json`, `model.safetensors` and `README.md`, each whole; other files are left alone.

        The weights name the configuration they belong to, so that a reader beside the writer sees the old model or
        the new one. A `README.md` that somebody else wrote or edited is kept.

        Args:
            save_directory: Path of the folder, which is made if it is missing.
            push_to_hub: Whether to upload the model as well.
            kwargs: Options of `huggingface_hub.ModelHubMixin.save_pretrained`, such as `repo_id`.

        Returns:
            The address of the commit on the Hub, if the model is pushed.

        Raises:
            ConfigurationError: `from_pretrained` could not read it again, as with layers added; nothing is saved.
            StorageError: A file cannot be written, or there is one in the folder's place.

        Example:
            >>> nacgen.NACEncoder(code_dim=32).save_pretrained("encoder")
            >>> sorted(path.name for path in Path("encoder").iterdir())
            ['README.md', 'config.json', 'model.safetensors']
        """
        assert isinstance(self, torch.nn.Module)
        folder, repo_id = Path(save_directory), kwargs.pop("repo_id", None)
        config = _plain(kwargs.pop("config", None) or self.configuration())
        state = {n: x.detach() for n, x in self.state_dict().items() if isinstance(x, torch.Tensor)}
        if any(tensor.is_meta for tensor in state.values()):
            raise ConfigurationError(
                f"{type(self).__name__} must hold numbers to be saved, but is on the meta device. Load it first."
            )
        # A model that could not be read again must not replace one that can.
        arguments = config | self.given_arguments()
        expected = _build(type(self), arguments, folder / CONFIG_FILE, "meta").state_dict()
        if differences := list_differences(state, expected, cast=True):
            raise ConfigurationError(
                f"{type(self).__name__} must have the tensors that its configuration builds, or it could not be "
                f"loaded again, but has {differences.replace('in the file', 'here')}. Nothing was saved. Remove "
                "what was added or parametrized, or save its state_dict() yourself."
            )
        tensors = {name: tensor.cpu() for name, tensor in state.items()}
        require_finite(tensors, f"the {type(self).__name__} to be saved")
        metadata = {"format": "pt", DIGEST: _digest(config)}
        card = folder / CARD_FILE
        with storage_errors(f"the model folder {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            # The largest file comes first: if it does not fit, the old model is whole.
            write_file(folder / WEIGHTS_FILE, serialized(tensors, metadata))
            write_file(folder / CONFIG_FILE, json.dumps(config, sort_keys=True, indent=2))
            if not card.exists() or _is_untouched(card):
                text = self.model_card().encode(errors="replace")
                write_file(card, text + SEAL.encode() + _sha256(text) + SEAL_END)
        if push_to_hub:
            return self.push_to_hub(repo_id or folder.name, config=config, **kwargs)
        return None

    @classmethod
    def from_pretrained(  # type: ignore[override]  # fewer options: no pickles, nothing but strict
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None
    ) -> Self:
        """Load a model from a folder or the Hub. Weights of 16 or 64 bits are converted to float32.

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
        return cls._from_folder(str(pretrained_model_name_or_path), revision, {})

    @classmethod
    def _from_folder(cls, name: str, revision: str | None, given: dict[str, Any]) -> Self:
        """Load a model; arguments of its constructor that are given take the place of those in the file."""
        config_path, weights_path = find_files(name, revision)
        for _ in range(ATTEMPTS - 1):
            try:
                return cls._load(config_path, weights_path, given)
            except MixedFolderError:  # a writer has replaced one of the files
                time.sleep(PAUSE_S)
        return cls._load(config_path, weights_path, given)

    @classmethod
    def _load(cls, config_path: Path, weights_path: Path, given: dict[str, Any]) -> Self:
        config: dict[str, Any] = {}

        def outline(metadata: dict[str, str]) -> dict[str, torch.Tensor]:
            """Read the configuration while the weights are open, so that both are of one moment."""
            config.update(_read_config(cls, config_path))
            # On the meta device it takes no memory before the weights are known to fit.
            empty: nn.Module = _build(cls, config | given, config_path, "meta")
            if metadata.get(DIGEST, digest := _digest(config)) != digest:
                raise MixedFolderError(
                    f"{config_path} must be the configuration that {weights_path.name} was saved with, but is "
                    "another: it was edited, or saving was stopped between the two. Save the model again."
                )
            return empty.state_dict()

        tensors = read_tensor_file(weights_path, outline, weights_path.parent, cast=True).tensors
        require_finite(tensors, str(weights_path))
        model = _build(cls, config | given, config_path, "cpu")
        model.load_state_dict(tensors)
        return model.eval()  # type: ignore[no-any-return]


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Bring a configuration to the plain values that a reader gets; numbers of numpy become Python's."""
    try:
        text = json.dumps(config, default=lambda value: value.tolist())
        return dict(strict_json(text.encode()))
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"a configuration must hold plain, finite values by name to be saved, but {error!s:.200}. Set others."
        ) from error


def _digest(config: dict[str, Any]) -> str:
    """Hash a configuration by its values, which a change of white space leaves alone."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _sha256(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def _is_untouched(card: Path) -> bool:
    """Return True for a model card that is as `save_pretrained` wrote it."""
    try:
        text, seal, rest = read_regular(card, MAX_CONFIG_BYTES).rpartition(SEAL.encode())
    except OSError:
        return False
    return bool(seal) and rest == _sha256(text) + SEAL_END


class _WithoutDraws(TorchFunctionMode):
    """A mode in which no initial weights are drawn: a file is about to replace them.

    On the meta device drawing them would import torch's compiler, which takes seconds.
    """

    DRAWS = (
        *(torch.Tensor.normal_, torch.Tensor.uniform_),
        *(nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_, nn.init.orthogonal_),
        *(nn.init.kaiming_normal_, nn.init.kaiming_uniform_),
        *(nn.init.xavier_normal_, nn.init.xavier_uniform_),
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _build(cls: type, config: dict[str, Any], path: Path, device: str) -> Any:
    """Call a constructor with what a file says, under no default dtype or device of the caller."""
    try:
        with default_float32(), torch.device(device), _WithoutDraws():
            return cls(**config)
    except Exception as error:  # arguments of the wrong type fail in many ways
        raise CheckpointError(
            f"{path} does not describe a {cls.__name__}: {error!s:.500}"
        ) from error


def find_files(name: str, revision: str | None) -> tuple[Path, Path]:
    """Return the paths of a model's configuration and weights, in a folder or downloaded from the Hub."""
    folder = resolve_folder(name)
    if folder is not None:
        for file in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / file).is_file():
                is_sharded = (folder / f"{WEIGHTS_FILE}.index.json").exists()
                found = "; its weights are in shards" if is_sharded else ""
                raise CheckpointNotFoundError(
                    f"a model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}, but {folder} has no {file}{found}. "
                    "Give the folder that save_pretrained wrote; pickled weights are not read."
                )
        return folder / CONFIG_FILE, folder / WEIGHTS_FILE
    try:
        hf_hub_url(name, CONFIG_FILE)
        is_id = True
    except HFValidationError:
        is_id = False
    require_model(name, is_id)
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
        raise CheckpointError(f"{path} is not valid JSON ({error}). Save it again.") from error
    known = set(inspect.signature(cls).parameters)
    unknown = sorted(set(config) - known) if isinstance(config, dict) else None
    if unknown or unknown is None:
        found = f"{config!r:.50}" if unknown is None else f"also {', '.join(unknown)}"
        raise CheckpointError(
            f"{path} must hold arguments of {cls.__name__} ({', '.join(sorted(known))}), got {found}. Load it "
            "with the class that wrote it."
        )
    return config  # type: ignore[no-any-return]
