from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from nacgen.data.stream import Batch
from nacgen.errors import DivergenceError
from nacgen.gan.adaptive import AdaptiveAugmentation
from nacgen.training.monitors import DivergenceMonitor, LastValues


def batch_at(images_seen: int) -> Batch:
    return Batch(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), None, 0, images_seen, 8, 0)


def test_the_probability_moves_once_in_four_steps_towards_the_target() -> None:
    adaptive = AdaptiveAugmentation(target=0.6, images_to_full=320.0)
    seen = []
    for sign in (1.0, 1, 1, 0, 0.8, 0.8, 0.8, 0.8, 0, 0, 0, 0, -1, -1, -1, -1, -1, -1, -1, -1):
        adaptive.observe(sign, 8)
        seen.append(float(adaptive.probability))
    # 32 images are a tenth of the way; 0.75 and 0.8 lie above the target
    assert seen[3::4] == pytest.approx([0.1, 0.2, 0.1, 0, 0])  # and never below 0
    assert seen[:3] == [0, 0, 0]
    for _ in range(80):
        adaptive.observe(1.0, 8)
    assert float(adaptive.probability) == 1


def test_what_is_saved_is_all_that_the_augmentation_remembers() -> None:
    first = AdaptiveAugmentation(target=0.6, images_to_full=320.0)
    for sign in (1.0, 1, 1, 1, 1, 1):
        first.observe(sign, 8)
    second = AdaptiveAugmentation(target=0.6, images_to_full=320.0)
    second.load_state_dict(first.state_dict())
    for adaptive in (first, second):
        adaptive.observe(0.5, 8)
        adaptive.observe(0.0, 8)  # mean 0.625
        assert float(adaptive.probability) == pytest.approx(0.2)


def test_logits_may_exceed_their_bound_but_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DivergenceMonitor, "bound", 10.0)
    watch = DivergenceMonitor(patience=24)
    for step, size in enumerate((11.0, 12, 9, 11, 10, float("nan"), 11)):  # at most two in a row
        watch.observe(size, batch_at(8 * step))
    resumed = DivergenceMonitor(patience=24)
    resumed.load_state_dict(watch.state_dict())
    with pytest.raises(DivergenceError, match=r"below 10 .* since 40 .* now 1.23e\+04 at 64") as e:
        resumed.observe(12_345.0, batch_at(56))
    assert e.value.since == 40


def test_values_that_are_not_due_keep_their_last_value() -> None:
    values = LastValues(Accelerator(cpu=True), "penalty", "rare")
    first = values({"loss": torch.tensor(1.0)})
    assert set(first) == {"loss"}
    second = values({"loss": torch.tensor(2.0), "penalty": torch.tensor(3.0)})
    third = values({"loss": torch.tensor(4.0)})
    assert {k: float(v) for k, v in second.items()} == {"loss": 2, "penalty": 3}
    assert {k: float(v) for k, v in third.items()} == {"loss": 4, "penalty": 3}
    values({"penalty": torch.tensor(5.0)})
    assert float(third["penalty"]) == 3  # a row that was given out stays


def test_last_values_are_means_over_processes() -> None:
    other = torch.tensor(
        [5.0]
    )  # the other process's penalty, which a checkpoint of the first would lose
    accelerator: Any = SimpleNamespace(reduce=lambda mine, _: (mine + other) / 2)
    values = LastValues(accelerator, "penalty")
    assert float(values({"penalty": torch.tensor(3.0)})["penalty"]) == 4
    assert float(values({})["penalty"]) == 4
