"""Encoders of other projects as ours: their tensors under our names, all of them accounted for.

The heads of the NAC paper's authors (`head`, `linear`, `prediction` beside a trunk called `encoder`) become
code head and posterior head; heads of other methods give no codes and are left.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nacgen.errors import CheckpointError
from nacgen.models.backbones import BACKBONES, RESNETS, Stem, build_backbone
from nacgen.models.encoder import NACEncoder
from nacgen.models.foreign import find_prefix, translated_trunk
from nacgen.system.randomness import seeded

AUTHORS_HEADS = {
    "head.0": "code_head.mlp.0",
    "linear.0": "code_head.mlp.2",
    "prediction.0": "posterior_head.mlp.0",
    "prediction.2": "posterior_head.mlp.2",
}
COUNTER = "num_batches_tracked"

CARD = """---
library_name: nacgen
tags: [image-feature-extraction]
---
# Converted encoder: {backbone}, {stem} stem

Weights that another project trained, under nacgen's names. Their licence is that of their source.

```python
import nacgen

encoder = nacgen.NACEncoder.from_pretrained("path/to/this/folder")
encoder.features(images)  # images: float (b, 3, h, w) in [-1, 1] -> ({feature_dim},) each
```

{notes}
"""


@dataclass(frozen=True)
class ConversionReport:
    """What became of every tensor.

    Args:
        source: Where the tensors came from.
        backbone: The trunk that they fit.
        stem: Its stem.
        prefix: What stood before the trunk's names.
        has_codes: Whether the heads that make codes came along.
        moved: Name there and name here.
        left: Name there and why it was not used.
        filled: Name here, and what it holds in place of a tensor that was not there.
        notes: What the tensors cannot say.
    """

    source: str
    backbone: str
    stem: Stem
    prefix: str
    has_codes: bool
    moved: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...]
    filled: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """The report for a terminal, every tensor in a line."""
        lines = [f"{self.source}: {self.backbone}, {self.stem} stem, under {self.prefix!r}"]
        for title, pairs, joint in (
            ("moved", self.moved, "->"),
            ("left", self.left, "--"),
            ("not in the source", self.filled, "--"),
        ):
            lines.append(f"{title}: {len(pairs)}")
            lines += [f"  {name} {joint} {other}" for name, other in pairs]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


class ConvertedEncoder(NACEncoder):
    """A `NACEncoder`, saved and loaded as one, whose model card tells of its origin."""

    def model_card(self) -> str:
        """Markdown that says where the weights are from and what to know about them."""
        return CARD.format(
            backbone=self.backbone_name,
            stem=getattr(self.backbone, "stem", "small"),
            feature_dim=self.feature_dim,
            notes=self.card_notes,
        )


def convert_state_dict(
    tensors: Mapping[str, Tensor],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    source: str = "state dict",
    prefix: str | None = None,
    code_dim: int = 128,
    flip_probability: float = 0.1,
) -> tuple[ConvertedEncoder, ConversionReport]:
    """Put a trunk, and the NAC authors' heads where they are, into an encoder of ours.

    Strict: the trunk's tensors and those of one of our backbones must be the same in names, once translated,
    and in shapes. (Counters of batches alone, which old files lack and nothing here uses, may be missing.)

    Args:
        tensors: Of the whole checkpoint.
        mean: Per channel in [0, 1], that images were normalised with when the trunk was trained.
        std: Likewise.
        source: Name of the origin, for report and model card.
        prefix: What stands before the trunk's names. Absent: found, where there is one trunk alone.
        code_dim: Bits of the code heads where none came along.
        flip_probability: Of the channel that codes were trained for, or are to be.

    Returns:
        The encoder in evaluation mode, its card notes written, and the report.

    Raises:
        CheckpointError: There is no trunk, or several; it fits none of our backbones; heads are incomplete;
            a tensor is not finite.
        ConfigurationError: A number for the encoder is out of range.
    """
    prefix = find_prefix(tensors, prefix)
    trunk = dict(translated_trunk(tensors, prefix))
    backbone, stem, filled = _match_backbone({ours: tensors[name] for name, ours in trunk.items()})
    heads, head_reason = _authors_heads(tensors, prefix)
    if heads:
        code_dim = len(tensors[f"{prefix.removesuffix('encoder.')}linear.0.bias"])
    with seeded(0, "convert"):
        encoder = ConvertedEncoder(
            backbone,
            stem,
            code_dim,
            flip_probability,
            posterior="separate" if heads else "shared",
            code_normalization="sqrt_dim" if heads else "batch",
            mean=tuple(mean),
            std=tuple(std),
        )
    moved = {name: f"backbone.{ours}" for name, ours in trunk.items()} | heads
    state = encoder.state_dict()
    for name, ours in moved.items():
        tensor = tensors[name]
        if ours not in state or tensor.shape != state[ours].shape:
            expected = tuple(state[ours].shape) if ours in state else "no such tensor"
            raise CheckpointError(
                f"{name} should fit {ours}, {expected} here, but is {tuple(tensor.shape)}. The heads must be "
                "those of the NAC authors' model of this width."
            )
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"all tensors must be finite, but {name} is not. Was the run stopped after it diverged?"
            )
        state[ours] = tensor.to(state[ours].dtype)
    encoder.load_state_dict(state)
    encoder.eval()
    left = {
        name: head_reason.get(name, "no part of the trunk") for name in tensors if name not in moved
    }
    report = ConversionReport(
        source=source,
        backbone=backbone,
        stem=stem,
        prefix=prefix,
        has_codes=bool(heads),
        moved=tuple(moved.items()),
        left=tuple(left.items()),
        filled=(
            *((f"backbone.{name}", "0") for name in filled),
            *((name, "initialisation") for name in state if "head" in name and not heads),
        ),
        notes=_notes(backbone, stem, bool(heads), mean, std, flip_probability),
    )
    encoder.card_notes = _card_notes(report)
    return encoder, report


def _match_backbone(trunk: Mapping[str, Tensor]) -> tuple[str, Stem, list[str]]:
    """The backbone whose tensors these are, its stem, and the counters that are not among them."""
    shapes = {name: tuple(tensor.shape) for name, tensor in trunk.items()}
    nearest: list[str] | None = None
    for backbone in BACKBONES:
        stems: tuple[Stem, ...] = ("small", "standard") if backbone in RESNETS else ("small",)
        for stem in stems:
            with torch.device("meta"):
                expected = {
                    name: tuple(tensor.shape)
                    for name, tensor in build_backbone(backbone, stem).state_dict().items()
                }
            filled = [n for n in expected if n.endswith(COUNTER) and n not in shapes]
            differences = [
                f"{name}: {shapes.get(name, 'missing')} there, {expected.get(name, 'unknown')} in {backbone}"
                for name in sorted(shapes.keys() | expected.keys() - set(filled))
                if shapes.get(name) != expected.get(name)
            ]
            if not differences:
                return backbone, stem, filled
            if nearest is None or len(differences) < len(nearest):
                nearest = differences
    assert nearest is not None
    raise CheckpointError(
        f"the trunk should be one of {', '.join(BACKBONES)}, but {_described(trunk)} is none of them. The nearest "
        f"differs in {len(nearest)} tensors: {'; '.join(nearest[:10])}. Convert a trunk of these shapes."
    )


def _described(trunk: Mapping[str, Tensor]) -> str:
    """A trunk in words: what its names and shapes say of it."""
    if "conv1.weight" not in trunk:
        return f"a VGG of {sum(t.ndim == 4 for t in trunk.values())} convolutions"
    blocks = {
        name.rsplit(".conv1.", 1)[0] for name in trunk if re.match(r"layer\d+\.\d+\.conv1\.", name)
    }
    stages = sorted({block.partition(".")[0] for block in blocks})
    counts = [sum(block.startswith(f"{stage}.") for block in blocks) for stage in stages]
    kind = "bottleneck" if any(".conv3." in name for name in trunk) else "basic"
    kernel = "x".join(map(str, trunk["conv1.weight"].shape[2:]))
    return f"a ResNet with a {kernel} stem and stages of {counts} {kind} blocks"


def _authors_heads(
    tensors: Mapping[str, Tensor], prefix: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Names of the NAC authors' heads there and here, or why what looks like them is left."""
    if not prefix.endswith("encoder."):
        return {}, {}
    base = prefix.removesuffix("encoder.")
    heads = {
        f"{base}{there}.{part}": f"{here}.{part}"
        for there, here in AUTHORS_HEADS.items()
        for part in ("weight", "bias")
    }
    present = [name for name in heads if name in tensors]
    if len(present) == len(heads):
        return heads, {}
    if any("prediction." in name for name in present):
        missing = sorted(set(heads) - set(present))
        raise CheckpointError(
            f"the NAC authors' heads are {len(heads)} tensors, but {', '.join(missing)} are missing. Save the "
            "whole model."
        )
    return {}, dict.fromkeys(present, "projection head of a run without codes")


def _notes(
    backbone: str,
    stem: Stem,
    has_codes: bool,
    mean: Sequence[float],
    std: Sequence[float],
    flip_probability: float,
) -> tuple[str, ...]:
    notes = [
        f"The source does not say how images were normalised; mean {tuple(mean)} and std {tuple(std)} were given."
    ]
    if stem == "small" and backbone in RESNETS:
        notes.append(
            "A 3x3 stem is taken to have stride 1, padding 1 and no max-pooling after it, which tensors do not "
            "show; with another stem (solo-learn pads its CIFAR ones by 2) features would differ."
        )
    if has_codes:
        notes.append(
            f"Codes are the authors'; the flip probability {flip_probability} they were trained for was given."
        )
    else:
        notes.append(
            "The code head is at its random initialisation: features can be used, codes mean nothing until "
            "the encoder is trained with Neural Activation Coding."
        )
    return tuple(notes)


def _card_notes(report: ConversionReport) -> str:
    lines = [
        f"Converted from `{report.source}`: {len(report.moved)} tensors moved, {len(report.left)} left."
    ]
    return "\n\n".join([*lines, *report.notes])
