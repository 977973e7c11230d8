"""Train a GAN from several initialisations of its discriminator, seed by seed, and compare them.

    accelerate launch recipes/compare.py
    accelerate launch recipes/compare.py --run-config runs/mine/config.yaml   # of any train_gan.py run

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
from typing import Any, Literal

import yaml

from nacgen.errors import ConfigurationError, StorageError
from nacgen.training.config import flatten, read_yaml, run_recipe, to_dict

TRAIN_GAN = Path(__file__).with_name("train_gan.py")
OF_EACH_RUN = ("init", "seed", "run_dir", "config")
Init = Literal["nac", "random", "shuffled"]


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Options of the comparison; what a run is made of comes from train_gan.py's preset."""

    preset: str = "digits"
    """Preset of every run, without a run_config."""
    config: str | None = None
    """YAML file whose values replace the preset's; a comparison's config.yaml is one."""
    run_config: str | None = None
    """YAML file of train_gan.py's options for every run, a run's config.yaml say; its init, seed and
    run_dir do not matter. None: that of the folder's runs, or the preset."""
    arms: tuple[Init, ...] = ("random", "nac")
    """Initialisations compared; the first is the control."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds of every arm."""
    metric: str | None = None
    """Score compared. None: the one that the runs have."""
    run_dir: str | None = None
    """Folder of the comparison and all its runs: new, empty, or a comparison's, which goes on.
    Default: runs/compare-<preset>, or runs/compare-<folder of run_config>."""
    total_images: int | None = None
    """Length of every run, in images seen. None: that of the folder's runs, or the preset's."""
    encoder: str | None = None
    """Encoder of every arm, a folder or a Hub id. None: as above."""
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
    """Look at the folder, lock it, and compare in it."""
    if os.environ.get("RANK", "0") != "0":
        return  # the main process starts all runs
    from nacgen.training.run_folder import lock_folder, write_text

    name = Path(config.run_config).resolve().parent.name if config.run_config else config.preset
    run_dir = Path(config.run_dir or f"runs/compare-{name}")
    config = join_folder(run_dir, config)
    check_metric(config)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(run_dir)
        write_text(run_dir / "config.yaml", yaml.safe_dump(to_dict(config), sort_keys=False))
    except OSError as error:
        raise StorageError(
            f"the run folder {run_dir} cannot be written ({error}). Choose another --run-dir."
        ) from error
    with lock:
        train_and_report(run_dir, config)


def train_and_report(run_dir: Path, config: CompareConfig) -> None:
    """Train what is missing, compare, report."""
    from nacgen.reporting import compare
    from nacgen.reporting.comparison import DEFAULT_METRIC
    from nacgen.reporting.document import write_comparison_report
    from nacgen.reporting.runs import load_run
    from nacgen.reporting.tables import comparison_text
    from nacgen.training.children import Child, run_children

    children = {
        (arm, seed): Child(folder, tuple(train_command(config, arm, seed, folder)))
        for seed in config.seeds  # outside, so that a stopped comparison holds whole pairs
        for arm in config.arms
        for folder in [run_dir / f"{arm}-seed{seed}"]
    }
    run_children(list(children.values()), config.jobs)

    runs = {arm: [children[arm, seed].folder for seed in config.seeds] for arm in config.arms}
    control, *others = config.arms
    metric = config.metric or next(iter(load_run(runs[control][0]).metrics), DEFAULT_METRIC)
    comparisons = [compare(runs[control], runs[arm], metric=metric) for arm in others]
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
        "--preset": None if config.run_config else config.preset,
        "--config": config.run_config,
        "--init": arm,
        "--seed": seed,
        "--run-dir": folder,
        "--total-images": config.total_images,
        "--encoder": config.encoder,
    }
    given = [str(part) for option in options.items() if option[1] is not None for part in option]
    return [sys.executable, str(TRAIN_GAN), *given]


def join_folder(run_dir: Path, config: CompareConfig) -> CompareConfig:
    """Look at the folder; what is missing in it is trained as its runs were, and no other way."""
    if run_dir.exists() and not run_dir.is_dir():
        raise StorageError(f"run_dir must be a folder, but {run_dir} is a file. Choose another.")
    check_folder(run_dir)
    template = {} if config.run_config is None else read_template(Path(config.run_config))
    asked: dict[str, Any] = {"preset": config.preset, **template}
    asked |= {k: v for k in ("total_images", "encoder") if (v := getattr(config, k)) is not None}
    first = next(iter(sorted(run_dir.glob("*-seed*/config.yaml"))), None)
    there = {} if first is None else flatten(read_yaml(first))
    differences = [
        f"{name}: {there[name]} there, {value} here"
        for name, value in asked.items()
        if there.get(name, value) != value
    ]
    if differences:
        raise ConfigurationError(
            f"{run_dir} holds runs of another configuration ({'; '.join(differences)}). Repeat it "
            "to go on, or choose another --run-dir."
        )
    return dataclasses.replace(
        config,
        run_dir=str(run_dir),
        config=None,
        run_config=config.run_config if first is None else str(first),
    )


def check_metric(config: CompareConfig) -> None:
    """Refuse, before anything is trained, a score that the example of the runs has not."""
    from nacgen.reporting.runs import load_run

    if config.metric is None or config.run_config is None:
        return
    folder = Path(config.run_config).parent
    if (folder / "metrics.jsonl").is_file() and (example := load_run(folder)).metrics:
        example.curve(config.metric)


def check_folder(run_dir: Path) -> None:
    """Refuse a folder that holds anything but a comparison."""
    if (run_dir / "config.yaml").is_file():
        if "arms" in read_yaml(run_dir / "config.yaml"):
            return
        came = "holds another kind of run"
    elif run_dir.exists() and {path.name for path in run_dir.iterdir()} - {
        ".lock",
        ".config.yaml.new",
    }:
        came = "has no config.yaml"
    else:
        return
    raise ConfigurationError(
        f"run_dir must be new, empty, or hold a comparison, but {run_dir} {came}. "
        "Choose another --run-dir."
    )


def read_template(path: Path) -> dict[str, Any]:
    """What a run_config says of every run, with dots between the keys."""
    values = flatten(read_yaml(path))
    if "arms" in values:
        raise ConfigurationError(
            f"run_config must hold options of train_gan.py, but {path} is a comparison's. Give it as "
            "--config, or name the config.yaml of one of its runs."
        )
    return {name: value for name, value in values.items() if name not in OF_EACH_RUN}


if __name__ == "__main__":
    run_recipe(main, CompareConfig, PRESETS)
