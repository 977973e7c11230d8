"""GPU: what training and measuring do on one device, with peak memory and the share of its roofs.

`python benchmarks/gpu.py --docs FOLDER` takes under 10 minutes and keeps each part as soon as it is measured;
`--missing` goes on where a run was cut off. Neither tyro nor pytorch-fid is needed; without the latter the
features are those of torchvision's Inception, which costs the same. Pretraining and GAN steps are in bf16 with
channels last, all else in float32; pytorch-fid's features, though, are computed in TF32, which torch allows by
default and our extractor does not. Shares are of what an H100 and an H200 reach, 790 TFLOP/s in bf16 and 3.0 or
4.3 TB/s; other devices have none. Operations are those of convolutions and matrix products, traffic is the least
that must pass.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from statistics import median
from typing import Any, NamedTuple

import torch
import torchvision
from accelerate import Accelerator
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import page
from augmentation import POLICY, kornia_pipeline
from loss import codes, descend, plain
from nacgen.data.stream import Batch
from nacgen.functional.frechet import frechet_distance
from nacgen.functional.log_sum_exp import tiled_log_sum_exp
from nacgen.gan.options import AugmentConfig, GANConfig, OptimConfig
from nacgen.gan.update import GANUpdate
from nacgen.metrics.extractors.base import has_tf32
from nacgen.metrics.extractors.inception import InceptionExtractor, build_inception
from nacgen.models.encoder import NACEncoder
from nacgen.models.gan import Generator, channels_for
from nacgen.pretraining.base import two_views
from nacgen.pretraining.nac import NACUpdate
from nacgen.pretraining.options import NACConfig
from nacgen.system.randomness import seeded
from nacgen.training.config import RunConfig
from nacgen.training.optimizers import LARS, build_optimizer
from nacgen.transplant.transplant import transplant
from retrieval import counted_form, labeled_codes, sorted_form
from timing import Row, Size, Work, agree, cost, in_turns, missing, noise, peak_memory


class Roof(NamedTuple):
    """What a device reaches at best."""

    operations: float  # a second, in bf16
    traffic: float  # bytes a second


ROOFS = {"H100": Roof(790e12, 3.0e12), "H200": Roof(790e12, 4.3e12)}
IS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if IS_GPU else "cpu")


def measured(
    what: str,
    size: Size,
    ours: Work,
    *,
    peer: str = "",
    theirs: Work | None = None,
    agreement: str = "",
    operations: float = 0,
    traffic: float = 0,
    at_most: float | None = None,
    items: tuple[int, str] | None = None,
    calls: int = 1,
) -> list[Row]:
    """Time, beside a peer where there is one, peak memory, and shares of the roofs.

    Raises:
        SystemExit: A full run was asked for without a GPU.
    """
    if not IS_GPU and size.name != "smoke":
        raise SystemExit("gpu.py needs a CUDA device. Without one it runs with --size smoke only.")
    ours = waiting_for(ours)
    ours()
    if theirs is None:
        ours()  # the first call may have tuned and compiled
        row = Row(what=what, ours=[cost(ours, calls).wall for _ in range(size.turns)], items=items)
    else:
        row = in_turns(
            what,
            peer,
            waiting_for(theirs),
            ours,
            size.turns,
            agreement=agreement,
            calls=calls,
            items=items,
        )
    row = dataclasses.replace(row, at_most=at_most)
    rows = [row, Row(what=f"{what}: peak memory", ours=[device_memory(ours)], unit="MB")]
    for name, roof in ROOFS.items():
        if IS_GPU and name in torch.cuda.get_device_name():
            for amount, most, kind in (
                (operations, roof.operations, "arithmetic"),
                (traffic, roof.traffic, "traffic"),
            ):
                if amount:
                    processes = 100 * amount / median(row.ours) / most
                    rows.append(
                        Row(what=f"{what}: share of the {kind} roof", ours=[processes], unit="%")
                    )
    return rows


def waiting_for(work: Work) -> Work:
    """The same, until the device has done it."""

    def finished() -> None:
        work()
        if IS_GPU:
            torch.cuda.synchronize()

    return finished


def device_memory(work: Work) -> float:
    """Megabytes of tensors at the peak of a call, those that were there before included."""
    if not IS_GPU:
        return peak_memory(work)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() / 1e6


class Operations(TorchDispatchMode):
    """Adds up floating-point operations; torch's FlopCounterMode cannot go through a gradient's gradient."""

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Do the operation, and count it where it is a convolution or a matrix product."""
        out = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def count_operations(work: Work) -> int:
    """Floating-point operations of the convolutions and matrix products of a call."""
    with Operations() as counter:
        work()
    return counter.total


def batches(n: int) -> Iterator[Batch]:
    """The same images on the device, at ever later positions of a stream."""
    images = noise(n, 32).to(DEVICE)
    return (Batch(images, None, 0, position, n, 0) for position in count(0, n))


def augmentation(size: Size) -> list[Row]:
    """Two views of each image of a batch."""
    n = size.of(8, 1024, 4096)
    stream = batches(n)
    options = {"items": (2 * n, "views"), "traffic": n * 3 * 32 * 32 * (1 + 2 * 4.0)}
    what = f"two views, batch of {n:,}"
    if reason := missing("kornia"):
        rows = measured(what, size, lambda: two_views(next(stream), POLICY), **options)
        return [*rows, Row(what=what, peer="kornia", skipped=reason)]
    images, pipeline = next(stream).images, kornia_pipeline()
    return measured(
        what,
        size,
        lambda: two_views(next(stream), POLICY),
        peer="kornia",
        theirs=lambda: [pipeline(images.float() / 255) for _ in range(2)],
        agreement="by augmentation.py",
        **options,
    )


def loss(size: Size) -> list[Row]:
    """Value and gradient of the mixture of both views: beside the plain form, and of a large batch."""

    def on_device(b: int) -> Callable[[Callable[..., torch.Tensor]], torch.Tensor]:
        rows, queue = (part.detach().to(DEVICE) for part in codes(2 * b))
        return partial(descend, rows=rows.requires_grad_(), queue=queue)

    small, large = size.of((16, 64), (1024, 8192), (1024, 32_768))
    work = on_device(small)
    there, here = work(plain), work(tiled_log_sum_exp)
    scale = there.abs().amax(0)
    beside = measured(
        f"loss, B = {small:,}",
        size,
        lambda: work(tiled_log_sum_exp),
        peer="plain form",
        theirs=lambda: work(plain),
        agreement=agree(there / scale, here / scale, 1e-4, "relative values and gradients"),
    )
    work_large = on_device(large)
    alone = measured(f"loss, B = {large:,}", size, lambda: work_large(tiled_log_sum_exp))
    alone[1] = dataclasses.replace(alone[1], at_most=500.0)
    return beside + alone


def lars(size: Size) -> list[Row]:
    """A step on ResNet-50's parameters, which must not wait for the device."""

    def build() -> nn.Module:
        with seeded(0, "benchmark"):
            network = size.of(
                torchvision.models.resnet18,
                torchvision.models.resnet50,
                torchvision.models.resnet50,
            )()
            for parameter in network.parameters():
                parameter.grad = 0.01 * torch.randn_like(parameter)
        return network.to(DEVICE)

    network = build()
    weights = list(network.parameters())
    step = LARS(weights, 0.3).step
    if IS_GPU:
        step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    options = {
        "traffic": 5 * 4.0 * sum(p.numel() for p in weights),  # w, g, v read; v, w written
        "at_most": size.of(None, 0.5e-3, 0.5e-3),
        "calls": size.of(1, 20, 20),
    }
    if reason := missing("timm"):
        return [
            *measured("LARS step", size, step, **options),
            Row(what="LARS step", peer="timm", skipped=reason),
        ]
    from timm.optim.lars import Lars

    their_network, network = build(), build()
    theirs = Lars(their_network.parameters(), 0.3, 0.9, always_adapt=True).step
    ours = LARS(network.parameters(), 0.3).step
    theirs()
    ours()
    one, other = (
        torch.cat([p.detach().flatten() for p in n.parameters()]) for n in (their_network, network)
    )
    agreement = agree(one.cpu(), other.cpu(), 1e-5, "weights after a step")
    return measured(
        "LARS step", size, ours, peer="timm", theirs=theirs, agreement=agreement, **options
    )


def accelerator() -> Accelerator:
    """In bf16 on a GPU."""
    return Accelerator(cpu=not IS_GPU, mixed_precision="bf16" if IS_GPU else "no")


def pretraining(size: Size, backbone: str, pairs_a_second: float, is_compiled: bool) -> list[Row]:
    """A step from uint8 images to updated weights; a pair is both views of an image."""
    n = size.of(2, 512, {"resnet18": 2048, "resnet50": 1024}[backbone])
    form = "compiled" if is_compiled else "eager"
    what = f"pretraining step, {backbone}, batch of {n:,}, {form}"
    if is_compiled and not IS_GPU:
        return [Row(what=what, skipped="compiled for GPUs alone")]
    with seeded(0, "benchmark"):
        encoder = NACEncoder(backbone).to(memory_format=torch.channels_last).to(DEVICE)
    optimizer = build_optimizer("lars", encoder, 0.3, 1e-6)
    marginal, stream = NACConfig(relaxation="marginal"), batches(n)
    update = NACUpdate(accelerator(), encoder, optimizer, POLICY, marginal)
    operations = count_operations(lambda: update.update(next(stream)))
    if is_compiled:
        encoder.compile()
    return measured(
        what,
        size,
        lambda: update.update(next(stream)),
        items=(n, "pairs"),
        operations=operations,
        at_most=size.of(None, None, n / pairs_a_second),
    )


def gan(size: Size) -> list[Row]:
    """A step of both networks at 32 px, R1 and R2 every second step, the discriminator a ResNet-18."""
    n = size.of(4, 64, 256)
    with seeded(0, "benchmark"):
        generator = Generator(32, 128, size.of((16, 8, 8, 8), channels_for(32), channels_for(32)))
        encoder = NACEncoder(size.of("tiny", "resnet18", "resnet18"))
    part = transplant(encoder, image_size=32)
    form = {"memory_format": torch.channels_last}
    generator, discriminator = generator.to(**form).to(DEVICE), part.module.to(**form).to(DEVICE)
    config = GANConfig(
        total_images=n,
        batch_size=n,
        optim=OptimConfig(ema_half_life=1000),
        augment=AugmentConfig(translation=0.125, cutout=0.5),
        run=RunConfig(checkpoint_every=10**9),
    )
    update = GANUpdate(
        accelerator(),
        generator,
        discriminator,
        torch.optim.Adam(generator.parameters(), lr=1e-3),
        torch.optim.Adam(part.param_groups(1e-3)),
        config,
    )
    update.discriminator_step.penalty_every = 2
    stream = batches(n)

    def two_steps() -> None:
        for _ in range(2):
            update.update(next(stream))

    return measured(
        f"two GAN steps, batches of {n}",
        size,
        two_steps,
        items=(2 * n, "images"),
        operations=count_operations(two_steps),
    )


def features(size: Size) -> list[Row]:
    """Features of the FID's Inception, resize included, images of 32 px."""
    n = size.of(2, 200, 2000)
    images = noise(n, 32).to(DEVICE)
    without = missing("pytorch-fid")
    with seeded(0, "benchmark"):
        network = (
            torchvision.models.Inception3(aux_logits=False, init_weights=False)
            if without
            else build_inception()
        )
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    extractor = InceptionExtractor(network, is_published=False, device=DEVICE)

    def ours() -> list[torch.Tensor]:
        return [extractor(part).pooled for part in images.split(200)]

    what = f"FID features of {n:,} images"
    options = {"items": (n, "images"), "operations": count_operations(ours)}
    if without:
        rows = measured(what, size, ours, **options)
        return [*rows, Row(what=what, peer="pytorch-fid", skipped=without)]
    from scores import their_inception

    peer = their_inception(state).to(DEVICE)

    @torch.no_grad()
    def theirs() -> list[torch.Tensor]:
        return [peer(part.float() / 255)[0].flatten(1) for part in images.split(50)]

    scale = torch.cat(theirs()).std().item() or 1.0
    agreement = agree(
        torch.cat(theirs()).cpu() / scale, torch.cat(ours()).cpu() / scale, 1e-2, "features"
    )
    rows = measured(
        what, size, ours, peer="pytorch-fid", theirs=theirs, agreement=agreement, **options
    )
    if has_tf32(DEVICE):
        exact = distance_of_halves(ours())
        extractor.allow_tf32()
        rows += measured(f"{what}, tf32", size, ours, peer="pytorch-fid", theirs=theirs, **options)
        change = abs(distance_of_halves(ours()) - exact)
        what = "change of a Fréchet distance by tf32"
        rows.append(Row(what=what, ours=[change], unit="", at_most=0.01))
    return rows


def distance_of_halves(features: list[torch.Tensor]) -> float:
    """Fréchet distance between the first images and the others."""
    moments = []
    for half in torch.cat(features).double().cpu().chunk(2):
        moments += [half.mean(dim=0), half.mT.cov()]
    return float(frechet_distance(*moments).value)


def precision(size: Size) -> list[Row]:
    """Mean average precision of codes of 64 bits; a few queries are compared with the sorted form."""
    num_queries, num_gallery = size.of((20, 200), (1000, 50_000), (10_000, 50_000))
    queries, gallery = labeled_codes(num_queries, 1), labeled_codes(num_gallery, 2)
    few = (queries[0][:5], queries[1][:5])
    queries, gallery_there = (
        (codes.to(DEVICE), labels.to(DEVICE)) for codes, labels in (queries, gallery)
    )
    here = counted_form(queries, gallery_there)[:5].cpu()
    agreement = agree(sorted_form(few, gallery), here, 1e-9, "average precisions")
    what = f"mean average precision, {num_queries:,} x {num_gallery:,}"
    rows = measured(
        what,
        size,
        lambda: counted_form(queries, gallery_there),
        at_most=size.of(None, None, 0.05),
    )
    return [dataclasses.replace(rows[0], agreement=agreement), *rows[1:]]


PARTS = {
    "augmentation": augmentation,
    "loss": loss,
    "lars": lars,
    "features": features,
    "precision": precision,
    "gan": gan,
    **{
        f"{backbone}_{form}": partial(
            pretraining, backbone=backbone, pairs_a_second=target, is_compiled=form == "compiled"
        )
        for form in ("eager", "compiled")
        for backbone, target in (("resnet18", 25_000), ("resnet50", 8_000))
    },
}

if __name__ == "__main__":
    page.main(
        __doc__, __file__, PARTS, ("torchvision", "accelerate", "timm", "kornia", "pytorch-fid")
    )
