"""Numbers that are not finite, wherever they come from."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nacgen.errors import NonFiniteError
from tests.faults import small_runs
from tests.faults.small_runs import BATCH, METHODS, fingerprint, whole_checkpoints
from tests.faults.trials import FULL, run, whole_run


@dataclass(frozen=True)
class Poison:
    """A NaN in the fifth step, and a word on whether the parameters were spared.

    Args:
        source: Where it comes from: the loss, one number of each gradient, or one image of the batch.
    """

    source: str

    def __call__(self) -> None:
        from accelerate import Accelerator

        train, backward = small_runs.train, Accelerator.backward
        is_due, parameters = False, list[torch.Tensor]()

        def poisoned_backward(accelerator: Any, loss: torch.Tensor, **options: Any) -> None:
            backward(accelerator, loss * math.nan if is_due and self.source == "loss" else loss)
            if is_due and self.source == "gradient":
                for gradient in (p.grad for p in parameters if p.grad is not None):
                    gradient.flatten()[0] = math.nan

        def watched(update: Any, *rest: Any, **options: Any) -> Any:
            step = update.update
            parameters.extend(p for m in update.modules.values() for p in m.parameters())

            def poisoned_step(batch: Any) -> Any:
                nonlocal is_due
                is_due = batch.images_seen == 4 * BATCH
                if is_due and self.source == "batch":
                    batch = replace(batch, images=batch.images.float())
                    batch.images[0] = math.nan
                before = [p.detach().clone() for p in parameters]
                try:
                    return step(batch)
                except NonFiniteError:
                    spared = all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
                    print("parameters", "unchanged" if spared else "changed")
                    raise

            update.update = poisoned_step
            return train(update, *rest, **options)

        Accelerator.backward = poisoned_backward
        small_runs.train = watched


@pytest.mark.parametrize("method", METHODS if FULL else ["nac", "gan"])
def test_a_number_that_is_not_finite_stops_a_run_before_its_update(  # type: ignore[no-untyped-def]
    tmp_path: Path, method: str, record_property
) -> None:
    """A NaN in the loss, in one number of each gradient, in one image of a batch, each method: exit code 3,
    the parameters as before the step, no number saved that is not finite, and without the NaN the run
    goes on bit for bit."""
    preset, sources = f"{method}-short", ("loss", "gradient", "batch")
    expected = whole_run(tmp_path / "whole", preset)
    for source in sources:
        folder = tmp_path / source
        ended = run(folder, preset, Poison(source))
        assert ended.code == 3, (source, ended.output)
        assert "parameters unchanged" in ended.output, source
        assert whole_checkpoints(folder) == [2 * BATCH, 4 * BATCH]
        for file in (folder / "checkpoints").glob("*/*.safetensors"):
            if file.stem not in (
                "last_values",
                "augmentation",
            ):  # say with NaN that they know nothing
                assert all(v.isfinite().all() for v in load_file(file).values()), file
        assert run(folder, preset).code == 0
        assert fingerprint(folder) == expected, source
    record_property("trials", len(sources))
