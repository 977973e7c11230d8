"""Facts about images for the record of a run, and fingerprints, by which it knows them again on resume."""

import hashlib
import os
from typing import Any

from nacgen.data import cache
from nacgen.data.datasets import Dataset, ImageDataset
from nacgen.data.folder import ImageFiles, in_words, most_common, quoted

LICENSES = {
    "digits": "CC BY 4.0 (Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI)",
    "fashion-mnist": "MIT (Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747)",
}


def dataset_fingerprint(dataset: Dataset) -> dict[str, str | int]:
    """Compute a fingerprint of images, labels and class names, the same wherever the files lie.

    Times and the folders above do not count, so that a copied or moved data set keeps its fingerprint. A part of
    a data set, such as a held-out fifth, has the `sha256` of the whole.

    Returns:
        `images`, their number; `bytes`, the size of the files, or of the pixels; `sha256`; and `method`, which
        says what the hash covers: `"names and contents"` of files of up to 64 MB together; `"names, sizes and a
        sample"` of larger ones, where the first 64 kB of 256 files at even distances are read, so that a change
        elsewhere which keeps a file's size goes unseen; `"pixels"` of images that were not read from files.

    Example:
        >>> from nacgen.data.datasets import load_dataset
        >>> dataset_fingerprint(load_dataset("digits"))["method"]
        'names and contents'
    """
    digest = hashlib.sha256()
    source = dataset if dataset.files is None else dataset.files
    digest.update(repr(source.class_names).encode("utf-8", "surrogateescape"))
    if source.labels is not None:
        digest.update(source.labels.cpu().contiguous().numpy().data)
    if dataset.files is None and isinstance(dataset, ImageDataset):
        pixels = dataset.images.cpu().contiguous().numpy()
        digest.update(repr(pixels.shape).encode())
        digest.update(pixels.data)
        num_bytes, method = pixels.nbytes, "pixels"
    else:
        paths = source.paths  # type: ignore[union-attr]  # only images in memory have none
        root = os.path.commonpath(paths) if dataset.files is None else dataset.files.root
        known = None if dataset.files is None else dataset.files.known
        sizes = cache.stamps_of(paths)[:, 0].tolist() if known is None else known.sizes
        for path, size in zip(paths, sizes, strict=True):
            name = os.fsencode(path.removeprefix(root))
            digest.update(b"%d:%b:%d" % (len(name), name, size))
        num_bytes = sum(max(0, size) for size in sizes)
        if cache.are_read_whole(sizes):
            method = "names and contents"
            digest.update(known.digests if known else cache.digests_of(paths))
        else:
            method = "names, sizes and a sample"
            digest.update(cache.sampled_digests(paths))
    return {
        "images": len(dataset),
        "bytes": num_bytes,
        "method": method,
        "sha256": digest.hexdigest(),
    }


def dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """Return what a dataset holds, where it comes from and what was passed over, for `environment.json`."""
    files = dataset.files or ImageFiles(())
    unreadable = {"unreadable": len(dataset.skipped)} if dataset.skipped else {}
    return {
        "name": f"{dataset.name}/{dataset.split}",
        "folder": None if dataset.name == "digits" else files.root or None,
        "images": len(dataset),
        "classes": len(dataset.class_names),
        "passed_over": {**most_common(files.passed_over), **unreadable},
        "notes": list(files.notes),
    }


def data_line(train: Dataset, held_out: Dataset | None) -> str:
    """Describe training images, held-out ones, and files passed over, in one line."""
    classes = len(train.class_names)
    kinds = f"{classes} class{'es' if classes > 1 else ''}" if classes else "no classes"
    if classes and train.name == "folder":  # which other folders may be taken for
        kinds += f" ({quoted(train.class_names)})"
    parts = [f"data: {_source(train)}, {kinds}", *_remarks(train)]
    if held_out is None:
        return "; ".join([*parts, "none held out"])
    is_apart = held_out.files is not train.files
    return "; ".join(
        [*parts, f"held out: {_source(held_out)}", *(_remarks(held_out) if is_apart else [])]
    )


def data_note(dataset: Dataset) -> str:
    """Say in a model card which images a model was trained on, and what their license is."""
    license = LICENSES.get(dataset.name)
    known = f"licensed {license}" if license else "see their source for the license"
    return f"Data: {len(dataset):,} images of {dataset.name}/{dataset.split}, {known}."


def no_labels(dataset: Dataset) -> str:
    """Return "none", and the reason if a file beside the class folders is it."""
    notes = dataset.files.notes if dataset.files is not None else ()
    return " ".join(["none", *(f"({note})" for note in notes if note.startswith("no classes"))])


def _source(dataset: Dataset) -> str:
    facts = dataset_facts(dataset)
    place = f" in {facts['folder']!r}" if dataset.name == "folder" and facts["folder"] else ""
    return f"{len(dataset)} image{'s' if len(dataset) > 1 else ''} of {facts['name']}{place}"


def _remarks(dataset: Dataset) -> list[str]:
    facts = dataset_facts(dataset)
    none = ["no file was passed over"] if dataset.name == "folder" else []
    reasons = in_words(facts["passed_over"])
    return [*([f"passed over: {reasons}"] if reasons else none), *facts["notes"]]
