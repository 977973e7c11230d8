import json
import math
from dataclasses import asdict

import pytest
import torch
from torch import Tensor

from nacgen.functional.nac import channel_capacity, hard_codes, marginal_posterior_logits, nac_bound
from nacgen.probes.health import SCALES, CodeHealth, code_health


def random(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw)


def examine(
    view_1: Tensor, view_2: Tensor | None = None, p: float = 0.1, **options: Tensor
) -> CodeHealth:
    """Return the health of a code; its posterior is computed from the other view's logits."""
    view_2 = view_1 if view_2 is None else view_2
    posterior = marginal_posterior_logits(torch.cat([view_2, view_1]), p)
    return code_health(torch.cat([view_1, view_2]), posterior, p, **options)


def all_words(bits: int) -> Tensor:
    words = torch.arange(2**bits)
    return torch.stack([(words >> bit & 1) * 2.0 - 1 for bit in range(bits)], dim=1)


def test_independent_balanced_bits_are_healthy() -> None:
    health = examine(3 * all_words(8), features=torch.eye(40), p=0.01)
    assert health.imbalance == 0
    assert health.constant_bits == health.copied_bits == 0
    assert (health.mean_correlation, health.max_correlation) == pytest.approx((0, 0), abs=1e-12)
    assert health.bit_entropy == pytest.approx(8 * math.log(2))
    assert health.code_entropy == pytest.approx(8 * math.log(2))
    assert health.distinct_codes == 256
    assert health.effective_codes == pytest.approx(256)
    assert (health.mean_margin, health.narrow_share) == (3, 0)
    assert (health.view_flip_rate, health.image_flip_rate) == (0, 0.5)
    assert health.feature_rank == pytest.approx(40, rel=1e-4)
    assert health.information.bit_agreement == 1
    assert health.information.batch_ceiling == pytest.approx(math.log(512))
    assert health.information.channel_ceiling == pytest.approx(8 * channel_capacity(0.01))
    assert 0.8 * health.information.channel_ceiling < health.information.nac_bound
    assert health.warnings == ()


def test_a_collapsed_code_is_named() -> None:
    health = examine(torch.ones(16, 12), features=torch.ones(8, 5))
    assert health.constant_bits == 12
    assert health.imbalance == 0.5
    assert health.mean_correlation is None
    assert health.max_correlation is None
    assert health.effective_codes == 1
    assert health.bit_entropy == health.code_entropy == 0
    assert health.warnings[:2] == (
        "effective number of codes 1.0 of 16: collapsed",
        "12 of 12 bits are constant",
    )
    assert health.warnings[-1] == "feature rank 1.0 of 5: collapsed"
    assert "WARNING: 12 of 12 bits are constant" in str(health)


def test_constant_copied_and_undecided_bits_are_counted() -> None:
    logits = 0.05 * hard_codes(random(64, 10))
    logits[:, 3] = 2.0
    logits[:, 5], logits[:, 7] = logits[:, 0], -logits[:, 0]
    health = examine(logits)
    assert health.constant_bits == 1
    assert health.worst_bits[0] == (3, 1.0)
    assert health.copied_bits == 2
    assert health.narrow_share == pytest.approx(0.9)
    assert health.warnings[:3] == (
        "1 of 10 bits are constant",
        "2 of 10 bits repeat another one",
        "90% of code logits lie within 0.1 of zero: the code is undecided",
    )


def test_unbalanced_bits_are_listed_worst_first() -> None:
    logits = torch.ones(10, 3)
    for bit, negative in enumerate((5, 9, 2)):
        logits[:negative, bit] = -1
    health = examine(logits)
    expected = [(1, pytest.approx(0.1)), (2, pytest.approx(0.8)), (0, pytest.approx(0.5))]
    assert list(health.worst_bits) == expected
    assert health.imbalance == pytest.approx((0 + 0.4 + 0.3) / 3)
    entropy = sum(-p * math.log(p) - (1 - p) * math.log(1 - p) for p in (0.5, 0.1, 0.8))
    assert health.bit_entropy == pytest.approx(entropy)


def test_effective_codes_weigh_frequent_ones() -> None:
    words = all_words(4)
    health = examine(torch.cat([words[:1]] * 6 + [words[5:6]] * 4))
    assert health.distinct_codes == 2
    assert health.effective_codes == pytest.approx(1 / (0.36 + 0.16))


def test_codes_are_told_apart_by_first_views_and_their_entropy_by_both() -> None:
    words = all_words(4)
    health = examine(words[[3, 3, 5, 5]], words[[0, 1, 2, 4]])
    assert (health.distinct_codes, health.effective_codes) == (2, pytest.approx(2))
    assert health.code_entropy == pytest.approx(0.5 * math.log(4) + 0.5 * math.log(8))


def test_views_that_flip_as_many_bits_as_images_are_named() -> None:
    health = examine(random(300, 32), random(300, 32, seed=1))
    assert health.view_flip_rate == pytest.approx(0.5, abs=0.02)
    assert health.image_flip_rate == pytest.approx(0.5, abs=0.01)
    assert health.information.bit_agreement == pytest.approx(1 - health.view_flip_rate)
    assert any(
        "the code does not recognize the same image" in warning for warning in health.warnings
    )
    assert any("it shows no information about the image" in warning for warning in health.warnings)


def test_the_bound_is_fitted_on_the_other_half_of_the_images() -> None:
    """Scaled logits give the same bound, and the factor is not the likeliest for its own rows."""
    logits = random(128, 16)
    codes, posterior, p = torch.cat([logits, logits]), 3 * torch.cat([logits, logits]), 0.2
    health, scaled = (code_health(codes, s * posterior, p) for s in (1.0, 2.0))
    assert scaled.information.nac_bound == pytest.approx(health.information.nac_bound)
    assert health.information.posterior_scale == pytest.approx(
        2 * scaled.information.posterior_scale
    )
    values = [float(nac_bound(codes, scale * posterior, p).mean()) for scale in SCALES]
    assert health.information.nac_bound == pytest.approx(max(values), abs=0.15)


def test_an_image_does_not_choose_its_own_factor() -> None:
    logits = 4 * hard_codes(random(40, 16))
    posterior = torch.cat([logits, logits])
    posterior[::2] = -posterior[::2]  # wrong for every other image
    misled = code_health(torch.cat([logits, logits]), posterior, 0.1).information
    assert misled.nac_bound < -5  # right images got the factor of the wrong ones and vice versa


def test_health_is_json_and_a_few_lines() -> None:
    health = examine(random(20, 8), random(20, 8, seed=1))
    assert json.loads(json.dumps(asdict(health), allow_nan=False))["protocol"]["num_images"] == 20
    assert len(str(health).splitlines()) == 4 + len(health.warnings)
    assert "codes: " in str(health)


@pytest.mark.parametrize("name", ["code_logits", "posterior_logits", "features"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_are_counted(name: str, value: float) -> None:
    given = {key: random(8, 4) for key in ("code_logits", "posterior_logits", "features")}
    given[name][2, 1:3] = value
    with pytest.raises(ValueError, match=f"{name} must be finite, but 2 of 32 values"):
        code_health(**given, flip_probability=0.1)


@pytest.mark.usefixtures("as_users_run_it")
def test_unusable_rows_are_named() -> None:
    with pytest.raises(ValueError, match="two views of two images or more, got 7 rows"):
        code_health(random(7, 4), random(7, 4), 0.1)
    with pytest.raises(ValueError, match="got 2 rows"):
        code_health(random(2, 4), random(2, 4), 0.1)
    with pytest.raises(ValueError, match=r"got 0\.5"):
        code_health(random(8, 4), random(8, 4), 0.5)
