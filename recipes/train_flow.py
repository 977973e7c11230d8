r"""Train a flow model, a layer of it aligned to an encoder's features, and score it along the way.

    nacgen train-flow
    nacgen train-flow --align none          # the controls: no alignment,
    nacgen train-flow --align random        # and alignment to random features

With no flags it trains on the embedded digits for three minutes on a laptop CPU and leaves sample grids, scores,
the averaged denoiser and a report in runs/train_flow-digits-nac-seed0. Images of your own need diffusers
(pip install "nacgen[flow]") and an encoder:

    own=(--preset folder --data-dir PATH --data.image-size 64)
    nacgen pretrain "${own[@]}" --run-dir runs/own-nac
    nacgen train-flow "${own[@]}" --encoder runs/own-nac/encoder --run-dir runs/own-flow

They are scored as `nacgen train-gan --help-all` shows, by a classifier of your own only if you wish.

Options stand in nacgen/flow/options.py, presets in nacgen/flow/presets.py.
"""

from functools import partial
from typing import TYPE_CHECKING

from nacgen.flow.options import FlowConfig
from nacgen.flow.presets import PRESETS
from nacgen.training.command import run_recipe
from nacgen.training.config import to_dict
from nacgen.training.parts import NO_PARTS, Parts, load_train_set

if TYPE_CHECKING:
    from nacgen.training.run import Run


def main(config: FlowConfig, parts: Parts = NO_PARTS) -> "Run":
    """Build data, networks and the update; train, score and report."""
    from nacgen.flow.build import build_update
    from nacgen.metrics.run_scores import (
        ModelEvaluation,
        build_run_extractor,
        fingerprint_of,
        goal_of,
    )
    from nacgen.reporting.run_report import report_run
    from nacgen.training.data_record import record_data
    from nacgen.training.loop import train
    from nacgen.training.run import open_run

    report = partial(report_run, preset=to_dict(PRESETS[config.preset]))
    with open_run(config.run_name, config, allow_fp16=False) as run:
        if run.is_complete:
            run.finish(report=report)
            return run
        # Images to train on, and features to compare images by, if any.
        dataset, _ = load_train_set(config, parts)
        stream = run.stream(dataset)
        extractor = build_run_extractor(config.score, run, parts)
        encoder_path = config.encoder_or_default
        features = fingerprint_of(extractor)
        record_data(run, dataset, None, features, parts, encoder=encoder_path)

        # The denoiser, the alignment and their update.
        update, encoder = build_update(config, run.accelerator, dataset, stream, parts)
        denoiser, score = update.averaged_denoiser, config.score
        evaluate = ModelEvaluation(denoiser, "denoiser", run, score, extractor, dataset)

        # Training, scored along the way.
        result = train(
            update,
            stream,
            run,
            evaluate=evaluate,
            evaluate_every=config.score.every,
            goal=goal_of(extractor),
        )

        # Report and summary.
        pretraining = None
        if encoder is not None and config.align != "random":
            pretraining = encoder.pretraining or "unknown"
        run.finish(result, report, pretraining=pretraining)
        return run


run = partial(run_recipe, main, FlowConfig, PRESETS)

if __name__ == "__main__":
    run()
