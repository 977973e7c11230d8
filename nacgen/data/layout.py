"""Layouts of image folders: what is trained on, what is held out, and what cannot be told apart.

    train/ and test/, or val/   splits by the names of the field in any capitals: `training`, `val2017`, …; test
                                images are held out, or validation images where there are no others
    cat/ and dog/               classes, in a split or alone
    data/                       a single folder around splits or classes, as archives have, is looked into
    images/ (and labels/)       a folder of images beside other files is looked into and is no class

All that could be misread is refused with the choices: held-out images beside classes or below them, a folder
`train` among classes, `trainA` and `testA`, two folders for one split, images beside masks.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from nacgen.data.folder import ImageFiles, is_image_name, list_images, quoted, scan, walk
from nacgen.data.options import require_folder
from nacgen.errors import DataError, DataNotFoundError

ROLES = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "holdout", "heldout"), "test"),
}
SPLIT_NAME = re.compile(  # without spaces and hyphens
    rf"({'|'.join(ROLES)})(?:set|split|data|images?|imgs?|[12]\d{{3}})?", re.IGNORECASE
)
WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
WORD_ROLES = {"Tr": "train", "Ts": "test"}  # of imagesTr and imagesTs
MASK = re.compile(r"[ _-](?:mask|seg|segmentation|gt|label)s?(?:[ _-]?\d+)?\.\w+$", re.IGNORECASE)
NO_CLASSES = (
    "images", "image", "imgs", "img", "jpegimages", "jpegs", "jpg", "jpeg", "png", "pictures", "photos",
)  # fmt: skip


@dataclass(frozen=True)
class Splits:
    """The splits of a folder of images, by `"train"`, `"val"` and `"test"`; none if it holds training images."""

    root: Path
    folders: dict[str, str]  # names
    others: tuple[str, ...] = ()  # that hold images beside the splits

    @property
    def held_out(self) -> Path | None:
        """Folder of the held-out images."""
        name = self.folders.get("test", self.folders.get("val"))
        return None if name is None else self.root / name


def list_folder(data_dir: Path, split: str) -> ImageFiles:
    """Find the images of `"train"` or `"test"` of a folder in one of the layouts above."""
    require_folder(data_dir)
    splits = find_splits(data_dir)
    held_out = splits.held_out
    if split == "train" and splits.folders:
        _check_splits(splits)
    train = splits.root / splits.folders["train"] if "train" in splits.folders else None
    if split == "test":
        if held_out is None:
            raise DataNotFoundError(
                f"the test split was asked for, but {data_dir} has no subfolder 'test'. "
                f"Put held-out images into {data_dir / 'test'}, or use the train split."
            )
        # Classes lie as deep as those of training images, if they can.
        inner = _class_root(train).relative_to(train) if train is not None else Path()
        is_alike = inner.parts and (held_out / inner).is_dir()
        files = _checked(list_images(held_out / inner if is_alike else _class_root(held_out)))
        return _check_apart(files, train)
    files = _checked(list_images(_class_root(train or data_dir)))
    _check_trained_on(_check_apart(files, held_out))
    if train is None:
        _check_names(files)
    used = (train, held_out)
    unused = [name for name in splits.folders.values() if splits.root / name not in used]
    unused += splits.others
    return replace(
        files,
        held_out=str(held_out or ""),
        notes=files.notes + ((f"not used: {quoted(unused)}",) if unused else ()),
        passed_over=files.passed_over + _passed_over_beside(files, data_dir, splits),
    )


def find_splits(folder: Path) -> Splits:
    """Find the splits in a folder, or in the only folder in it that holds images."""
    entries, _ = scan(str(folder))
    names = [entry.name for entry in entries if entry.is_folder and not entry.is_named]
    by_role: dict[str, list[str]] = {}
    for name in names:
        if role := _role(name):
            by_role.setdefault(role, []).append(name)
    for same in by_role.values():
        if len(same) > 1:
            raise DataError(
                f"{folder} must have one folder for each split, but {quoted(same)} mean the same. Merge or "
                "rename them."
            )
    loose = [entry.name for entry in entries if entry.is_named]
    if by_role:
        others = [name for name in names if not _role(name) and _holds_images(folder / name)]
        others += loose[:1]
        found = {role: same[0] for role, same in by_role.items()}
        return Splits(folder, found, tuple(others))
    words = {name: _roles(name) for name in names}
    alike = [name for name, roles in words.items() if roles]
    roles = set().union(*words.values())
    if "train" in roles and len(roles) > 1:
        raise DataError(
            f"folders in {folder} must be classes or splits, but {quoted(alike)} could be either. Rename splits "
            "to train, val and test, or give one of them with --data-dir."
        )
    inner = _only_folder(folder)
    return Splits(folder, {}) if inner is None else find_splits(inner)


def _check_splits(splits: Splits) -> None:
    """Refuse splits without training images, a `train` that may be a class, and two splits that are one folder."""
    root, held_out, others = splits.root, splits.held_out, quoted(splits.others)
    if "train" not in splits.folders:
        names = quoted([*splits.folders.values()])
        raise DataError(
            f"images to train on must lie in {root / 'train'} if there are others in {names}, but lie "
            f"in {others or 'no other folder'}. Move them there, or move {names} elsewhere to train on all "
            f"others; give --data-dir {held_out} to train on those, or rename it if it is a class."
        )
    train = root / splits.folders["train"]
    if held_out is None and splits.others:
        raise DataError(
            f"{train} may be a split or a class, because {others} in {root} hold images, too. To train on it "
            f"alone, give --data-dir {train}; if it is a class, put all classes into one folder named train."
        )
    both = [] if held_out is None else [train.resolve(), held_out.resolve()]
    if both and (both[0].is_relative_to(both[1]) or both[1].is_relative_to(both[0])):
        raise DataError(
            f"held-out images must differ from training images, but {held_out} is {train}, or one is a part of "
            "the other. Remove the held-out ones, and a fifth is held out."
        )


def _class_root(folder: Path) -> Path:
    """Return the folder of the classes: this one, or the one it leads to through folders that only wrap others."""
    inner = _only_folder(folder)
    if inner is None:
        return folder
    root = _class_root(inner)
    is_wrapped = root != inner or inner.name.casefold() in NO_CLASSES
    return root if is_wrapped or len(_image_folders(inner)) > 1 else folder


def _only_folder(folder: Path) -> Path | None:
    """Return the only folder in a folder that holds images; None if there are more, or images beside it."""
    with os.scandir(str(folder)) as entries:
        if any(is_image_name(entry.name) for entry in entries):
            return None
    names = _image_folders(folder)
    return folder / names[0] if len(names) == 1 else None


def _image_folders(folder: Path) -> list[str]:
    """Return the names of the first two folders in a folder that hold images."""
    names: list[str] = []
    for name, path, is_named, is_folder, *_ in scan(str(folder))[0]:
        if is_folder and not is_named and len(names) < 2 and _holds_images(Path(path)):
            names.append(name)
    return names


def _holds_images(folder: Path) -> bool:
    try:
        return any(True for _ in walk(str(folder), [], Counter()))
    except DataError as error:
        if isinstance(error.__cause__, PermissionError):  # it may
            return True
        raise


def _passed_over_beside(files: ImageFiles, top: Path, splits: Splits) -> Counter[str]:
    """Count files beside the folders that lead from the top to images, but not in other splits."""
    passed_over: Counter[str] = Counter()
    known = {str(splits.root / name) for name in (*splits.folders.values(), *splits.others)}
    folder = Path(files.root)
    while folder != top:
        entries, others = scan(str(folder.parent))
        passed_over.update(others)
        for entry in entries:
            if entry.is_folder and str(folder.parent / entry.name) not in {str(folder), *known}:
                list(walk(entry.path, [], passed_over))
        folder = folder.parent
    return passed_over


def _checked(files: ImageFiles) -> ImageFiles:
    """Refuse images beside masks or the like."""
    masks = [path for path in files.paths if MASK.search(path)]
    stems = {os.path.splitext(path)[0] for path in files.paths} if masks else set()  # noqa: PTH122
    for mask in masks:
        if MASK.sub("", mask) in stems:
            raise DataError(
                f"{files.root} must hold images alone, but {mask} seems to be the mask of another. Move masks "
                "elsewhere, or rename it if it is an image."
            )
    for path in map(Path, files.folders):
        names = _image_folders(path.parent) if path.name.casefold() in NO_CLASSES else []
        if len(names) > 1:
            raise DataError(
                f"a folder named {path.name} must be the only one with images, but beside {path} there are "
                f"others, such as masks or classes: {quoted(names)}. Give --data-dir {path}, or rename the folder "
                "if it is a class."
            )
    return files


def _check_apart(files: ImageFiles, other: Path | None) -> ImageFiles:
    """Refuse links from the images of one split to those of the other."""
    home = None if other is None else other.resolve()
    resolve = cache(os.path.realpath)
    linked: Iterable[str] = (f for f in files.folders if Path(f).is_symlink())
    for path in (*linked, *files.links):
        place, name = os.path.split(os.path.join(os.path.dirname(path), os.readlink(path)))  # noqa: PTH115, PTH118, PTH120
        if home is not None and Path(resolve(place), name).is_relative_to(home):
            raise DataError(
                f"held-out images must differ from training images, but {path} is a link to one in {other}. "
                "Remove it."
            )
    return files


def _check_names(files: ImageFiles) -> None:
    """Refuse images all of whose names tell a split, such as `train_1.png` and `test_1.png`."""
    first: dict[str | None, str] = {}
    for path in files.paths:
        name = os.path.basename(path)  # noqa: PTH119
        roles = _roles(name[: name.rfind(".")])
        if len(roles) != 1:
            return
        first.setdefault(roles.pop(), name)
    if "train" in first and len(first) > 1:
        raise DataError(
            f"{files.root} must hold images to train on alone, but their names tell several splits: "
            f"{quoted([*first.values()])}. Sort them into folders train and test."
        )


def _check_trained_on(files: ImageFiles) -> None:
    """Refuse held-out images among those to train on."""
    for path in map(Path, files.folders):
        if _role(path.name) in ("val", "test") and _holds_images(path):
            raise DataError(
                f"{files.root} must hold images to train on alone, but those in {path} seem to be held out. Sort "
                "images as train/CLASS and test/CLASS, or give the folder another name if it is a class."
            )


def _role(name: str) -> str | None:
    match = SPLIT_NAME.fullmatch(re.sub("[ _-]", "", name))
    return ROLES[match[1].lower()] if match else None


def _roles(name: str) -> set[str | None]:
    """Return the roles that words in a name tell."""
    return {WORD_ROLES.get(word, ROLES.get(word.lower())) for word in WORDS.findall(name)} - {None}
