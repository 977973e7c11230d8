r"""Train a VAE whose encoder starts from a NAC encoder, and measure it along the way.

    nacgen train-vae
    nacgen train-vae --init random          # the control arm
    nacgen train-vae --perceptual nac       # reconstructions compared by features, too
    nacgen train-vae --adversarial          # VAE+GAN

With no flags it trains on the embedded digits for under three minutes on a laptop CPU and leaves pictures,
scores and the decoder in runs/train_vae-digits-nac-seed0. What the encoder starts from (--init), how much
of it trains (--posterior.mode), the perceptual loss and the discriminator are switches of their own. Images
of your own need an encoder, and may be scored by a classifier, as `nacgen train-gan --help-all` shows:

    nacgen train-vae --preset folder --data-dir PATH --encoder runs/own-nac/encoder \
        --score.weights runs/own-classifier/classifier

Options stand in nacgen/vae/options.py, presets in nacgen/vae/presets.py.
"""

from functools import partial
from typing import TYPE_CHECKING

from nacgen.training.command import run_recipe
from nacgen.training.config import to_dict
from nacgen.training.parts import NO_PARTS, Parts, load_train_and_test
from nacgen.vae.options import VAEConfig
from nacgen.vae.presets import PRESETS

if TYPE_CHECKING:
    from nacgen.training.run import Run


def main(config: VAEConfig, parts: Parts = NO_PARTS) -> "Run":
    """Build data, networks and the update; train, measure and report."""
    from nacgen.metrics.run_scores import build_run_extractor, fingerprint_of
    from nacgen.reporting.run_report import report_run
    from nacgen.training.data_record import record_data
    from nacgen.training.loop import Goal, train
    from nacgen.training.run import open_run
    from nacgen.training.update import warmup_cosine
    from nacgen.vae.build import build_update
    from nacgen.vae.evaluation import VAEEvaluation

    report = partial(report_run, preset=to_dict(PRESETS[config.preset]))
    with open_run(config.run_name, config, allow_fp16=not config.adversarial) as run:
        if run.is_complete:
            run.finish(report=report)
            return run
        # Images to train on, held-out ones, and features to compare images by, if any.
        train_set, held_out = load_train_and_test(config, parts)
        stream = run.stream(train_set)
        extractor = build_run_extractor(config.score, run, parts)
        record_data(
            run,
            train_set,
            held_out,
            fingerprint_of(extractor),
            parts,
            encoder=config.encoder_or_default,
            perceptual_encoder=config.perceptual_encoder,
        )

        # The networks and their update.
        update, encoder = build_update(config, run.accelerator, train_set, stream)
        evaluate = VAEEvaluation(update.vae, run, config.score, extractor, train_set, held_out)

        # Training, measured along the way.
        result = train(
            update,
            stream,
            run,
            schedule=warmup_cosine(config.total_images, config.optim.warmup_images),
            evaluate=evaluate,
            evaluate_every=config.score.every,
            goal=Goal("bits_per_dim", "lower"),
        )

        # Report and summary.
        pretraining = None if config.init == "random" else encoder.pretraining or "unknown"
        run.finish(result, report, pretraining=pretraining)
        return run


run = partial(run_recipe, main, VAEConfig, PRESETS)

if __name__ == "__main__":
    run()
