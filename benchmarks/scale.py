"""Scale: what a pretraining step exchanges, takes and holds, beside the cost model of docs/scale.md.

NAC with the tiny encoder and codes of 128 bits; processes exchange by gloo and have one thread each. In the place
of a peer stands the model: bytes by formula, which must be met exactly; seconds and megabytes as the line through
the one-process measurements, `a + c b s^2` with `b` images of `s` pixels a process.
"""

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import product
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

import page
from nacgen.data.augment import ViewPolicy
from nacgen.data.stream import Batch
from nacgen.models.encoder import NACEncoder
from nacgen.pretraining.base import MomentumEncoder
from nacgen.pretraining.nac import NACQueueUpdate, NACUpdate
from nacgen.pretraining.options import NACConfig
from nacgen.system.randomness import seeded
from nacgen.training.optimizers import build_optimizer
from timing import Row, Size, cost, noise, peak_memory

CODE_DIM = 128
KINDS = ("all-reduced", "gathered")


class ByteCounter:
    """Bytes that this process hands to collectives, by kind, while it is open."""

    def __enter__(self) -> Counter[str]:
        """Start with none."""
        found: Counter[str] = Counter()

        def counting(collective: Callable[..., Any], kind: str, position: int) -> Any:
            def counted(*arguments: Any, **options: Any) -> Any:
                found[kind] += arguments[position].nbytes
                return collective(*arguments, **options)

            return counted

        self._originals = dist.all_reduce, dist.all_gather
        dist.all_reduce = counting(dist.all_reduce, KINDS[0], 0)
        dist.all_gather = counting(dist.all_gather, KINDS[1], 1)
        return found

    def __exit__(self, *_: object) -> None:
        """Put the collectives back."""
        dist.all_reduce, dist.all_gather = self._originals


def build(global_size: int, image_size: int, queue: int) -> tuple[NACUpdate, Batch]:
    """The update of a run, and this process's share of a batch."""
    accelerator = Accelerator(
        cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)]
    )
    with seeded(0, "benchmark"):
        encoder = NACEncoder(code_dim=CODE_DIM).to(memory_format=torch.channels_last)
    optimizer = build_optimizer("lars", encoder, 0.3)
    local = global_size // accelerator.num_processes
    start = accelerator.process_index * local
    images = noise(global_size, image_size)[start : start + local]
    batch = Batch(images, None, 0, 0, global_size, start)
    views = ViewPolicy(crop_scale=(0.2, 1.0))
    marginal = NACConfig(relaxation="marginal")
    if not queue:
        return NACUpdate(accelerator, encoder, optimizer, views, marginal), batch
    keys = MomentumEncoder(encoder, queue, 0.99)
    keys.follow(encoder)
    return NACQueueUpdate(accelerator, encoder, optimizer, views, marginal, keys), batch


def work(global_size: int, image_size: int, queue: int, turns: int) -> dict[str, Any]:
    """What a process sees of its steps: seconds, megabytes beyond what it held, bytes exchanged in one."""
    update, batch = build(global_size, image_size, queue)
    if isinstance(update.prepared, DistributedDataParallel):
        update.prepared.register_comm_hook(None, allreduce_hook)  # in Python, where it is seen
    for _ in range(2):
        update.update(batch)  # DDP arranges its buckets anew after the first step
    with ByteCounter() as exchanged_bytes:
        update.update(batch)
    costs = [cost(lambda: update.update(batch)) for _ in range(turns)]
    memory = peak_memory(lambda: update.update(batch))
    parameters = sum(p.numel() for p in update.encoder.parameters())
    return {
        "seconds": median(each.wall for each in costs),
        "cpu": median(each.cpu for each in costs),
        "memory": memory,
        "bytes": {kind: exchanged_bytes[kind] for kind in KINDS},
        "parameters": parameters,
    }


def measure(num_processes: int, *arguments: int) -> dict[str, Any]:
    """The same on the first of several processes, each with one thread."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": num_processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"OMP_NUM_THREADS": 1, "LOCAL_WORLD_SIZE": num_processes}
    command = [
        sys.executable,
        "-W",
        "ignore::FutureWarning",
        __file__,
        "--work",
        *map(str, arguments),
    ]
    running = []
    for rank in range(num_processes):
        own = common | {"RANK": rank, "LOCAL_RANK": rank} if num_processes > 1 else common
        environment = {**os.environ, **{name: str(value) for name, value in own.items()}}
        running.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"a process of {num_processes} failed; its error stands above.")
    found: dict[str, Any] = json.loads(outputs[0].splitlines()[-1])
    return found


def exchanged(parameters: int, global_size: int, num_processes: int, queue: int) -> dict[str, int]:
    """Bytes that each process hands over in a step, by the formulas of docs/scale.md."""
    codes = 4 * 2 * global_size * CODE_DIM
    gradients_of_codes = 0 if queue else codes  # keys of a queue have none
    return {KINDS[0]: 4 * parameters + gradients_of_codes, KINDS[1]: codes // num_processes}


def exchange(size: Size) -> list[Row]:
    """Counted and by formula, without and with a queue."""
    cases = size.of(((2, 0),), ((2, 0),), ((2, 0), (2, 1024), (4, 0)))
    global_size, rows = size.of(8, 64, 64), []
    for num_processes, queue in cases:
        found = measure(num_processes, global_size, 16, queue, 1)
        formula = exchanged(found["parameters"], global_size, num_processes, queue)
        if found["bytes"] != formula:
            raise SystemExit(f"bytes must be {formula}, counted were {found['bytes']}.")
        rows += [
            Row(
                what=f"{kind} in a step, {num_processes} processes, B = {global_size}, queue of {queue:,}",
                peer="formula",
                ours=[float(found["bytes"][kind])],
                theirs=[float(count)],
                unit="bytes",
                agreement="equal",
            )
            for kind, count in formula.items()
        ]
    return rows


def line(loads: list[float], values: list[float]) -> Callable[[float], float]:
    """`a + c load` with the least relative errors."""
    y = torch.tensor(values).double()
    x = torch.stack([torch.ones(len(loads)), torch.tensor(loads)], dim=1).double()
    a, c = torch.linalg.lstsq(x / y[:, None], torch.ones(len(y), 1).double()).solution[:, 0]
    return lambda load: float(a + c * load)


def growth(size: Size) -> list[Row]:
    """One process over batch and image size, then the same batch on several; the model is of the former."""
    batches, pixels = size.of(((4, 8), (16,)), ((32, 128), (16, 32)), ((32, 64, 128), (16, 32, 64)))
    turns = size.of(1, 2, 3)
    cases = [(1, b, s, 0) for b, s in product(batches, pixels)]
    cases += size.of([], [(2, 128, 32, 0)], [(n, 128, 32, 0) for n in (2, 3, 4)])
    cases = [(n, b - b % n, s, queue) for n, b, s, queue in cases]
    # a process for each case but in the smoke run
    run = size.of(lambda n, *arguments: work(*arguments), measure, measure)
    found = {case: run(*case, turns) for case in cases}
    loads = {case: case[1] / case[0] * case[2] ** 2 for case in cases}
    alone = [case for case in cases if case[0] == 1]
    rows = []
    for kind, unit in (("seconds", "s"), ("memory", "MB")):
        model = line([loads[c] for c in alone], [found[c][kind] for c in alone])
        for case in cases:
            n, b, s, _ = case
            crowd = max(1.0, n / (os.cpu_count() or 1)) if kind == "seconds" else 1.0
            plural = "es" if n > 1 else ""
            rows.append(
                Row(
                    what=f"{kind} of a step, B = {b}, {s} px, {n} process{plural}",
                    peer="model",
                    ours=[found[case][kind]],
                    theirs=[crowd * model(loads[case])],
                    unit=unit,
                )
            )
    return rows


PARTS = {"exchange": exchange, "growth": growth}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        print(json.dumps(work(*map(int, sys.argv[2:]))))
        if dist.is_initialized():
            dist.destroy_process_group()
    else:
        page.main(__doc__, __file__, PARTS, ("accelerate",))
