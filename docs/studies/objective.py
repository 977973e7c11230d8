"""Search for an objective of pretraining, and its confirmation on other seeds; every trial is printed.

    python docs/studies/objective.py search --preset digits
    python docs/studies/objective.py confirm --preset digits --arms sampled closed_form-T0.2 simclr-T0.5

Flags after `--` go to training and measurement, for example `-- --dataset folder --data-dir PATH`. Runs have one
thread each. The same command goes on where it was stopped; `--dry-run` lists the trials, `--table` their results.

NAC by direction, NAC in closed form and SimCLR get the same temperatures and stages. Trials are judged by linear
probe *and* retrieval on held-out images; a search chooses, and only `confirm`, with other seeds, supports a claim.
Arms `authors-*` ask if the channel explains the plateau of the authors' parametrization; `*-K*` have longer codes
at the same temperature; `--total-images` trains all arms for another length. `variant-*` are departures from the
closed form at T = 0.2, which `--arms` has to name.
"""

import argparse
import fnmatch
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nacgen.functional.closed_form import flip_probability_of_temperature
from nacgen.functional.nac import channel_capacity

ROOT = Path(__file__).parents[2]
SEEDS = {"search": (100, 101), "confirm": tuple(range(8))}
CODE_DIM = 128
TEMPERATURES = (0.05, 0.1, 0.2, 0.35, 0.5, 1.0)
STAGES = ("--stages", "layer1", "layer2")
# Options of probe_encoder.py for each preset of pretrain_nac.py.
PROBES = {
    "cifar10-small": ("--preset", "cifar10"),
    "fashion-mnist": ("--dataset", "fashion-mnist", "--data.image-size", "32"),
}
# Column, path in results.json, decimals.
FIGURES = (
    ("linear", ("linear", "1", "top_1"), 4),
    ("linear, 10% of labels", ("linear", "0.1", "top_1"), 4),
    ("20-NN", ("knn", "20", "top_1"), 4),
    ("mAP of codes", ("retrieval", "code", "mean_average_precision"), 4),
    ("mAP, LSH", ("retrieval", "lsh", "mean_average_precision"), 4),
    ("correlation of bits", ("health", "mean_correlation"), 3),
    ("bits flipped by a view", ("health", "view_flip_rate"), 3),
)


def all_arms() -> dict[str, tuple[str, ...]]:
    """Return the flags of each arm by its name."""
    sampled = ("--model.flip-probability", "0.3", "--nac.relaxation", "tanh")
    arms: dict[str, tuple[str, ...]] = {"sampled": sampled}
    for temperature in TEMPERATURES:
        p = f"{flip_probability_of_temperature(temperature, CODE_DIM):.4f}"
        channel = ("--model.flip-probability", p, "--nac.relaxation")
        arms[f"direction-T{temperature}"] = (*channel, "direction")
        arms[f"closed_form-T{temperature}"] = (*channel, "closed_form")
        if temperature in (0.2, 0.5):
            arms[f"direction_out-T{temperature}"] = (*channel, "direction", "--nac.no-own-row")
        simclr = ("--objective", "simclr", "--temperature", str(temperature))
        arms[f"simclr-T{temperature}"] = simclr
    arms |= {f"{name}-stages": (*flags, *STAGES) for name, flags in arms.items()}
    for p in ("0.1", "0.2", "0.3", "0.4", "0.4375"):
        heads = ("--model.posterior", "separate", "--model.code-normalization", "sqrt_dim")
        arms[f"authors-p{p}"] = (*heads, "--model.flip-probability", p, *sampled[2:])
    for code_dim in (256, 512):
        for temperature in (0.2, 0.5):
            p = f"{flip_probability_of_temperature(temperature, code_dim):.4f}"
            flags = ("--model.flip-probability", p, "--model.code-dim", str(code_dim))
            for form in ("direction", "closed_form"):
                name = f"{form}-T{temperature}-K{code_dim}"
                arms[name] = (*flags, "--nac.relaxation", form)
    return arms


def variant_arms() -> dict[str, tuple[str, ...]]:
    """Return the flags of each departure from `closed_form-T0.2`; a word before them is for `variants.py`."""

    def closed(p: float, *flags: str) -> tuple[str, ...]:
        return ("--model.flip-probability", f"{p:.4f}", "--nac.relaxation", "closed_form", *flags)

    best = closed(flip_probability_of_temperature(0.2, CODE_DIM))
    arms = {"stop": ("stop", *best), "stop_all": ("stop_all", *best)}
    for first, last in ((0.5, 0.2), (0.5, 0.1)):
        arms[f"fall-T{first}-to-T{last}"] = (f"fall:{first}:{last}", *best)
    arms["fall-T0.2-to-T0.02-sampled"] = ("fall:0.2:0.02", "--model.flip-probability", "0.4")
    arms["batch256"] = (*best, "--batch-size", "256")
    arms["batch512"] = (*best, "--batch-size", "512")
    # As many steps' worth of learning rate: the root of four, as is usual with AdamW.
    arms["batch512-faster"] = (*best, "--batch-size", "512", "--optim.learning-rate", "0.004")
    # The capacity of the channel is the logarithm of the codes that it must tell apart, 2 x 128.
    for code_dim in (64, 128, 275):
        p = flip_probability_of_capacity(math.log(256), code_dim)
        arms[f"capacity-K{code_dim}"] = closed(p, "--model.code-dim", str(code_dim))
    return {f"variant-{name}": flags for name, flags in arms.items()}


def flip_probability_of_capacity(nats: float, code_dim: int) -> float:
    """Return the flip probability at which `code_dim` uses of the channel carry this many nats."""
    low, high = 1e-6, 0.5 - 1e-6
    while high - low > 1e-9:
        p = (low + high) / 2
        low, high = (p, high) if code_dim * channel_capacity(p) > nats else (low, p)
    return low


def run(folder: Path, name: str, *command: str) -> bool:
    """Run a script to its end with one thread, keep what it prints, and return whether it succeeded."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.log").open("a") as log:
        recipe = str(ROOT / f"{name}.py")
        done = subprocess.run(  # noqa: S603
            [sys.executable, recipe, *command],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    return done.returncode == 0


def measured(folder: Path) -> list[float | None] | None:
    """Return the figures of a trial, or None if it has none yet."""
    path = folder / "probe" / "results.json"
    if not path.exists():
        return None
    figures = []
    for _, keys, _ in FIGURES:
        value = json.loads(path.read_text())[0]["results"]
        for key in keys:
            value = value[key]
        figures.append(value)
    return figures


def try_out(folder: Path, flags: tuple[str, ...], seed: int, preset: str, data: list[str]) -> None:
    """Train and measure one encoder, unless it is measured."""
    if measured(folder):
        return
    script, name = "recipes/pretrain_nac", ()
    if not flags[0].startswith("-"):
        script, name, flags = "docs/studies/variants", flags[:1], flags[1:]
    train = ("--preset", preset, *data, *flags, "--seed", str(seed), "--run.tracker", "none")
    if run(folder, script, *name, *train, "--run-dir", str(folder)):
        shutil.rmtree(folder / "probe", ignore_errors=True)
        encoder = ("--encoders", f"NAC={folder / 'encoder'}", "--run-dir", str(folder / "probe"))
        evaluators = ("--evaluators", "linear", "knn", "retrieval", "health")
        run(folder, "recipes/probe_encoder", *PROBES.get(preset, ()), *data, *encoder, *evaluators)
    print(f"{folder.name}: {measured(folder) or f'failed, see {folder}.log'}", file=sys.stderr)


def table(trials: dict[tuple[str, int], Path]) -> str:
    """Return Markdown with the mean and standard deviation of each arm, and every trial."""
    columns = [name for name, _, _ in FIGURES]
    lines = [f"| arm | seeds | {' | '.join(columns)} |", "| --- |" + " ---: |" * (len(columns) + 1)]
    by_arm: dict[str, list[list[float | None]]] = {}
    every = []
    for (arm, seed), folder in trials.items():
        figures = measured(folder)
        if figures is not None:
            by_arm.setdefault(arm, []).append(figures)
        values = map(cell, figures or [None] * len(FIGURES), FIGURES)
        every.append(f"| {arm} | {seed} | {' | '.join(values)} |")
    for arm, rows in by_arm.items():
        cells = []
        for column, figure in zip(zip(*rows, strict=True), FIGURES, strict=True):
            numbers = [value for value in column if value is not None]
            mean = cell(statistics.fmean(numbers) if numbers else None, figure)
            spread = f" ± {statistics.stdev(numbers):.{figure[2]}f}" if len(numbers) > 1 else ""
            cells.append(mean + spread)
        lines.append(f"| {arm} | {len(rows)} | {' | '.join(cells)} |")
    head = [f"| arm | seed | {' | '.join(columns)} |", lines[1]]
    return "\n".join([*lines, "", "Every trial:", "", *head, *every, ""])


def cell(value: float | None, figure: tuple[str, tuple[str, ...], int]) -> str:
    """Return a figure with its decimals."""
    return f"{value:.{figure[2]}f}" if value is not None else "-"


def main() -> None:
    """Run the trials, and print and keep their table; the exit status is 1 where one failed."""
    own, data = sys.argv[1:], []
    if "--" in own:
        own, data = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stage", choices=SEEDS)
    parser.add_argument("--preset", default="digits", help="of pretrain_nac.py")
    parser.add_argument("--arms", nargs="+", default=["*"], help="names or patterns of arms")
    parser.add_argument("--seeds", nargs="+", type=int, help="by default those of the stage")
    parser.add_argument("--total-images", help="length of training; by default the preset's")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/objective"))
    parser.add_argument("--dry-run", action="store_true", help="list the trials")
    parser.add_argument("--table", action="store_true", help="print what is measured")
    options = parser.parse_args(own)
    arms = all_arms() if "*" in options.arms else all_arms() | variant_arms()
    folder = options.run_dir / f"{options.preset}-{options.stage}"
    chosen = [arm for arm in arms if any(fnmatch.fnmatch(arm, p) for p in options.arms)]
    if options.stage == "confirm" and (not chosen or "*" in options.arms):
        parser.error("confirm needs the arms that the search chose, got all. Name them by --arms.")
    if options.stage == "search" and set(options.seeds or ()) & set(SEEDS["confirm"]):
        parser.error(f"the search must leave the seeds of confirm alone, got {options.seeds}.")
    seeds = options.seeds or SEEDS[options.stage]
    length = ("--total-images", options.total_images) if options.total_images else ()
    folder = folder.with_name("-".join((folder.name, *length[1:])))
    trials = {(arm, seed): folder / f"{arm}-seed{seed}" for seed in seeds for arm in chosen}
    if options.dry_run:
        print(
            *(f"{path.name}: {' '.join(arms[arm])}" for (arm, _), path in trials.items()), sep="\n"
        )
        return
    if not options.table:
        pool = ThreadPoolExecutor(options.jobs)
        try:
            running = [
                pool.submit(
                    try_out, path.resolve(), (*arms[arm], *length), seed, options.preset, data
                )
                for (arm, seed), path in trials.items()
            ]
            pool.shutdown()
            for trial in running:
                trial.result()  # raises what went wrong, once all others have ended
        except KeyboardInterrupt:  # which the runs got, too
            pool.shutdown(cancel_futures=True)
            raise
    text = table(trials)
    print(text)
    if not options.table:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "trials.md").write_text(text, encoding="utf-8")
    if not all(measured(path) for path in trials.values()):
        sys.exit("some trials are missing; the same command goes on")


if __name__ == "__main__":
    main()
