"""Train a GAN from several initialisations of its discriminator, seed by seed, and compare them.

    accelerate launch recipes/compare.py

With no flags: random and NAC initialisation on the embedded digits, three seeds each. Every arm
and seed is a run of recipes/train_gan.py in a process of its own; runs are paired by seed, and the
first arm is the control. report.md, report.html and curve.png go into the folder that holds the
runs. It may be stopped at any time: the same command goes on, and with more seeds or arms it adds
to what is there.
"""

import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from nacgen.errors import ConfigurationError, StorageError
from nacgen.training.config import read_yaml, run_recipe, to_dict

TRAIN_GAN = Path(__file__).with_name("train_gan.py")
Init = Literal["nac", "random", "shuffled"]


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Options of the comparison; what a run is made of comes from train_gan.py's preset."""

    preset: str = "digits"
    """Preset of every run."""
    config: str | None = None
    """YAML file whose values replace the preset's; a comparison's config.yaml is one."""
    arms: tuple[Init, ...] = ("random", "nac")
    """Initialisations compared; the first is the control."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds of every arm."""
    metric: str = "fd_digits_classifier"
    """Score compared."""
    run_dir: str | None = None
    """Folder of the comparison and all its runs. Default: runs/compare-<preset>."""
    total_images: int | None = None
    """Length of every run, in images seen. None: that of the folder's runs, or the preset's."""
    encoder: str | None = None
    """Encoder of every arm, a folder or a Hub id. None: as above."""
    data_dir: str | None = None
    """Where the dataset's files lie."""
    jobs: int = 2
    """Runs side by side; each gets an equal share of the processor cores."""

    def __post_init__(self) -> None:
        """Check arms, seeds and jobs."""
        if len(self.arms) < 2 or len(set(self.arms)) < len(self.arms):
            raise ConfigurationError(
                f"arms must be two or more, all different, got {' '.join(self.arms) or 'none'}. "
                "Use --arms random nac."
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigurationError(
                f"seeds must be one or more, all different, got "
                f"{' '.join(map(str, self.seeds)) or 'none'}. Use --seeds 0 1 2."
            )
        if self.jobs < 1:
            raise ConfigurationError(f"jobs must be at least 1, got {self.jobs}. Use --jobs 1.")


PRESETS = {
    # 2 CPU cores, under 12 minutes.
    "digits": CompareConfig(),
    # Under a minute; for tests.
    "smoke": CompareConfig(seeds=(0, 1)),
}


def main(config: CompareConfig) -> None:
    """Train what is missing, compare, report."""
    if os.environ.get("RANK", "0") != "0":
        return  # the main process starts all runs
    from nacgen.reporting import compare
    from nacgen.reporting.document import write_comparison_report
    from nacgen.reporting.tables import comparison_text
    from nacgen.training.children import Child, run_children

    run_dir = Path(config.run_dir or f"runs/compare-{config.preset}")
    config = open_folder(run_dir, config)
    children = {
        (arm, seed): Child(folder, tuple(train_command(config, arm, seed, folder)))
        for seed in config.seeds  # outside, so that a stopped comparison holds whole pairs
        for arm in config.arms
        for folder in [run_dir / f"{arm}-seed{seed}"]
    }
    run_children(list(children.values()), config.jobs)

    runs = {arm: [children[arm, seed].folder for seed in config.seeds] for arm in config.arms}
    control, *others = config.arms
    comparisons = [compare(runs[control], runs[arm], metric=config.metric) for arm in others]
    reports = write_comparison_report(comparisons, run_dir)
    print(f"\n{comparison_text(comparisons)}\n\nreport: {reports[1]}", file=sys.stderr)
    result = {
        "run_dir": str(run_dir),
        "reports": [str(path) for path in reports],
        "comparisons": [comparison.to_dict() for comparison in comparisons],
    }
    print(json.dumps(result))


def train_command(config: CompareConfig, arm: Init, seed: int, folder: Path) -> list[str]:
    """The command that trains one arm with one seed."""
    options = {
        "--preset": config.preset,
        "--init": arm,
        "--seed": seed,
        "--run-dir": folder,
        "--total-images": config.total_images,
        "--encoder": config.encoder,
        "--data-dir": config.data_dir,
    }
    given = [str(part) for option in options.items() if option[1] is not None for part in option]
    return [sys.executable, str(TRAIN_GAN), *given]


def open_folder(run_dir: Path, config: CompareConfig) -> CompareConfig:
    """Write config.yaml; train what is missing as the folder's runs were, and no other way."""
    there = next((read_yaml(path) for path in sorted(run_dir.glob("*-seed*/config.yaml"))), {})
    differences = [
        f"{name}: {there[name]} there, {getattr(config, name)} here"
        for name in ("preset", "total_images", "encoder", "data_dir")
        if getattr(config, name) not in (None, there.get(name, getattr(config, name)))
    ]
    if differences:
        raise ConfigurationError(
            f"{run_dir} holds runs of another configuration ({'; '.join(differences)}). Repeat it "
            "to go on, or choose another --run-dir."
        )
    config = dataclasses.replace(
        config,
        run_dir=str(run_dir),
        config=None,
        total_images=there.get("total_images", config.total_images),
        encoder=there.get("encoder", config.encoder),
        data_dir=there.get("data_dir", config.data_dir),
    )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(to_dict(config), sort_keys=False)
        (run_dir / "config.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"the run folder {run_dir} cannot be written ({error}). Choose another --run-dir."
        ) from error
    return config


if __name__ == "__main__":
    run_recipe(main, CompareConfig, PRESETS)
