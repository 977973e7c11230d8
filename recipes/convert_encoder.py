"""Convert another project's ResNet or VGG-16 to an encoder folder of ours.

    nacgen convert --input resnet50.pth --output encoders/resnet50

Reads .safetensors, and .pt, .pth or .ckpt files that hold tensors only: torchvision, the NAC paper's
authors (their heads become code and posterior heads), lightly, solo-learn, MoCo. A report on stderr lists
every tensor. The file does not say how images were normalized: choose --preset imagenet, cifar10 or none,
or give --mean and --std.
"""

import dataclasses
import hashlib
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nacgen.errors import ConfigurationError
from nacgen.system.files import storage_errors
from nacgen.system.places import require_weights
from nacgen.system.terminal import print_result
from nacgen.training.command import run_recipe


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Options of the conversion."""

    is_one_process = True  # no field: launchers have nothing to do

    preset: str = "imagenet"
    """Normalisation of the images that the encoder was trained on: imagenet, cifar10 or none."""
    config: str | None = None
    """YAML file whose values replace the preset's."""
    input: str | None = None
    """File of weights: .safetensors, .pt, .pth or .ckpt."""
    output: str | None = None
    """Folder of the encoder; must not exist."""
    prefix: str | None = None
    """Prefix of the trunk's names, if the file holds several trunks."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of each channel, in [0, 1]."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of each channel, above 0."""
    code_dim: int = 128
    """Bits in a code, if the file has no heads of the NAC authors."""
    flip_probability: float = 0.1
    """Probability that the channel flips a bit, in the authors' run or in later training."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not all(value > 0 for value in self.std):
            raise ConfigurationError(
                f"std must be above 0, got {self.std}. Images are divided by it."
            )


PRESETS = {
    # Any machine; seconds; for networks of torchvision, lightly and MoCo.
    "imagenet": ConvertConfig(),
    # Any machine; seconds; for networks of the NAC paper's authors.
    "cifar10": ConvertConfig(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)),
    # Any machine; seconds; for networks that take pixels in [0, 1] as they are.
    "none": ConvertConfig(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
}


def main(config: ConvertConfig) -> None:
    """Convert a file of weights."""
    if os.environ.get("RANK", "0") != "0":
        return
    if config.input is None or config.output is None:
        raise ConfigurationError(
            f"input and output must name a file and a new folder, got {config.input} and {config.output}. "
            "Use --input FILE --output FOLDER."
        )
    output = Path(config.output)
    if output.exists():
        raise ConfigurationError(
            f"output must be a folder that does not exist yet, but {output} does. Nothing is overwritten; choose "
            "another --output."
        )
    require_weights(config.input)  # before torch is imported
    from nacgen.models.convert import convert_state_dict
    from nacgen.models.foreign import read_foreign

    tensors = read_foreign(config.input)
    digest = hashlib.sha256(Path(config.input).read_bytes()).hexdigest()
    encoder, report = convert_state_dict(
        tensors,
        mean=config.mean,
        std=config.std,
        source=f"{Path(config.input).name} (SHA-256 {digest[:16]})",
        prefix=config.prefix,
        code_dim=config.code_dim,
        flip_probability=config.flip_probability,
    )
    print(report, file=sys.stderr)
    with storage_errors(f"the encoder {output}", "Choose another --output."):
        encoder.save_pretrained(output)
    counts = {name: len(getattr(report, name)) for name in ("moved", "left", "filled")}
    print(f"encoder: {output}", file=sys.stderr)
    print_result({"encoder": str(output), **dataclasses.asdict(report), **counts})


run = partial(run_recipe, main, ConvertConfig, PRESETS)

if __name__ == "__main__":
    run()
