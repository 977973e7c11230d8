"""Weights from other projects: safe reading of files, and detection of a trunk among their tensors.

Layouts that are found by names and shapes:

    conv1, bn1, layer1, ...       torchvision's names, under any prefix (`backbone.`, `module.encoder_q.`, ...)
    0, 1, ..., 4.0.conv1, ...     the same modules in an `nn.Sequential`, with or without ReLU and pooling in it
    features.0, features.1, ...   torchvision's VGG-16 with BatchNorm

A shortcut may be called `shortcut` instead of `downsample`.
"""

import pickle  # noqa: TID251 - for the error that torch raises
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nacgen.errors import CheckpointError
from nacgen.system.files import open_regular
from nacgen.system.places import require_weights
from nacgen.system.tensor_file import mistaken_for, read_tensor_file

WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys of weights in training checkpoints


def read_foreign(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` file, or of a `.pt`, `.pth` or `.ckpt` file of torch, onto the CPU.

    Of a training checkpoint, those under `state_dict` or `model` are returned. Files of torch are pickles. They
    are read with `weights_only=True`, which makes tensors and plain containers and refuses every other object, so
    no code in the file is run. A file that holds other objects is a `CheckpointError`.
    """
    path = Path(path)
    require_weights(path)
    if re.search(r"-\d+-of-(?!0*1\.)\d+\.", path.name):
        raise CheckpointError(
            f"{path} should hold all tensors, but is one shard of a model. Merge its shards into one file."
        )
    with open_regular(path) as file:
        head = file.read(64)
    if kind := mistaken_for(head):
        raise CheckpointError(f"{path} should hold tensors, but {kind}.")
    if path.suffix.lower() == ".safetensors" or head[8:9] == b"{":
        return read_tensor_file(path).tensors
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))  # in torch's long message
        found = f"it holds a {refused[1]}" if refused else "it is no file of tensors"
        raise CheckpointError(
            f"{path} should hold tensors only, but {found}. Such objects are not loaded, for they can run code. "
            "If you trust the file, save checkpoint['state_dict'] alone with its own code, and convert that."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a file of torch ({error}). Download it again."
        ) from error
    if not isinstance(content, Mapping):
        content, found = {}, str(type(content))
    else:
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        content = inner[0] if inner else content
        found = str(sorted(map(str, content))[:10])
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path} should hold tensors, or {' or '.join(WRAPPERS)}, but holds {found}. "
            "Save the state_dict() of the whole model."
        )
    return tensors


def find_prefix(tensors: Mapping[str, Tensor], wanted: str | None) -> str:
    """Find the prefix of a trunk's names, with its last dot, in a checkpoint that may hold other networks too.

    `wanted` is the prefix to use, with or without its last dot; None accepts that of the only trunk.
    """
    found: list[str] = []
    for name, tensor in tensors.items():
        first = re.fullmatch(r"(|.*\.)(conv1|features\.0|0)\.weight", name)
        if first is None or tensor.ndim != 4 or tensor.shape[1] != 3:
            continue
        is_vgg = first[2] == "0" and first[1].endswith("features.")
        found.append(first[1].removesuffix("features.") if is_vgg else first[1])
    if wanted is not None:
        wanted = wanted if wanted in ("", *found) else f"{wanted.removesuffix('.')}."
    if not found or (wanted is not None and wanted not in found):
        raise CheckpointError(
            f"a trunk was expected {'somewhere' if wanted is None else f'under {wanted!r}'}, whose first "
            f"convolution takes 3 channels, but {f'only {found} have one' if found else 'there is none'} among "
            f"{len(tensors)} tensors: {', '.join(list(tensors)[:10])}. ResNets and VGG-16 can be converted."
        )
    if wanted is None and len(found) > 1:
        raise CheckpointError(
            f"one trunk was expected, got {len(found)}, under {', '.join(map(repr, found))}. Name one with "
            "--prefix; that of a momentum encoder is seldom the right one."
        )
    return found[0] if wanted is None else wanted


def translate_trunk(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, str]:
    """Return torchvision's names of a trunk's tensors by those in the checkpoint; other tensors are left out."""
    inner = {name: name.removeprefix(prefix) for name in tensors if name.startswith(prefix)}
    # In a Sequential the stages are the children that hold blocks; ReLU and pooling have no tensors.
    firsts = (re.match(r"(\d+)\.\d+\.conv1\.weight", name) for name in inner.values())
    stages = sorted({int(first[1]) for first in firsts if first is not None})
    places = {"0": "conv1", "1": "bn1"} | {str(n): f"layer{i}" for i, n in enumerate(stages, 1)}
    translated = {}
    for name, own in inner.items():
        child, _, rest = own.partition(".")
        child = places.get(child, child)
        if re.fullmatch(r"conv1|bn1|layer\d+", child):
            translated[name] = f"{child}.{rest}".replace(".shortcut.", ".downsample.")
        elif child == "features":
            translated[name] = own
    return translated
