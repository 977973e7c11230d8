"""Statistics of training images that runs share: the first one computes them, the others read them.

They lie beside the decoded images of `nacgen.data.cache`, which removes what was not used for long. An entry's
name follows from the pixels, the extractor, and what the last bits depend on, torch's release, device, threads and
processes, so a run's scores are those that it would have without the folder.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import torch

from nacgen.data.cache import ADVICE, cache_folder, sweep
from nacgen.data.datasets import Dataset
from nacgen.errors import DataError
from nacgen.metrics.extractors.base import FeatureExtractor
from nacgen.metrics.reference import ReferenceStatistics, fingerprint_images
from nacgen.system.terminal import warn
from nacgen.training.run import Run

FEWEST_IMAGES = 4_096  # fewer are seen by a network in seconds


def run_reference(
    dataset: Dataset, extractor: FeatureExtractor, run: Run, is_kept: bool
) -> ReferenceStatistics:
    """Return the statistics of a run's training images, read or computed; every process calls it.

    Nothing fails because of the folder, which `--data.cache` chooses: a line says why they are computed anew.
    """
    path = None
    with run.processes.failing_together(), suppress(RuntimeError):  # a user without a home
        folder = cache_folder(run.config.data.cache)
        if is_kept and folder is not None and len(dataset) >= FEWEST_IMAGES:
            path = folder / _entry(dataset, extractor, run)
    kept = _read(path, extractor)
    if run.processes.agree(kept is not None) and kept is not None:
        return kept
    run.say(f"computing {extractor.name} features of {len(dataset):,} images to compare with")
    computed = ReferenceStatistics.compute(dataset, extractor, accelerator=run.accelerator)
    if path is not None and run.is_main:
        try:
            with suppress(OSError):  # a damaged one, which `save` would not replace
                path.unlink()
            computed.save(path)
            sweep(path.parent)
        except OSError as error:
            warn(f"features are not kept: {path} cannot be written ({error}). {ADVICE}")
    return computed


def _entry(dataset: Dataset, extractor: FeatureExtractor, run: Run) -> str:
    """Return the name of an entry's file."""
    where = (
        f"{torch.__version__} {run.device} {torch.get_num_threads()} {run.processes.num_processes}"
    )
    content = f"{fingerprint_images(dataset)} {extractor.fingerprint} {where}"
    return f"{hashlib.sha256(content.encode()).hexdigest()}.npz"


def _read(path: Path | None, extractor: FeatureExtractor) -> ReferenceStatistics | None:
    """Read an entry; None where there is none or it is damaged."""
    if path is None or not path.is_file():
        return None
    try:
        kept = ReferenceStatistics.load(path, extractor)
    except (DataError, OSError) as error:
        warn(f"features that were kept in {path} are damaged and computed anew ({error})")
        return None
    with suppress(OSError):  # a folder that others prepared
        os.utime(path)
    return kept
