"""The Inception network of the FID, in pytorch-fid's architecture, and its published weights.

The weights are published as a pickle. It is checked against its SHA-256, read once, and kept as safetensors from
then on.

Source:
    Heusel et al. 2017, arXiv:1706.08500, and https://github.com/mseitzer/pytorch-fid, Apache-2.0.
"""

import hashlib
import socket
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nacgen.errors import CheckpointError, CheckpointNotFoundError, ConfigurationError
from nacgen.metrics.extractors.base import Features, NetworkExtractor, digest_tensors
from nacgen.metrics.extractors.resize import RESIZES
from nacgen.system.files import storage_errors, write_file
from nacgen.system.tensor_file import read_tensor_file

NAME = "pt_inception-2015-12-05-6726825d"
SHA256_PREFIX = "6726825d"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{NAME}.pth"
CONNECTION_TIMEOUT_S = 10.0
SIZE = 299  # pixels that the network looks at
# At 299x299 px the activations of an image take about 15 MB; a processor's cache holds few.
MAX_BATCH, MAX_BATCH_ON_CPU = 50, 16
POOL3 = 2_048  # features that give the FID
# The last layer before features are pooled, by their number; names are torchvision's.
LAST_LAYERS = {64: "maxpool1", 192: "maxpool2", 768: "Mixed_6e", POOL3: "Mixed_7c"}


class InceptionExtractor(NetworkExtractor):
    """The pool3 features (2,048) and 1,008 logits of the FID Inception, or pooled features of an earlier layer.

    The logits lack the bias vector, because the Inception Score's do; earlier layers have none. `dims` is the
    layer's number of features, as in pytorch-fid; scores of an earlier layer compare with one another only, and
    are called `fid_dims64` and so on. The resize is part of a score's name:
    `fid` is pytorch-fid's, `fid_tf1` that of the original code and of torch-fidelity, `fid_clean` clean-fid's.
    Only those of the published weights have these names, others have `fd_inception…`. The network, one of
    `build_inception`, is changed.

    Example:
        >>> network = build_inception()  # random weights
        >>> InceptionExtractor(network, is_published=False, resize="tf1").score_name
        'fd_inception_tf1'
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        is_published: bool,
        resize: str = "pytorch_fid",
        dims: int = POOL3,
        device: torch.device | str = "cpu",
    ) -> None:
        if dims not in LAST_LAYERS:
            known = ", ".join(map(str, LAST_LAYERS))
            raise ConfigurationError(f"dims must be one of {known}, got {dims}.")
        if resize not in RESIZES:
            raise ConfigurationError(f"resize must be one of {', '.join(RESIZES)}, got {resize!r}.")
        self.resize, self.normalization = resize, RESIZES[resize].normalization
        layer = "" if dims == POOL3 else f"_dims{dims}"
        if layer:
            network = _up_to(network, LAST_LAYERS[dims])
        super().__init__(network, name=f"inception{layer}", feature_dim=dims, device=device)
        self.score_name = "fid" if is_published else "fd_inception"
        if resize != "pytorch_fid":
            self.score_name += f"_{resize}"
        self.score_name += layer
        self.head: nn.Linear | None = None
        if not layer:
            assert isinstance(network.fc, nn.Linear)
            self.head, network.fc = network.fc, nn.Identity()  # it now ends at its features
        _fold_batch_norm(network)
        network.to(memory_format=torch.channels_last)

    def extract(self, pixels: Float[Tensor, "b 3 h w"]) -> Features:
        """Compute features of pixels in 0 to 255, of any size."""
        apply, normalize, _ = RESIZES[self.resize]
        parts = []
        for part in pixels.split(MAX_BATCH_ON_CPU if pixels.device.type == "cpu" else MAX_BATCH):
            images = normalize(apply(part, SIZE))
            parts.append(self.network(images.contiguous(memory_format=torch.channels_last)))
        pooled = torch.cat(parts)
        return Features(pooled, None if self.head is None else F.linear(pooled, self.head.weight))


def load_inception(
    weights: str | Path | None = None,
    device: torch.device | str = "cpu",
    resize: str = "pytorch_fid",
    dims: int = POOL3,
) -> InceptionExtractor:
    """Load the FID Inception with its published weights: from a path, torch's hub cache, or a download.

    `weights` is the path of the published `.pth`, or of the `.safetensors` that was made from it here; `resize` a
    name in `RESIZES`, `dims` a number in `LAST_LAYERS`. Other weights raise a `CheckpointError`, missing ones a
    `CheckpointNotFoundError`.
    """
    with torch.device("meta"):
        network = build_inception()
    expected = {k: v for k, v in network.state_dict().items() if v.is_floating_point()}
    path = _find_weights(None if weights is None else Path(weights))
    file = read_tensor_file(path, expected)
    source = file.metadata.get("source_sha256", "unknown")
    recorded, digest = file.metadata.get("tensors_sha256", "none"), digest_tensors(file.tensors)
    if not source.startswith(SHA256_PREFIX) or recorded != digest:
        raise CheckpointError(
            f"{path} must hold the weights of {NAME}.pth as converted here, got tensors with digest {digest[:8]} "
            f"(recorded: {recorded[:8]}) from source {source[:8]}. Delete it, and pass the .pth as weights."
        )
    network.load_state_dict(file.tensors, assign=True)
    return InceptionExtractor(network, is_published=True, resize=resize, dims=dims, device=device)


def build_inception() -> nn.Module:
    """Build torchvision's Inception with pytorch-fid's blocks, with random weights.

    It maps images `(b, 3, 299, 299)` in [-1, 1] to logits `(b, 1008)`.
    """
    from pytorch_fid import inception as fid
    from torchvision.models import inception as vision

    network: nn.Module = vision.Inception3(
        num_classes=1008,
        aux_logits=False,
        init_weights=False,
        inception_blocks=[
            vision.BasicConv2d,
            fid.FIDInceptionA,
            vision.InceptionB,
            fid.FIDInceptionC,
            vision.InceptionD,
            fid.FIDInceptionE_1,
            vision.InceptionAux,
        ],
    )
    network.Mixed_7c = fid.FIDInceptionE_2(2048)  # the last block pools by maximum
    return network


def _up_to(network: nn.Module, last: str) -> nn.Module:
    """Return the layers up to one of them, whose output is pooled over its pixels."""
    layers: list[nn.Module] = []
    for name, layer in network.named_children():
        layers.append(layer)
        if name == last:
            break
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _fold_batch_norm(network: nn.Module) -> None:
    """Fold every BatchNorm into the convolution before it, in float64: the same function, one pass less."""
    for block in network.modules():
        convolution, norm = getattr(block, "conv", None), getattr(block, "bn", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            block.conv = fuse_conv_bn_eval(convolution.double(), norm.double()).float()
            block.bn = nn.Identity()


def is_at_hand() -> bool:
    """Return True if the published weights are in torch's hub cache, as a pickle or converted."""
    folder = _cache()
    return any((folder / f"{NAME}{suffix}").is_file() for suffix in (".safetensors", ".pth"))


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _find_weights(path: Path | None) -> Path:
    converted = _cache() / f"{NAME}.safetensors"
    if path is None:
        if converted.is_file():
            return converted
        path = converted.with_name(f"{NAME}.pth")
        if not path.is_file():
            _download(path)
    elif not path.is_file():
        raise CheckpointNotFoundError(
            f"weights must be the file {NAME}.pth or the .safetensors made from it, but {path} "
            "does not exist. Check the path, or leave it out for torch's hub cache or a download."
        )
    if path.suffix == ".safetensors":
        return path
    _convert(path, converted)
    return converted


def _download(path: Path) -> None:
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECTION_TIMEOUT_S)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL, str(path), hash_prefix=SHA256_PREFIX)
    except (OSError, RuntimeError) as error:
        raise CheckpointNotFoundError(
            f"the FID Inception's weights are not in {path.parent} and could not be downloaded ({error}). Give "
            "the path of a copy as weights (evaluate: --weights FILE; training: --score.weights FILE), put "
            f"{path.name} there, or run once with a connection to {URL}."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _convert(path: Path, target: Path) -> None:
    """Turn the published pickle into safetensors; no other file is ever unpickled here."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(SHA256_PREFIX):
        raise CheckpointError(
            f"{path} must be the published weights, whose SHA-256 starts with {SHA256_PREFIX}, got "
            f"{digest[:8]}. Delete it and download {URL}."
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    tensors = {k: v.contiguous() for k, v in state.items() if v.is_floating_point()}
    origin = {"source_sha256": digest, "tensors_sha256": digest_tensors(tensors)}
    advice = "Make room there, or set TORCH_HOME to another folder."
    with storage_errors(f"the FID Inception's weights {target}", advice):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, save(tensors, metadata=origin))
