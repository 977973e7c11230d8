"""Every objective of pretraining: two processes equal one, the queue, the momentum encoder."""

import json
from pathlib import Path

import pytest
import torch

from nacgen.models.encoder import NACEncoder
from nacgen.pretraining.base import MomentumEncoder
from nacgen.pretraining.nac import NACQueueUpdate
from tests.launch import two_processes
from tests.pretraining.small_pretraining import KINDS, build, trained

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_as_one_with_every_objective(tmp_path: Path) -> None:
    two_processes(
        tmp_path,
        "import json, os, sys\n"
        "from tests.pretraining.small_pretraining import KINDS, trained\n"
        "found = {kind: trained(kind) for kind in KINDS}\n"
        "json.dump(found, open(sys.argv[1] + os.environ['RANK'], 'w'))\n",
        tmp_path / "found",
    )
    first, second = (json.loads((tmp_path / f"found{rank}").read_text()) for rank in (0, 1))
    assert first == second  # queue and weights, bit for bit
    for kind in KINDS:
        one = trained(kind, steps=1)
        a, b = (
            torch.cat([torch.tensor(g, dtype=torch.float64) for g in found["gradients"].values()])
            for found in (first[kind], one)
        )
        assert (a - b).norm() <= 5e-6 * b.norm(), kind  # float32's rounding through a whole step


@pytest.mark.parametrize("size", [16, 21, 64])
def test_queue_holds_the_newest_rows_whatever_its_size(size: int) -> None:
    update, stream = build("nac_queue", queue=size)
    assert isinstance(update, NACQueueUpdate)
    pushed: list[torch.Tensor] = []
    for step in range(5):
        batch = stream.batch(8 * step)
        views = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        own, _ = update.keys(views)
        keys = update.keys.push(own, batch)
        pushed += own.unbind()
        newest = torch.stack(pushed[-size:])
        assert sorted(keys.tolist()) == sorted(newest.tolist())


def test_momentum_encoder_averages_weights_and_buffers() -> None:
    encoder = NACEncoder(code_dim=8)
    keys = MomentumEncoder(encoder, 16, 0.75)
    before = {k: v.clone() for k, v in keys.average.module.state_dict().items()}
    with torch.no_grad():
        for value in encoder.state_dict().values():
            value.add_(1)
    keys.follow(encoder)
    after = keys.average.module.state_dict()
    for name, value in encoder.state_dict().items():
        if value.is_floating_point():
            expected = 0.75 * before[name] + 0.25 * value
            torch.testing.assert_close(after[name], expected, msg=name)


def test_a_separate_posterior_learns_without_moving_the_encoder() -> None:
    """In the queue form its gradient stops at the features."""
    encoder = NACEncoder(code_dim=8, posterior="separate")
    _, posterior_logits = encoder(torch.rand(4, 3, 16, 16), detach=True)
    posterior_logits.sum().backward()
    moved = {n.split(".")[0] for n, p in encoder.named_parameters() if p.grad is not None}
    assert moved == {"posterior_head"}
