"""Whole steps: pretraining beside a loop as it is often written and beside lightly, and what is left of the ideal.

The loop has torchvision's PIL transforms in two worker processes, the plain loss and LARS one parameter after
another; lightly has its own transform in as many workers, its own loss and SGD. Encoder, batch size and optimizer
are ours on both sides: the tiny encoder, 128 images of 32 px. The loop's encoder is in torch's default memory
format, as such loops leave it; a second row gives it our channels last, too. The GAN's loop has copies of our
networks and our draws, and passes real and generated images together in both steps. The step of the
digits presets follows for each recipe; its ideal is the time that its convolutions take alone, so that the ratio
is the share of the ideal that is reached. Our steps keep freed memory, as runs do; the peers have the allocator's
thresholds at their largest defaults. The last row shows what that gives: the same steps where the environment
forbids it (`GLIBC_TUNABLES=glibc.malloc.check=0` before the command). docs/performance-profile.md tells where the
rest of a step goes.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import page
from nacgen.data.datasets import ImageDataset, load_dataset
from nacgen.data.stream import ImageStream
from nacgen.flow import build as flow_networks
from nacgen.flow.options import FlowConfig, NetworkConfig
from nacgen.functional.contrastive import nt_xent
from nacgen.gan import build as gan_networks
from nacgen.gan.presets import PRESETS as GAN_PRESETS
from nacgen.models.encoder import NACEncoder
from nacgen.pretraining import build as objectives
from nacgen.pretraining.base import two_views
from nacgen.pretraining.nac import channel_uniform
from nacgen.pretraining.options import NACConfig, OptimConfig, PretrainConfig, ViewConfig
from nacgen.system.memory import KeptMemory
from nacgen.system.randomness import generator
from nacgen.training.update import Update
from nacgen.vae import build as vae_networks
from nacgen.vae.options import VAEConfig
from optimizers import LoopLARS
from pil_loader import WORKERS, TwoViews, build_loader
from plain_gan import PlainGAN
from timing import Row, Size, agree, cost, in_turns, missing, noise, peak_memory

VIEWS = ViewConfig(smallest_crop=0.2, flip=True, hue=0.1, grayscale_probability=0.2)
LARS = OptimConfig(name="lars", learning_rate=0.3, weight_decay=1e-4)
SGD = OptimConfig(name="sgd", learning_rate=0.06, weight_decay=5e-4)
MARGINAL = NACConfig(relaxation="marginal")  # what the loop writes down
FORBIDDING = {
    "GLIBC_TUNABLES": "glibc.malloc.check=0"
}  # a setting of its own: nacgen then leaves glibc alone


class Steps:
    """An update with its stream: steps that go on where the last ones ended."""

    def __init__(self, update: Update, stream: ImageStream) -> None:
        self.update: Any = update
        self.stream, self.images_seen = stream, 0

    def __call__(self, num_steps: int) -> None:
        """So many steps, with freed memory kept as in a run."""
        with KeptMemory():
            for _ in range(num_steps):
                self.update.update(self.stream.batch(self.images_seen))
                self.images_seen += self.stream.batch_size


def pretraining_steps(config: PretrainConfig, images: ImageDataset) -> tuple[Steps, NACEncoder]:
    """As recipes/pretrain_nac.py builds them."""
    accelerator = Accelerator(cpu=True)
    encoder = objectives.build_encoder(config)
    stream = ImageStream(images, config.batch_size, config.seed)
    views = objectives.build_views(config.views)
    update = objectives.build_update(config, accelerator, encoder, views, stream, images)
    return Steps(update, stream), encoder


def gan_steps() -> Steps:
    """As recipes/train_gan.py builds them, without flags."""
    config, images = GAN_PRESETS["digits"], load_dataset("digits")
    stream = ImageStream(images, config.batch_size, config.seed)
    return Steps(
        gan_networks.build_update(config, Accelerator(cpu=True), images, stream)[0], stream
    )


def vae_steps() -> Steps:
    """As recipes/train_vae.py builds them, without flags."""
    config, images = VAEConfig(), load_dataset("digits")
    stream = ImageStream(images, config.batch_size, config.seed)
    return Steps(
        vae_networks.build_update(config, Accelerator(cpu=True), images, stream)[0], stream
    )


def flow_steps(config: FlowConfig) -> Steps:
    """As recipes/train_flow.py builds them."""
    images = load_dataset("digits")
    stream = ImageStream(images, config.batch_size, config.seed)
    return Steps(
        flow_networks.build_update(config, Accelerator(cpu=True), images, stream)[0], stream
    )


class Loop:
    """NAC pretraining written down plainly: forward, loss, backward, step."""

    def __init__(self, config: PretrainConfig) -> None:
        self.encoder = objectives.build_encoder(config).train()
        self.optimizer = LoopLARS(self.encoder, LARS.learning_rate, LARS.weight_decay)

    def step(self, views: Tensor, uniform: Tensor) -> None:
        """One step on both views, the first ones above the second."""
        code_logits, posterior_logits = self.encoder(views)
        other = torch.cat(posterior_logits.chunk(2)[::-1])
        for parameter in self.encoder.parameters():
            parameter.grad = None
        self.loss(code_logits, other, uniform).backward()
        self.optimizer.step()

    def loss(self, code_logits: Tensor, posterior_logits: Tensor, uniform: Tensor) -> Tensor:
        """Marginal NAC: received bits, their likelihood under all codes and under the posterior."""
        mean = (1 - 2 * self.encoder.flip_probability) * torch.tanh(code_logits)
        bits = torch.where(uniform < (1 + mean) / 2, 1.0, -1.0)
        received = mean + (bits - mean).detach()
        half = torch.atanh(mean)
        normalizer = torch.logaddexp(half, -half).sum(1)
        joint = received @ half.T - normalizer  # (m, n)
        mixture = torch.logsumexp(joint, 1) - torch.log(torch.tensor(float(len(half))))
        posterior = received * posterior_logits / 2 + posterior_logits / 2
        return (mixture - (posterior - F.softplus(posterior_logits)).sum(1)).mean()


def pretraining(size: Size) -> list[Row]:
    """One epoch of NAC beside the loop; weights after a step on the same views and flips agree."""
    n, b = size.of((16, 8), (256, 128), (1024, 128))
    images = ImageDataset("noise", "train", noise(n, 32), None)
    config = PretrainConfig(batch_size=b, views=VIEWS, optim=LARS, nac=MARGINAL)
    loop, policy = Loop(config), objectives.build_views(VIEWS)
    steps, encoder = pretraining_steps(config, images)
    batch = steps.stream.batch(0)
    uniform = channel_uniform(batch, encoder.code_dim)
    loop.step(two_views(batch, policy), uniform)
    steps(1)
    weights = [
        torch.cat([p.detach().flatten() for p in e.parameters()]) for e in (loop.encoder, encoder)
    ]
    agreement = agree(*weights, 1e-5, "weights after a step on the same views")
    loader = build_loader(images.images, TwoViews(policy, 32), b)

    def theirs() -> None:
        for views in loader:
            loop.step(torch.cat(list(views)), torch.rand(2 * b, encoder.code_dim))

    rows = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        loop.encoder.to(memory_format=memory_format)
        form = ", channels last" if memory_format == torch.channels_last else ""
        rows.append(
            in_turns(
                "NAC pretraining, tiny encoder",
                f"PIL, {WORKERS} workers, plain loop{form}",
                theirs,
                lambda: steps(n // b),
                size.turns,
                agreement=agreement,
                items=(n // b * b, "images"),
                at_least=2,
            )
        )
    return rows


def lightly(size: Size) -> list[Row]:
    """One epoch of SimCLR beside lightly's transform and loss; both losses agree on the same projections."""
    what, peer = "SimCLR pretraining, tiny encoder", f"lightly, {WORKERS} workers"
    if reason := missing("lightly"):
        return [Row(what=what, peer=peer, at_least=1.3, skipped=reason)]
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform

    n, b = size.of((16, 8), (512, 128), (1024, 128))
    images = ImageDataset("noise", "train", noise(n, 32), None)
    config = PretrainConfig(objective="simclr", batch_size=b, views=VIEWS, optim=SGD)
    steps, _ = pretraining_steps(config, images)
    encoder = objectives.build_encoder(config).train()
    optimizer = torch.optim.SGD(
        encoder.parameters(), SGD.learning_rate, 0.9, weight_decay=SGD.weight_decay
    )
    criterion = NTXentLoss(config.temperature)
    transform = SimCLRTransform(
        input_size=32, cj_strength=0.5, min_scale=VIEWS.smallest_crop, gaussian_blur=0.0
    )
    loader = build_loader(images.images, transform, b)

    def theirs() -> None:
        for first, second in loader:
            loss = criterion(*(encoder(view, detach=True)[0] for view in (first, second)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    pair = torch.randn(2, b, 16, generator=generator(0, "benchmark"))
    there, here = criterion(*pair), nt_xent(pair.flatten(0, 1), config.temperature).mean()
    return [
        in_turns(
            what,
            peer,
            theirs,
            lambda: steps(n // b),
            size.turns,
            agreement=agree(there, here, 1e-5, "losses"),
            items=(n // b * b, "images"),
            at_least=1.3,
        )
    ]


def gan(size: Size) -> list[Row]:
    """GAN steps beside a plain loop of copies of the same networks; both averages agree after five steps."""
    num_steps = size.of(4, 4, 8)  # every fourth is penalized
    steps = gan_steps()
    loop = PlainGAN(steps.update)
    for _ in range(5):
        loop.step(steps.stream.batch(steps.images_seen))
        steps(1)
    averages = [
        torch.cat([p.detach().flatten() for p in network.parameters()])
        for network in (loop.average, steps.update.averaged_generator)
    ]

    def theirs() -> None:
        for i in range(num_steps):
            loop.step(steps.stream.batch(i * steps.stream.batch_size))

    return [
        in_turns(
            "GAN, digits preset",
            "plain loop of the same networks",
            theirs,
            lambda: steps(num_steps),
            size.turns,
            agreement=agree(*averages, 1e-5, "averaged weights after five steps"),
            items=(num_steps * steps.stream.batch_size, "images"),
            at_least=1.2,
        )
    ]


def presets(size: Size) -> list[Row]:
    """The digits preset of each recipe: images a second, share of the ideal, memory."""
    builders: dict[str, Callable[[], Steps]] = {
        "pretraining": lambda: pretraining_steps(PretrainConfig(), load_dataset("digits"))[0],
        "GAN": gan_steps,
        "VAE": vae_steps,
        "flow": lambda: flow_steps(FlowConfig()),
        "flow without alignment": lambda: flow_steps(FlowConfig(align="none")),
    }
    if not missing("diffusers"):
        unet = NetworkConfig(kind="unet", channels=(64, 64, 64), num_blocks=1)
        builders["flow with a U-Net of diffusers"] = lambda: flow_steps(FlowConfig(network=unet))
    return [row for name, build in builders.items() for row in preset_rows(name, build(), size)]


def preset_rows(name: str, steps: Steps, size: Size) -> Iterator[Row]:
    """Speed beside its convolutions alone, and memory."""
    num_steps = size.of(1, 2, 8)
    megabytes = peak_memory(lambda: steps(num_steps))
    ours, theirs = [], []
    for _ in range(size.turns):
        ours.append(cost(lambda: steps(num_steps)).wall)
        theirs.append(convolution_seconds(lambda: steps(num_steps)))
    items = (num_steps * steps.stream.batch_size, "images")
    what = f"{name}, digits preset"
    yield Row(what=what, peer="its convolutions alone", ours=ours, theirs=theirs, items=items)
    yield Row(what=f"{what}, memory of a step", ours=[megabytes], unit="MB")


def convolution_seconds(work: Callable[[], None]) -> float:
    """What the profiler finds in convolutions, forwards and backwards."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    events = profiler.key_averages()
    return sum(event.self_cpu_time_total for event in events if "conv" in event.key) / 1e6


def allocator(size: Size) -> list[Row]:
    """Steps of pretraining in fresh processes, with freed memory kept and without; the weights are the same."""
    num_steps = size.of(1, 16, 32)

    def measured(variables: dict[str, str]) -> tuple[float, str]:
        done = subprocess.run(
            [sys.executable, __file__, "--steps", str(num_steps)],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"the steps failed:\n{done.stderr[-2000:]}")
        seconds, weights = json.loads(done.stdout.splitlines()[-1])
        return seconds, weights

    theirs, ours = [], []
    for turn in range(size.of(1, 1, 3)):
        sides = [(theirs, FORBIDDING), (ours, {})]
        for side, variables in sides if turn % 2 == 0 else reversed(sides):
            side.append(measured(variables))
    if len({weights for _, weights in theirs + ours}) != 1:
        raise SystemExit("weights must not depend on the allocator, but do.")
    row = Row(
        what="pretraining, digits preset, memory kept by the allocator",
        peer="the allocator's defaults",
        theirs=[seconds for seconds, _ in theirs],
        ours=[seconds for seconds, _ in ours],
        agreement="the same weights, bit for bit",
    )
    return [replace(row, items=(num_steps * PretrainConfig().batch_size, "images"))]


def report_steps(num_steps: int) -> None:
    """Seconds of so many steps of pretraining after two others, and the weights' hash."""
    steps, encoder = pretraining_steps(PretrainConfig(), load_dataset("digits"))
    steps(2)
    seconds = cost(lambda: steps(num_steps)).wall
    digest = hashlib.sha256()
    for parameter in encoder.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    print(json.dumps([seconds, digest.hexdigest()]))


PARTS = {
    "pretraining": pretraining,
    "lightly": lightly,
    "gan": gan,
    "presets": presets,
    "allocator": allocator,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--steps"]:
        report_steps(int(sys.argv[2]))
    else:
        page.main(__doc__, __file__, PARTS, ("torchvision", "lightly", "accelerate", "pillow"))
