"""Measure encoders side by side: linear probe, k-NN, retrieval by code, code health, linear regions.

    nacgen probe

With no flags it measures the released digits encoder beside an untrained one and leaves report.md,
report.html and results.json in runs/probe_encoder-digits. Your own encoders, several seeds of one name:

    nacgen probe --encoders NAC=runs/a/encoder NAC=runs/b/encoder
"""

import sys
from functools import partial

from nacgen.probes.options import PRESETS, ProbeConfig
from nacgen.system.terminal import print_result
from nacgen.training.command import run_recipe


def main(config: ProbeConfig) -> None:
    """Load encoders and images, measure, report."""
    import torch
    from accelerate import Accelerator

    from nacgen.data.datasets import load_splits
    from nacgen.pretraining.build import build_views
    from nacgen.probes.suite import EncoderSuite, Examples, load_encoders
    from nacgen.reporting.encoders.encoder_pictures import draw_pictures
    from nacgen.reporting.encoders.encoder_report import (
        Measurement,
        encoder_text,
        write_encoder_report,
        write_results,
    )

    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    train, test = load_splits(config.dataset, config.data_dir, **vars(config.data))
    encoders = load_encoders(config.encoders, train, accelerator.device)
    say = partial(accelerator.print, file=sys.stderr)
    views = build_views(config.views)
    suite = EncoderSuite(train, test, views, config, accelerator.device, say)

    # Measure one encoder after the other; results are kept at once.
    measurements: list[Measurement] = []
    for name, source, encoder in encoders:
        say(f"measuring {name} ({source})")
        measurements.append(Measurement(name, source, suite(encoder)))
        if accelerator.is_main_process:
            write_results(measurements, config.folder)

    # Collect examples of the first encoder of each name, on all processes.
    examples: dict[str, Examples] = {}
    for name, _, encoder in encoders:
        if name not in examples:
            say(f"collecting examples of {name}")
            examples[name] = suite.examples(encoder)

    # Draw and report.
    if not accelerator.is_main_process:
        return
    say("drawing the report")
    pictures = draw_pictures(measurements, examples, config.folder)
    reports = write_encoder_report(
        measurements, config.folder, f"Encoders on {train.name}", pictures
    )
    print(f"\n{encoder_text(measurements)}\n\nreport: {reports[1]}", file=sys.stderr)
    print_result({"run_dir": str(config.folder), "reports": [str(path) for path in reports]})


run = partial(run_recipe, main, ProbeConfig, PRESETS)

if __name__ == "__main__":
    run()
