import os
import tracemalloc
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nacgen.data.datasets import load_dataset, load_splits
from nacgen.data.decoding import decode
from nacgen.data.folder import in_words, list_images, most_common
from nacgen.errors import DataError, DataNotFoundError
from tests.data.files import write_photographs


def test_files_are_in_the_order_of_their_paths(tmp_path: Path) -> None:
    names = ["b/2.png", "a-b/1.png", "a/z/9.jpg", "a/10.png", "a/9.PNG", "a b/ü.webp"]
    write_photographs(tmp_path, names)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    files = list_images(tmp_path)
    assert files.paths == tuple(str(path) for path in sorted(tmp_path / name for name in names))
    assert files.class_names == ("a", "a b", "a-b", "b")
    assert files.labels is not None
    assert files.labels.tolist() == [0, 0, 0, 1, 2, 3]


def test_images_beside_subfolders_have_no_labels(tmp_path: Path) -> None:
    write_photographs(tmp_path, ["cat/1.png", "2.png"])
    files = list_images(tmp_path)
    assert (len(files.paths), files.labels, files.class_names) == (2, None, ())


def test_links_are_followed(tmp_path: Path) -> None:
    write_photographs(tmp_path / "elsewhere", ["1.png", "2.png"])
    (tmp_path / "data" / "cat").mkdir(parents=True)
    (tmp_path / "data" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "cat" / "1.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    files = list_images(tmp_path / "data")
    assert files.class_names == ("cat", "dog")
    assert len(files.paths) == 3


def test_what_is_no_file_is_listed_and_never_opened(tmp_path: Path) -> None:
    write_photographs(tmp_path, ["1.png", "folder.png/1.png"])
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    files = list_images(tmp_path)
    wrong = ["dangling.png", "device.png", "folder.png", "itself.png", "pipe.png"]
    assert files.paths == tuple(str(tmp_path / name) for name in ("1.png", *wrong))
    assert files.no_files == tuple(str(tmp_path / name) for name in wrong)


def test_what_systems_leave_behind_is_passed_over_and_counted(tmp_path: Path) -> None:
    names = [".ipynb_checkpoints/1.png", "cat/.Trash/1.png", "__MACOSX/cat/1.png", "cat/._1.png"]
    write_photographs(tmp_path, ["cat/1.png", "cat/2.JFIF.jpe", *names])
    for name in ("Thumbs.db", "desktop.ini", "cat/.DS_Store", "a.avif", "b.AVIF", "c", "d.0001"):
        (tmp_path / name).write_bytes(b"")
    files = list_images(tmp_path)
    assert files.paths == (str(tmp_path / "cat" / "1.png"), str(tmp_path / "cat" / "2.JFIF.jpe"))
    assert files.class_names == ("cat",)
    assert files.passed_over == {"hidden": 7, ".avif": 2, "of other names": 2}
    assert in_words(files.passed_over) == "7 hidden, 2 .avif, 2 of other names"
    for path in files.paths:
        Path(path).unlink()
    with pytest.raises(
        DataNotFoundError, match=r"none was found in it or below; passed over: 7 hidden, "
    ):
        list_images(tmp_path)


def test_reasons_are_few_and_harmless_on_a_terminal(tmp_path: Path) -> None:
    write_photographs(tmp_path, ["1.png"])
    for i in range(30):
        (tmp_path / f"x.kind{i:02}").touch()
    (tmp_path / "x.\x1b[31m").touch()
    (tmp_path / "x.kind00 ").touch()
    passed_over = most_common(list_images(tmp_path).passed_over)
    assert sum(passed_over.values()) == 32
    assert len(passed_over) == 8
    assert all(reason == "of other names" or reason[1:].isalnum() for reason in passed_over)


def test_empty_folders_and_a_stray_file_are_named(tmp_path: Path) -> None:
    write_photographs(tmp_path, ["cat/1.png", "dog/deep/1.png"])
    (tmp_path / "empty\x1b").mkdir()
    (tmp_path / "lost").symlink_to("nowhere")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "1.avif").touch()
    files = list_images(tmp_path)
    assert (files.class_names, files.notes) == (
        ("cat", "dog"),
        (r"no images in 'empty\x1b', 'web'",),
    )
    assert files.passed_over == {"linked nowhere": 1, ".avif": 1}
    write_photographs(tmp_path, ["logo.png"])
    files = list_images(tmp_path)
    note = "no classes, because 'logo.png' lies beside the folders of images"
    assert (files.labels, files.notes) == (None, (note,))


def test_a_folder_is_read_once_however_many_links_lead_to_it(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(40):  # 2 to the power of 40 paths
        (folder / "d").mkdir()
        (folder / "e").symlink_to("d")
        folder /= "d"
    write_photographs(folder, ["1.png"])
    with pytest.raises(DataError, match=r"/d/e must not lead back to .*/d/d, .* but is a link"):
        list_images(tmp_path)


def test_folders_in_folders_have_an_end(tmp_path: Path) -> None:
    deep = tmp_path / "/".join(120 * "d")
    write_photographs(deep, ["1.png"])
    with pytest.raises(DataError, match=r"at most 100 deep, but .* Give a folder closer"):
        load_dataset("folder", "train", tmp_path)
    assert load_dataset("folder", "train", deep.parents[50], 8).class_names == ("d",)


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    write_photographs(tmp_path, ["cat/1.png"])
    circle = tmp_path / "cat" / "up"
    circle.symlink_to(tmp_path)
    with pytest.raises(DataError, match=f"{circle} must not lead back"):
        list_images(tmp_path)
    circle.unlink()
    circle.symlink_to("/")  # as Wine makes it
    with pytest.raises(DataError, match=f"{circle} must not lead back to /, "):
        list_images(tmp_path)
    circle.unlink()
    circle.symlink_to(circle)
    with pytest.raises(DataError, match=f"every folder must be readable, but {circle} is not"):
        list_images(tmp_path)


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (31, 17), (7, 500)])
def test_the_shorter_side_is_resized_and_the_centre_kept(
    size: tuple[int, int], tmp_path: Path
) -> None:
    (path,) = write_photographs(tmp_path, ["1.png"], size)
    scale = 16 / min(size)
    width, height = (round(side * scale) for side in size)
    with Image.open(path) as image:
        resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - 16) // 2, (width - 16) // 2
    assert (decode(str(path), 16) == resized[top : top + 16, left : left + 16]).all()
    assert decode(str(path), None).shape == (size[1], size[0], 3)


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    (path,) = write_photographs(tmp_path, ["1.jpg"], (200, 200))
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match=rf"{path} must be a readable image, but is not \(OSError"):
        decode(str(path), 16)


class SimulatedEntry:
    """What `os.scandir` gives of a file that need not be there."""

    def __init__(self, folder: str, name: str) -> None:
        self.name, self.path = name, f"{folder}/{name}"

    def is_dir(self) -> bool:
        return False

    def is_file(self) -> bool:
        return True

    def is_symlink(self) -> bool:
        return False


@pytest.mark.usefixtures("as_users_run_it")  # a real DirEntry cannot be made
def test_large_trees_are_listed_once_and_held_compactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ImageNet, but with 50,000 files: what is held of each is its path, and little passes beside it."""
    num_folders, num_files = 50, 1000
    for i in range(num_folders):
        (tmp_path / f"n{i:08}").mkdir()
    listed, scandir = [], os.scandir

    def simulated(folder: str) -> object:
        listed.append(folder)
        if folder == str(tmp_path):
            return scandir(folder)
        return nullcontext(
            SimulatedEntry(folder, f"n00000000_{i:08}.JPEG") for i in range(num_files)
        )

    monkeypatch.setattr(os, "scandir", simulated)
    tracemalloc.start()
    dataset, _ = load_splits("folder", tmp_path, 224)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset) == num_folders * num_files * 4 // 5
    assert set(listed) == {str(tmp_path), *(str(tmp_path / f"n{i:08}") for i in range(num_folders))}
    assert len(listed) < 1.5 * num_folders  # a few are looked into to know the layout
    length = len(str(tmp_path)) + len("/n00000000/n00000000_00000000.JPEG")
    assert peak / (num_folders * num_files) < length + 250  # bytes a file
