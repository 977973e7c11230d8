"""Conversion of other projects' encoders to ours, with a report on every tensor.

The heads of the NAC paper's authors (`head`, `linear`, `prediction` beside a trunk called `encoder`) become
code head and posterior head. Heads of other methods give no codes and are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nacgen.errors import CheckpointError
from nacgen.models.backbones import BACKBONES, RESNETS, Stem, build_backbone
from nacgen.models.encoder import NACEncoder
from nacgen.models.foreign import find_prefix, translate_trunk
from nacgen.system.randomness import seeded

AUTHORS_HEADS = {
    "head.0": "code_head.mlp.0",
    "linear.0": "code_head.mlp.2",
    "prediction.0": "posterior_head.mlp.0",
    "prediction.2": "posterior_head.mlp.2",
}
COUNTER = "num_batches_tracked"  # old files lack it, and nothing here uses it

CARD = """---
library_name: nacgen
tags: [image-feature-extraction]
---
# Converted encoder: {model.backbone_name}, {model.options[stem]} stem

Weights that another project trained, under nacgen's names. Their licence is that of their source.

```python
import nacgen

encoder = nacgen.NACEncoder.from_pretrained("path/to/this/folder")
encoder.features(images)  # images: float (b, 3, h, w) in [-1, 1] -> ({model.feature_dim},) each
```

{model.card_notes}
"""


@dataclass(frozen=True)
class ConversionReport:
    """A record of every tensor of a conversion."""

    source: str
    backbone: str
    stem: Stem
    prefix: str  # of the trunk's names in the source
    has_codes: bool
    moved: tuple[tuple[str, str], ...]  # name in the source, name in the encoder
    left: tuple[tuple[str, str], ...]  # name in the source, reason why the tensor was not used
    filled: tuple[tuple[str, str], ...]  # name in the encoder alone, value that it got
    notes: tuple[str, ...]  # sentences on what the tensors do not show

    def __str__(self) -> str:
        """Return the report for a terminal, with one line for each tensor."""
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
    """A `NACEncoder` whose model card states its origin; it is saved and loaded like any other."""

    card = CARD


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
    """Copy a trunk, and the NAC authors' heads if there are any, into an encoder of ours in evaluation mode.

    The translated names and the shapes must be exactly those of one of our backbones, but BatchNorm's counters
    may be missing. Anything else, incomplete heads, and tensors that are not finite are a `CheckpointError`.

    `mean` and `std` are of the channels in [0, 1], as the trunk's images were normalized. `source` is the name
    in report and card. Without `prefix` that of the only trunk is found. `code_dim` is that of a new code head, if
    the source has none; codes were or will be trained for `flip_probability`.
    """
    # Find the trunk, the backbone that it fits, and heads.
    prefix = find_prefix(tensors, prefix)
    trunk = translate_trunk(tensors, prefix)
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

    # Copy each tensor to its place.
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

    # Report what happened, and what the tensors do not show.
    notes = [
        f"The source does not say how images were normalized; mean {tuple(mean)} and std {tuple(std)} were given."
    ]
    if stem == "small" and backbone in RESNETS:
        notes.append(
            "A 3x3 stem is taken to have stride 1, padding 1 and no max-pooling after it, which tensors do not "
            "show; with another stem (solo-learn pads its CIFAR ones by 2) features would differ."
        )
    notes.append(
        f"Codes are the authors'; the flip probability {flip_probability} they were trained for was given."
        if heads
        else "The code head is at its random initialization: features can be used, codes mean nothing until the "
        "encoder is trained with Neural Activation Coding."
    )
    left = [(n, head_reason.get(n, "no part of the trunk")) for n in tensors if n not in moved]
    report = ConversionReport(
        source=source,
        backbone=backbone,
        stem=stem,
        prefix=prefix,
        has_codes=bool(heads),
        moved=tuple(moved.items()),
        left=tuple(left),
        filled=(
            *((f"backbone.{name}", "0") for name in filled),
            *((name, "initialisation") for name in state if "head" in name and not heads),
        ),
        notes=tuple(notes),
    )
    counts = f"{len(moved)} tensors moved, {len(left)} left."
    encoder.card_notes = "\n\n".join([f"Converted from `{source}`: {counts}", *report.notes])
    return encoder, report


def _match_backbone(trunk: Mapping[str, Tensor]) -> tuple[str, Stem, list[str]]:
    """Return the backbone with these tensors, its stem, and the counters that are missing."""
    shapes = {name: tuple(tensor.shape) for name, tensor in trunk.items()}
    found: list[tuple[int, str, Stem, list[str], list[str]]] = []
    stems: tuple[Stem, ...] = ("small", "standard")
    for backbone in BACKBONES:
        for stem in stems if backbone in RESNETS else stems[:1]:
            with torch.device("meta"):
                state = build_backbone(backbone, stem).state_dict()
            expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
            filled = [n for n in expected if n.endswith(COUNTER) and n not in shapes]
            differences = [
                f"{name}: {shapes.get(name, 'missing')} there, {expected.get(name, 'unknown')} in {backbone}"
                for name in sorted(shapes.keys() | expected.keys() - set(filled))
                if shapes.get(name) != expected.get(name)
            ]
            common = sum(shapes.get(name) == shape for name, shape in expected.items())
            found.append((common, backbone, stem, filled, differences))
    # The nearest backbone has the most tensors in common, and among equals the fewest differences.
    _, backbone, stem, filled, differences = min(found, key=lambda fit: (-fit[0], len(fit[4])))
    if differences:
        raise CheckpointError(
            f"the trunk should be one of {', '.join(BACKBONES)}, but is none of them. The nearest, {backbone}, "
            f"differs in {len(differences)} tensors: {'; '.join(differences[:10])}. Convert another trunk."
        )
    return backbone, stem, filled


def _authors_heads(
    tensors: Mapping[str, Tensor], prefix: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Return names of the NAC authors' heads in source and encoder, or reasons to leave similar tensors."""
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
            f"the NAC authors' heads are {len(heads)} tensors, but {', '.join(missing)} are missing."
        )
    return {}, dict.fromkeys(present, "projection head of a run without codes")
