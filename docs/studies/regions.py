"""Count linear regions along segments, before pretraining and after, in a perceptron and in the tiny ResNet.

    python docs/studies/regions.py --run-dir runs/regions

Networks without their code heads, on digits; `regions.md` says what is counted and what for. The same command goes
on where it was stopped. `--table` prints what is measured.
"""

import argparse
import json
import math
import statistics
from functools import partial
from itertools import product
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from nacgen.data.augment import random_view
from nacgen.data.datasets import Dataset
from nacgen.data.pixels import to_float
from nacgen.data.stream import Batch, ImageStream
from nacgen.models.encoder import CodeHead, NACEncoder
from nacgen.pretraining.build import build_encoder, build_update, build_views, load_training_images
from nacgen.pretraining.options import PretrainConfig
from nacgen.pretraining.presets import PRESETS
from nacgen.probes.regions.regions import segment_crossings
from nacgen.probes.report import EncoderProbe
from nacgen.system.randomness import generator, seeded
from nacgen.training.config import parse
from nacgen.training.update import warmup_cosine

SEEDS = (0, 1, 2)
WIDTH = 256
# By network: flip probabilities, segments of each kind, images seen.
NETWORKS = {
    "mlp": ((0.1, 0.2, 0.3, 0.4), 16, "19200"),
    "mlp_last": ((0.1, 0.4), 16, "19200"),  # the code is the pattern of the last hidden layer
    "resnet": ((0.1, 0.3, 0.4), 3, "38400"),
}
KINDS = ("between", "orbit", "noise")


class Perceptron(NACEncoder):
    """An encoder of three hidden layers for images of 16 px; the code is a head's or the last layer's signs."""

    def __init__(self, flip_probability: float, is_last: bool) -> None:
        super().__init__(code_dim=WIDTH if is_last else 128, flip_probability=flip_probability)
        layers: list[nn.Module] = [nn.Flatten()]
        for width in (3 * 16 * 16, WIDTH, WIDTH):
            layers += [nn.Linear(width, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU()]
        self.backbone = nn.Sequential(*layers)
        self.code_head = CodeHead(WIDTH, self.code_dim, "sphere")
        self.depth_of_code = -1 if is_last else len(layers)  # before the last ReLU, or after it
        if is_last:
            self.code_head.mlp, self.code_head.norm = nn.Identity(), None

    def features(
        self, images: Float[Tensor, "b 3 h w"], depth: int | None = None
    ) -> Float[Tensor, "b d"]:
        """Return the activations after the first layers, by default after all."""
        return self.backbone[:depth](self.normalize(images))

    def code_logits(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Return the logits whose signs are the code."""
        return self.code_head(self.features(images, self.depth_of_code))

    def forward(self, images: Tensor, detach: bool = False) -> tuple[Tensor, Tensor]:
        """Return code logits and posterior logits."""
        return self.logits_of_features(self.features(images, self.depth_of_code), detach)


def all_arms() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return network and flags of each arm by its name, the untrained networks first."""
    arms: dict[str, tuple[str, tuple[str, ...]]] = {}
    for network, (probabilities, _, total) in NETWORKS.items():
        arms[f"{network}-untrained"] = (network, ())
        for form, p in product(("closed_form", "tanh"), probabilities):
            flags = ("--model.flip-probability", str(p), "--nac.relaxation", form)
            name = form if form == "closed_form" else "sampled"
            arms[f"{network}-{name}-p{p}"] = (network, (*flags, "--total-images", total))
        simclr = ("--objective", "simclr", "--total-images", total)
        arms[f"{network}-simclr-T0.5"] = (network, simclr)
    return arms


def build(network: str, config: PretrainConfig) -> NACEncoder:
    """Build the network that a seed starts from, whatever the objective."""
    if network == "resnet":
        return build_encoder(config)
    with seeded(config.seed, "encoder"):
        return Perceptron(config.model.flip_probability, network == "mlp_last")


def train(encoder: NACEncoder, config: PretrainConfig, images: Dataset) -> None:
    """Train as `pretrain_nac.py` does."""
    stream = ImageStream(images, config.batch_size, config.seed)
    views = build_views(config.views)
    update = build_update(config, Accelerator(cpu=True), encoder, views, stream, images)
    schedule = warmup_cosine(config.total_images, config.optim.warmup_images)
    for seen in range(0, config.total_images, config.batch_size):
        for group in update.optimizers["encoder"].param_groups:
            group["lr"] = config.optim.learning_rate * schedule(seen)
        update.update(stream.batch(seen))


def segments(test: Dataset, config: PretrainConfig, num: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Draw segments of each kind, the same for all networks: starts and ends, (s, 3, h, w)."""
    draw = generator(0, "study_segments")
    order = torch.randperm(len(test), generator=draw)
    half = len(order) // 2
    first, second = order[:half], order[half : 2 * half]
    assert test.labels is not None
    differ = test.labels[first] != test.labels[second]
    first, second = first[differ][:num], second[differ][:num]
    images = test.read(first)
    view = random_view(
        Batch(images, None, 0, 0, num, 0), build_views(config.views), "study_segments"
    )
    noise = 2 * torch.rand(2, *view.shape, generator=draw) - 1
    return {
        "between": (to_float(images), to_float(test.read(second))),
        "orbit": (to_float(images), view),
        "noise": (noise[0], noise[1]),
    }


def measure(name: str, network: str, flags: tuple[str, ...], seed: int, folder: Path) -> None:
    """Train a network, unless its weights are there, and write what is counted in it."""
    result = folder / f"{name}-seed{seed}.json"
    if result.exists():
        return
    config = parse(PretrainConfig, PRESETS, (*flags, "--seed", str(seed)))
    train_set, test_set = load_training_images(config)
    encoder = build(network, config)
    weights = result.with_suffix(".safetensors")
    if not flags:
        images = to_float(train_set.read(torch.arange(len(train_set))))
        update_bn([images], encoder)
    elif weights.exists():
        encoder.load_state_dict(load_file(weights))
    else:
        train(encoder, config, train_set)
        save_file({k: v.contiguous() for k, v in encoder.state_dict().items()}, weights)
    report = EncoderProbe(train_set, test_set, build_views(config.views))(encoder.eval())
    figures = {"linear_probe": report.linear_probe, "distinct_codes": report.health.distinct_codes}
    figures |= {"view_flip_rate": report.health.view_flip_rate}
    for kind, ends in segments(test_set, config, NETWORKS[network][1]).items():
        figures[kind] = (segment_crossings(encoder.features, *ends) + 1).tolist()
        if isinstance(encoder, Perceptron):  # boundaries that only the last layer draws
            earlier = segment_crossings(partial(encoder.features, depth=-3), *ends) + 1
            figures[f"{kind}_last"] = (torch.tensor(figures[kind]) - earlier).tolist()
    result.write_text(json.dumps(figures))
    print(name, seed, {k: statistics.fmean(figures[k]) for k in KINDS}, flush=True)


def table(folder: Path) -> str:
    """Return Markdown with regions along a segment, and their ratio to the untrained network of the same seed."""
    kinds = "".join(f" {kind} | ratio |" for kind in KINDS)
    lines = [f"| network | seeds | linear probe |{kinds} orbit / between | last layer, ratio |"]
    lines += ["| --- |" + " ---: |" * (lines[0].count("|") - 2)]
    for name, (network, _) in all_arms().items():
        rows = []
        for seed in SEEDS:
            paths = [folder / f"{arm}-seed{seed}.json" for arm in (name, f"{network}-untrained")]
            if all(path.exists() for path in paths):
                own, before = (json.loads(path.read_text()) for path in paths)
                mean = {k: statistics.fmean(own[k]) for k in own if isinstance(own[k], list)}
                ratio = {k: mean[k] / statistics.fmean(before[k]) for k in mean}
                row = [own["linear_probe"]]
                row += [value for kind in KINDS for value in (mean[kind], ratio[kind])]
                rows.append(
                    [*row, mean["orbit"] / mean["between"], ratio.get("between_last", math.nan)]
                )
        if not rows:
            continue
        cells, decimals = [], (3, 0, 2, 0, 2, 0, 2, 2, 2)
        for column, places in zip(
            map(torch.tensor, zip(*rows, strict=True)), decimals, strict=False
        ):
            spread = f" ± {column.std():,.{places}f}" if len(rows) > 1 else ""
            cells.append(f"{column.mean():,.{places}f}{spread}")
        lines.append(f"| {name} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""]).replace("nan ± nan", "-").replace("nan", "-")


def main() -> None:
    """Measure all networks, seed by seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run-dir", type=Path, default=Path("runs/regions"))
    parser.add_argument("--table", action="store_true", help="print what is measured")
    options = parser.parse_args()
    options.run_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for seed, (name, (network, flags)) in product(SEEDS, all_arms().items()):
        if not options.table:
            measure(name, network, flags, seed, options.run_dir)
    print(table(options.run_dir))


if __name__ == "__main__":
    main()
