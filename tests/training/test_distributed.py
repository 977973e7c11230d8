from pathlib import Path

import pytest
import torch

from nacgen.functional.contrastive import nt_xent
from nacgen.functional.nac import nac_loss
from nacgen.system.processes import gather_rows
from tests.gan.small_gan import build
from tests.launch import found_by_two_processes

ROOT = Path(__file__).parents[2]


def mean_over_processes(loss: torch.Tensor) -> torch.Tensor:
    return gather_rows(loss.detach().reshape(1, 1)).mean(0)


def gradients() -> dict[str, list[float]]:
    """Gradients of a penalised discriminator step and a generator step; loss and gradient of NAC and SimCLR."""
    update, stream, accelerator = build()
    batch = stream.batch(0)
    rates = [group for o in update.optimizers.values() for group in o.param_groups]
    for group in rates:
        group["lr"] = 0.0  # look at gradients, keep the weights
    update.update_discriminator(batch)
    found = {
        "discriminator": torch.cat([p.grad.flatten() for p in update.discriminator_step.trainable])
    }  # type: ignore[union-attr]
    update.update_generator(batch)
    found["generator"] = torch.cat([p.grad.flatten() for p in update.generator.parameters()])  # type: ignore[union-attr]

    update, stream, _ = build(micro_batches=2)
    for optimizer in update.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = 0.0
    update.update(stream.batch(0))
    for name, module in (("discriminator", update.discriminator), ("generator", update.generator)):
        parts = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        found[f"accumulated_{name}"] = torch.cat(parts)

    draw = torch.Generator().manual_seed(0)
    logits, uniform = (torch.rand(8, 6, generator=draw, dtype=torch.float64) for _ in range(2))
    mine = slice(batch.start, batch.start + len(batch.images))
    own = logits[mine].clone().requires_grad_()
    loss = nac_loss(own, 2 * own, uniform[mine], 0.2, "tanh", gather_rows(own)).mean()
    loss.backward()
    assert own.grad is not None
    found["nac_loss"] = mean_over_processes(loss)
    found["nac"] = gather_rows(own.grad).flatten() / accelerator.num_processes

    views = logits.reshape(2, 4, 6)  # of four images
    processes = 4 // accelerator.num_processes
    part = slice(accelerator.process_index * processes, (accelerator.process_index + 1) * processes)
    own = views[:, part].reshape(-1, 6).clone().requires_grad_()
    start = accelerator.process_index * len(own)
    loss = nt_xent(own, 0.5, gather_rows(own), start).mean()
    loss.backward()
    assert own.grad is not None
    found["simclr_loss"] = mean_over_processes(loss)
    # (processes, v, b, k) -> one process's order
    grad = gather_rows(own.grad).reshape(-1, 2, processes, 6).transpose(0, 1)
    found["simclr"] = grad.flatten() / accelerator.num_processes
    # a gradient that gathered rows share with others must reach those unchanged
    own = logits[mine].clone().requires_grad_()
    offset = torch.zeros(8, 6, dtype=torch.float64, requires_grad=True)
    beside = 2 * offset  # made before, so that its gradient is used after that of the gathered rows
    (gather_rows(own) + beside).square().sum().backward()
    assert own.grad is not None
    assert offset.grad is not None
    found["gathered"] = gather_rows(own.grad).flatten() / accelerator.num_processes
    found["beside"] = offset.grad.flatten()
    found["order"] = gather_rows(batch.images.double().flatten(1)).flatten()
    return {name: value.tolist() for name, value in found.items()}


@pytest.mark.distributed
def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    two, one = found_by_two_processes(tmp_path, "tests.training.test_distributed"), gradients()
    for name, expected in one.items():
        a, b = torch.tensor(two[name]), torch.tensor(expected)
        assert (a - b).norm() <= 1e-6 * b.norm(), name
