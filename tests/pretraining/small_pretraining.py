"""Pretraining small enough for tests; without BatchNorm, so that processes can be compared."""

import torch
from accelerate import Accelerator

from nacgen.data.augment import ViewPolicy
from nacgen.data.datasets import load_dataset
from nacgen.data.stream import ImageStream
from nacgen.models.encoder import NACEncoder
from nacgen.pretraining.base import MomentumEncoder, StagedEncoder
from nacgen.pretraining.distillhash import DistillHashUpdate
from nacgen.pretraining.nac import NACQueueUpdate, NACUpdate
from nacgen.pretraining.options import NACConfig
from nacgen.pretraining.simclr import SimCLRUpdate
from nacgen.pretraining.supervised import CodeClassifier, SupervisedUpdate
from nacgen.system.randomness import seeded
from nacgen.training.update import Update
from nacgen.transplant.trunk import fold_batch_norm

VIEWS = ViewPolicy(crop_scale=(0.5, 1.0), flip=False)
KINDS = (
    *("nac", "nac_queue", "nac_queue_authors", "simclr", "simclr_queue", "supervised"),
    *("distillhash", "nac_stages", "nac_direction", "nac_closed_form", "simclr_stages"),
    *("nac_queue_direction", "nac_queue_closed_form"),
)
OPTIONS = {
    "nac": NACConfig(),
    "nac_stages": NACConfig(relaxation="marginal"),
    "nac_direction": NACConfig(relaxation="direction", own_row=False),
    "nac_closed_form": NACConfig(relaxation="closed_form"),
    "nac_queue": NACConfig(relaxation="marginal"),
    "nac_queue_authors": NACConfig(code_penalty=0.1, divide=True),
    "nac_queue_direction": NACConfig(relaxation="direction"),
    "nac_queue_closed_form": NACConfig(relaxation="closed_form"),
}


def build(kind: str, batch_size: int = 8, queue: int = 40) -> tuple[Update, ImageStream]:
    accelerator = Accelerator(cpu=True)
    with seeded(0, "test"):
        encoder = NACEncoder(
            code_dim=8,
            posterior="separate"
            if kind in ("nac_queue_authors", "nac_queue_closed_form")
            else "shared",
            code_normalization="sqrt_dim",
        )
    images = load_dataset("digits")
    if kind == "distillhash":  # features that label pairs
        images = images.subset(torch.arange(0, len(images), 16))
        encoder = NACEncoder.from_pretrained("checkpoints/digits-nac")
        encoder.code_head.norm = None
    encoder.backbone = fold_batch_norm(encoder.backbone.eval())
    encoder.code_head.scale.data.fill_(3.0)  # logits that are not all nearly zero
    keys = MomentumEncoder(encoder, queue, 0.9) if "queue" in kind else None
    staged = None
    if kind in ("nac_stages", "nac_direction", "simclr_stages"):
        with seeded(1, "test"):
            staged = StagedEncoder(encoder, ("layer1", "layer2"))
    sgd = torch.optim.SGD((staged or encoder).parameters(), lr=0.05)
    processes = accelerator.process_index, accelerator.num_processes
    stream = ImageStream(images, batch_size, 0, "cpu", *processes)
    update: Update
    match kind:
        case "simclr" | "simclr_queue" | "simclr_stages":
            update = SimCLRUpdate(accelerator, encoder, sgd, VIEWS, keys=keys, staged=staged)
        case "supervised":
            with seeded(1, "test"):
                classifier = CodeClassifier(encoder, 10)
            sgd = torch.optim.SGD(classifier.parameters(), lr=0.05)
            update = SupervisedUpdate(accelerator, classifier, sgd, VIEWS)
        case "distillhash":
            update = DistillHashUpdate(accelerator, encoder, sgd, VIEWS, stream, images, 16)
        case _:
            method = NACUpdate if keys is None else NACQueueUpdate
            update = method(accelerator, encoder, sgd, VIEWS, OPTIONS[kind], keys, staged)
    return update, stream


def trained(kind: str, steps: int = 4) -> dict[str, dict[str, list[float]]]:
    """The first step's gradients, and all that is saved after some steps."""
    update, stream = build(kind)
    gradients: dict[str, list[float]] = {}
    for step in range(steps):
        update.update(stream.batch(8 * step))
        if step == 0:
            parameters = update.modules["encoder"].named_parameters()
            gradients = {n: p.grad.flatten().tolist() for n, p in parameters if p.grad is not None}
            assert gradients
    states = {
        name: torch.cat([v.double().flatten() for v in module.state_dict().values()]).tolist()
        for name, module in update.modules.items()
    }
    return {"gradients": gradients, "states": states}
