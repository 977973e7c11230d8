import pytest
import torch

from nacgen.functional.frechet import FrechetDistance
from nacgen.metrics import selfcheck


def test_every_check_holds_here() -> None:
    checks = list(selfcheck.selfcheck())
    assert len({check.claim for check in checks}) == len(checks) == 16
    assert all(check.holds for check in checks)


def test_a_wrong_distance_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgets_the_root(mean_1, covariance_1, mean_2, covariance_2):  # type: ignore[no-untyped-def]
        value = (mean_1 - mean_2).square().sum() + (covariance_1 - covariance_2).trace().abs()
        return FrechetDistance(value, value)

    monkeypatch.setattr(selfcheck, "frechet_distance", forgets_the_root)
    assert [check.holds for check in selfcheck._frechet()] == [False, False, False, True]


def test_nan_does_not_hold() -> None:
    assert not selfcheck.Check("claim", 0, float(torch.tensor(float("nan")))).holds
