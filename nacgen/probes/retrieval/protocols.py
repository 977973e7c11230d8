"""Retrieval protocols by name, and their files: the queries, gallery and training images of a dataset.

Figures of different protocols cannot be compared, so a protocol's name, seed and fingerprint go with every
figure. Indices refer to all splits of a dataset, train first. If a fifth of the images was held out because
the dataset has no test split, indices refer to the dataset's own order (but the protocol `split` keeps that
fifth last).

| name | images | queries | gallery | for training | ranked |
| --- | --- | --- | --- | --- | --- |
| `cifar10-10k` | 60,000 | 1,000 a class | 50,000 | 500 a class | all |
| `cifar10-1k` | 60,000 | 100 a class | 59,000 | 500 a class | first 1,000 |
| `flickr25k-25000` | all | 2,000 | 23,000 | 5,000 | all |
| `flickr25k-24581` | those with a label | 2,000 | 22,581 | 5,000 | all |
| `flickr25k-20015` | a list that is given | 2,000 | 18,015 | 5,000 | all |
| `split` | any labeled dataset | its test split or held-out fifth | its train split | the gallery | all |

Training images are part of the gallery.
"""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Int64
from safetensors.torch import save
from torch import Tensor

from nacgen.data.datasets import Dataset, ImageDataset
from nacgen.data.lazy import LazyImageDataset
from nacgen.errors import (
    CheckpointError,
    ConfigurationError,
    DataError,
    DataNotFoundError,
    check_choice,
)
from nacgen.functional.hashing import Labels
from nacgen.system.files import storage_errors, write_file
from nacgen.system.randomness import generator
from nacgen.system.tensor_file import read_tensor_file

CIFAR10_QUERIES = {"cifar10-10k": 1_000, "cifar10-1k": 100}  # of each class
CIFAR10_TRAINING = 500  # of each class
FLICKR25K_IMAGES = {"flickr25k-25000": 25_000, "flickr25k-24581": 24_581, "flickr25k-20015": 20_015}
FLICKR25K_LABELS = 24
FLICKR25K_QUERIES, FLICKR25K_TRAINING = 2_000, 5_000
TOP = {"cifar10-1k": 1_000}  # items that are ranked; all for other protocols
NAMES = (*CIFAR10_QUERIES, *FLICKR25K_IMAGES, "split")
INDEX_FILE = ".safetensors"


@dataclass(frozen=True, eq=False)
class RetrievalProtocol:
    """Indices of the queries, gallery and training images of one dataset, each rising."""

    name: str
    seed: int  # of the draw of the images
    query: Int64[Tensor, " q"]
    gallery: Int64[Tensor, " n"]  # items that are ranked, none of them a query
    train: Int64[Tensor, " t"]  # images that may be trained on, a part of the gallery
    labels_fingerprint: str  # SHA-256 of the dataset's labels, in its order
    top: int | None = None  # number of first items that are ranked, None for all
    fingerprint: str = field(init=False)  # SHA-256 of everything above

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


def build_protocol(
    name: str,
    labels: Labels,
    *,
    seed: int = 0,
    num_train: int | None = None,
    kept: Int64[Tensor, " kept"] | None = None,
) -> RetrievalProtocol:
    """Draw the images of a protocol.

    Labels are those of the whole dataset, train split first: classes `(n,)` from 0, or multi-hot `(n, c)`.
    Only `"split"` takes `num_train`, the size of the train split, and only `"flickr25k-20015"` takes `kept`,
    the indices of its images.

    Example:
        >>> build_protocol("split", torch.tensor([0, 1, 0, 1, 1]), num_train=3).query
        tensor([3, 4])
    """
    check_choice("protocol", name, NAMES)
    for argument, value, owner in (
        ("num_train", num_train, "split"),
        ("kept", kept, "flickr25k-20015"),
    ):
        if value is not None and name != owner:
            raise ConfigurationError(
                f"{argument} belongs to the protocol {owner}, but came with {name}. Leave it out."
            )
    if name == "split":
        query, gallery, train = _split(labels, num_train)
    elif name in CIFAR10_QUERIES:
        query, gallery, train = _cifar10(name, labels, seed)
    else:
        query, gallery, train = _flickr25k(name, labels, seed, kept)
    query, gallery, train = (part.sort().values for part in (query, gallery, train))
    labels_fingerprint = fingerprint_labels(labels)
    return RetrievalProtocol(
        name, seed, query, gallery, train, labels_fingerprint, top=TOP.get(name)
    )


def load_protocol(
    name: str, train: Dataset, test: Dataset, seed: int = 0
) -> tuple[Dataset, Dataset]:
    """Return the training images and the queries of a protocol; arguments and errors as `open_protocol`."""
    pooled, protocol = open_protocol(name, train, test, seed)
    return pooled.subset(protocol.train), pooled.subset(protocol.query)


def open_protocol(
    name: str, train: Dataset, test: Dataset, seed: int = 0
) -> tuple[Dataset, RetrievalProtocol]:
    """Return all images of a dataset, and a protocol whose indices refer to them.

    The name is one of the table above, or the path of an index file, which ends in `.safetensors` and holds
    its own seed.
    """
    if name == "split":  # train split first, even if the fifth was held out of it
        train, test = replace(train, positions=None), replace(test, positions=None)
    pooled = pool(train, test)
    if pooled.labels is None:
        raise DataError(
            "a retrieval protocol needs labels, but the dataset has none. Use a labeled dataset."
        )
    if name.endswith(INDEX_FILE):
        return pooled, read_protocol(name, pooled.labels)
    num_train = len(train) if name == "split" else None
    return pooled, build_protocol(name, pooled.labels, seed=seed, num_train=num_train)


def pool(train: Dataset, test: Dataset) -> Dataset:
    """Join two splits into the dataset of split `"all"` that the indices of a protocol refer to.

    The train split comes first; if the test split is a fifth that was held out, the order is the original one.
    """
    labels = None
    if train.labels is not None and test.labels is not None:
        labels = torch.cat([train.labels, test.labels])
    elif train.labels is not None or test.labels is not None:
        raise DataError(
            f"both splits of {train.name} must have labels, but only one has. Check its files."
        )
    whole: Dataset
    if isinstance(train, ImageDataset) and isinstance(test, ImageDataset):
        images = torch.cat([train.images, test.images])
        whole = replace(
            train, split="all", images=images, labels=labels, positions=None, files=None
        )
    elif isinstance(train, LazyImageDataset) and isinstance(test, LazyImageDataset):
        paths = train.paths + test.paths
        whole = replace(train, split="all", paths=paths, labels=labels, positions=None, files=None)
    else:
        raise DataError(
            f"both splits of {train.name} must be in memory, or both be decoded when read, got one of each. Give "
            "both the same max_bytes."
        )
    if train.positions is None or test.positions is None:
        return whole
    return whole.subset(torch.cat([train.positions, test.positions]).argsort())


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


def _split(labels: Tensor, num_train: int | None) -> tuple[Tensor, Tensor, Tensor]:
    if num_train is None:
        raise ConfigurationError(
            "the protocol split needs num_train, the size of the train split, but it is not given. Pass "
            "num_train=len(train)."
        )
    if not 0 < num_train < len(labels):
        raise ConfigurationError(
            f"num_train must leave images on both sides of {len(labels)}, got {num_train}. Give the labels of "
            "both splits, train first."
        )
    gallery = torch.arange(num_train)
    return torch.arange(num_train, len(labels)), gallery, gallery


def _cifar10(name: str, labels: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    if labels.ndim != 1 or len(labels) != 60_000 or int(labels.max()) != 9:
        raise DataError(
            f"{name} needs the classes of CIFAR-10's 60,000 images, train and test together, 0 to 9, got labels "
            f"{tuple(labels.shape)}. For other datasets use the protocol split."
        )
    num_queries = CIFAR10_QUERIES[name]
    query, train = [], []
    for label in range(10):
        (members,) = (labels.cpu() == label).nonzero(as_tuple=True)
        if len(members) < num_queries + CIFAR10_TRAINING:
            raise DataError(
                f"{name} takes {num_queries} queries and {CIFAR10_TRAINING} training images of each class, but "
                f"class {label} has {len(members)} images. Check the labels."
            )
        draw = torch.randperm(len(members), generator=generator(seed, f"{name}/{label}"))
        query.append(members[draw[:num_queries]])
        train.append(members[draw[num_queries : num_queries + CIFAR10_TRAINING]])
    queries, is_ranked = torch.cat(query), torch.ones(len(labels), dtype=torch.bool)
    is_ranked[queries] = False
    return queries, is_ranked.nonzero().squeeze(1), torch.cat(train)


def _flickr25k(
    name: str, labels: Tensor, seed: int, kept: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    if labels.shape != (25_000, FLICKR25K_LABELS):
        raise DataError(
            f"{name} needs the {FLICKR25K_LABELS} potential labels of 25,000 images, bool (25000, 24), got "
            f"{labels.dtype} {tuple(labels.shape)}. Leave out the stricter labels, the files that end in _r1."
        )
    if name == "flickr25k-25000":
        members = torch.arange(len(labels))
    elif name == "flickr25k-24581":
        (members,) = labels.cpu().any(1).nonzero(as_tuple=True)
    elif kept is None:
        raise ConfigurationError(
            "flickr25k-20015 needs kept, the indices of its images, but it is not given: the images were chosen "
            "by their tags, which the label files do not hold. Take the list from the authors who are to be "
            "compared with."
        )
    else:
        members = kept.cpu().unique()
        if len(members) != len(kept) or ((kept < 0) | (kept >= len(labels))).any():
            raise DataError(
                f"kept must be different indices from 0 to {len(labels) - 1}, got {len(kept)} indices, "
                f"{len(members)} of them different. Count from 0."
            )
    if len(members) != FLICKR25K_IMAGES[name]:
        raise DataError(
            f"{name} has {FLICKR25K_IMAGES[name]} images, got {len(members)}. These are other annotations, or "
            "another list; their figures would not be comparable."
        )
    draw = members[torch.randperm(len(members), generator=generator(seed, name))]
    gallery = draw[FLICKR25K_QUERIES:]
    return draw[:FLICKR25K_QUERIES], gallery, gallery[:FLICKR25K_TRAINING]
