"""What can be asked of a transplant, and which requests make no sense."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, get_args

from jaxtyping import Float
from torch import Tensor

from nacgen.errors import ConfigurationError
from nacgen.transplant.controls import Source
from nacgen.transplant.heads import HeadName
from nacgen.transplant.matching import Match
from nacgen.transplant.trunk import BatchNormUse

Target = Literal["discriminator", "vae_encoder", "perceptual"]
Mode = Literal["init", "partial", "frozen"]
SpectralNorm = Literal["none", "heads", "cap"]
OPTIONS: dict[str, set[str]] = {  # that not every target has
    "discriminator": {"return_nodes", "head", "rgb_branch", "spectral_norm", "num_classes"},
    "vae_encoder": {"return_nodes", "rgb_branch", "latent_dim"},
    "perceptual": {"return_nodes"},
    "module": {"match", "dry_run"},
}


class TransplantOptions(TypedDict, total=False):
    """The keywords of `transplant`."""

    image_size: int | None
    source: Source
    calibration_images: Tensor | None
    batch_norm: BatchNormUse | None
    frozen_stages: int | None
    return_nodes: Sequence[str] | None
    rgb_branch: bool | None
    head: HeadName | None
    spectral_norm: SpectralNorm | None
    num_classes: int | None
    latent_dim: int | None
    match: Match | None
    dry_run: bool | None
    seed: int


def check_request(
    target: str, mode: str, source: str, batch_norm: str, options: Mapping[str, Any]
) -> None:
    """Raise unless the choices fit one another.

    Args:
        target: One of `Target`, or `"module"` for one of the user's own.
        mode: One of `Mode`.
        source: One of `Source`.
        batch_norm: One of `BatchNormUse`.
        options: The other keywords of `transplant`, None where not given.

    Raises:
        ConfigurationError: They do not, or one is unknown.
    """
    check_choice("mode", mode, ("frozen",) if target == "perceptual" else get_args(Mode))
    check_choice("source", source, get_args(Source))
    check_choice("batch_norm", batch_norm, get_args(BatchNormUse))
    given = {name for name, value in options.items() if value is not None}
    foreign = sorted(given & set.union(*OPTIONS.values()) - OPTIONS[target])
    if foreign:
        raise ConfigurationError(
            f"a transplant into {target} takes {', '.join(sorted(OPTIONS[target]))}, got {', '.join(foreign)} "
            "too. Leave out what it does not take."
        )
    if "head" in given:
        check_choice("head", options["head"], get_args(HeadName))
    if "spectral_norm" in given and options["spectral_norm"] not in get_args(SpectralNorm):
        raise ConfigurationError(
            f"spectral_norm must be one of {', '.join(get_args(SpectralNorm))}, got "
            f"{options['spectral_norm']!r}. Plain spectral norm would rescale every convolution of the trunk, "
            "folded BatchNorm included, and destroy what it was pretrained for; cap bounds its growth."
        )
    if mode == "frozen" and batch_norm == "train":
        raise ConfigurationError(
            "a frozen trunk cannot train its BatchNorm, got batch_norm 'train' in mode frozen. Use fold or freeze."
        )
    if "frozen_stages" in given and mode != "partial":
        raise ConfigurationError(
            f"frozen_stages belongs to mode partial, got {options['frozen_stages']} in mode {mode}."
        )
    needed = {"discriminator": ["image_size"], "vae_encoder": ["image_size", "latent_dim"]}
    for name in needed.get(target, []):
        if name not in given:
            what = {
                "image_size": "the images' height and width in pixels",
                "latent_dim": "the length of z",
            }
            raise ConfigurationError(
                f"{name} must be given for a {target}, got None. Pass {what[name]}."
            )


def check_calibration_images(images: Float[Tensor, "b 3 h w"], image_size: int | None) -> None:
    """Raise unless calibration images are such as the model will see.

    Args:
        images: In [-1, 1].
        image_size: Height and width in pixels, where known.

    Raises:
        ConfigurationError: They have another size, type or range.
    """
    if image_size is not None and tuple(images.shape[-2:]) != (image_size, image_size):
        raise ConfigurationError(
            f"calibration_images must have image_size, {image_size} px, got "
            f"{images.shape[-2]}x{images.shape[-1]}. Resize them."
        )
    if not images.is_floating_point() or not images.abs().max() <= 1.001:
        raise ConfigurationError(
            f"calibration_images must be floats in [-1, 1], got {images.dtype} from {images.min():.4g} to "
            f"{images.max():.4g}. Bring uint8 images there with nacgen.data.pixels.to_float."
        )


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise `ConfigurationError` unless a value is a known one."""
    if value not in known:
        raise ConfigurationError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
