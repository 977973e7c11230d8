"""Checkpoints: a save beside training, hashed and synced, and Accelerate's `save_state`, and its share of a run.

Both save the same model and the state of its Adam into a new folder and remove all but the last two. Accelerate
also writes the state of random generators, pickled, and neither hashes nor syncs; nacgen has no such state.
The disk has nothing left to write when either begins.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from safetensors.torch import load_file

import page
from nacgen.models.backbones import build_backbone
from nacgen.training.checkpoint import save_checkpoint
from nacgen.training.checkpoint_writer import CheckpointWriter
from nacgen.training.config import RunConfig, TrainingConfig
from nacgen.training.run import Run, open_run
from nacgen.training.snapshot import capture
from timing import Cost, Row, Size, cost, in_turns

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))


class Trained:
    """A network and its Adam after one step."""

    def __init__(self, accelerator: Accelerator, name: str) -> None:
        network = build_backbone(name)
        adam = torch.optim.Adam(network.parameters())
        network, optimizer = accelerator.prepare(network, adam)
        self.modules = {"network": network}
        self.optimizers = {"network": optimizer}
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()

    def update(self, batch: object) -> dict[str, torch.Tensor]:
        """Nothing more."""
        return {}


def save(size: Size) -> list[Row]:
    """What a save takes of the training thread, and all of it until it is in place, over the one before."""
    rows = []
    for name in size.of(("tiny",), ("tiny", "resnet18"), ("tiny", "resnet18", "resnet50")):
        with _opened() as (run, folder), CheckpointWriter(run) as writer:
            naming = ProjectConfiguration(
                str(folder / "theirs"), automatic_checkpoint_naming=True, total_limit=2
            )
            accelerator = Accelerator(cpu=True, project_config=naming)
            update, seen = Trained(accelerator, name), count()
            parts = capture(update)

            def ours(
                update: Trained = update,
                seen: Iterator[int] = seen,
                writer: CheckpointWriter = writer,
            ) -> None:
                writer.save(capture(update), {}, next(seen))

            def theirs(accelerator: Accelerator = accelerator) -> Path:
                return Path(accelerator.save_state())

            ours(), writer.wait()
            (saved,) = run.checkpoints.iterdir()
            tensors = load_file(saved / "network.safetensors")
            expected = load_file(theirs() / "model.safetensors")
            if tensors.keys() != expected.keys() or not all(
                torch.equal(tensors[key], value) for key, value in expected.items()
            ):
                raise SystemExit("both must save the same model, but do not.")
            calls = size.of(1, 3, 5) if name != "tiny" else 20
            costs: dict[str, list[Cost]] = {"theirs": [], "stall": [], "whole": []}
            for turn in range(2 * size.turns * calls):
                os.sync()
                if turn % 4 in (0, 3):
                    costs["theirs"].append(cost(theirs))
                    continue
                stall, rest = cost(ours), cost(writer.wait)
                costs["stall"].append(stall)
                costs["whole"].append(Cost(stall.wall + rest.wall, stall.cpu + rest.cpu))
            megabytes = sum(t.nbytes for part in parts.values() for t in part.values()) / 1e6
            for what, side, target in (
                ("stall of training by a save of", "stall", 3.0),
                ("a save, until it is in place, of", "whole", 1 / 1.3),
            ):
                ratios = [
                    t.cpu / max(o.cpu, 1e-3)
                    for t, o in zip(costs["theirs"], costs[side], strict=True)
                ]
                rows.append(
                    Row(
                        what=f"{what} {name} with Adam, {megabytes:,.0f} MB",
                        peer="accelerator.save_state",
                        ours=_means([c.wall for c in costs[side]], calls),
                        theirs=_means([c.wall for c in costs["theirs"]], calls),
                        cpu=median(ratios),
                        at_least=target,
                        agreement="equal tensors",
                    )
                )
    return rows


def _means(costs: list[float], calls: int) -> list[float]:
    return [fmean(costs[start : start + calls]) for start in range(0, len(costs), calls)]


@contextmanager
def _opened() -> Iterator[tuple[Run, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        config = TrainingConfig(run_dir=f"{folder}/ours", run=RunConfig(tracker="none"))
        with open_run("save", config) as run:
            yield run, Path(folder)


def training(size: Size) -> list[Row]:
    """Steps of SGD with a save in every eighth, written beside them or by the training thread."""
    name, steps = size.of("tiny", "tiny", "resnet18"), 8
    with _opened() as (run, folder), CheckpointWriter(run) as writer:
        update, seen = Trained(run.accelerator, name), count()
        network = update.modules["network"]
        images = torch.randn(64, 3, 32, 32)

        def step() -> None:
            network.zero_grad()
            sum(f.square().mean() for f in network(images).values()).backward()
            for parameter in network.parameters():
                parameter.data -= 1e-4 * parameter.grad  # type: ignore[operator]

        def beside() -> None:
            writer.save(capture(update), {}, next(seen))
            for _ in range(steps):
                step()

        def at_once() -> None:
            save_checkpoint(folder / "other", capture(update), {}, next(seen))
            for _ in range(steps):
                step()

        row = in_turns(
            f"{steps} steps of {name} and a save beside them",
            "a save in the training thread",
            at_once,
            beside,
            size.turns,
            agreement="equal by the tests",
        )
    return [row]


def processes(size: Size) -> list[Row]:
    """Of the training thread in the GAN recipe's default run, scores, pictures and reports included."""
    import train_gan

    from nacgen.training.config import parse

    spent: list[float] = []
    methods = {name: getattr(CheckpointWriter, name) for name in ("save", "wait")}
    inside: list[str] = []  # a save waits for the one before

    def timed(name: str) -> Callable[..., None]:
        def call(*args: Any, **options: Any) -> None:
            start = time.perf_counter()
            inside.append(name)
            methods[name](*args, **options)
            inside.pop()
            if not inside:
                spent.append(time.perf_counter() - start)

        return call

    with tempfile.TemporaryDirectory() as folder:
        preset = size.of("smoke", "digits", "digits")
        flags = ["--preset", preset, "--run-dir", str(Path(folder) / "run")]
        flags += size.of([], ["--total-images", "3200"], [])
        start = time.perf_counter()
        try:
            for name in methods:
                setattr(CheckpointWriter, name, timed(name))
            train_gan.main(parse(train_gan.GANConfig, train_gan.PRESETS, flags))
        finally:
            for name, method in methods.items():
                setattr(CheckpointWriter, name, method)
        percent = 100 * sum(spent) / (time.perf_counter() - start)
    what = f"checkpoints in a run of train_gan.py, preset {preset}"
    target = None if size.name == "smoke" else 2.0
    return [Row(what=what, ours=[percent], unit="% of its time", at_most=target)]


PARTS = {"save": save, "training": training, "share": processes}

if __name__ == "__main__":
    page.main(__doc__, __file__, PARTS)
