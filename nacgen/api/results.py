"""The result of a training: folder, scores, samples and report of a run, to look at in a notebook."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.models.classifier import ImageClassifier
from nacgen.models.encoder import NACEncoder
from nacgen.models.sampling import load_model, sample_images
from nacgen.reporting.blocks import Block, Images, Table, to_fragment
from nacgen.reporting.recorded_runs import RecordedRun, load_run

IMAGES_AT_ONCE = 500


class TrainedRun:
    """A run on disk, finished or not, with its model loaded when it is first asked for.

    Args:
        folder: Path of the run folder.
        generator: Network of your own that the run's generator needs, as it was handed to `train_gan`.
        backbone: Trunk of your own that the run's encoder needs, as it was handed to `pretrain`.

    Raises:
        CheckpointNotFoundError: It is no run folder.

    Example:
        >>> run = nacgen.train_gan(preset="smoke")
        >>> nacgen.TrainedRun(run.path).scores == run.scores
        True
    """

    def __init__(self, folder: str | Path, *, generator: Any = None, backbone: Any = None) -> None:
        self.record: RecordedRun = load_run(folder)
        self.path, self._generator, self._backbone = self.record.path, generator, backbone

    @property
    def config(self) -> dict[str, Any]:
        """Options of the run, nested as in its `config.yaml`."""
        return dict(self.record.config)

    @property
    def summary(self) -> dict[str, Any]:
        """Contents of `summary.json`: images seen, seconds, speed, last evaluation; empty before the run ends."""
        return dict(self.record.summary or {})

    @property
    def scores(self) -> dict[str, float]:
        """Newest scores by name; those of a generative model only."""
        last = self.record.evaluations[-1:]
        return {name: score["value"] for each in last for name, score in each.scores.items()}

    def curve(self, name: str) -> dict[int, float]:
        """Return every value of a score by images seen."""
        return self.record.curve(name)

    @property
    def report(self) -> Path | None:
        """Path of the report as a page; None before there is one."""
        path = self.path / "report.html"
        return path if path.is_file() else None

    @cached_property
    def model(self) -> nn.Module:
        """The generator, decoder, denoiser, encoder or classifier that it trained, on the CPU."""
        if (self.path / "encoder").is_dir():
            return NACEncoder.from_pretrained(self.path / "encoder", backbone=self._backbone)
        if (self.path / "classifier").is_dir():
            return ImageClassifier.from_pretrained(self.path / "classifier")
        return load_model(self.path, self._generator)

    def samples(self, num_images: int = 16, first: int = 0) -> UInt8[Tensor, "n 3 h w"]:
        """Make images by number, image `i` from seed `i`, as its scores and `nacgen sample` do.

        Raises:
            ConfigurationError: The run trained no generative model.
        """
        if isinstance(self.model, NACEncoder | ImageClassifier):
            raise ConfigurationError(
                f"samples come from a generative model, but {self.path} trained a {type(self.model).__name__}. "
                "Call train_gan, train_vae or train_flow."
            )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = self.model.to(device)
        numbers = torch.arange(first, first + num_images).split(IMAGES_AT_ONCE)
        images = torch.cat([sample_images(model, part, device).cpu() for part in numbers])
        self.model.to("cpu")
        return images

    def __repr__(self) -> str:
        """Return folder and scores in one line."""
        scores = ", ".join(f"{name} {value:.4g}" for name, value in self.scores.items())
        return f"TrainedRun({str(self.path)!r}{scores and f': {scores}'})"

    def _repr_html_(self) -> str:
        """Return scores, newest samples and folder as HTML, for notebooks."""
        blocks: list[Block] = [f"`{self.path.name}`"]
        if self.scores:
            rows = [[name, f"{value:.4g}"] for name, value in self.scores.items()]
            blocks += [Table(["Score", "Value"], rows)]
        seen = self.record.evaluations[-1].images_seen if self.record.evaluations else 0
        if (grid := self.record.sample_grid(seen)) is not None:
            blocks += [Images([grid], [f"samples after {seen:,} images"], "samples")]
        return to_fragment([*blocks, f"{self.report or self.path}"], self.path)
