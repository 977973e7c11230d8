"""Score images against reference images: folders, .npz archives, datasets and runs.

    nacgen evaluate REFERENCE GENERATED --metrics fid is kid prdc
    nacgen evaluate HELD_OUT RUN --metrics memorization --training-images digits/train
    nacgen evaluate stats REFERENCE OUTPUT.npz
    nacgen evaluate selfcheck

REFERENCE and GENERATED are folders of images, .npz archives (of images, or of statistics that `stats` or
pytorch-fid wrote), datasets (digits/test, cifar10/train) or run folders of train-gan, train-vae and train-flow.
With no arguments the held-out digits are scored against the training digits.
Scores go to stdout, all else to stderr; several processes divide the work under accelerate launch or torchrun.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nacgen.errors import ConfigurationError
from nacgen.metrics.options import PRESETS, EvaluateConfig, SelfcheckConfig, StatsConfig
from nacgen.system.terminal import printable
from nacgen.training.command import run_recipe

if TYPE_CHECKING:
    from accelerate import Accelerator


def score(config: EvaluateConfig) -> None:
    """Open the images, score them, print the scores."""
    if config.save_stats:
        stats(config.as_stats())
        return
    from nacgen.metrics import evaluate
    from nacgen.metrics import sources as find
    from nacgen.reporting.blocks import score_notes, score_text

    accelerator = find.build_accelerator(config)
    names = [config.reference, config.generated, *filter(None, [config.training_images])]
    sources = find.open_sources(names, config, accelerator.device)
    say(accelerator, *(line for source in sources for line in find.describe(source)))
    extractor = find.load_extractor(config, sources, accelerator)
    opened = find.load_statistics(sources, extractor, config.foreign_images)
    reference, generated, *training = opened
    generate, num_samples, label = find.as_generator(generated, accelerator)
    result = evaluate(
        generate,
        reference,
        extractor=extractor,
        num_samples=num_samples,
        metrics=config.metrics,
        batch_size=config.batch_size,
        accelerator=accelerator,
        model_label=label,
        training_images=training[0] if training else None,
    )
    say(accelerator, *(result.warnings if config.json else score_notes(result)))
    if accelerator.is_main_process:
        print(json.dumps(result.to_dict()) if config.json else score_text(result), flush=True)


def stats(config: StatsConfig) -> None:
    """Open the images, pass them through the extractor, write the file."""
    from nacgen.metrics import ReferenceStatistics
    from nacgen.metrics import sources as find

    accelerator = find.build_accelerator(config)
    (source,) = sources = find.open_sources([config.reference], config, accelerator.device)
    if isinstance(source, Path):
        raise ConfigurationError(f"{source} holds statistics already. Give images.")
    say(accelerator, *find.describe(source))
    extractor = find.load_extractor(config, sources, accelerator)
    computed = ReferenceStatistics.compute(
        source,
        extractor,
        keep_features=config.keep_features,
        batch_size=config.batch_size,
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        computed.save(config.output)
        print(f"{config.output}: {extractor.name} of {computed.stats.n} images of {computed.name}")


def selfcheck(config: SelfcheckConfig) -> None:
    """Compute numbers that are known beforehand, and print what came."""
    from nacgen.metrics.selfcheck import print_checks

    print_checks()


def say(accelerator: "Accelerator", *lines: str) -> None:
    """Print lines once, to stderr, where they do not mix with scores."""
    if accelerator.is_main_process:
        print(*map(printable, lines), sep="\n", end="\n" if lines else "", file=sys.stderr)


def run() -> None:
    """Run the command that the first word names, or else score."""
    commands: dict[str, tuple[Any, ...]] = {
        "stats": (stats, StatsConfig, {"fid": StatsConfig()}),
        "selfcheck": (selfcheck, SelfcheckConfig, {"all": SelfcheckConfig()}),
    }
    command = next(iter(sys.argv[1:2]), "")
    if command in commands:
        sys.argv[:2] = [f"{sys.argv[0]} {command}"]  # as help names it
    run_recipe(*commands.get(command, (score, EvaluateConfig, PRESETS)))


if __name__ == "__main__":
    run()
