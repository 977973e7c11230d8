"""Pretrain an image encoder with Neural Activation Coding, or with what it is compared to.

    accelerate launch recipes/pretrain_nac.py

With no flags it trains on the embedded digits in about a minute on a laptop CPU and leaves the
encoder in runs/pretrain_nac-digits-seed0/encoder; `nacgen.NACEncoder.from_pretrained` loads it.
Options stand in nacgen/pretraining/options.py, presets in nacgen/pretraining/presets.py.
"""

import sys
from dataclasses import asdict

from nacgen.pretraining.options import PretrainConfig
from nacgen.pretraining.presets import PRESETS
from nacgen.training.config import run_recipe


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
    from nacgen.training.run import open_run
    from nacgen.training.skipped import record_skipped
    from nacgen.training.update import warmup_cosine

    with open_run(f"pretrain_{config.objective}-{config.preset}", config) as run:
        if run.is_complete:
            run.finish()
            return
        train_set, test_set = load_training_images(config)
        record_skipped(run, train_set, test_set)
        stream = ImageStream(
            train_set,
            config.batch_size,
            config.seed,
            run.device,
            run.processes.process_index,
            run.processes.num_processes,
        )
        encoder, views = build_encoder(config), build_views(config.views)
        encoder.to(run.device)
        probe = EncoderProbe(train_set, test_set, views, run.device)
        first = encoder
        if (
            config.encoder is None
        ):  # its BatchNorm as in training, not means of 0 and variances of 1
            first_images = to_float(train_set.read(stream.indices(0))).to(run.device)
            first = untrained_like(encoder, first_images, config.seed)
        reports = {0: probe(first)}
        update = build_update(config, run.accelerator, encoder, views, stream, train_set)

        def evaluate(images_seen: int) -> dict[str, object]:
            reports[images_seen] = probe(encoder)
            if images_seen < config.total_images:
                run.accelerator.print(
                    f"\n{images_seen:,} images: {reports[images_seen]}", file=sys.stderr
                )
            encoder.card_notes = (
                f"Trained for {config.objective} on {train_set.name}/{train_set.split}, "
                f"{images_seen:,} images seen, seed {config.seed}.\n\n"
                f"Untrained:\n\n    {indented(reports[0])}\n\nTrained:\n\n    {indented(reports[images_seen])}"
            )
            run.export(encoder, "encoder")
            return asdict(reports[images_seen])

        result = train(
            update,
            stream,
            run,
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
        encoder.pretraining = pretraining_cost(config, encoder, result, run.hardware)
        run.export(encoder, "encoder")
        if run.is_main:
            untrained, trained = reports[0], reports[config.total_images]
            print(f"\nuntrained: {untrained}\n\ntrained: {trained}", file=sys.stderr)
            print(f"\nencoder: {run.path / 'encoder'}", file=sys.stderr)
        run.finish(result, encoder=str(run.path / "encoder"), untrained=asdict(reports[0]))


def indented(report: object) -> str:
    """A report as a block of the model card."""
    return str(report).replace("\n", "\n    ")


if __name__ == "__main__":
    run_recipe(main, PretrainConfig, PRESETS)
