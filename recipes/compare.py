r"""Train several arms, initialisations say, seed by seed, and compare them.

    accelerate launch recipes/compare.py
    accelerate launch recipes/compare.py --recipe train_vae
    accelerate launch recipes/compare.py --run-config runs/mine/config.yaml   # of any run of the recipe
    accelerate launch recipes/compare.py --seeds 0 1 2 3 4 5 \
        --arms random nac "frozen=--init nac --discriminator.mode frozen"

With no flags: random and NAC initialisation of a GAN's discriminator on the embedded digits, three seeds
each. Every arm and seed is a run of the recipe in a process of its own; runs are paired by seed, and the
first arm is the control. report.md, report.html and the charts go into the folder that holds the runs.
It may be stopped at any time: the same command goes on, and with more seeds or arms it adds to what is
there. A run that diverges is left out with its seed, and reported.
"""

import json
import os
import sys
from pathlib import Path

from nacgen.comparison.arms import (
    CompareConfig,
    join_folder,
    train_arms,
    write_comparison,
)
from nacgen.errors import StorageError
from nacgen.training.config import run_recipe

RECIPES = Path(__file__).parent

PRESETS = {
    # 2 CPU cores, under 12 minutes.
    "digits": CompareConfig(),
    # Under a minute; for tests.
    "smoke": CompareConfig(seeds=(0, 1)),
}


def main(config: CompareConfig) -> None:
    """Look at the folder, lock it, and compare in it."""
    if os.environ.get("RANK", "0") != "0":
        return  # the main process starts all runs
    from nacgen.system.locks import lock_folder

    config = join_folder(config)
    check_metric(config)
    try:
        config.folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(config.folder)
        config = write_comparison(config)
    except OSError as error:
        raise StorageError(
            f"the run folder {config.folder} cannot be written ({error}). Choose another --run-dir."
        ) from error
    with lock:
        train_and_report(config)


def train_and_report(config: CompareConfig) -> None:
    """Train what is missing, compare, report."""
    from nacgen.comparison.compare import compare_arms
    from nacgen.comparison.report import divergence_notes, write_comparison_report
    from nacgen.comparison.tables import comparison_text
    from nacgen.reporting.runs import load_run

    folders = train_arms(config, RECIPES / f"{config.recipe}.py")
    runs = {
        arm: [load_run(folder) for folder in by_seed.values() if folder is not None]
        for arm, by_seed in folders.items()
    }
    diverged = {
        arm: [seed for seed, folder in by_seed.items() if folder is None]
        for arm, by_seed in folders.items()
    }
    comparisons = compare_arms(
        runs,
        metric=config.metric,
        target=config.target,
        level=config.level,
        diverged=diverged,
    )
    reports = write_comparison_report(comparisons, config.folder, diverged)
    notes = "".join(f"{note}\n\n" for note in divergence_notes(diverged))
    print(f"\n{comparison_text(comparisons)}\n\n{notes}report: {reports[1]}", file=sys.stderr)
    result = {
        "run_dir": str(config.folder),
        "reports": [str(path) for path in reports],
        "comparisons": [comparison.to_dict() for comparison in comparisons],
        "diverged": diverged,
    }
    print(json.dumps(result))


def check_metric(config: CompareConfig) -> None:
    """Refuse, before anything is trained, a score that the example of the runs has not."""
    from nacgen.reporting.runs import load_run

    if config.metric is None or config.run_config is None:
        return
    folder = Path(config.run_config).parent
    if (folder / "metrics.jsonl").is_file() and (example := load_run(folder)).metrics:
        example.curve(config.metric)


if __name__ == "__main__":
    run_recipe(main, CompareConfig, PRESETS)
