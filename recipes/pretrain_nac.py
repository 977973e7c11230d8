"""Pretrain an image encoder with Neural Activation Coding.

    accelerate launch recipes/pretrain_nac.py

With no flags it trains on the embedded digits in about a minute on a laptop CPU and leaves the
encoder in runs/pretrain_nac-digits-seed0/encoder; `nacgen.NACEncoder.from_pretrained` loads it.
"""

import sys
from dataclasses import asdict, dataclass
from typing import Literal

from nacgen.training.config import RunConfig, TrainingConfig, require_positive, run_recipe


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The encoder, see nacgen.NACEncoder."""

    backbone: Literal["tiny", "resnet18"] = "tiny"
    """Trunk."""
    stem: Literal["small", "standard"] = "small"
    """small: 3x3 convolution; standard: ImageNet's 7x7 with max-pooling."""
    code_dim: int = 128
    """Bits in a code."""
    flip_probability: float = 0.3
    """Probability that the channel flips a bit, between 0 and 1/2."""
    posterior: Literal["shared", "separate"] = "shared"
    """shared: what the channel makes of the code logits; separate: an own head, the authors'."""
    code_normalization: Literal["batch", "sqrt_dim"] = "batch"
    """batch: standardised, with a learned scale; sqrt_dim: over sqrt(code_dim), the authors'."""


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How the two views of an image are drawn."""

    smallest_crop: float = 0.5
    """Smallest share of the area that a crop keeps."""
    flip: bool = False
    """Mirror half of the images."""
    jitter: float = 0.4
    """Strength of brightness, contrast and saturation changes."""
    greyscale_probability: float = 0.0
    """Share of images that lose their colour."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with warm-up and cosine."""

    learning_rate: float = 2e-3
    """Peak learning rate."""
    weight_decay: float = 1e-4
    """Decoupled weight decay."""
    warmup_images: int = 2_560
    """Length of the linear warm-up."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_positive(self, "learning_rate")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """Options of NAC pretraining."""

    total_images: int = 38_400
    """Length of training, in images seen by all processes together; each gives two views."""
    batch_size: int = 128
    """Images in one step over all processes together."""
    relaxation: Literal["marginal", "tanh"] = "marginal"
    """Of the codes while training; tanh is the authors'."""
    encoder: EncoderConfig = EncoderConfig()
    views: ViewConfig = ViewConfig()
    optim: OptimConfig = OptimConfig()


PRESETS = {
    # 2 CPU cores, about a minute.
    "digits": PretrainConfig(),
    # The authors' parametrisation; a run of this length stays on its plateau, a loss near 0.
    "digits-authors": PretrainConfig(
        relaxation="tanh",
        encoder=EncoderConfig(
            flip_probability=0.1, posterior="separate", code_normalization="sqrt_dim"
        ),
    ),
    # Seconds, for tests.
    "smoke": PretrainConfig(
        total_images=512,
        run=RunConfig(log_every=128, checkpoint_every=256, tracker="none"),
        optim=OptimConfig(warmup_images=128),
    ),
}


def main(config: PretrainConfig) -> None:
    """Build data, encoder and update; train; save the encoder."""
    import torch

    from nacgen.data.augment import ViewPolicy
    from nacgen.data.datasets import load_splits
    from nacgen.data.randomness import seeded
    from nacgen.data.stream import ImageStream
    from nacgen.models.encoder import NACEncoder
    from nacgen.probes.report import EncoderProbe
    from nacgen.training.launch import finish, open_run
    from nacgen.training.loop import train
    from nacgen.training.nac import NACUpdate
    from nacgen.training.update import warmup_cosine

    run, accelerator = open_run(f"pretrain_nac-{config.preset}", config)
    if run.is_complete:
        finish(run)
        return
    train_set, test_set = load_splits(config.dataset, config.data_dir, config.data.image_size)
    stream = ImageStream(
        train_set,
        config.batch_size,
        config.seed,
        accelerator.device,
        accelerator.process_index,
        accelerator.num_processes,
    )
    views = ViewPolicy(
        crop_scale=(config.views.smallest_crop, 1.0),
        flip=config.views.flip,
        jitter=config.views.jitter,
        saturation=config.views.jitter,
        greyscale_probability=config.views.greyscale_probability,
    )
    with seeded(config.seed, "encoder"):
        encoder = NACEncoder(**asdict(config.encoder)).to(accelerator.device)
    optimizer = torch.optim.AdamW(
        encoder.parameters(),
        lr=config.optim.learning_rate,
        weight_decay=config.optim.weight_decay,
    )
    probe = EncoderProbe(train_set, test_set, views, accelerator.device)
    untrained = probe(encoder)
    update = NACUpdate(accelerator, encoder, optimizer, views, config.relaxation)
    result = train(
        update,
        stream,
        run,
        accelerator,
        schedule=warmup_cosine(config.total_images, config.optim.warmup_images),
        evaluate=lambda images_seen: asdict(probe(encoder)),
        evaluate_every=config.total_images // 4,
    )
    if accelerator.is_main_process:
        trained = probe(encoder)
        encoder.card_notes = (
            f"Trained on {train_set.name}/{train_set.split}, {result.images_seen:,} images seen, "
            f"seed {config.seed}.\n\n- untrained: {untrained}\n- trained: {trained}"
        )
        encoder.save_pretrained(run.path / "encoder")
        print(f"untrained  {untrained}\ntrained    {trained}", file=sys.stderr)
        print(f"encoder    {run.path / 'encoder'}", file=sys.stderr)
    finish(run, result, encoder=str(run.path / "encoder"), untrained=asdict(untrained))


if __name__ == "__main__":
    run_recipe(main, PretrainConfig, PRESETS)
