"""The update of NAC pretraining. Its queue form is in test_pretraining.py."""

import math
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from nacgen.data.augment import ViewPolicy, random_view
from nacgen.data.datasets import load_dataset
from nacgen.data.pixels import to_float
from nacgen.data.stream import Batch, ImageStream
from nacgen.errors import NonFiniteError
from nacgen.functional.nac import nac_loss
from nacgen.models.encoder import NACEncoder
from nacgen.pretraining.base import swap_views
from nacgen.pretraining.nac import NACUpdate
from nacgen.pretraining.options import NACConfig
from nacgen.system.randomness import seeded
from tests.pretraining.small_pretraining import build as build_small

VIEWS = ViewPolicy(crop_scale=(0.5, 1.0), flip=False)
SAME = ViewPolicy((1.0, 1.0), 1.0, flip=False, jitter_probability=0.0, grayscale_probability=0.0)


def build(
    rate: float = 1e-3, relaxation: Any = "marginal", views: ViewPolicy = VIEWS, **options: Any
) -> NACUpdate:
    with seeded(0, "test"):
        encoder = NACEncoder(**{"code_dim": 32, "code_normalization": "batch", **options})
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=rate)
    return NACUpdate(
        Accelerator(cpu=True), encoder, optimizer, views, NACConfig(relaxation=relaxation)
    )


def batch_at(images_seen: int = 0, size: int = 16) -> Batch:
    return ImageStream(load_dataset("digits"), size, 0).batch(images_seen)


def test_the_authors_queue_weighs_the_term_of_a_separate_posterior_by_two() -> None:
    gradients = []
    for divide in (False, True):
        update, stream = build_small("nac_queue_authors")
        update.options = NACConfig(divide=divide)
        update.update(stream.batch(0))
        of_posterior = update.encoder.posterior_head.parameters()
        gradients.append([p.grad for p in of_posterior if p.grad is not None])
    assert gradients[0]
    for once, twice in zip(*gradients, strict=True):
        torch.testing.assert_close(twice, 2 * once)


def state_of(update: NACUpdate) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in update.encoder.state_dict().items()}


def test_views_change_places() -> None:
    rows = torch.arange(6.0).view(6, 1)  # three images: first views, then second ones
    assert swap_views(rows).flatten().tolist() == [3, 4, 5, 0, 1, 2]
    assert torch.equal(swap_views(swap_views(rows)), rows)


@pytest.mark.parametrize("posterior", ["shared", "separate"])
def test_each_code_is_predicted_from_the_other_view_of_its_image(
    posterior: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, batch, seen = build(rate=0.0, posterior=posterior), batch_at(), []

    def watched(*args: Any, **options: Any) -> Tensor:
        seen.append(args)
        return nac_loss(*args, **options)

    monkeypatch.setattr("nacgen.pretraining.nac.nac_loss", watched)
    logs = update.update(batch)
    views = [random_view(batch, VIEWS, purpose) for purpose in ("view_1", "view_2")]
    code_logits, posterior_logits = update.encoder.train()(torch.cat(views))
    of_view_1, of_view_2 = posterior_logits.chunk(2)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0][0], code_logits)
    torch.testing.assert_close(seen[0][1], torch.cat([of_view_2, of_view_1]))
    assert seen[0][3] == update.encoder.flip_probability
    torch.testing.assert_close(logs["loss"], nac_loss(*seen[0]).mean())
    # two views and every draw of the channel are independent
    assert not torch.equal(*views)
    uniform_1, uniform_2 = seen[0][2].chunk(2)
    assert not torch.equal(uniform_1, uniform_2)
    assert 0.4 < uniform_1.mean() < 0.6


def test_one_batch_is_overfitted_up_to_the_log_of_its_images() -> None:
    """With equal views and the exact posterior no batch of 16 images gives more than log 16 nats."""
    update, batch = build(rate=3e-3, flip_probability=0.1, views=SAME), batch_at()
    losses = [update.update(batch)["loss"].item() for _ in range(25)]
    assert losses[0] > -2.6
    assert losses[-1] == pytest.approx(-math.log(16), abs=0.02)
    assert min(losses) >= -math.log(16) - 1e-4
    codes = update.encoder.train().codes(to_float(batch.images))
    assert len(codes.unique(dim=0)) == 16


@pytest.mark.parametrize(
    ("relaxation", "posterior"), [("tanh", "shared"), ("marginal", "separate")]
)
def test_one_batch_is_overfitted_with_other_options(relaxation: str, posterior: str) -> None:
    update, batch = build(rate=3e-3, relaxation=relaxation, posterior=posterior), batch_at()
    losses = [update.update(batch)["loss"].item() for _ in range(25)]
    assert losses[-1] < losses[0] - 3


def test_an_update_is_a_function_of_the_position() -> None:
    updates = [build(), build()]
    for i, update in enumerate(updates):
        torch.manual_seed(i)  # what else is drawn does not matter
        update.update(batch_at())
        update.update(batch_at(16))
    states = [state_of(update) for update in updates]
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
    same_images = batch_at()
    elsewhere = Batch(same_images.images, None, 0, 16, 16, 0)
    losses = [build(rate=0.0).update(batch)["loss"] for batch in (same_images, elsewhere)]
    assert losses[0] != losses[1]


def test_every_parameter_is_trained() -> None:
    update = build(posterior="separate")
    before = state_of(update)
    logs = update.update(batch_at())
    trained = {name for name, p in update.encoder.named_parameters() if p.requires_grad}
    moved = {
        name for name, value in state_of(update).items() if not torch.equal(value, before[name])
    }
    assert trained <= moved
    gradients = [p.grad for p in update.encoder.parameters() if p.grad is not None]
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    torch.testing.assert_close(logs["gradient_norm"], norm)


def test_a_loss_that_is_not_finite_leaves_the_weights() -> None:
    update = build()
    update.update(batch_at())  # the optimizer has a momentum
    with torch.no_grad():
        update.encoder.code_head.mlp[2].bias[0] = torch.nan
    before = {name: p.clone() for name, p in update.encoder.named_parameters()}
    with pytest.raises(NonFiniteError, match="at 16 images seen it is nan"):
        update.update(batch_at(16))
    for name, parameter in update.encoder.named_parameters():
        assert torch.equal(parameter.isnan(), before[name].isnan()), name
        assert torch.equal(parameter.nan_to_num(), before[name].nan_to_num()), name
