"""Index files: the queries, gallery and training images of a retrieval protocol."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Int64
from safetensors.torch import save
from torch import Tensor

from nacgen.errors import CheckpointError, DataError, DataNotFoundError
from nacgen.functional.hashing import Labels
from nacgen.system.files import storage_errors, write_file
from nacgen.system.tensor_file import read_tensor_file


@dataclass(frozen=True, eq=False)
class RetrievalProtocol:
    """Queries, gallery and training images of one dataset.

    Args:
        name: Name of the protocol.
        seed: Seed of the draw of the images.
        query: Indices of the queries, rising.
        gallery: Indices of the items that are ranked, rising, none of them a query.
        train: Indices of the images that may be trained on, rising, a part of the gallery.
        labels_fingerprint: SHA-256 of the dataset's labels, in its order.
        top: Number of first items that are ranked, None for all.
        fingerprint: SHA-256 of everything above.
    """

    name: str
    seed: int
    query: Int64[Tensor, " q"]
    gallery: Int64[Tensor, " n"]
    train: Int64[Tensor, " t"]
    labels_fingerprint: str
    top: int | None = None
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        """Compute the fingerprint."""
        head = f"{self.name}/{self.seed}/{self.labels_fingerprint}/{self.top}"
        digest = hashlib.sha256(head.encode())
        for part in (self.query, self.gallery, self.train):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part.cpu().contiguous().numpy().astype("<i8").tobytes())
        object.__setattr__(self, "fingerprint", f"sha256:{digest.hexdigest()}")

    def save(self, path: str | Path) -> None:
        """Write an index file, safetensors with the fingerprint in its header."""
        tensors = {
            name: getattr(self, name).cpu().clone() for name in ("query", "gallery", "train")
        }
        metadata = {
            "name": self.name,
            "seed": str(self.seed),
            "labels_fingerprint": self.labels_fingerprint,
            "top": str(self.top),
            "fingerprint": self.fingerprint,
        }
        with storage_errors(f"the index file {path}"):
            write_file(Path(path), save(tensors, metadata))


def read_protocol(path: str | Path, labels: Labels) -> RetrievalProtocol:
    """Read an index file and check that it is whole and made for these labels.

    A file that is damaged, was changed or belongs to other labels is a DataError.
    """
    path = Path(path)
    if not path.is_file():
        raise DataNotFoundError(
            f"an index file is expected at {path}, but there is none. Write it with "
            "build_protocol(...).save(path)."
        )
    try:
        file = read_tensor_file(path)
        header = file.metadata
        query, gallery, train = (file.tensors[part] for part in ("query", "gallery", "train"))
        protocol = RetrievalProtocol(
            header["name"],
            int(header["seed"]),
            query,
            gallery,
            train,
            header["labels_fingerprint"],
            None if header["top"] == "None" else int(header["top"]),
        )
    except (CheckpointError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} is no index file of a retrieval protocol ({error}). Build the protocol again."
        ) from error
    if protocol.fingerprint != header.get("fingerprint"):
        raise DataError(
            f"{path} should hold indices of fingerprint {header.get('fingerprint')}, got "
            f"{protocol.fingerprint}: it was changed. Build the protocol again."
        )
    expected = fingerprint_labels(labels)
    if protocol.labels_fingerprint != expected:
        raise DataError(
            f"{path} was made for labels {protocol.labels_fingerprint}, got labels {expected}. Load the same "
            "dataset, in the same order, or build the protocol again."
        )
    return protocol


def fingerprint_labels(labels: Labels) -> str:
    """Compute the SHA-256 of labels over kind, shape and values, as `"sha256:…"`."""
    digest = hashlib.sha256(f"{labels.dtype}{tuple(labels.shape)}".encode())
    digest.update(labels.cpu().contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def check_labels(labels: Tensor | None) -> None:
    """Raise a DataError unless labels are classes or multi-hot, and so decide which images are relevant."""
    if labels is None:
        raise DataError(
            "a retrieval protocol needs labels, but the dataset has none. Use a labeled dataset."
        )
    is_class = labels.ndim == 1 and labels.dtype == torch.int64
    if not is_class and not (labels.ndim == 2 and labels.dtype == torch.bool):
        raise DataError(
            f"labels must be classes, int64 (n,), or multi-hot, bool (n, c), got {labels.dtype} "
            f"{tuple(labels.shape)}. Convert them."
        )
