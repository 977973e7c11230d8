"""The runs of a comparison and the folder that holds them. Does not import torch, which keeps refusals fast."""

import dataclasses
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mode
from typing import Any

import yaml

from nacgen.comparison.children import Child, default_jobs, default_threads, run_children
from nacgen.comparison.options import Arm, CompareConfig, parse_arm
from nacgen.errors import ConfigurationError
from nacgen.flow.presets import PRESETS as FLOW_PRESETS
from nacgen.gan.presets import PRESETS as GAN_PRESETS
from nacgen.reporting.recorded_runs import load_run, options_of
from nacgen.system.documents import flatten, read_yaml
from nacgen.system.files import is_temporary, write_file
from nacgen.training.config import MAX_THREADS, parse, to_dict
from nacgen.training.environment import read_environment
from nacgen.training.fingerprints import differences, model_fingerprint, read_fingerprints
from nacgen.training.generative import DEFAULTS, GenerativeConfig
from nacgen.training.run_folder import NOT_COMPARED, has_begun
from nacgen.vae.presets import PRESETS as VAE_PRESETS

PRESETS: dict[str, Mapping[str, Any]] = {
    "train_gan": GAN_PRESETS,
    "train_vae": VAE_PRESETS,
    "train_flow": FLOW_PRESETS,
}
OF_EACH_RUN = ("seed", "run_dir", "config")  # set by the comparison, run by run
RUN_CONFIG = "run_config.yaml"
# Scores of a run by its --score.extractor; those of a classifier are named after its folder.
SCORES = {"digits_classifier": ("fd_digits_classifier",), "inception": ("fid", "fd_inception")}


def train_arms(
    config: CompareConfig, recipe: Path
) -> tuple[dict[str, list[Path]], dict[str, list[int]]]:
    """Train every missing run with a recipe's script; return, by arm, finished runs and seeds that diverged."""
    arms = config.parsed_arms
    start = (sys.executable, str(recipe))
    told = _extractor_flags(config)
    children = {
        (arm.name, seed): Child(
            folder, (*start, *run_flags(config, arm, seed), *told.get(folder, ()))
        )
        for seed in config.seeds  # the outer loop, so that a stopped comparison has whole pairs
        for arm in arms
        for folder in [run_folder(config, arm, seed)]
    }
    lost, threads = [], config.num_threads
    assert threads is not None  # `write_comparison` chose it
    if missing := sum(not child.is_complete for child in children.values()):
        jobs = min(config.jobs or default_jobs(threads), missing)
        in_words = f"{threads} thread{'s' if threads > 1 else ''} each"
        runs_in_words = f"{missing} run{'s' if missing > 1 else ''}"
        print(f"training {runs_in_words}, {jobs} side by side with {in_words}", file=sys.stderr)
        lost = run_children(list(children.values()), jobs, threads)
    runs: dict[str, list[Path]] = {arm.name: [] for arm in arms}
    diverged: dict[str, list[int]] = {arm.name: [] for arm in arms}
    for (name, seed), child in children.items():
        if child in lost:
            diverged[name].append(seed)
        else:
            runs[name].append(child.folder)
    for arm in arms:  # a file may have been edited while they ran
        first, *others = [*map(_options_in, runs[arm.name])] or [{}]
        for other in others:
            _refuse(arm, first.get("seed", 0), _unlike_options(arm, first, other))
    return runs, diverged


def run_folder(config: CompareConfig, arm: Arm, seed: int) -> Path:
    """Return the run folder of one arm with one seed."""
    return config.folder / f"{arm.name}-seed{seed}"


def run_flags(config: CompareConfig, arm: Arm, seed: int) -> list[str]:
    """Return the flags of the recipe for one arm with one seed; later flags override earlier ones."""
    source = {"config": config.run_config} if config.run_config else {"preset": config.preset}
    shared = {**source, "total-images": config.total_images, "encoder": config.encoder}
    given = [f"--{name}={value}" for name, value in shared.items() if value is not None]
    own = [flag.replace("{seed}", str(seed)) for flag in arm.flags]
    fixed = {"seed": seed, "run-dir": run_folder(config, arm, seed)}
    fixed |= {"run.num-threads": config.num_threads} if config.num_threads else {}
    return [*given, *own, *(f"--{name}={value}" for name, value in fixed.items())]


def _options_in(folder: Path) -> dict[str, Any]:
    """Return the options of the run in a folder by dotted name."""
    return options_of(read_yaml(folder / "config.yaml"))


def _parsed(config: CompareConfig, arm: Arm, seed: int) -> GenerativeConfig:
    """Return the options of a run as its recipe will parse them."""
    presets = PRESETS[config.recipe]
    run: GenerativeConfig = parse(type(presets["digits"]), presets, run_flags(config, arm, seed))
    return run


def _extractor_flags(config: CompareConfig) -> dict[Path, list[str]]:
    """Return, by run folder, the flag that gives a run the extractor of all runs whose options leave it open."""
    open_arms: list[Arm] = []
    new: list[Path] = []
    flags: dict[Path, list[str]] = {}
    for arm in config.parsed_arms:
        folders = {seed: run_folder(config, arm, seed) for seed in config.seeds}
        missing = {s: path for s, path in folders.items() if not (path / "summary.json").is_file()}
        if missing:
            run = _parsed(config, arm, min(missing))
            if run.dataset == "digits" or run.score.extractor or run.score.weights:
                continue
        elif arm.options & {"config", "score.extractor", "score.weights"}:
            continue
        open_arms.append(arm)
        for folder in missing.values():
            if not has_begun(folder):
                new.append(folder)
            elif name := _extractor_option(folder):  # as the run was begun
                flags[folder] = [f"--score.extractor={name}"]
    if not new:
        return flags
    there = [run_folder(config, arm, s) for arm in open_arms for s in _seeds_of(config, arm)]
    name = next(filter(None, map(_extractor_of, filter(has_begun, there))), None)
    if name is None:
        from nacgen.metrics.extractors.build import INSTEAD
        from nacgen.metrics.run_scores import default_extractor
        from nacgen.system.processes import Processes

        name = default_extractor(Processes())
        if name != DEFAULTS[0]:
            print(
                f"{INSTEAD} Arms that name --score.extractor inception download them.",
                file=sys.stderr,
            )
    return flags | {folder: [f"--score.extractor={name}"] for folder in new}


def _extractor_option(folder: Path) -> str | None:
    name = _options_in(folder).get("score.extractor")
    return name if name in DEFAULTS else None


def _extractor_of(folder: Path) -> str | None:
    """Return the extractor that a run of this comparison was given or chose, None if it does not say."""
    name = _extractor_option(folder) or (read_environment(folder) or {}).get("extractor")
    return name if name in DEFAULTS else None


def _is_told(name: str, one: Any, other: Any) -> bool:
    """Return True if an option is the extractor that one of two sides leaves open and the comparison gave."""
    is_open = name == "score.extractor" and None in (one, other)
    return is_open and all(value in (None, *DEFAULTS) for value in (one, other))


def check_arms(config: CompareConfig) -> None:
    """Refuse early flags that the recipe refuses, unequal budgets, and a metric that the runs will not have."""
    # The metric must be a score of the runs that exist.
    if config.metric is not None:
        examples = [path.parent for path in sorted(config.folder.glob("*-seed*/metrics.jsonl"))]
        examples += [] if config.run_config is None else [Path(config.run_config).parent]
        for folder in examples:
            if (folder / "metrics.jsonl").is_file() and (example := load_run(folder)).metrics:
                example.curve(config.metric)
    # The flags of runs that are missing are parsed as the recipe will parse them.
    budgets: dict[str, int] = {}
    unscored: dict[str, bool] = {}
    for arm in config.parsed_arms:
        if all((run_folder(config, arm, s) / "summary.json").is_file() for s in config.seeds):
            there = _options_in(run_folder(config, arm, config.seeds[0]))
            unscored[arm.name] = there.get("score.extractor") == "none"
            continue
        seed = next(iter(_seeds_of(config, arm)), config.seeds[0])
        try:
            run = _parsed(config, arm, seed)
        except (ConfigurationError, SystemExit) as error:
            reason = "see above" if isinstance(error, SystemExit) else error
            raise ConfigurationError(
                f"the flags of arm {arm.name} must be options of {config.recipe}.py, got "
                f"{shlex.join(arm.flags)} ({reason}). Correct the arm."
            ) from error
        budgets[arm.name] = run.total_images
        _refuse(arm, seed, _changes(arm, run, run_folder(config, arm, seed)))
        default = "digits_classifier" if run.dataset == "digits" else "unknown yet"
        scores = SCORES.get(run.score.extractor or default, ())
        unscored[arm.name] = run.score.extractor == "none"
        if config.recipe == "train_vae" and (scores or unscored[arm.name]):
            scores += ("bits_per_dim",)
        if unscored[arm.name] and not scores:
            raise ConfigurationError(
                f"runs are compared by their scores, but arm {arm.name} has --score.extractor none. Give every "
                "arm an extractor, for example by --run-config."
            )
        if config.metric is not None and scores and config.metric not in scores:
            raise ConfigurationError(
                f"metric must be a score of every run, got {config.metric}, but arm {arm.name} is scored by "
                f"{', '.join(scores)}. Give one of these, or another --score.extractor to every arm."
            )
    if config.metric is None and len(set(unscored.values())) > 1:
        raise ConfigurationError(
            "arms are compared by a score of every run, but "
            f"{', '.join(name for name, is_unscored in unscored.items() if is_unscored)} of "
            f"{', '.join(unscored)} have --score.extractor none. Give --metric bits_per_dim, or every arm an "
            "extractor."
        )
    if len(set(budgets.values())) > 1:
        raise ConfigurationError(
            "arms are compared at one budget, but train on "
            f"{', '.join(f'{total:,} images ({name})' for name, total in budgets.items())}. Make it the same."
        )


def _seeds_of(config: CompareConfig, arm: Arm) -> list[int]:
    """Return the seeds with which an arm has runs in the folder."""
    start = f"{arm.name}-seed"
    files = config.folder.glob(f"{start}*/config.yaml")
    seeds = (file.parent.name.removeprefix(start) for file in files)
    return sorted(int(seed) for seed in seeds if re.fullmatch("0|[1-9][0-9]{0,18}", seed))


def _refuse(arm: Arm, seed: int, changed: list[str]) -> None:
    if changed:
        raise ConfigurationError(
            f"an arm is the same with every seed, but {arm.name} has changed since it was trained with seed "
            f"{seed} ({'; '.join(changed)}). Bring it back to what it was, or choose another --run-dir."
        )


def _unlike_options(arm: Arm, there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return in words the options in which two runs of an arm differ; words may hold the seed where flags do."""
    may_differ = {"seed", *NOT_COMPARED}
    if any("{seed}" in flag for flag in arm.flags):
        may_differ |= {name for name, value in here.items() if isinstance(value, str)}
    names = [name for name in here if name in there and name not in may_differ]
    unlike = (n for n in names if there[n] != here[n] and not _is_told(n, there[n], here[n]))
    return [f"{n}: {there[n]} there, {here[n]} here" for n in unlike]


def _changes(arm: Arm, run: GenerativeConfig, folder: Path) -> list[str]:
    """Return in words the options and models of a run that differ from those it would have today."""
    if not (folder / "metrics.jsonl").is_file():
        return []
    here = flatten(to_dict(run))
    changed = _unlike_options(arm, _options_in(folder), here)
    inputs = read_fingerprints(folder).get("inputs", {})
    paths = {name: here.get(name) for name in inputs} | {"encoder": run.encoder_or_default}
    models = {n: model_fingerprint(path) for n, path in paths.items() if n in inputs and path}
    return changed + differences({name: inputs[name] for name in models}, models)


def join_folder(config: CompareConfig) -> CompareConfig:
    """Fill in what the user left open from the comparison in the folder; refuse a folder of anything else."""
    before = _earlier_comparison(config.folder)
    asked = {} if config.run_config is None else read_template(Path(config.run_config))
    asked = {"preset": config.preset, **options_of(asked)}
    asked |= {k: v for k in ("total_images", "encoder") if (v := getattr(config, k)) is not None}
    unlike: dict[str, None] = {}
    if before.get("recipe", config.recipe) != config.recipe:
        unlike[f"recipe: {before['recipe']} there, {config.recipe} here"] = None
    recipe = before.get("recipe", config.recipe)
    known = {parse_arm(text, recipe).name: text for text in before.get("arms", ())}
    for text, arm in zip(config.arms_or_default, config.parsed_arms, strict=True):
        folders = [run_folder(config, arm, seed) for seed in _seeds_of(config, arm)]
        if folders and known.get(arm.name, text) != text:  # an arm without a run may be corrected
            unlike[f"arm {arm.name}: {known[arm.name]} there, {text} here"] = None
        for folder in folders:
            there = _options_in(folder)
            unlike |= {
                f"{name}: {there[name]} there, {value} here": None
                for name, value in asked.items()
                if name not in {*arm.options, *NOT_COMPARED}
                and there.get(name, value) != value
                and not (value is None and _is_told(name, value, there[name]))
            }
    used = [*filter(None, map(_threads_of, sorted(config.folder.glob("*-seed*"))))]
    threads = before.get("num_threads") or (mode(used) if used else None)
    if used and config.num_threads not in (None, threads):
        unlike[f"num_threads: {threads} there, {config.num_threads} here"] = None
    if unlike:
        raise ConfigurationError(
            f"{config.folder} holds runs of another configuration ({'; '.join(unlike)}). Repeat that one, or "
            "choose another --run-dir."
        )
    kinds = {"run_config": str, "total_images": int, "encoder": str, "num_threads": int}
    there = {**before, "num_threads": threads}
    kept: dict[str, Any] = {n: there.get(n) for n in kinds if getattr(config, n) is None}
    for name, value in kept.items():
        if value is not None and not isinstance(value, kind := kinds[name]):
            raise ConfigurationError(
                f"{name} in {config.folder / 'config.yaml'} must be of type {kind.__name__}, got {value!r:.50}. "
                "Correct the file, or choose another --run-dir."
            )
    kept["arms"] = config.arms_or_default
    return dataclasses.replace(config, run_dir=str(config.folder), config=None, **kept)


def _threads_of(folder: Path) -> int | None:
    """Return the number of CPU threads of a run, None if there is no run or it does not say."""
    environment = (read_environment(folder) or {}) if (folder / "config.yaml").is_file() else {}
    threads = environment.get("threads")
    return threads if isinstance(threads, int) and 1 <= threads <= MAX_THREADS else None


def write_comparison(config: CompareConfig) -> CompareConfig:
    """Write config.yaml and a copy of the run_config into the folder; return the options with that copy."""
    if config.num_threads is None:
        config = dataclasses.replace(config, num_threads=default_threads())
    if config.run_config is not None:
        template, copy = read_template(Path(config.run_config)), config.folder / RUN_CONFIG
        write_file(copy, yaml.safe_dump(template, sort_keys=False))
        config = dataclasses.replace(config, run_config=str(copy))
    write_file(config.folder / "config.yaml", yaml.safe_dump(to_dict(config), sort_keys=False))
    return config


def read_template(path: Path) -> dict[str, Any]:
    """Read the options of a run_config, without those that differ from run to run."""
    values = read_yaml(path)
    if "arms" in values:
        raise ConfigurationError(
            f"run_config must hold options of a training recipe, but {path} is a comparison's. Give it as "
            "--config, or name the config.yaml of one of its runs."
        )
    return {name: value for name, value in values.items() if name not in OF_EACH_RUN}


def _earlier_comparison(folder: Path) -> Mapping[str, Any]:
    """Return the configuration of the comparison in a folder; refuse a folder that holds anything else."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    before = read_yaml(folder / "config.yaml") if "config.yaml" in names else {}
    arms = before.get("arms", [])
    if not isinstance(arms, list) or not all(isinstance(text, str) for text in arms):
        raise ConfigurationError(
            f"{folder / 'config.yaml'} must hold a list of arms, got {arms!r:.50}. Correct it, or choose another "
            "--run-dir."
        )
    if "arms" in before or all(n == ".lock" or is_temporary(n, "config.yaml") for n in names):
        return before
    came = "holds another kind of run" if "config.yaml" in names else "has no config.yaml"
    raise ConfigurationError(
        f"run_dir must be new, empty, or hold a comparison, but {folder} {came}. Choose another --run-dir."
    )
