import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nacgen.probes.regions.patterns import count_patterns, naswot, visit_relus


def network(seed: int = 0, width: int = 40) -> nn.Module:
    torch.manual_seed(seed)
    layers = (nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(inplace=True))
    return nn.Sequential(*layers, nn.Linear(width, 3)).eval()


def images(n: int) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(1))


def test_every_way_to_write_a_relu_is_seen() -> None:
    def forward(x: Tensor) -> Tensor:
        x = nn.ReLU(inplace=True)(nn.ReLU()(x))
        x = F.relu(F.relu(x), inplace=True)
        return torch.relu(x).relu().relu_()

    seen: list[Tensor] = []
    visit_relus(forward, torch.tensor([[-1.0, 2.0]]), lambda z: seen.append(z.clone()))
    assert len(seen) == 7
    assert seen[0].tolist() == [[-1.0, 2.0]]


def test_naswot_is_the_log_determinant_of_agreeing_relus_counted_one_by_one() -> None:
    net, x = network(), images(12)
    hidden = [net[0](x), net[2](net[1](net[0](x)))]
    bits = torch.cat(hidden, dim=1) > 0
    kernel = torch.zeros(12, 12, dtype=torch.float64)
    for i in range(12):
        for j in range(12):
            kernel[i, j] = sum(
                1 for a, b in zip(bits[i].tolist(), bits[j].tolist(), strict=True) if a == b
            )
    assert naswot(net, x) == pytest.approx(float(torch.logdet(kernel)), abs=1e-9)


def test_naswot_of_duplicates_and_of_too_many_images_is_minus_infinity() -> None:
    net, x = network(), images(12)
    assert naswot(net, torch.cat([x, x[:1]])) == -math.inf
    assert naswot(network(width=4), images(30)) == -math.inf


def test_patterns_are_counted_by_frequency() -> None:
    patterns = torch.tensor([[0, 1, 0]] * 6 + [[1, 1, 0]] * 3 + [[0, 0, 0]]).bool()
    count = count_patterns(patterns)
    assert (count.distinct, count.num_images) == (3, 10)
    assert count.effective == pytest.approx(1 / (0.36 + 0.09 + 0.01))
    expected = -(0.6 * math.log(0.6) + 0.3 * math.log(0.3) + 0.1 * math.log(0.1))
    assert count.entropy == pytest.approx(expected)


def test_equally_frequent_patterns_are_all_effective() -> None:
    patterns = torch.eye(300).bool().repeat(2, 1)  # longer than 256 bits
    count = count_patterns(patterns)
    assert count.distinct == 300
    assert count.effective == pytest.approx(300)
    assert count_patterns(patterns[:1]).entropy == 0


def test_unusable_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"Sequential\.training is True"):
        naswot(network().train(), images(3))
    with pytest.raises(ValueError, match=r"Sequential\.training is True"):
        naswot(network().train().forward, images(3))
    with pytest.raises(ValueError, match="at least one ReLU, got none"):
        naswot(nn.Identity().eval(), images(3))
