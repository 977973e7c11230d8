"""Options of data that several recipes share, without torch, so that `--help` stays fast."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """Random transforms that make two views of an image."""

    size: int | None = None
    """Height and width of a view in pixels. None: those of the images."""
    smallest_crop: float = 0.5
    """Smallest part of an image's area that a crop keeps."""
    flip: bool = False
    """Mirror each image with probability 1/2."""
    jitter: float = 0.4
    """Strength of brightness, contrast and saturation changes."""
    hue: float = 0.0
    """Strength of hue changes, up to 0.5."""
    grayscale_probability: float = 0.0
    """Probability that an image becomes gray."""
