import pytest
import torch
from torch import Tensor, nn

from nacgen.probes.regions.slices import slice_regions


def plane_network(weights: Tensor, biases: Tensor) -> nn.Module:
    """ReLUs of an image of two pixels and no more."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, len(weights)), nn.ReLU()).eval()
    network[1].load_state_dict({"weight": weights, "bias": biases})
    return network


def triangle(*corners: tuple[float, float]) -> Tensor:
    return torch.tensor(corners).view(3, 1, 1, 2)


CORNERS = triangle((-1.0, -1.0), (1.0, -1.0), (0.0, 2.0))  # mean (0, 0)


def test_lines_through_the_middle_cut_the_plane_into_sectors() -> None:
    angles = torch.tensor([0.3, 1.2, 2.2])
    network = plane_network(torch.stack([angles.cos(), angles.sin()], dim=1), torch.zeros(3))
    found = slice_regions(network, CORNERS, 64)
    assert found.num_regions == 6  # three lines through one point
    assert found.region_ids.shape == (64, 64)
    assert found.region_ids.unique().tolist() == list(range(6))
    sizes = torch.bincount(found.region_ids.flatten())
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)
    opposite = found.region_ids.flip(0, 1)  # the point reflection of the plane
    assert (found.region_ids != opposite).all()


def test_pixels_lie_where_the_corners_say() -> None:
    """A region around each image alone, and the image's pixel inside of it."""
    network = plane_network(torch.eye(2), torch.tensor([-0.5, -1.0]))  # x > 0.5, y > 1
    found = slice_regions(network, CORNERS, 101)
    ids = [int(found.region_ids[round(y), round(x)]) for x, y in found.corners.tolist()]
    assert len(set(ids)) == 3
    (x0, y0), (x1, y1), (_, y2) = found.corners.tolist()
    assert x0 < x1
    assert y0 == pytest.approx(y1)
    assert y2 < y0  # rows are counted from above
    reach = max(abs(float(c) - 50) for c in found.corners.flatten())
    assert reach == pytest.approx(101 * (0.5 - 0.12), abs=0.01)


def test_zoom_enlarges_the_middle() -> None:
    network = plane_network(torch.eye(2), torch.tensor([-0.5, 0.0]))
    assert slice_regions(network, CORNERS, 32).num_regions == 4
    near = slice_regions(network, CORNERS, 32, zoom=10)
    assert near.num_regions == 2  # x > 0.5 is out of the window
    middle = (near.corners - 15.5).norm(dim=1) / (
        slice_regions(network, CORNERS, 32).corners - 15.5
    ).norm(dim=1)
    assert middle.tolist() == pytest.approx([10] * 3)


def test_a_part_is_the_network_or_the_signs_of_its_output() -> None:
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(2, 20), nn.ReLU(), nn.Linear(20, 2)
    network = nn.Sequential(*layers).eval()
    whole, code = (slice_regions(network, CORNERS, 48, part) for part in ("network", "code"))
    assert whole.num_regions > 4 >= code.num_regions > 1
    values = slice_regions(
        lambda x: network(x).relu(), CORNERS, 48
    )  # patterns of hidden units and signs
    for region in range(values.num_regions):
        assert len(code.region_ids[values.region_ids == region].unique()) == 1


def test_regions_with_like_patterns_are_near_in_likeness() -> None:
    network = plane_network(torch.tensor([[1.0, 0.0]] * 12), torch.linspace(-1, 1, 12))
    found = slice_regions(network, CORNERS, 64)  # 12 parallel lines: 13 strips in a row
    strips = found.region_ids[0].unique_consecutive()
    assert len(strips) == found.num_regions == 13
    along = found.likeness[strips, 0]
    steps = along.diff()
    assert (steps > 0).all() or (steps < 0).all()
    assert found.likeness.abs().max() <= 1


def test_one_region_has_a_finite_likeness() -> None:
    found = slice_regions(plane_network(torch.zeros(1, 2), torch.ones(1)), CORNERS, 8)
    assert found.num_regions == 1
    assert found.likeness.abs().max() < 1e-3


def test_unusable_planes_are_named() -> None:
    network = plane_network(torch.eye(2), torch.zeros(2))
    for corners in (
        triangle((0.0, 0.0), (1.0, 1.0), (3.0, 3.0)),
        triangle((0.0, 0.0), (0.0, 0.0), (1.0, 0.0)),
    ):
        with pytest.raises(ValueError, match="the three lie on one line"):
            slice_regions(network, corners, 8)
