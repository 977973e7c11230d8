from pathlib import Path

import pytest
import torch
from PIL import Image

from nacgen.data.datasets import ImageDataset, load_dataset, load_splits
from nacgen.data.lazy import LazyImageDataset
from nacgen.errors import ConfigurationError, DataError, DataNotFoundError
from tests.data.files import write_photographs


def write(path: Path, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 200).save(path)


def test_a_folder_is_read_with_its_classes(tmp_path: Path) -> None:
    write(tmp_path / "cat" / "deep" / "1.PNG")
    write(tmp_path / "dog" / "1.jpg", mode="L")
    dataset = load_dataset("folder", data_dir=tmp_path)
    assert isinstance(dataset, ImageDataset)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.images.shape == (2, 3, 8, 8)


def test_bad_images_are_named_together(tmp_path: Path) -> None:
    write(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(
        DataError,
        match=r"3 of 4 are not: .*cut\.png .*folder\.png .*text\.png \(it is dam",
    ):
        load_dataset("folder", data_dir=tmp_path)


def test_empty_folders_and_mixed_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="none was found"):
        load_dataset("folder", data_dir=tmp_path)
    write(tmp_path / "a.png")
    write(tmp_path / "b.png", (9, 12))
    with pytest.raises(DataError, match=r"\(12, 9\)"):
        load_dataset("folder", data_dir=tmp_path)
    assert load_dataset("folder", data_dir=tmp_path, image_size=8).image_size == 8


def test_images_that_do_not_fit_are_decoded_when_read(tmp_path: Path) -> None:
    write_photographs(tmp_path, ["1.jpg", "2.jpg", "3.png"], (12, 12))
    num_bytes = 3 * 3 * 8 * 8
    held = load_dataset("folder", "train", tmp_path, 8, max_bytes=num_bytes)
    lazy = load_dataset("folder", "train", tmp_path, 8, max_bytes=num_bytes - 1)
    assert isinstance(held, ImageDataset)
    assert isinstance(lazy, LazyImageDataset)
    as_stored = load_dataset("folder", "train", tmp_path, max_bytes=3 * 3 * 12 * 12)
    assert as_stored.image_size == 12
    with pytest.raises(
        ConfigurationError,
        match=r"image_size must be given .* those of folder would take 0\.0 GB .*--data\.image-size",
    ):
        load_dataset("folder", "train", tmp_path, max_bytes=3 * 3 * 12 * 12 - 1)


def test_a_folder_has_splits(tmp_path: Path) -> None:
    write_photographs(tmp_path / "train", ["ant/1.png", "bee/2.png", "cow/3.png"])
    write_photographs(tmp_path / "test", ["cow/4.png", "ant/5.png"])
    train, test = load_splits("folder", tmp_path, 8)
    assert (train.split, test.split) == ("train", "test")
    assert test.labels is not None
    assert test.labels.tolist() == [0, 2]  # no bee among them
    assert test.class_names == train.class_names == ("ant", "bee", "cow")
    write_photographs(tmp_path / "test", ["dog/6.png"])
    with pytest.raises(DataError, match=r"1 of folder are not: dog\. Look"):
        load_splits("folder", tmp_path, 8)


def test_without_test_images_a_fifth_is_held_out_of_training(tmp_path: Path) -> None:
    write_photographs(tmp_path, (f"{i:02d}.png" for i in range(11)))
    for max_bytes in (0, 2**31):
        whole = load_dataset("folder", "train", tmp_path, 8, max_bytes)
        train, test = load_splits("folder", tmp_path, 8, max_bytes)
        assert (train.split, test.split) == ("train", "held-out fifth")
        held_out, kept = torch.tensor([4, 9]), torch.tensor([0, 1, 2, 3, 5, 6, 7, 8, 10])
        assert torch.equal(test.read(torch.arange(2)), whole.read(held_out))
        assert torch.equal(train.read(torch.arange(9)), whole.read(kept))
        assert (len(train), len(test)) == (9, 2)
        for part, positions in ((train, kept), (test, held_out)):
            assert part.positions is not None
            assert torch.equal(part.positions, positions)
    with pytest.raises(DataNotFoundError, match=f"{tmp_path} has no subfolder 'test'"):
        load_dataset("folder", "test", tmp_path, 8)


def test_the_held_out_fifth_has_every_class_in_its_share(tmp_path: Path) -> None:
    names = [f"ant/{i:02d}.png" for i in range(10)] + [f"bee/{i}.png" for i in range(6)]
    write_photographs(tmp_path / "train", [*names, "cow/0.png"])
    train, test = load_splits("folder", tmp_path, 8)
    assert train.labels is not None
    assert test.labels is not None
    assert test.labels.tolist() == [0, 0, 1]
    assert train.labels.tolist() == [0] * 8 + [1] * 5 + [2]  # no class is lost
    assert test.class_names == train.class_names == ("ant", "bee", "cow")
    assert test.positions is not None
    assert test.positions.tolist() == [4, 9, 14]
    few = test.subset(torch.tensor([2, 0]))
    assert few.positions is not None
    assert few.positions.tolist() == [14, 4]


def test_too_few_images_to_hold_any_out_are_refused(tmp_path: Path) -> None:
    write_photographs(tmp_path, [f"{name}/{i}.png" for name in ("ant", "bee") for i in range(4)])
    with pytest.raises(
        DataError, match=r"folder has no test split, .* its 8 images are 4 or fewer"
    ):
        load_splits("folder", tmp_path, 8)


def test_names_splits_and_places_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"digits, cifar10, .* folder, got 'svhn'"):
        load_dataset("svhn")
    with pytest.raises(ConfigurationError, match="digits must be one of train, test, got 'val'"):
        load_dataset("digits", "val")
    with pytest.raises(ConfigurationError, match="image_size must be 1 pixel or more, got 0"):
        load_dataset("digits", image_size=0)
    for name in ("cifar10", "cifar100", "stl10", "flickr25k", "imagenet", "folder"):
        with pytest.raises(ConfigurationError, match=f"'{name}' needs .* Add --data-dir PATH"):
            load_dataset(name)
    with pytest.raises(DataNotFoundError, match=f"{tmp_path}/no does not exist"):
        load_dataset("folder", data_dir=tmp_path / "no")


@pytest.mark.parametrize("size", [4, 8, 16])
def test_digits_are_resized_as_by_torchvision_and_rounded(size: int) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    digits = load_dataset("digits", image_size=size)
    gray = torch.from_numpy(datasets.load_digits().images).float()[:, None] * (255 / 16)
    resized = transforms.resize(gray, [size, size], antialias=True)
    expected = (resized + 0.5).floor().clamp(0, 255).to(torch.uint8)
    known = {image.numpy().tobytes() for image in expected}
    channels = digits.read(torch.arange(len(digits))).unbind(1)
    assert all(torch.equal(channel, channels[0]) for channel in channels)
    assert all(image.numpy().tobytes() in known for image in channels[0][:, None])
