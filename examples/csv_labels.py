"""Images with labels in a CSV file: a torch `Dataset` of one's own, an encoder, and a classifier from few labels.

python examples/csv_labels.py photos photos.csv

The file's columns are `file`, a path below the folder, and `label`.
"""

import csv
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor

import nacgen
from nacgen.data.pixels import to_float


class LabeledImages(Dataset[tuple[Image.Image, int]]):
    """Images of a folder, cut to one size, with the labels of a CSV file as numbers in alphabetical order."""

    def __init__(self, folder: str, table: str, image_size: int = 32) -> None:
        with Path(table).open(newline="", encoding="utf-8") as file:
            self.rows = list(csv.DictReader(file))
        self.folder, self.size = Path(folder), (image_size, image_size)
        self.classes = sorted({row["label"] for row in self.rows})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Read one image and its label."""
        path, label = self.folder / self.rows[index]["file"], self.rows[index]["label"]
        return Image.open(path).convert("RGB").resize(self.size), self.classes.index(label)


def main(folder: str, table: str, steps: int = 100, **options: object) -> float:
    """Pretrain on the images without their labels, fit a linear classifier; return its training accuracy."""
    dataset = LabeledImages(folder, table)
    settings = {"model": {"backbone": "tiny"}, "total_images": 51_200} | options
    encoder = nacgen.pretrain(dataset, preset="folder", **settings)
    images = to_float(torch.stack([pil_to_tensor(image) for image, _ in dataset]))
    labels = torch.tensor([label for _, label in dataset])
    with torch.no_grad():
        features = encoder.features(images)  # (n, d)
    classifier = nn.Linear(features.shape[1], len(dataset.classes))
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(classifier(features), labels).backward()
        optimizer.step()
    return (classifier(features).argmax(1) == labels).float().mean().item()


if __name__ == "__main__":
    print(f"accuracy on the training images {main(*sys.argv[1:3]):.3f}")
