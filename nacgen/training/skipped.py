"""Images that a run leaves out because they cannot be read: the same on every process and in every session."""

import hashlib
import sys

from accelerate.utils import gather_object

from nacgen.data.datasets import Dataset
from nacgen.errors import DataError
from nacgen.training.run import Run

SKIPPED_FILE = "skipped.txt"


def record_skipped(run: Run, *datasets: Dataset | None) -> None:
    """List the images that are left out in the run folder, and hold the run to the list.

    The order of images is a function of their number, so one more or less would change every batch. Every process
    calls it, with all datasets of the run, before training.

    Raises:
        DataError: Another process, or an earlier session of the run, left out other images.
    """
    if not run.config.data.skip_bad:
        return
    loaded = [dataset for dataset in datasets if dataset is not None]
    names = sorted({path for dataset in loaded for path in dataset.skipped})
    text = "".join(f"{name!r}\n" for name in names)  # as Python writes it: names may hold anything
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
            if before != text:
                changed = sorted(set(before.splitlines()) ^ set(text.splitlines()))
                raise DataError(
                    f"the run in {run.path} must leave out the images that {SKIPPED_FILE} lists, but "
                    f"{len(changed)} changed: {', '.join(changed[:10])}. Bring the files back to what they were, "
                    "or choose another --run-dir."
                )
            run.write(SKIPPED_FILE, text)
            total = sum(len(dataset) for dataset in loaded) + len(names)
            print(
                f"left out {len(names)} of {total} images, which cannot be read: "
                f"{', '.join(map(repr, names[:10]))}{', …' if len(names) > 10 else ''}; {SKIPPED_FILE} lists them",
                file=sys.stderr,
            )
