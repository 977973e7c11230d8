"""Score images against reference images: folders, .npz archives, datasets and runs.

    python recipes/evaluate_images.py REFERENCE GENERATED --metrics fid,is,kid,prdc
    python recipes/evaluate_images.py stats REFERENCE OUTPUT.npz
    python recipes/evaluate_images.py selfcheck

REFERENCE and GENERATED are folders of images, .npz archives (of images; REFERENCE and GENERATED also of statistics
that `stats` or pytorch-fid wrote), datasets (digits/test, cifar10/train) or run folders of train_gan.py. With no
arguments the held-out digits are scored against the training digits, which is what a perfect generator would get.
Scores go to stdout, all else to stderr; several processes share the work under accelerate launch or torchrun.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from nacgen.errors import CheckpointNotFoundError, ConfigurationError, DataError, NacgenError
from nacgen.training.config import require_positive, run_recipe

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from nacgen.data.image_sets import ImageSet
    from nacgen.metrics import FeatureExtractor
    from nacgen.metrics.collection import ImageSource


@dataclass(frozen=True, kw_only=True)
class ExtractorConfig:
    """What images are compared by, and how they are read."""

    preset: str = "fid"
    """Named settings to start from."""
    config: str | None = None
    """YAML file whose values replace the preset's."""
    extractor: str | None = None
    """inception, digits_classifier, classifier, dinov2 or nac_encoder. None: digits_classifier for the digits,
    else inception, whose scores alone are called FID."""
    weights: str | None = None
    """File of Inception's or DINOv2's weights, folder of a classifier or encoder. None: Inception's from torch's
    hub cache or by download."""
    resize: Literal["pytorch_fid", "tf1", "clean"] | None = None
    """How images reach Inception's size. None: pytorch_fid."""
    data_dir: str | None = None
    """Where the files of datasets lie."""
    image_size: int | None = None
    """Height and width in pixels that files and datasets are brought to. None: they stay as they are."""
    batch_size: int = 100
    """Images that each process holds at a time; scores do not depend on it."""
    num_samples: int | None = None
    """Images that a run's generator makes. None: as many as the run itself is scored on."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_positive(self, "batch_size")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ExtractorConfig):
    """Options of scoring."""

    reference: tyro.conf.Positional[str] = "digits/train"
    """Images that others are compared with."""
    generated: tyro.conf.Positional[str] = "digits/test"
    """Images that are judged."""
    metrics: str = "fid"
    """Of fid, is, kid, kid_exact, prdc and fid_infinity, with commas."""
    foreign_images: int | None = None
    """For statistics that pytorch-fid wrote, and do not say so: from how many images."""
    json: bool = False
    """Print scores and their whole protocol as one JSON object."""


@dataclass(frozen=True, kw_only=True)
class StatsConfig(ExtractorConfig):
    """Options of writing reference statistics."""

    reference: tyro.conf.Positional[str] = "digits/train"
    """Images that others will be compared with."""
    output: tyro.conf.Positional[str] = "reference.npz"
    """The file to write, .npz; pytorch-fid reads it, too."""
    keep_features: bool = False
    """Keep the features as well, which kid, prdc and fid_infinity need."""


@dataclass(frozen=True, kw_only=True)
class SelfcheckConfig:
    """No options."""

    preset: str = "all"
    config: str | None = None


PRESETS = {
    "fid": EvaluateConfig(),
    # Everything that is read off one pass over the images.
    "all": EvaluateConfig(metrics="fid,is,kid,prdc"),
}


def score(config: EvaluateConfig) -> None:
    """Open both sets, score, print."""
    from nacgen import metrics
    from nacgen.metrics.reference import says_origin
    from nacgen.metrics.sources import RunImages
    from nacgen.reporting.scores import score_text

    accelerator = build_accelerator()
    sources = [
        open_source(name, config, accelerator) for name in (config.reference, config.generated)
    ]
    is_foreign = [isinstance(source, Path) and not says_origin(source) for source in sources]
    require_use(config, sources)
    if config.foreign_images is not None and not any(is_foreign):
        raise ConfigurationError(
            f"foreign_images is for statistics that do not say their number of images, but none are given, "
            f"got {config.foreign_images}. Leave it out."
        )
    extractor = load_extractor(config, sources, accelerator)
    reference, generated = (
        metrics.ReferenceStatistics.load(
            source, extractor, foreign_images=config.foreign_images if foreign else None
        )
        if isinstance(source, Path)
        else source
        for source, foreign in zip(sources, is_foreign, strict=True)
    )
    common: dict[str, Any] = {
        "extractor": extractor,
        "metrics": config.metrics.split(","),
        "batch_size": config.batch_size,
        "accelerator": accelerator,
    }
    if isinstance(generated, metrics.ReferenceStatistics):
        result = metrics.evaluate(generated, reference, model_label="files", **common)
    else:
        label = "ema" if isinstance(generated, RunImages) else "files"
        n = len(generated)
        read = with_progress(generated, accelerator)
        result = metrics.evaluate(read, reference, num_samples=n, model_label=label, **common)
    say(accelerator, *result.warnings)
    if accelerator.is_main_process:
        print(json.dumps(result.to_dict()) if config.json else score_text(result), flush=True)


def stats(config: StatsConfig) -> None:
    """Open the images, pass them through the extractor, write the file."""
    from nacgen import metrics

    if Path(config.output).suffix != ".npz":
        raise ConfigurationError(f"output must end in .npz, got {config.output}.")
    accelerator = build_accelerator()
    source = open_source(config.reference, config, accelerator)
    if isinstance(source, Path):
        raise ConfigurationError(f"{source} holds statistics already. Give images.")
    require_use(config, [source])
    extractor = load_extractor(config, [source], accelerator)
    computed = metrics.ReferenceStatistics.compute(
        source,
        extractor,
        keep_features=config.keep_features,
        batch_size=config.batch_size,
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        computed.save(config.output)
        print(f"{config.output}: {extractor.name} of {computed.stats.n} images of {computed.name}")


def selfcheck(config: SelfcheckConfig) -> None:
    """Compute what is known beforehand, and say what came."""
    from nacgen.metrics.selfcheck import selfcheck

    failed = 0
    for check in selfcheck():
        failed += not check.holds
        outcome = "ok  " if check.holds else "FAIL"
        print(f"{outcome} {check.claim} = {check.expected:.6g}, got {check.found:.6g}", flush=True)
    if failed:
        raise NacgenError(
            f"{failed} checks failed: scores of this installation are wrong. Compare the versions of torch, "
            "numpy and pillow with those in pyproject.toml."
        )


def build_accelerator() -> "Accelerator":
    """Devices and processes as the launcher chose them."""
    import torch
    from accelerate import Accelerator

    return Accelerator(cpu=not torch.accelerator.is_available())


def open_source(
    source: str, config: ExtractorConfig, accelerator: "Accelerator"
) -> "ImageSet | Path":
    """Images or a file of statistics; what should be known of them goes to stderr."""
    from nacgen.metrics.sources import describe, find_images

    images = find_images(
        source,
        data_dir=config.data_dir,
        image_size=config.image_size,
        num_samples=config.num_samples,
        device=accelerator.device,
    )
    say(accelerator, *describe(images))
    return images


def require_use(config: ExtractorConfig, sources: "list[ImageSet | Path]") -> None:
    """Refuse single images, and a number of samples where nothing is sampled."""
    from nacgen.metrics.sources import RunImages

    for images in sources:
        if not isinstance(images, Path) and len(images) < 2:
            raise DataError(
                f"a score needs two images or more, but {images.name} holds {len(images)}."
            )
    if config.num_samples is not None and not any(isinstance(s, RunImages) for s in sources):
        raise ConfigurationError(
            f"num_samples is how many images a run's generator makes, but nothing here is a run, got "
            f"{config.num_samples}. Leave it out, or make a folder of fewer images."
        )


def load_extractor(
    config: ExtractorConfig, sources: "list[ImageSet | Path]", accelerator: "Accelerator"
) -> "FeatureExtractor":
    """The extractor that was asked for, or the one that suits the images."""
    from nacgen.metrics import build_extractor

    has_digits = any(not isinstance(s, Path) and s.name == "digits" for s in sources)
    name = config.extractor or ("digits_classifier" if has_digits else "inception")
    try:
        return build_extractor(
            name.replace("-", "_"),
            weights=config.weights,
            resize=config.resize,
            device=accelerator.device,
        )
    except CheckpointNotFoundError as error:
        if config.extractor or config.weights:
            raise
        raise CheckpointNotFoundError(
            f"{error} Or choose other features, whose scores are no FID: --extractor digits-classifier for images "
            "of 16x16 px; classifier or dinov2 with --weights."
        ) from error


def with_progress(images: "ImageSet", accelerator: "Accelerator") -> "ImageSource":
    """Reads images, and shows on a terminal how far it got."""
    from tqdm import tqdm

    is_shown = accelerator.is_main_process and sys.stderr.isatty()
    bar = tqdm(total=len(images), unit=" images", disable=not is_shown)

    def read(indices: "Tensor") -> "Tensor":
        bar.update(len(indices) * accelerator.num_processes)
        return images.read(indices)

    return read


def say(accelerator: "Accelerator", *lines: str) -> None:
    """Tell the user, once, where it does not mix with scores."""
    if accelerator.is_main_process:
        print(*lines, sep="\n", end="\n" if lines else "", file=sys.stderr)


if __name__ == "__main__":
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in ("stats", "selfcheck"):
        del sys.argv[1]
    if command == "stats":
        run_recipe(stats, StatsConfig, {"fid": StatsConfig()})
    elif command == "selfcheck":
        run_recipe(selfcheck, SelfcheckConfig, {"all": SelfcheckConfig()})
    else:
        run_recipe(score, EvaluateConfig, PRESETS)
