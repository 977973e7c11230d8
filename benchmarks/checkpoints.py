"""Checkpoints: a save, hashed and synced to the disk, against Accelerate's `save_state`, and its share of a run.

Both save the same model and the state of its Adam into a new folder and remove all but the last two. Accelerate
also writes the state of random generators, pickled, and neither hashes nor syncs; nacgen has no such state.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from safetensors.torch import load_file

import page
from nacgen.models.backbones import build_backbone
from nacgen.training import loop
from nacgen.training.checkpoint import save_checkpoint
from nacgen.training.snapshot import capture
from timing import Row, Size, in_turns

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
    """One save of each kind, over the one before."""
    rows = []
    for name in size.of(("tiny",), ("tiny", "resnet18"), ("tiny", "resnet18", "resnet50")):
        with tempfile.TemporaryDirectory() as folder:
            there, here = Path(folder) / "theirs", Path(folder) / "ours"
            naming = ProjectConfiguration(
                str(there), automatic_checkpoint_naming=True, total_limit=2
            )
            accelerator = Accelerator(cpu=True, project_config=naming)
            update = Trained(accelerator, name)

            def theirs(accelerator: Accelerator = accelerator) -> Path:
                return Path(accelerator.save_state())

            seen = count()

            def ours(
                update: Trained = update, here: Path = here, seen: Iterator[int] = seen
            ) -> Path:
                return save_checkpoint(here, capture(update), {}, next(seen))

            tensors = load_file(ours() / "network.safetensors")
            expected = load_file(theirs() / "model.safetensors")
            if tensors.keys() != expected.keys() or not all(
                torch.equal(tensors[key], value) for key, value in expected.items()
            ):
                raise SystemExit("both must save the same model, but do not.")
            megabytes = sum(t.nbytes for part in capture(update).values() for t in part.values())
            rows.append(
                in_turns(
                    f"saving {name} with Adam, {megabytes / 1e6:,.0f} MB",
                    "accelerator.save_state",
                    theirs,
                    ours,
                    size.turns,
                    agreement="equal tensors",
                    calls=size.of(1, 3, 5) if name != "tiny" else 20,
                    at_least=1 / 1.3,
                )
            )
    return rows


def processes(size: Size) -> list[Row]:
    """Of the GAN recipe's default run, scores, pictures and reports included."""
    import train_gan

    from nacgen.training.config import parse

    spent: list[float] = []

    def timed(*args: object, **options: object) -> Path:
        start = time.perf_counter()
        folder = save_checkpoint(*args, **options)  # type: ignore[arg-type]
        spent.append(time.perf_counter() - start)
        return folder

    with tempfile.TemporaryDirectory() as folder:
        preset = size.of("smoke", "digits", "digits")
        flags = ["--preset", preset, "--run-dir", str(Path(folder) / "run")]
        loop.save_checkpoint = timed
        start = time.perf_counter()
        try:
            train_gan.main(parse(train_gan.GANConfig, train_gan.PRESETS, flags))
        finally:
            loop.save_checkpoint = save_checkpoint
        percent = 100 * sum(spent) / (time.perf_counter() - start)
    what = f"{len(spent)} checkpoints in a run of train_gan.py, preset {preset}"
    target = None if size.name == "smoke" else 2.0
    return [Row(what=what, ours=[percent], unit="% of its time", at_most=target)]


PARTS = {"save": save, "share": processes}

if __name__ == "__main__":
    page.main(__doc__, __file__, PARTS)
