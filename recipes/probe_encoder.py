"""Measure encoders side by side: linear probe, k-NN, retrieval by code, code health, linear regions.

    accelerate launch recipes/probe_encoder.py

With no flags it measures the released digits encoder beside an untrained one and leaves report.md,
report.html and results.json in runs/probe_encoder-digits. Your own, over seeds:

    accelerate launch recipes/probe_encoder.py --encoders NAC=runs/a/encoder NAC=runs/b/encoder
"""

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nacgen.data.options import ViewConfig
from nacgen.errors import ConfigurationError, StorageError
from nacgen.training.config import DataConfig, require_positive, run_recipe

if TYPE_CHECKING:
    from torch import Tensor

    from nacgen.models.encoder import NACEncoder
    from nacgen.probes.suite import EncoderSuite
    from nacgen.reporting.encoders.report import Measurement


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Options of the measurement."""

    preset: str = "digits"
    """Named settings to start from."""
    config: str | None = None
    """YAML file whose values replace the preset's."""
    encoders: tuple[str, ...] = ("untrained", "NAC=checkpoints/digits-nac")
    """NAME=PATH_OR_ID of each; one name several times for several seeds. The path untrained stands for a
    fresh encoder of the architecture of the first that is loaded."""
    evaluators: tuple[
        Literal["linear", "linear_sgd", "knn", "retrieval", "health", "regions"], ...
    ] = ("linear", "knn", "retrieval", "health", "regions")
    """What is measured; linear_sgd is the paper's protocol, 100 passes over the training images."""
    protocol: str = "split"
    """Of retrieval: split, cifar10-10k, cifar10-1k, flickr25k-25000, flickr25k-24581 or an index file."""
    num_segments: int = 16
    """Of each kind, along which regions are counted."""
    region_method: Literal["exact", "sampled"] = "exact"
    """exact: seconds a segment for small networks; sampled: a lower bound for large ones."""
    dataset: str = "digits"
    """digits (embedded), cifar10, cifar100, stl10, flickr25k, imagenet or folder."""
    data_dir: str | None = None
    """Where the dataset's files lie."""
    run_dir: str | None = None
    """Folder of the report. Default: runs/probe_encoder-<preset>."""
    seed: int = 0
    """Of everything drawn."""
    data: DataConfig = field(default_factory=DataConfig)
    views: ViewConfig = field(default_factory=ViewConfig)

    def __post_init__(self) -> None:
        """Check what needs neither data nor weights."""
        require_positive(self, "num_segments")
        if all(entry.rpartition("=")[2] == "untrained" for entry in self.encoders):
            raise ConfigurationError(
                f"encoders must name one that is trained, got {' '.join(self.encoders) or 'none'}. "
                "Use --encoders NAC=PATH."
            )


PRESETS = {
    # 2 CPU cores, under a minute an encoder.
    "digits": ProbeConfig(),
    # Images of 32 px with CIFAR's views; a tiny encoder takes minutes on 2 CPU cores.
    "cifar10": ProbeConfig(
        dataset="cifar10",
        encoders=("untrained", "NAC=runs/pretrain_nac-cifar10-small-seed0/encoder"),
        views=ViewConfig(smallest_crop=0.2, flip=True, hue=0.1, grayscale_probability=0.2),
    ),
    # Seconds, for tests.
    "smoke": ProbeConfig(num_segments=2),
}


def main(config: ProbeConfig) -> None:
    """Load, measure, report."""
    import torch
    from accelerate import Accelerator

    from nacgen.data.datasets import load_splits
    from nacgen.data.pixels import to_float
    from nacgen.pretraining.build import build_views
    from nacgen.probes.suite import EncoderSuite
    from nacgen.reporting.encoders.report import Measurement, encoder_text, write_encoder_report

    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    folder = Path(config.run_dir or f"runs/probe_encoder-{config.preset}")
    if (folder / "results.json").exists():
        raise ConfigurationError(
            f"run_dir must not hold results yet, but {folder} does. Choose another --run-dir."
        )
    train, test = load_splits(
        config.dataset, config.data_dir, config.data.image_size, skip_bad=config.data.skip_bad
    )
    calibration = train.subset(torch.arange(0, len(train), max(1, len(train) // 500)))
    images = to_float(calibration.read(torch.arange(len(calibration)))).to(accelerator.device)
    encoders = load_encoders(config.encoders, images)
    suite = EncoderSuite(
        train,
        test,
        build_views(config.views),
        config.evaluators,
        protocol=config.protocol,
        num_segments=config.num_segments,
        region_method=config.region_method,
        seed=config.seed,
        device=accelerator.device,
    )
    measurements = []
    for name, source, encoder in encoders:
        if accelerator.is_main_process:
            print(f"measuring {name} ({source})", file=sys.stderr)
        measurements.append(Measurement(name, source, suite(encoder)))
    if not accelerator.is_main_process:
        return
    first = {name: encoder for name, _, encoder in reversed(encoders)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        results = [dataclasses.asdict(measurement) for measurement in measurements]
        pictures = draw(suite, measurements, dict(reversed(first.items())), folder)
        reports = write_encoder_report(measurements, folder, f"Encoders on {train.name}", pictures)
        (folder / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"the folder {folder} cannot be written ({error}). Choose another --run-dir."
        ) from error
    print(f"\n{encoder_text(measurements)}\n\nreport: {reports[1]}", file=sys.stderr)
    print(json.dumps({"run_dir": str(folder), "reports": [str(path) for path in reports]}))


def draw(
    suite: "EncoderSuite",
    measurements: list["Measurement"],
    encoders: dict[str, "NACEncoder"],
    folder: Path,
) -> dict[str, Path]:
    """The pictures by caption: what codes retrieve, linear regions, nearest neighbours."""
    from nacgen.reporting.encoders.regions import slice_picture
    from nacgen.reporting.encoders.report import retrieval_chart

    pictures = {}
    if "retrieval" in suite.evaluators:
        caption = "Precision and recall"
        pictures[caption] = retrieval_chart(measurements, folder / "precision_recall.png")
    if "regions" in suite.evaluators:
        pictures["Regions on the plane through three held-out images"] = slice_picture(
            {name: suite.slices(encoder) for name, encoder in encoders.items()},
            suite.slice_images,
            folder / "regions.png",
            title="Around the images: activation codes. Enlarged: regions of the whole network.",
        )
    return pictures | suite.draw(encoders, folder)


def load_encoders(
    entries: tuple[str, ...], images: "Tensor"
) -> list[tuple[str, str, "NACEncoder"]]:
    """Name, source and encoder of each entry, untrained ones calibrated on images."""
    from nacgen.models.encoder import NACEncoder
    from nacgen.probes.suite import untrained_like

    parts = [entry.rpartition("=") for entry in entries]
    trained = {
        path: NACEncoder.from_pretrained(path).to(images.device)
        for _, _, path in parts
        if path != "untrained"
    }
    example = next(iter(trained.values()))
    loaded, num_untrained = [], 0
    for name, _, path in parts:
        if path == "untrained":
            encoder = untrained_like(example, images, seed=num_untrained)
            num_untrained += 1
        else:
            encoder = trained[path]
        loaded.append((name or Path(path).name, path, encoder))
    return loaded


if __name__ == "__main__":
    run_recipe(main, ProbeConfig, PRESETS)
