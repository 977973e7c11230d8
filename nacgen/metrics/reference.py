"""Statistics of reference images: computed once, kept in a file that pytorch-fid reads, too.

A file is a plain `.npz`: `mu` and `sigma` as pytorch-fid has them, `features` where they were kept, and as text
the origin of all this, with a digest. No pickle is read or written.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nacgen.data.image_sets import ImageSet, holds_statistics
from nacgen.errors import ConfigurationError, DataError, DataNotFoundError
from nacgen.functional.frechet import ROUNDING
from nacgen.metrics.extractors.base import FeatureExtractor
from nacgen.metrics.inputs import AnyImages, image_set
from nacgen.metrics.statistics import GaussianStats, collect
from nacgen.system.archive import ARCHIVE_ERRORS, read_arrays
from nacgen.system.files import storage_errors, write_file
from nacgen.system.processes import Processes, ProcessInfo

FORMAT = "nacgen reference statistics 1"
ORIGIN = ("name", "fingerprint", "extractor_fingerprint")
EXTRACTOR = ("extractor", "resize")
LARGEST_ORIGIN = 100_000  # bytes


@dataclass(frozen=True, eq=False, kw_only=True)
class ReferenceStatistics:
    """Statistics of the images that others are compared with, and their origin.

    Example:
        >>> from nacgen.data.datasets import load_dataset
        >>> extractor = nacgen.metrics.build_extractor("digits_classifier")
        >>> reference = ReferenceStatistics.compute(load_dataset("digits", "test"), extractor)
        >>> reference.name, reference.stats.n
        ('digits/test', 355)
    """

    stats: GaussianStats
    name: str  # name and split of the dataset
    fingerprint: str  # digest of the pixels
    extractor_fingerprint: str
    features: Float[Tensor, "n d"] | None = None  # for metrics that need them
    extractor: str | None = None  # name, in files of earlier versions unknown
    resize: str | None = None  # of the extractor

    def __len__(self) -> int:
        """Return the number of images."""
        return self.stats.n

    @classmethod
    def compute(
        cls,
        dataset: AnyImages,
        extractor: FeatureExtractor,
        *,
        keep_features: bool = False,
        batch_size: int = 500,
        accelerator: ProcessInfo | None = None,
    ) -> Self:
        """Pass two images or more through an extractor once; the result serves to score many times.

        The images have any form that `evaluate` takes, but a run's. All metrics but `fid` and `is` need
        `keep_features`. The processes of an accelerator all call, divide the work, and get the same statistics; by
        default this process works alone.
        """
        dataset = image_set(dataset)
        processes, seen = Processes.of(accelerator), _PixelDigest(len(dataset))

        def read(indices: Tensor) -> Tensor:
            images = dataset.read(indices)
            seen.update(images)
            return images

        collected = collect(
            read,
            torch.arange(len(dataset)),
            extractor,
            batch_size=batch_size,
            processes=processes,
            keep_features=keep_features,
        )
        with processes.failing_together():  # each of several processes saw only some pixels
            is_alone = processes.num_processes == 1
            fingerprint = seen.fingerprint if is_alone else fingerprint_images(dataset)
        return cls(
            stats=collected.stats,
            name=f"{dataset.name}/{dataset.split}",
            fingerprint=fingerprint,
            extractor_fingerprint=extractor.fingerprint,
            features=collected.features,
            extractor=extractor.name,
            resize=extractor.resize,
        )

    @classmethod
    def cached(
        cls,
        dataset: AnyImages,
        extractor: FeatureExtractor,
        folder: str | Path,
        *,
        keep_features: bool = False,
        batch_size: int = 500,
        accelerator: ProcessInfo | None = None,
    ) -> Self:
        """Return the result of `compute`, from the file of an earlier call in `folder` where there is one.

        The file's name follows from the pixels and from the extractor's weights and preprocessing, so another
        dataset of the same name, or other weights, never meet it. All images are read in any case, for their
        fingerprint. The other arguments are those of `compute`; the main process writes.
        """
        dataset, processes = image_set(dataset), Processes.of(accelerator)
        with processes.failing_together():
            fingerprint = fingerprint_images(dataset)
        content = f"{fingerprint} {extractor.fingerprint} {keep_features}"
        key = hashlib.sha256(content.encode()).hexdigest()[:16]
        label = re.sub(r"[^\w.]+", "-", f"{dataset.name}-{dataset.split}-{extractor.name}")
        path = Path(folder) / f"{label}-{key}.npz"
        if processes.agree(path.is_file()):
            with processes.failing_together():
                held = cls.load(path, extractor)
                if held.fingerprint != fingerprint:
                    raise _damaged(path, f"it holds {held.fingerprint}, not {fingerprint}")
            return held
        computed = cls.compute(
            dataset,
            extractor,
            keep_features=keep_features,
            batch_size=batch_size,
            accelerator=accelerator,
        )
        with processes.failing_together():
            if processes.process_index == 0:
                computed.save(path)
        return computed

    def save(self, path: str | Path) -> None:
        """Write an `.npz` file that `load` and pytorch-fid read; its folder is made if it is missing."""
        path = Path(path)
        if path.suffix != ".npz":
            raise ConfigurationError(f"reference statistics must be kept as .npz, got {path}.")
        if path.is_file() and not holds_statistics(path):
            raise ConfigurationError(
                f"reference statistics replace only others, but {path} holds something else. Choose another name."
            )
        arrays: dict[str, Any] = {
            "mu": self.stats.mean.numpy(),
            "sigma": self.stats.covariance.numpy(),
        }
        if self.features is not None:
            arrays["features"] = self.features.cpu().numpy()
        origin = json.dumps(
            {"format": FORMAT, "n": self.stats.n}
            | {name: getattr(self, name) for name in ORIGIN}
            | {name: value for name in EXTRACTOR if (value := getattr(self, name)) is not None}
        )
        texts = {"origin": np.array(origin), "digest": np.array(_digest(arrays, origin))}
        content = io.BytesIO()
        np.savez(content, **arrays, **texts)  # type: ignore[arg-type]
        with storage_errors(f"the reference statistics {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, [content.getbuffer()])

    @classmethod
    def load(
        cls, path: str | Path, extractor: FeatureExtractor, *, foreign_images: int | None = None
    ) -> Self:
        """Read a file of `save`, to the last bit, or `mu` and `sigma` that pytorch-fid wrote.

        `foreign_images` is the number of images a file was computed from that does not say so. Giving it asserts
        that the file's features are this extractor's.

        Raises:
            DataError: If the file is missing, damaged, was changed after it was written, holds no statistics, or
                does not say its origin and `foreign_images` is missing.
            ConfigurationError: If it holds the features of another extractor.
        """
        path = Path(path)
        if not path.is_file():
            raise DataNotFoundError(
                f"reference statistics must be an .npz file, but {path} does not exist. Compute them."
            )
        try:
            arrays = read_arrays(path)
        except ARCHIVE_ERRORS as error:
            raise _damaged(path, str(error)) from error
        texts: dict[str, str] = {
            name: str(arrays.pop(name)) for name in ("origin", "digest") if name in arrays
        }
        for name, array in arrays.items():
            if array.dtype.kind not in "biuf":
                raise _damaged(path, f"its {name} is {array.dtype}, no numbers")
        if texts:
            origin = _checked_origin(path, arrays, texts)
            if foreign_images is not None:
                raise ConfigurationError(
                    f"foreign_images must be left out for {path}, which says that it comes from "
                    f"{origin['n']} images of {origin['name']}, got {foreign_images}."
                )
            if origin["extractor_fingerprint"] != extractor.fingerprint:
                raise ConfigurationError(
                    f"{path} must hold features of {extractor.name} ({extractor.fingerprint}), got those "
                    f"of {origin.get('extractor', '')} {origin['extractor_fingerprint']}. Compute it again with "
                    "this extractor."
                )
        elif foreign_images is None:
            raise DataError(
                f"{path} must say which features it was computed from, but does not. If they are those of "
                f"{extractor.name} with resize {extractor.resize}, give the number of images as foreign_images; "
                "else compute it again."
            )
        elif foreign_images < 2:
            raise ConfigurationError(f"foreign_images must be 2 or more, got {foreign_images}.")
        else:
            origin = {
                "n": foreign_images,
                "name": path.name,
                "fingerprint": _digest(arrays, "foreign"),
                "extractor_fingerprint": extractor.fingerprint,
            }
        stats, features = _statistics(path, arrays, extractor, origin["n"]), None
        if texts and "features" in arrays:
            kept, expected = arrays["features"], (stats.n, extractor.feature_dim)
            if kept.dtype.kind != "f" or kept.shape != expected or not np.isfinite(kept).all():
                raise _damaged(path, f"its features are not finite floats {expected}")
            features = torch.from_numpy(np.require(kept, np.float32, ["C", "W"]))
        known = {name: origin[name] for name in (*ORIGIN, *EXTRACTOR) if name in origin}
        return cls(stats=stats, features=features, **known)


def read_origin(path: Path) -> dict[str, Any]:
    """Return what a file of statistics says of its origin, unverified: that is left to `ReferenceStatistics.load`.

    It is empty for files of pytorch-fid, and where it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("origin.npy").file_size > LARGEST_ORIGIN:
                return {}
            with archive.open("origin.npy") as file:
                content = np.lib.format.read_array(file, allow_pickle=False)
        origin = json.loads(str(content))
    except (*ARCHIVE_ERRORS, KeyError, ValueError, RecursionError):
        return {}
    return origin if isinstance(origin, dict) else {}


def fingerprint_images(dataset: ImageSet) -> str:
    """Compute the SHA-256 of the shape and the pixels of all images in their order, as `"sha256:…"`."""
    seen = _PixelDigest(len(dataset))
    for rows in torch.arange(len(dataset)).split(500):
        seen.update(dataset.read(rows))
    return seen.fingerprint


class _PixelDigest:
    """SHA-256 of the shape of all images, then of their pixels as they come."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.digest: Any = None

    def update(self, images: Tensor) -> None:
        if self.digest is None:
            self.digest = hashlib.sha256(str((self.n, *images.shape[1:])).encode())
        self.digest.update(images.cpu().contiguous().numpy().data)

    @property
    def fingerprint(self) -> str:
        return f"sha256:{self.digest.hexdigest()}"


def _digest(arrays: Mapping[str, Any], origin: str) -> str:
    digest = hashlib.sha256(origin.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return f"sha256:{digest.hexdigest()}"


def _checked_origin(
    path: Path, arrays: Mapping[str, Any], texts: Mapping[str, str]
) -> dict[str, Any]:
    if texts.get("digest") != _digest(arrays, texts.get("origin", "")):
        raise _damaged(path, "it was changed after it was written")
    try:
        origin = json.loads(texts.get("origin", ""))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its origin is no JSON ({error})") from error
    origin = origin if isinstance(origin, dict) else {}
    if origin.get("format") != FORMAT:
        raise _damaged(path, f"its format is {origin.get('format')!r}, not {FORMAT!r}")
    n, names = origin.get("n"), [origin.get(name) for name in ORIGIN]
    names += [origin[name] for name in EXTRACTOR if name in origin]
    if type(n) is not int or not 2 <= n < 2**53 or not all(isinstance(name, str) for name in names):
        raise _damaged(path, f"its origin says {n!r} images, and {', '.join(map(repr, names))}")
    return origin


def _statistics(
    path: Path, arrays: Mapping[str, Any], extractor: FeatureExtractor, n: int
) -> GaussianStats:
    dim = extractor.feature_dim
    if missing := {"mu", "sigma"} - set(arrays):
        raise _damaged(path, f"it has no {' and no '.join(sorted(missing))}")
    mean, covariance = arrays["mu"], arrays["sigma"]
    is_float = mean.dtype.kind == covariance.dtype.kind == "f"
    if not is_float or mean.shape != (dim,) or covariance.shape != (dim, dim):
        raise DataError(
            f"{path} must hold mu ({dim},) and sigma ({dim}, {dim}), the floats of {extractor.name}, got "
            f"{mean.dtype} {mean.shape} and {covariance.dtype} {covariance.shape}. Give statistics of these "
            "features."
        )
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    largest = float(np.finfo(np.float32).max)  # of a feature
    if not (np.abs(mean) <= largest).all() or not (np.abs(covariance) <= largest**2).all():
        raise _damaged(path, "mu or sigma hold NaN or numbers beyond those of float32 features")
    if not np.allclose(covariance, covariance.T, rtol=0, atol=ROUNDING * np.abs(covariance).max()):
        raise _damaged(path, "sigma is not symmetric")
    stats = GaussianStats(n, torch.from_numpy(mean), torch.from_numpy(covariance))
    eigenvalues = torch.linalg.eigvalsh(stats.covariance)
    if (lowest := eigenvalues[0]) < -ROUNDING * eigenvalues.abs().max():
        raise _damaged(path, f"sigma has eigenvalues below zero, {lowest:.3g} the lowest")
    return stats


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} must hold reference statistics, mu (d,) and sigma (d, d), but {reason}. Delete it and "
        "compute it again."
    )
