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
from nacgen.errors import ConfigurationError, NonFiniteError
from nacgen.functional.closed_form import closed_form_bound, closed_form_loss, direction_loss
from nacgen.functional.nac import marginal_posterior_logits, nac_loss, posterior_log_likelihood
from nacgen.models.encoder import NACEncoder
from nacgen.pretraining.base import StagedEncoder, swap_views
from nacgen.pretraining.nac import NACQueueUpdate, NACUpdate, channel_summary
from nacgen.pretraining.options import NACConfig
from nacgen.system.randomness import seeded
from tests.pretraining.small_pretraining import VIEWS as SMALL_VIEWS
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
    ("relaxation", "posterior", "nats"),
    [
        ("tanh", "shared", 3),
        ("marginal", "separate", 3),
        ("closed_form", "scaled", 2),
        ("direction", "shared", 3),
    ],
)
def test_one_batch_is_overfitted_with_other_options(
    relaxation: str, posterior: str, nats: float
) -> None:
    update, batch = build(rate=3e-3, relaxation=relaxation, posterior=posterior), batch_at()
    losses = [update.update(batch)["loss"].item() for _ in range(25)]
    assert losses[-1] < losses[0] - nats


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


@pytest.mark.parametrize("own_row", [True, False])
@pytest.mark.parametrize("relaxation", ["direction", "closed_form"])
def test_codes_of_stages_join_the_loss_at_half_its_weight(relaxation: Any, own_row: bool) -> None:
    update, stream = build_small("nac_direction")
    assert isinstance(update, NACUpdate)
    update.options = NACConfig(relaxation=relaxation, own_row=own_row)
    batch, p = stream.batch(0), update.encoder.flip_probability
    views = torch.cat([random_view(batch, SMALL_VIEWS, f"view_{i}") for i in (1, 2)])
    logits = [x.detach() for x in update.trained(views)]
    maps = update.encoder.feature_maps(views)
    heads = update.modules["stage_heads"]
    for (stage, head), codes in zip(heads.named_children(), logits[2:], strict=True):
        torch.testing.assert_close(codes, head(maps[stage].mean((2, 3))))

    def loss(codes: Tensor) -> Tensor:
        own_start, others = None if own_row else 0, swap_views(codes)
        if relaxation == "direction":
            return direction_loss(codes, others, p, own_start=own_start).mean()
        posterior = marginal_posterior_logits(others, p)
        return closed_form_loss(codes, posterior, p, own_start=own_start).mean()

    logs = update.update(batch)
    expected = loss(logits[0]) + (loss(logits[2]) + loss(logits[3])) / 2
    torch.testing.assert_close(logs["loss"], expected)
    bound = closed_form_bound(logits[0], swap_views(logits[1]), p).mean()
    torch.testing.assert_close(logs["closed_form_bound"], bound)
    assert all(p.grad is not None and p.grad.any() for p in heads.parameters() if p.requires_grad)
    assert not any("heads" in name for name in update.modules["encoder"].state_dict())


def test_codes_of_stages_have_channels_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    update, stream = build_small("nac_stages")
    seen = []

    def watched(*args: Any) -> Tensor:
        seen.append(args)
        return nac_loss(*args)

    monkeypatch.setattr("nacgen.pretraining.nac.nac_loss", watched)
    logs = update.update(stream.batch(0))
    code, *of_stages = (nac_loss(*args).mean() for args in seen)
    torch.testing.assert_close(logs["loss"], code + sum(of_stages) / 2)
    uniforms = [args[2] for args in seen]
    assert len(uniforms) == 3
    assert not torch.equal(uniforms[0], uniforms[1])
    assert not torch.equal(uniforms[1], uniforms[2])


@pytest.mark.parametrize("relaxation", ["direction", "closed_form"])
def test_a_queue_gives_the_closed_forms_its_codes_and_the_momentum_encoders_posterior(
    relaxation: str,
) -> None:
    update, stream = build_small(f"nac_queue_{relaxation}")
    assert isinstance(update, NACQueueUpdate)
    update.update(stream.batch(0))  # the momentum encoder is another one now
    batch, p = stream.batch(8), update.encoder.flip_probability
    views = torch.cat([random_view(batch, SMALL_VIEWS, f"view_{i}") for i in (1, 2)])
    with torch.no_grad():
        key_logits, key_posterior = (swap_views(x) for x in update.keys(views))
        codes, posterior = update.encoder(views)
    fresh = swap_views(key_logits)
    keys = torch.cat([update.keys.queue[:16], fresh])
    logs = update.update(batch)
    if relaxation == "direction":
        expected = direction_loss(codes, key_logits, p, keys).mean()
    else:  # with a separate posterior, trained on the mean of received codes
        rows = closed_form_loss(codes, key_posterior, p, keys)
        received = (1 - 2 * p) * torch.tanh(codes)
        expected = (rows - posterior_log_likelihood(received, swap_views(posterior))).mean()
    torch.testing.assert_close(logs["loss"], expected)


def test_the_summary_of_a_channel_names_the_ceiling_that_holds() -> None:
    noisy, quiet = channel_summary(0.4, 128, 256), channel_summary(0.1, 128, 65_536)
    assert noisy["ceiling"] == noisy["capacity"] == pytest.approx(2.58, abs=0.01)
    assert quiet["ceiling"] == pytest.approx(math.log(65_536))
    assert quiet["capacity"] == pytest.approx(47.11, abs=0.01)
    assert (round(noisy["temperature"], 3), round(quiet["temperature"], 4)) == (0.195, 0.0103)


def test_stages_that_the_backbone_has_not_or_has_last_are_refused() -> None:
    for stage in ("layer3", "layer9"):
        with pytest.raises(ConfigurationError, match=f"stem, layer1, layer2, .* got '{stage}'"):
            StagedEncoder(NACEncoder(), ("layer1", stage))
