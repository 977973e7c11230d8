import pytest
import torch
from accelerate import Accelerator

from nacgen.data.augment import ViewPolicy
from nacgen.data.datasets import load_dataset
from nacgen.data.stream import ImageStream
from nacgen.errors import DataError
from nacgen.models.encoder import NACEncoder
from nacgen.pretraining.distillhash import DistillHashUpdate, PairLabels


def build(distill_at: int) -> tuple[DistillHashUpdate, ImageStream]:
    images = load_dataset("digits").subset(torch.arange(0, 1442, 8))
    stream = ImageStream(images, 32, 0)
    encoder = NACEncoder.from_pretrained("checkpoints/digits-nac")
    update = DistillHashUpdate(
        Accelerator(cpu=True),
        encoder,
        torch.optim.Adam(encoder.parameters(), lr=1e-2),
        ViewPolicy(crop_scale=(1.0, 1.0), flip=False, jitter=0, saturation=0),
        stream,
        images,
        distill_at,
    )
    return update, stream


def test_pairs_are_distilled_once_when_the_time_has_come() -> None:
    update, stream = build(distill_at=70)
    noisy = update.pairs.labels.clone()
    seen = []
    for step in range(5):
        update.update(stream.batch(32 * step))
        seen.append(update.pairs.labels.clone())
    assert all(torch.equal(labels, noisy) for labels in seen[:3])  # at 0, 32 and 64 images
    assert not torch.equal(seen[3], noisy)  # at 96
    assert torch.equal(seen[4], seen[3])


@pytest.mark.slow
def test_both_stages_bring_similar_pairs_together() -> None:
    update, stream = build(distill_at=10**9)
    first = update.update(stream.batch(0))["loss"]
    for _ in range(30):
        last = update.update(stream.batch(0))["loss"]
    assert last < 0.7 * first
    update.distill_at = 0
    first = update.update(stream.batch(0))["loss"]  # distills, since the position is the first
    for _ in range(30):
        last = update.update(stream.batch(0))["loss"]
    assert last < first


def test_features_that_tell_nothing_apart_are_refused() -> None:
    with pytest.raises(DataError, match="label no pairs"):
        PairLabels(torch.ones(8, 4), 3)
