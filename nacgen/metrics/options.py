"""Options and presets of scoring images; importing them does not import torch."""

from dataclasses import dataclass, fields
from typing import Literal

import tyro

from nacgen.data.options import require_images
from nacgen.errors import ConfigurationError
from nacgen.metrics.result import MAX_IMAGES, check_metrics
from nacgen.system.files import refuse_overwriting
from nacgen.training.config import (
    MAX_THREADS,
    refuse_unheeded,
    require_between,
    require_positive,
)


@dataclass(frozen=True, kw_only=True)
class ExtractorConfig:
    """Options of the features that images are compared by, and of reading images."""

    preset: str = "fid"
    """Named settings to start from."""
    config: str | None = None
    """YAML file whose values replace the preset's."""
    extractor: str | None = None
    """Network whose features are compared, such as inception or efficientnet_lite0. Others are dinov2,
    digits_classifier, fashion_classifier, classifier, nac_encoder, and package.module:function for your own.
    None: that of statistics among the images; else digits_classifier for the digits, else inception, or
    efficientnet_lite0 if inception's weights cannot be had and the extra judge is installed. Only scores of
    inception are called FID."""
    weights: str | None = None
    """File of weights of Inception or DINOv2, or folder of a classifier or encoder. None: Inception's weights from
    torch's hub cache or by download."""
    resize: Literal["pytorch_fid", "tf1", "clean"] | None = None
    """Method of resizing images for Inception. None: pytorch_fid."""
    dims: Literal[64, 192, 768, 2048] | None = None
    """Layer of Inception by its number of features, as in pytorch-fid. None: 2048, the only one that gives FID."""
    precision: Literal["float32", "tf32"] = "float32"
    """Arithmetic of the network. tf32 is faster on a recent NVIDIA GPU and less exact; scores of it compare with
    one another only."""
    data_dir: str | None = None
    """Folder of the files of datasets."""
    image_size: int | None = None
    """Height and width in pixels to which files and datasets are resized. None: they stay as they are."""
    batch_size: int = 100
    """Images that each process holds at a time; scores do not depend on it."""
    device: str | None = None
    """Device, for example cpu or cuda:1. None: a GPU if there is one; under a launcher, that of each process."""
    num_workers: int | None = None
    """Threads that decode image files. None: one a core, 16 at most."""
    num_samples: int | None = None
    """Images that a run's generator or decoder makes. None: as many as the run itself is scored on."""

    def __post_init__(self) -> None:
        """Check the numbers, whose bounds keep what is allocated within reason."""
        require_positive(self, "batch_size")
        require_between(self, 1, 4_096, "image_size")
        require_between(self, 2, MAX_IMAGES, "num_samples")
        require_between(self, 0, MAX_THREADS, "num_workers")

    def check_inputs(self) -> None:
        """Raise unless the images that options name exist; what they are is checked when they are read."""
        for name in ("reference", "generated", "training_images"):
            source = getattr(self, name, None)
            if source is not None and source.strip():
                require_images(source)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ExtractorConfig):
    """Options of scoring."""

    reference: tyro.conf.Positional[str] = "digits/train"
    """Images that others are compared with."""
    generated: tyro.conf.Positional[str] = "digits/test"
    """Images to score."""
    metrics: tuple[str, ...] = ("fid",)
    """One or more of fid, is, kid, kid_exact, prdc, fid_infinity and memorization."""
    training_images: str | None = None
    """Images the generator was trained on, for memorization; REFERENCE then holds images it was not trained on."""
    foreign_images: int | None = None
    """Number of images behind a statistics file by pytorch-fid. The file does not hold this number."""
    json: bool = False
    """Print scores and their whole protocol as one JSON object."""
    save_stats: bool = False
    """Write statistics of REFERENCE to GENERATED, an .npz file. So do pytorch-fid's flag and `evaluate stats`."""

    def __post_init__(self) -> None:
        """Split words at commas, and check them."""
        super().__post_init__()
        require_between(self, 2, 10**12, "foreign_images")
        names = tuple(name for word in self.metrics for name in word.split(","))
        object.__setattr__(self, "metrics", names)
        check_metrics(names, self.training_images is not None)
        of_scores = ["metrics", "training_images", "foreign_images", "json"]
        refuse_unheeded(self, self.save_stats, of_scores, "with --save-stats")
        if self.save_stats:
            self.as_stats()

    def check_inputs(self) -> None:
        """Raise unless the images that options name exist; with `save_stats` the second is written."""
        if self.save_stats:
            self.as_stats().check_inputs()
        else:
            super().check_inputs()

    def as_stats(self) -> "StatsConfig":
        """Return the options of writing the statistics that `save_stats` asks for."""
        shared = {field.name: getattr(self, field.name) for field in fields(ExtractorConfig)}
        return StatsConfig(**shared, reference=self.reference, output=self.generated)


@dataclass(frozen=True, kw_only=True)
class StatsConfig(ExtractorConfig):
    """Options of writing reference statistics."""

    reference: tyro.conf.Positional[str] = "digits/train"
    """Images that others will be compared with."""
    output: tyro.conf.Positional[str] = "reference.npz"
    """Path of the .npz file to write, which pytorch-fid reads, too."""
    keep_features: bool = False
    """Keep the features as well, which kid, prdc, fid_infinity and memorization need."""

    def __post_init__(self) -> None:
        """Check the path of the output."""
        super().__post_init__()
        if not self.output.endswith(".npz"):
            raise ConfigurationError(f"output must end in .npz, got {self.output}.")
        refuse_overwriting(self.output, self.reference, self.weights, self.config)


@dataclass(frozen=True, kw_only=True)
class SelfcheckConfig:
    """No options."""

    is_one_process = True  # no field: launchers have nothing to do

    preset: str = "all"
    config: str | None = None


PRESETS = {
    # Any machine; a pass of the images through the network; the Fréchet distance alone.
    "fid": EvaluateConfig(),
    # Any machine; the same time; everything that is read off one pass over the images.
    "all": EvaluateConfig(metrics=("fid", "is", "kid", "prdc")),
}
