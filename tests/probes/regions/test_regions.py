import pytest
import torch
from torch import Tensor, nn

from nacgen.data.augment import ViewPolicy
from nacgen.data.pixels import to_float
from nacgen.probes.regions.patterns import count_patterns, naswot
from nacgen.probes.regions.regions import RegionReport, measure_regions
from nacgen.system.randomness import seeded

NO_CHANGE = ViewPolicy(
    crop_scale=(1.0, 1.0), crop_ratio=1.0, flip=False, jitter=0.0, saturation=0.0,
    grayscale_probability=0.0,
)  # fmt: skip


def images(n: int = 9) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, 4, 4), dtype=torch.uint8, generator=draw)


def network() -> nn.Sequential:
    with seeded(0, "network"):
        head = (nn.Flatten(), nn.Linear(48, 30), nn.ReLU(), nn.Linear(30, 5))
        return nn.Sequential(*head).eval()


def test_one_hidden_layer_is_measured_by_its_sign_changes() -> None:
    net, pixels = network(), images(2)
    report = measure_regions(net, pixels, NO_CHANGE, num_segments=8)
    with torch.no_grad():
        hidden = net[1](net[0](to_float(pixels)))
        codes = net(to_float(pixels)) >= 0
    # two images: every segment joins these two, in one direction or the other
    assert report.between.mean == int((hidden[0].sign() != hidden[1].sign()).sum())
    assert report.between.standard_error == 0
    length = float((to_float(pixels)[0] - to_float(pixels)[1]).norm())
    assert report.between.mean_length == pytest.approx(length, rel=1e-6)
    assert (report.within_orbit.mean, report.within_orbit.mean_length) == (0, 0)
    assert report.last_relu == count_patterns(hidden > 0)
    assert report.output_codes == count_patterns(codes)
    assert report.naswot == pytest.approx(naswot(net, to_float(pixels)))


def test_orbits_lie_within_the_views() -> None:
    report = measure_regions(network(), images(), ViewPolicy(), num_segments=8)
    assert 0 < report.within_orbit.mean < 30
    assert report.within_orbit.num_segments == report.between.num_segments == 8


def test_the_same_seed_gives_the_same_segments_and_another_others() -> None:
    def measure(seed: int) -> RegionReport:
        return measure_regions(network(), images(), ViewPolicy(), num_segments=4, seed=seed)

    first, again, other = measure(0), measure(0), measure(1)
    assert first == again
    assert first.between.mean_length != other.between.mean_length
    assert first.within_orbit.mean_length != other.within_orbit.mean_length


def test_sampling_is_a_lower_bound_and_says_so() -> None:
    exact, sampled = (
        measure_regions(
            network(), images(), ViewPolicy(), num_segments=8, method=method, num_points=3
        )
        for method in ("exact", "sampled")
    )
    assert 0 < sampled.between.mean <= exact.between.mean
    assert sampled.between.mean_length == exact.between.mean_length
    assert sampled.naswot == exact.naswot
    assert (sampled.protocol["method"], sampled.protocol["num_points"]) == ("sampled", 3)


def test_the_standard_error_is_that_of_the_mean() -> None:
    few, many = (
        measure_regions(
            network(), images(40), ViewPolicy(), num_segments=n, method="sampled", num_points=16
        ).between
        for n in (8, 72)
    )
    assert many.standard_error == pytest.approx(few.standard_error / 3, rel=0.5)
    assert abs(few.mean - many.mean) < 5 * few.standard_error


def test_unusable_settings_are_named() -> None:
    with pytest.raises(ValueError, match="images must be two or more, got 1"):
        measure_regions(network(), images(1), ViewPolicy())
    with pytest.raises(ValueError, match=r"Sequential\.training is True"):
        measure_regions(network().train(), images(), ViewPolicy())


def test_a_network_that_gives_no_numbers_is_refused() -> None:
    broken = network()
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match=r"the network's outputs must be finite, but .* are not"):
        measure_regions(broken, images(), ViewPolicy(), num_segments=2)
