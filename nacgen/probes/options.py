"""Options and presets of measuring encoders, without torch, so that `--help` stays fast."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from nacgen.data.options import ViewConfig, require_data
from nacgen.errors import ConfigurationError
from nacgen.system.places import require_model
from nacgen.training.config import DataConfig, require_between

Evaluator = Literal["linear", "linear_sgd", "knn", "retrieval", "health", "regions"]
RegionMethod = Literal["exact", "sampled"]


def name_and_path(entry: str) -> tuple[str, str]:
    """Split `NAME=PATH` at the first equals sign, unless it is in a path; a path is named after its last part."""
    name, equals, path = entry.partition("=")
    is_path = not equals or "/" in name or Path(entry).exists()
    return (Path(entry).name, entry) if is_path else (name or Path(path).name, path)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Options of the measurement."""

    preset: str = "digits"
    """Named settings to start from."""
    config: str | None = None
    """YAML file whose values replace the preset's."""
    encoders: tuple[str, ...] = ("untrained", "NAC=checkpoints/digits-nac")
    """NAME=PATH_OR_ID of each encoder, or a path alone; give one name several times for several seeds. The path
    untrained means random weights in the architecture of the first encoder that is loaded."""
    evaluators: tuple[Evaluator, ...] = ("linear", "knn", "retrieval", "health", "regions")
    """Measurements; linear_sgd is the paper's protocol, 100 passes over the training images."""
    protocol: str = "split"
    """Protocol of retrieval: split, cifar10-10k, cifar10-1k, flickr25k-25000, flickr25k-24581 or an index
    file."""
    num_segments: int = 16
    """Segments of each kind along which regions are counted."""
    region_method: RegionMethod = "exact"
    """Method of counting. exact: a second a segment for small networks; sampled: a lower bound for large ones."""
    dataset: str = "digits"
    """digits (embedded), cifar10, cifar100, mnist, fashion-mnist, stl10, flickr25k, imagenet or folder."""
    data_dir: str | None = None
    """Folder of the dataset's files."""
    run_dir: str | None = None
    """Folder of the report. Default: runs/probe_encoder-<preset>."""
    seed: int = 0
    """Seed of all random numbers."""
    data: DataConfig = field(default_factory=DataConfig)
    views: ViewConfig = field(default_factory=ViewConfig)

    def __post_init__(self) -> None:
        """Check the options that need neither data nor weights."""
        require_between(self, 2, 100_000, "num_segments")
        if not self.evaluators:
            raise ConfigurationError(
                f"evaluators must name at least one of {', '.join(get_args(Evaluator))}, got none. Name one."
            )
        if all(name_and_path(entry)[1] == "untrained" for entry in self.encoders):
            raise ConfigurationError(
                "encoders must name at least one trained encoder, got "
                f"{' '.join(self.encoders) or 'none'}. Use --encoders NAC=PATH."
            )

    @property
    def folder(self) -> Path:
        """Folder of the report."""
        return Path(self.run_dir or f"runs/probe_encoder-{self.preset}")

    def check_inputs(self) -> None:
        """Raise unless the folders that options name exist, and that of the report holds none yet."""
        for name in ("results.json", "report.md", "report.html", "config.yaml", "config.json"):
            if (self.folder / name).exists():
                raise ConfigurationError(
                    f"run_dir must hold no results, run or model yet, but {self.folder} holds {name}. Choose "
                    "another --run-dir."
                )
        require_data(self.dataset, self.data_dir)
        for _, path in map(name_and_path, self.encoders):
            require_model(None if path == "untrained" else path)


PRESETS = {
    # 2 CPU cores; half a minute an encoder, most of it for the exact regions.
    "digits": ProbeConfig(),
    # 2 CPU cores; minutes for a tiny encoder. Images of 32 px with CIFAR's views, in --data-dir.
    "cifar10": ProbeConfig(
        dataset="cifar10",
        encoders=("untrained", "NAC=runs/pretrain_nac-cifar10-small-seed0/encoder"),
        views=ViewConfig(smallest_crop=0.2, flip=True, hue=0.1, grayscale_probability=0.2),
    ),
    # 2 CPU cores; minutes. Images of 32 px with the views of pretraining, in --data-dir.
    "fashion-mnist": ProbeConfig(
        dataset="fashion-mnist",
        encoders=("untrained", "NAC=runs/pretrain_nac-fashion-mnist-seed0/encoder"),
        views=ViewConfig(smallest_crop=0.3, flip=True),
    ),
    # 2 CPU cores; half a minute; for tests.
    "smoke": ProbeConfig(num_segments=2, region_method="sampled"),
}
