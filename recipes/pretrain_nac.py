"""Pretrain an image encoder with Neural Activation Coding, or with what it is compared to.

    nacgen pretrain

With no flags it trains on the embedded digits in about a minute on a laptop CPU and leaves the
encoder in runs/pretrain_nac-digits-seed0/encoder; `nacgen.NACEncoder.from_pretrained` loads it.
Options stand in nacgen/pretraining/options.py, presets in nacgen/pretraining/presets.py.
"""

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from nacgen.pretraining.options import PretrainConfig
from nacgen.pretraining.presets import PRESETS
from nacgen.training.command import run_recipe
from nacgen.training.parts import NO_PARTS, Parts

if TYPE_CHECKING:
    from nacgen.training.run import Run


def main(config: PretrainConfig, parts: Parts = NO_PARTS) -> "Run":
    """Build data, encoder and update; train; save the encoder."""
    from nacgen.models.own_network import own_augmentation
    from nacgen.pretraining.build import (
        build_encoder,
        build_update,
        build_views,
        load_training_images,
        pretraining_cost,
        use_note,
    )
    from nacgen.pretraining.evaluation import PretrainingEvaluation
    from nacgen.pretraining.nac import channel_summary
    from nacgen.reporting.encoders.pretraining_report import draw_encoder, report_pretraining
    from nacgen.training.data_record import record_data
    from nacgen.training.loop import train
    from nacgen.training.run import open_run
    from nacgen.training.update import warmup_cosine

    with open_run(config.run_name, config, recipe="pretrain_nac") as run:
        if run.is_complete:
            run.finish(report=report_pretraining)
            return run
        # Images to train on, and held-out ones.
        train_set, test_set = load_training_images(config, parts)
        record_data(run, train_set, test_set, parts=parts, encoder=config.encoder)
        stream = run.stream(train_set)

        # The encoder, its evaluation before the first step, and the update of the objective.
        encoder = build_encoder(config, parts).to(run.device)
        augment = own_augmentation(parts.find("augment", "augment", config.augment), run.device)
        views = build_views(config.views, augment)
        if note := use_note(encoder):
            run.say(note)
        evaluate = PretrainingEvaluation(config, run, encoder, views, stream, train_set, test_set)
        update = build_update(config, run.accelerator, encoder, views, stream, train_set)
        channel = None
        if config.objective == "nac":
            num_codes = config.queue.size or 2 * config.batch_size
            channel = channel_summary(encoder.flip_probability, encoder.code_dim, num_codes)
            run.say(
                f"a noisy channel flips each of the {encoder.code_dim} bits of a code with probability "
                f"{encoder.flip_probability:g}, a temperature of {channel['temperature']:.3g}; "
                "the report explains it"
            )

        # Training.
        result = train(
            update,
            stream,
            run,
            schedule=warmup_cosine(config.total_images, config.optim.warmup_images),
            evaluate=evaluate,
            evaluate_every=config.probe_every,
            goal=evaluate.goal,
        )

        # The encoder with its cost, pictures, and a report beside the untrained encoder.
        encoder.pretraining = pretraining_cost(config, encoder, result, run.hardware)
        run.export(encoder, "encoder")
        draw_encoder(encoder, views, train_set, test_set, run)
        run.finish(
            result,
            report_pretraining,
            encoder=str(run.path / "encoder"),
            untrained=asdict(evaluate.reports[0]),
            channel=channel,
        )
        return run


run = partial(run_recipe, main, PretrainConfig, PRESETS)

if __name__ == "__main__":
    run()
