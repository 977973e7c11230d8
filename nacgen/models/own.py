"""Networks of a user's own in the places of the built-in generator and discriminator."""

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.models.folder import CONFIG_FILE, MAX_CONFIG_BYTES
from nacgen.models.gan import Generator
from nacgen.models.own_network import evaluating, own_network
from nacgen.models.sngan import check_labels
from nacgen.system.documents import strict_json
from nacgen.system.files import read_regular
from nacgen.system.randomness import generator

RESHAPES = ("View", "Reshape", "Squeeze", "Unsqueeze", "Select", "Mean", "Permute", "Transpose")
NUM_PROBED = 2  # images of a generator that are looked at before it trains


class OwnGenerator(Generator):
    """A generator around a network of the user's own.

    Args:
        network: Module that takes standard normal latents, `(b, z)` or, with four `latent_axes`, `(b, z, 1, 1)`,
            then labels if there are classes, and gives images `(b, 3, h, w)` in [-1, 1].
        image_size: Height and width of its images in pixels.
        latent_dim: Length of the latent vector, `z`.
        num_classes: Number of classes whose labels it takes, None for none.
        latent_axes: Number of axes of the latents that it takes, 2 or 4.
    """

    def __init__(
        self,
        network: nn.Module | str,
        image_size: int,
        latent_dim: int,
        num_classes: int | None = None,
        latent_axes: int = 2,
    ) -> None:
        nn.Module.__init__(self)
        if isinstance(network, str):
            raise ConfigurationError(
                f"it belongs to a generator of your own, {network}, which no file holds. Hand the network over: "
                "nacgen.TrainedRun(folder, generator=my_generator), or nacgen sample --generator "
                "package.module:function."
            )
        self.network, self.image_size, self.latent_dim = network, image_size, latent_dim
        self.num_classes, self.latent_axes = num_classes, latent_axes

    @classmethod
    def probed(
        cls, network: nn.Module, image_size: int, latent_dim: int, num_classes: int | None
    ) -> Self:
        """Build it after one call of the network, which tells the shape of its latents and checks its images.

        Raises:
            ConfigurationError: The network takes neither shape, or gives something else than images of this size.
        """
        latent_dim = int(getattr(network, "latent_dim", latent_dim))
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        classes = torch.zeros(NUM_PROBED, dtype=torch.long, device=device)
        labels, faults = () if num_classes is None else (classes,), []
        latents = torch.randn(NUM_PROBED, latent_dim, generator=generator(0, "probe")).to(device)
        for axes in (2, 4):
            z = latents.reshape(NUM_PROBED, latent_dim, *(1,) * (axes - 2))
            try:
                with torch.no_grad(), evaluating(network):
                    images = network(z, *labels)
            except Exception as error:  # of any layer
                faults.append(f"{tuple(z.shape)}: {type(error).__name__}: {error!s:.150}")
                continue
            expected = (NUM_PROBED, 3, image_size, image_size)
            if not isinstance(images, Tensor) or images.shape != expected:
                came = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
                raise ConfigurationError(
                    f"generator.network must give images {expected} for the data set's {image_size} px, got "
                    f"{came}. Change the network, or data.image_size."
                )
            if not images.abs().max() <= 1:
                raise ConfigurationError(
                    f"generator.network must give images in [-1, 1], got {images.min():.4g} to "
                    f"{images.max():.4g}. End it with torch.tanh."
                )
            if images.min() > 0:  # of a sigmoid
                warnings.warn(
                    f"generator.network should give images in [-1, 1], where 0 is gray, but starts with "
                    f"{images.min():.4g} to {images.max():.4g}. Where it ends with a sigmoid, use torch.tanh.",
                    stacklevel=2,
                )
            return cls(network, image_size, latent_dim, num_classes, axes)
        raise ConfigurationError(
            f"generator.network must take latents (b, {latent_dim}) or (b, {latent_dim}, 1, 1)"
            f"{' and labels (b,)' if labels else ''}, but takes neither ({'; '.join(faults)}). Give the length of "
            "its latents by --generator.latent-dim N."
        )

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the network is no part of the folder
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        network: Any = None,
    ) -> Self:
        """Load it from a folder into the network, or into what a function or class makes."""
        path = str(pretrained_model_name_or_path)
        if network is None:
            return cls._from_folder(path, revision, {})
        config = _config_of(Path(path))
        names = ("latent_dim", "image_size", "num_classes")
        module = own_network("generator", network, 0, **{k: config.get(k) for k in names})
        return cls._from_folder(path, revision, {"network": module})

    def configuration(self) -> dict[str, Any]:
        """Return the constructor's arguments, and the name of the network's class in its place."""
        names = ("image_size", "latent_dim", "num_classes", "latent_axes")
        network = type(self.network)
        name = f"{network.__module__}.{network.__qualname__}"
        return {"network": name} | {name: getattr(self, name) for name in names}

    def given_arguments(self) -> dict[str, Any]:
        """Return the network."""
        return {"network": self.network}

    def forward(
        self, z: Float[Tensor, "b z"], labels: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """Generate images in [-1, 1] from standard normal latents and, if there are classes, labels."""
        check_labels(labels, self.num_classes, len(z))
        z = z if self.latent_axes == 2 else z[:, :, None, None]  # -> (b, z, 1, 1)
        images: Tensor = self.network(z) if labels is None else self.network(z, labels)
        return images


class OwnDiscriminator(nn.Module):
    """A discriminator around a network of the user's own, from images in [-1, 1] to one logit or several each."""

    def __init__(self, network: nn.Module, image_size: int, num_classes: int | None = None) -> None:
        super().__init__()
        self.network, self.num_classes = network, num_classes
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        images = torch.zeros(2, 3, image_size, image_size, device=device)
        labels = () if num_classes is None else (torch.zeros(2, dtype=torch.long, device=device),)
        try:
            with torch.enable_grad(), evaluating(network):  # whose graph tells the last layer
                logits = network(images, *labels)
        except Exception as error:  # of any layer
            raise ConfigurationError(
                f"discriminator.network must take images {tuple(images.shape)}{' and labels' if labels else ''}, "
                f"but {type(error).__name__}: {error!s:.200} Change the network, or data.image_size."
            ) from error
        if not isinstance(logits, Tensor) or logits.shape[:1] != (2,):
            came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ConfigurationError(
                f"discriminator.network must give one logit or several an image, (2,) or (2, n) for two, got "
                f"{came}."
            )
        if _is_sigmoid(logits.grad_fn):
            warnings.warn(
                "discriminator.network should give logits, which are of any size, but ends with a sigmoid, which "
                "the loss has already. Leave it out.",
                stacklevel=2,
            )

    def forward(
        self,
        images: Float[Tensor, "b 3 h w"],
        labels: Int64[Tensor, " b"] | None = None,
        full_precision: bool = False,
    ) -> Float[Tensor, "b *n"]:
        """Compute logits, `(b,)` of one and `(b, n)` of several; high means real.

        `full_precision` leaves autocast, for gradient penalties.
        """
        device = images.device.type
        with torch.autocast(device, enabled=False) if full_precision else nullcontext():
            logits: Tensor = (
                self.network(images) if labels is None else self.network(images, labels)
            )
        logits = logits.reshape(len(images), -1)  # a last convolution leaves (b, 1, 1, 1)
        return logits.squeeze(1) if logits.shape[1] == 1 else logits


def _is_sigmoid(node: Any) -> bool:
    """Return True for a sigmoid in the graph of a tensor's gradient, behind changes of shape alone."""
    while node is not None and node.name().removeprefix("Unsafe").startswith(RESHAPES):
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith("SigmoidBackward")


def load_generator(folder: str | Path, network: Any = None) -> Generator:
    """Load a generator of a run, a network of the user's own if one is given or the folder is of one."""
    if network is not None or "network" in _config_of(Path(folder)):
        return OwnGenerator.from_pretrained(folder, network=network)
    return Generator.from_pretrained(folder)


def _config_of(folder: Path) -> dict[str, Any]:
    """Return the configuration in a folder; empty where it is damaged, which loading reports."""
    try:
        config = strict_json(read_regular(folder / CONFIG_FILE, MAX_CONFIG_BYTES))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
