"""All pictures of a report on encoders: retrieval curves, linear regions, nearest neighbors."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nacgen.probes.suite import Examples
from nacgen.reporting.encoders.regions import slice_picture
from nacgen.reporting.encoders.report import Measurement
from nacgen.reporting.encoders.retrieval import retrieval_chart
from nacgen.reporting.encoders.sheet import write_retrieval_sheet


def draw_pictures(
    measurements: Sequence[Measurement], examples: Mapping[str, Examples], folder: Path
) -> dict[str, Path]:
    """Draw what was measured into an existing folder; return the paths by caption."""
    pictures: dict[str, Path] = {}
    first = next(iter(examples.values()))
    if first.retrieved is not None:
        chart = folder / "precision_recall.png"
        pictures["Precision and recall"] = retrieval_chart(measurements, chart)
    if first.slices:
        pictures["Regions on the plane through three held-out images"] = slice_picture(
            {name: example.slices for name, example in examples.items()},
            first.slice_images,
            folder / "regions.png",
            title="Around the images: activation codes. Enlarged: regions of the whole network.",
        )
    for number, (name, example) in enumerate(examples.items()):
        if example.retrieved is not None:
            sheet = folder / f"neighbors_{number}.png"
            pictures[f"Nearest neighbors by code: {name}"] = write_retrieval_sheet(
                example.retrieved, sheet
            )
    return pictures
