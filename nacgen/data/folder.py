"""Trees of image files: finding them, their classes, and what is passed over, without opening a file.

Links to files and folders are followed, also out of the tree, because subsets are often made of links. Hidden
files and folders, and those that systems leave behind, are no images and no classes.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from nacgen.errors import DataError, DataNotFoundError

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
    | {".pbm", ".pgm", ".ppm", ".pnm"}
)
LEFT_BEHIND = frozenset(  # by systems, in lower case
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "lost+found"}
    | {"$recycle.bin", "system volume information"}
)
MAX_DEPTH = 100  # of folders in folders
MAX_REASONS = 8  # of passing files over, that are told apart


class Entry(NamedTuple):
    """A folder, or what is named like an image, in a folder."""

    name: str
    path: str
    is_named: bool  # like an image
    is_folder: bool
    is_file: bool
    is_link: bool


class Contents(NamedTuple):
    """Contents of files as they were when their images were decoded."""

    sizes: tuple[int, ...]  # in bytes; -1 for a link that leads nowhere
    digests: bytes  # SHA-256 of each file, one after the other, if all were read


@dataclass(frozen=True)
class ImageFiles:
    """Paths and labels of images, without pixels."""

    paths: tuple[str, ...]
    labels: Int64[Tensor, " n"] | Bool[Tensor, "n c"] | None = None
    class_names: tuple[str, ...] = ()
    root: str = ""  # folder that the paths lie in
    no_files: tuple[str, ...] = ()  # paths that are named like images but are not files
    folders: tuple[str, ...] = ()  # all below the root
    links: tuple[str, ...] = ()  # paths that are links
    held_out: str = ""  # folder of held-out images that belong to these
    passed_over: Counter[str] = field(default_factory=Counter)  # numbers of files, by suffix
    notes: tuple[str, ...] = ()  # what a reader may not expect
    known: Contents | None = None

    def without(self, skipped: Sequence[str]) -> "ImageFiles":
        """Return the listing without some paths; classes keep their numbers."""
        left_out = set(skipped)
        kept = [i for i, path in enumerate(self.paths) if path not in left_out]
        labels = None if self.labels is None else self.labels[kept]
        paths = tuple(self.paths[i] for i in kept)
        return replace(self, paths=paths, labels=labels, no_files=())


def list_images(root: Path) -> ImageFiles:
    """Find all that is named like an image below a folder, in the order of paths, without opening a file.

    If all images lie in subfolders, the first level names the class, however its accents are encoded.
    """
    folders: list[str] = []
    passed_over: Counter[str] = Counter()
    paths, no_files, links = [], [], []
    for entry in walk(str(root), folders, passed_over):
        paths.append(entry.path)
        if not entry.is_file:
            no_files.append(entry.path)
        if entry.is_link:
            links.append(entry.path)
    if not paths:
        raise DataNotFoundError(
            f"{root} must hold images ({', '.join(sorted(SUFFIXES))}), but none was found in it or below"
            f"{f'; passed over: {in_words(passed_over)}' if passed_over else ''}. Put such files there, or remove "
            "the folder if it is not needed."
        )
    below = len(os.path.join(root, ""))  # noqa: PTH118 - with its separator
    ends = [path.find(os.sep, below) for path in paths]
    files = ImageFiles(
        tuple(paths),
        root=str(root),
        no_files=tuple(no_files),
        folders=tuple(folders[1:]),
        links=tuple(links),
        passed_over=passed_over,
    )
    if min(ends) < 0:
        if max(ends) < 0:
            return files
        stray = paths[ends.index(-1)][below:]
        return replace(
            files, notes=(f"no classes, because {stray!r} lies beside the folders of images",)
        )
    numbers: dict[str, int] = {}  # in the order of the walk, which is that of the names
    labels = [
        numbers.setdefault(unicodedata.normalize("NFC", path[below:end]), len(numbers))
        for path, end in zip(paths, ends, strict=True)
    ]
    names = [f[below:] for f in files.folders if os.sep not in f[below:]]
    empty = [name for name in names if unicodedata.normalize("NFC", name) not in numbers]
    return replace(
        files,
        labels=torch.tensor(labels),
        class_names=tuple(numbers),
        notes=(f"no images in {quoted(empty)}",) if empty else (),
    )


def walk(root: str, folders: list[str], passed_over: Counter[str]) -> Iterator[Entry]:
    """Yield what is named like an image, depth first.

    Folders, the root first, and the number of files passed over are added to the arguments.
    """
    seen: dict[tuple[int, int], str] = {}
    stack = [iter([Entry("", root, False, True, False, False)])]
    while stack:
        for entry in stack[-1]:
            path = entry.path
            if entry.is_named:
                yield entry
            elif entry.is_folder:
                if len(stack) > MAX_DEPTH:
                    raise DataError(
                        f"folders must lie in each other at most {MAX_DEPTH} deep, but {path[:200]}… is deeper. "
                        "Give a folder closer to the images."
                    )
                found, others = scan(path)
                status = Path(path).stat()
                first = seen.setdefault((status.st_dev, status.st_ino), path)
                if first != path and os.path.realpath(first) == os.path.realpath(path):
                    raise _leads_back(path, first)
                folders.append(path)
                passed_over.update(others)
                stack.append(iter(found))
                break
        else:
            stack.pop()


def scan(folder: str) -> tuple[list[Entry], Counter[str]]:
    """List a folder: what is named like an image or is a folder, sorted, and the number of other files."""
    others: Counter[str] = Counter()
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name, is_named = entry.name, is_image_name(entry.name)
                if name.startswith(".") or (not is_named and name.casefold() in LEFT_BEHIND):
                    others["hidden"] += 1
                    continue
                try:
                    is_folder, is_file = entry.is_dir(), entry.is_file()
                except OSError:  # a link to itself
                    if not is_named:
                        raise
                    is_folder = is_file = False
                is_link = entry.is_symlink()
                if is_folder and is_link:
                    target = os.path.realpath(entry.path)
                    if Path(folder).resolve().is_relative_to(target):
                        raise _leads_back(entry.path, target)
                if is_named and "\\" in name and os.sep != "\\":
                    raise DataError(
                        f"folders must be folders, but the name of {entry.path} holds backslashes in their place, "
                        "as archives made on Windows do. Unpack the archive with unzip or 7z, or rename the file."
                    )
                if is_named or is_folder:
                    found.append(Entry(name, entry.path, is_named, is_folder, is_file, is_link))
                elif is_link and not is_file:
                    others["linked nowhere"] += 1
                else:
                    suffix = Path(name).suffix.lower()
                    is_word = suffix[1:].isalnum() and not suffix[1:].isdigit()
                    others[suffix if is_word and suffix.isascii() else "of other names"] += 1
    except OSError as error:
        raise DataError(
            f"every folder must be readable, but {error.filename} is not ({error.strerror}). "
            "Change its permissions or remove it."
        ) from error
    return sorted(found), others


def _leads_back(link: str, place: str) -> DataError:
    return DataError(
        f"{link} must not lead back to {place}, whose images would be read again, but is a link that does. "
        "Remove it."
    )


def is_image_name(name: str) -> bool:
    """Return True for a name with a suffix of images that is not hidden."""
    return name[name.rfind(".") :].lower() in SUFFIXES and not name.startswith(".")


def most_common(passed_over: Mapping[str, int]) -> dict[str, int]:
    """Return the most frequent reasons, and the sum of all others."""
    ordered = sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[MAX_REASONS:])
    return Counter(dict(ordered[:MAX_REASONS])) + Counter({"of other names": rest})


def in_words(passed_over: Mapping[str, int]) -> str:
    """Return reasons in words, such as `"24 .avif, 1 hidden"`."""
    return ", ".join(f"{count} {reason}" for reason, count in most_common(passed_over).items())


def quoted(names: Sequence[str]) -> str:
    """Return names in quotes, with control characters escaped; of many the first five."""
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if names[5:] else "")
