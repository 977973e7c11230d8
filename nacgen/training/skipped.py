"""Images that a run leaves out because they cannot be read: the same on every process and in every session."""

import hashlib
import sys

from accelerate import Accelerator
from accelerate.utils import gather_object

from nacgen.data.datasets import Dataset
from nacgen.errors import DataError
from nacgen.training.run_folder import RunFolder, write_text

SKIPPED_FILE = "skipped.txt"


def settle_skipped(run: RunFolder, accelerator: Accelerator, *datasets: Dataset | None) -> None:
    """Say which images are left out, and hold the run to it; call it on every process before training.

    The order in which images come is a function of their number, so one more or less would change every batch.

    Args:
        run: The list is kept in its folder.
        accelerator: Of the run.
        datasets: All that the run reads.

    Raises:
        DataError: Another process, or an earlier session of the run, left out others.
        StorageError: The list cannot be written.
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
    path = run.path / SKIPPED_FILE
    before = path.read_text(encoding="utf-8") if path.is_file() else None
    accelerator.wait_for_everyone()
    if before is not None and before != text:
        changed = sorted(set(before.splitlines()) ^ set(text.splitlines()))
        raise DataError(
            f"the run in {run.path} must leave out the images that {path.name} lists, but {len(changed)} can or "
            f"cannot be read now as before: {', '.join(changed[:10])}. Bring the files back to what they "
            "were, or choose another --run-dir."
        )
    if run.is_main and before is None:
        with run.writing("list of images that are left out"):
            run.path.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
    if run.is_main:
        total = sum(len(dataset) for dataset in loaded) + len(names)
        print(
            f"left out {len(names)} of {total} images, which cannot be read: "
            f"{', '.join(map(repr, names[:10]))}{', …' if len(names) > 10 else ''} ({path})",
            file=sys.stderr,
        )
