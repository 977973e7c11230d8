"""A plain torchvision ResNet that starts from an encoder and learns classes from a few labels.

    python examples/torchvision_classifier.py runs/my-resnet18/encoder

The encoder must be a resnet18 with the standard stem, as recipes/pretrain_nac.py makes it with
`--model.backbone resnet18 --model.stem standard`. Without a path an untrained encoder is used.
"""

import sys

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

import nacgen
from nacgen.data.datasets import load_dataset
from nacgen.data.pixels import to_float
from nacgen.data.stream import ImageStream


def main(encoder_path: str | None = None, steps: int = 60) -> tuple[list[float], float]:
    """Train on 200 digits; return the losses, and the accuracy on held-out digits."""
    if encoder_path is None:
        encoder = nacgen.NACEncoder("resnet18", stem="standard")
    else:
        encoder = nacgen.NACEncoder.from_pretrained(encoder_path)
    classifier = torchvision.models.resnet18(num_classes=10)

    # First see what would be loaded, then load it: the names are torchvision's.
    print(nacgen.transplant(encoder, into=classifier, image_size=32, dry_run=True).report)
    part = nacgen.transplant(encoder, into=classifier, image_size=32)
    print(part.report.to_markdown())

    # Learning rates: in full for the head, 0.3 of it for the last stage, half of that for the one below, ...
    groups = part.param_groups(lr=3e-3, trunk_multiplier=0.3, stage_decay=0.5)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    train = load_dataset("digits", image_size=32).subset(torch.arange(200))
    stream = ImageStream(train, batch_size=32, seed=0)
    losses = []
    for step in range(steps):
        batch = stream.batch(step * 32)
        logits = classifier(encoder.normalize(to_float(batch.images)))  # as in pretraining
        loss = F.cross_entropy(logits, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    test = load_dataset("digits", "test", image_size=32)
    with torch.no_grad():
        logits = classifier.eval()(encoder.normalize(to_float(test.read(torch.arange(len(test))))))
    hits: Tensor = logits.argmax(1) == test.labels
    return losses, hits.float().mean().item()


if __name__ == "__main__":
    print(f"accuracy {main(*sys.argv[1:])[1]:.3f}")
