"""The record of what a run is made from: a line on the terminal, `environment.json`, fingerprints, skipped images.

Images that are left out because they cannot be read are the same on every process and in every session.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from nacgen.data.datasets import Dataset
from nacgen.data.provenance import data_line, dataset_facts, dataset_fingerprint
from nacgen.errors import DataError
from nacgen.training.environment import read_environment
from nacgen.training.fingerprints import model_fingerprint
from nacgen.training.parts import NO_PARTS, Parts
from nacgen.training.run import Run
from nacgen.training.run_folder import is_unfinished

SKIPPED_FILE = "skipped.txt"


def record_data(
    run: Run,
    train: Dataset,
    held_out: Dataset | None,
    extractor: str | None = None,
    parts: Parts = NO_PARTS,
    **models: str | None,
) -> None:
    """Tell and record which images and models a run is made from, and hold a resumed run to them.

    Paths do not count: the same content elsewhere is the same input. Every process calls it before training.

    `extractor` is a fingerprint of the features that scores compare; `models` are folders or Hub ids by name.
    Other first weights of the user's own networks are told of, since a resumed run goes on from its checkpoint.

    Raises:
        ConfigurationError: The run was begun with other inputs; the message names them.
        DataError: Another process, or an earlier session of the run, left out other images.
    """
    datasets = [train] if held_out is None else [train, held_out]
    facts = {"train": dataset_facts(train), "held_out": held_out and dataset_facts(held_out)}
    run.environment["data"] = facts
    inputs: dict[str, Any] = {"training images": dataset_fingerprint(train), "extractor": extractor}
    if held_out is not None:
        inputs["held-out images"] = dataset_fingerprint(held_out)
    inputs |= {name: path and model_fingerprint(path) for name, path in models.items()}
    for name, path in models.items():
        if path is not None and is_unfinished(Path(path).parent):
            run.say(
                f"warning: {name} {path} is of a run that has not ended. Let it end first, unless this is meant"
            )
    run.say(data_line(train, held_out))
    before = (read_environment(run.path) or {}).get("own_parts") if run.has_begun else None
    if parts.start or before:
        run.environment["own_parts"] = dict(parts.start if before is None else before)
    if before is not None and before != dict(parts.start):
        run.say(
            f"warning: {run.path} began with other weights of your own networks; it goes on with those of its "
            "checkpoint"
        )
    if run.config.data.skip_bad:
        _hold_to_skipped(run, datasets)
    run.hold_to_inputs({name: value for name, value in inputs.items() if value is not None})
    run.say("building the networks")


def _hold_to_skipped(run: Run, datasets: list[Dataset]) -> None:
    """Refuse other images than were left out before: their order is a function of their number."""
    paths = sorted({path for dataset in datasets for path in dataset.skipped})
    roots = [dataset.files.root for dataset in datasets if dataset.files is not None]
    root = os.path.join(os.path.commonpath(roots), "") if roots else ""  # noqa: PTH118
    names = [path.removeprefix(root) for path in paths]  # so that the images may be moved
    text, text_of_paths = ("".join(f"{name!r}\n" for name in each) for each in (names, paths))
    digests = gather_object([hashlib.sha256(text.encode()).hexdigest()])
    if len(set(digests)) > 1:
        raise DataError(
            f"all processes must be able to read the same images, but leave out different ones; here "
            f"{len(names)}: {', '.join(names[:10])}. Give each machine the same files."
        )
    with run.processes.failing_together():
        if run.is_main:
            path = run.path / SKIPPED_FILE
            before = path.read_text("utf-8") if run.has_begun and path.is_file() else text
            if before not in (text, text_of_paths):  # runs of 0.1.0 have paths
                changed = sorted(set(before.splitlines()) ^ set(text.splitlines()))
                raise DataError(
                    f"the run in {run.path} must leave out the images that {SKIPPED_FILE} lists, but "
                    f"{len(changed)} changed: {', '.join(changed[:10])}. Bring the files back to what they were, "
                    "or choose another --run-dir."
                )
            run.write(SKIPPED_FILE, text)
            total = sum(map(len, datasets)) + len(names)
            run.say(
                f"left out {len(names)} of {total} images, which cannot be read: "
                f"{', '.join(map(repr, names[:10]))}{', …' if len(names) > 10 else ''}; {SKIPPED_FILE} lists them"
            )
