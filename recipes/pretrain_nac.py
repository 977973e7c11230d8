"""Pretrain an image encoder with Neural Activation Coding, or with what it is compared to.

    accelerate launch recipes/pretrain_nac.py

With no flags it trains on the embedded digits in about a minute on a laptop CPU and leaves the
encoder in runs/pretrain_nac-digits-seed0/encoder; `nacgen.NACEncoder.from_pretrained` loads it.
"""

import sys
from dataclasses import asdict, replace

from nacgen.pretraining.options import (
    ModelConfig,
    NACConfig,
    OptimConfig,
    PretrainConfig,
    QueueConfig,
    ViewConfig,
)
from nacgen.training.config import DataConfig, RunConfig, run_recipe

AUTHORS_MODEL = ModelConfig(
    flip_probability=0.1, posterior="separate", code_normalization="sqrt_dim"
)
SIMCLR_VIEWS = ViewConfig(smallest_crop=0.2, flip=True, hue=0.1, grayscale_probability=0.2)
CIFAR10 = 50_000  # training images, to count epochs by
IMAGENET = 1_281_167

PRESETS = {
    # 2 CPU cores, about a minute; linear probe 0.98 (measured).
    "digits": PretrainConfig(),
    # The authors' parametrisation; a run of this length stays on its plateau, a loss near 0 (measured).
    "digits-authors": PretrainConfig(model=AUTHORS_MODEL),
    # 2 CPU cores, CIFAR-10's files in --data-dir; docs/encoders.md has what was measured.
    "cifar10-small": PretrainConfig(
        dataset="cifar10",
        total_images=51_200,
        probe_every=12_800,
        views=SIMCLR_VIEWS,
    ),
    # The same in the authors' parametrisation, which does not leave its plateau so soon (measured).
    "cifar10-small-authors": PretrainConfig(
        dataset="cifar10",
        total_images=51_200,
        probe_every=12_800,
        model=AUTHORS_MODEL,
        views=SIMCLR_VIEWS,
    ),
    # One GPU with bf16, 200 epochs: 14 minutes of training beside another such run on one H200, extrapolated
    # from 12,000 images a second (measured).
    "cifar10-resnet18": PretrainConfig(
        dataset="cifar10",
        total_images=200 * CIFAR10,
        batch_size=500,
        probe_every=10 * CIFAR10,
        model=ModelConfig(backbone="resnet18"),
        views=SIMCLR_VIEWS,
        optim=OptimConfig(learning_rate=1e-3, weight_decay=1e-4, warmup_images=2 * CIFAR10),
        run=RunConfig(log_every=5_000, checkpoint_every=10 * CIFAR10),
    ),
    # The authors' settings for linear classification: one large GPU, days; not measured.
    "cifar10-resnet50": PretrainConfig(
        dataset="cifar10",
        total_images=1_000 * CIFAR10,
        batch_size=1_000,
        probe_every=50 * CIFAR10,
        model=replace(AUTHORS_MODEL, backbone="resnet50"),
        views=SIMCLR_VIEWS,
        optim=OptimConfig(
            name="lars", learning_rate=3.0, weight_decay=1e-6, warmup_images=10 * CIFAR10
        ),
        run=RunConfig(log_every=5_000, checkpoint_every=10 * CIFAR10),
    ),
    # The authors' settings for hashing: 5,000 images, 2,000 epochs, one GPU; not measured.
    "hashing-cifar10-vgg16": PretrainConfig(
        dataset="cifar10",
        protocol="cifar10-10k",
        total_images=2_000 * 5_000,
        batch_size=1_000,
        probe_every=100 * 5_000,
        model=replace(AUTHORS_MODEL, backbone="vgg16_bn", code_dim=64, flip_probability=0.4),
        views=SIMCLR_VIEWS,
        optim=OptimConfig(
            name="lars", learning_rate=3.0, weight_decay=1e-6, warmup_images=100 * 5_000
        ),
        run=RunConfig(log_every=5_000, checkpoint_every=100 * 5_000),
    ),
    # The queue form at ImageNet's size: several GPUs, days; not measured.
    "imagenet-resnet50-queue": PretrainConfig(
        dataset="imagenet",
        total_images=200 * IMAGENET // 1_024 * 1_024,
        batch_size=1_024,
        probe_every=5 * IMAGENET,
        nac=NACConfig(code_penalty=0.1),
        queue=QueueConfig(size=65_536, momentum=0.999),
        data=DataConfig(image_size=256),
        model=replace(AUTHORS_MODEL, backbone="resnet50", stem="standard"),
        views=replace(SIMCLR_VIEWS, size=224),
        optim=OptimConfig(
            name="lars", learning_rate=3.0, weight_decay=1e-6, warmup_images=10 * IMAGENET
        ),
        run=RunConfig(log_every=51_200, checkpoint_every=IMAGENET),
    ),
    # Hashing of FLICKR-25K, 5,000 images, one GPU; not measured.
    "hashing-flickr25k": PretrainConfig(
        dataset="flickr25k",
        protocol="flickr25k-25000",
        total_images=2_000 * 5_000,
        batch_size=500,
        probe_every=100 * 5_000,
        data=DataConfig(image_size=256),
        model=replace(AUTHORS_MODEL, backbone="vgg16_bn", code_dim=64, flip_probability=0.4),
        views=replace(SIMCLR_VIEWS, size=224),
        optim=OptimConfig(
            name="lars", learning_rate=3.0, weight_decay=1e-6, warmup_images=100 * 5_000
        ),
        run=RunConfig(log_every=5_000, checkpoint_every=100 * 5_000),
    ),
    # Seconds, for tests.
    "smoke": PretrainConfig(
        total_images=512,
        probe_every=256,
        run=RunConfig(log_every=128, checkpoint_every=256, tracker="none"),
        optim=OptimConfig(warmup_images=128),
    ),
}


def main(config: PretrainConfig) -> None:
    """Build data, encoder and update; train; save the encoder."""
    from nacgen.data.pixels import to_float
    from nacgen.data.stream import ImageStream
    from nacgen.pretraining.build import (
        build_encoder,
        build_update,
        build_views,
        load_training_images,
        pretraining_cost,
    )
    from nacgen.probes.report import EncoderProbe
    from nacgen.probes.suite import untrained_like
    from nacgen.training.loop import Goal, train
    from nacgen.training.run import finish, open_run
    from nacgen.training.skipped import record_skipped
    from nacgen.training.update import warmup_cosine

    run, accelerator = open_run(f"pretrain_{config.objective}-{config.preset}", config)
    if run.is_complete:
        finish(run)
        return
    train_set, test_set = load_training_images(config)
    record_skipped(run, train_set, test_set)
    stream = ImageStream(
        train_set,
        config.batch_size,
        config.seed,
        accelerator.device,
        accelerator.process_index,
        accelerator.num_processes,
    )
    encoder, views = build_encoder(config), build_views(config.views)
    encoder.to(accelerator.device)
    probe = EncoderProbe(train_set, test_set, views, accelerator.device)
    first = encoder
    if config.encoder is None:  # its BatchNorm as in training, not means of 0 and variances of 1
        first_images = to_float(train_set.read(stream.indices(0))).to(accelerator.device)
        first = untrained_like(encoder, first_images, config.seed)
    reports = {0: probe(first)}
    update = build_update(config, accelerator, encoder, views, stream, train_set)

    def evaluate(images_seen: int) -> dict[str, object]:
        reports[images_seen] = probe(encoder)
        if images_seen < config.total_images:
            accelerator.print(f"\n{images_seen:,} images: {reports[images_seen]}", file=sys.stderr)
        encoder.card_notes = (
            f"Trained for {config.objective} on {train_set.name}/{train_set.split}, "
            f"{images_seen:,} images seen, seed {config.seed}.\n\n"
            f"Untrained:\n\n    {indented(reports[0])}\n\nTrained:\n\n    {indented(reports[images_seen])}"
        )
        run.export(encoder, "encoder", accelerator)
        return asdict(reports[images_seen])

    result = train(
        update,
        stream,
        run,
        accelerator,
        schedule=warmup_cosine(config.total_images, config.optim.warmup_images),
        evaluate=evaluate,
        evaluate_every=config.probe_every,
        goal=Goal(
            "linear_probe"
            if reports[0].linear_probe is not None
            else "health.information.nac_bound",
            "higher",
        ),
    )
    if accelerator.is_main_process:
        encoder.pretraining = pretraining_cost(config, encoder, result, run.hardware)
        with run.writing("encoder"):
            encoder.save_pretrained(run.path / "encoder")
        untrained, trained = reports[0], reports[config.total_images]
        print(f"\nuntrained: {untrained}\n\ntrained: {trained}", file=sys.stderr)
        print(f"\nencoder: {run.path / 'encoder'}", file=sys.stderr)
    finish(run, result, encoder=str(run.path / "encoder"), untrained=asdict(reports[0]))


def indented(report: object) -> str:
    """A report as a block of the model card."""
    return str(report).replace("\n", "\n    ")


if __name__ == "__main__":
    run_recipe(main, PretrainConfig, PRESETS)
