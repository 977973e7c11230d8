from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nacgen.data.datasets import load_dataset
from nacgen.data.image_sets import holds_statistics, open_folder, open_images, read_npz
from nacgen.errors import ConfigurationError, DataError, DataNotFoundError


def noise(n: int = 3, height: int = 6, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, 3, height, width), generator=generator).to(torch.uint8)


def picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def write(
    folder: Path, images: Tensor, names: tuple[str, ...] = ("a.png", "b.png", "c.png")
) -> None:
    for name, image in zip(names, images, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(image).save(folder / name)


def read(folder: Path) -> Tensor:
    images = open_folder(folder)
    return images.read(torch.arange(len(images)))


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".ppm", ".tiff"])
def test_files_give_the_pixels_they_were_saved_from(tmp_path: Path, suffix: str) -> None:
    images = noise()
    write(tmp_path, images, (f"a{suffix}", f"b{suffix}", f"c{suffix}"))
    opened = open_folder(tmp_path)
    assert torch.equal(opened.read(torch.tensor([2, 0])), images[[2, 0]])
    assert (len(opened), opened.notes) == (3, ())


def test_nested_folders_and_files_passed_over_are_said(tmp_path: Path) -> None:
    images = noise()
    write(tmp_path, images, ("a.png", "cat/b.png", "dog/c.png"))
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    opened = open_folder(tmp_path)
    assert torch.equal(opened.read(torch.arange(3)), images)
    assert opened.notes == (
        f"nested: 2 of 3 images lie in 2 folders below {tmp_path}.",
        f"passed_over: 1 files in {tmp_path} are not named like images (1 .txt).",
    )


def test_lossy_files_are_said(tmp_path: Path) -> None:
    write(tmp_path, noise(), ("a.jpg", "b.JPEG", "c.png"))
    (note,) = open_folder(tmp_path).notes
    assert note.startswith(f"lossy: 2 of 3 images in {tmp_path} are JPEG, whose")


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=f"{tmp_path} must hold images .* none was found"):
        open_folder(tmp_path)


def test_mixed_sizes_are_refused_and_counted(tmp_path: Path) -> None:
    write(tmp_path, noise())
    picture(noise(1, 4, 9)[0]).save(tmp_path / "d.png")
    message = rf"got 2 sizes: 5x6 px: 3 \({tmp_path}/a.png, …\); 9x4 px: 1 \({tmp_path}/d.png\)"
    with pytest.raises(DataError, match=message):
        open_folder(tmp_path)
    assert open_folder(tmp_path, 4).read(torch.arange(4)).shape == (4, 3, 4, 4)


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, noise(3, 40, 40))
    for name in ("a.png", "c.png"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:2000])
    message = rf"2 of 3 images cannot be scored\. {tmp_path}/a.png must be a readable image.*/c.png"
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_what_only_claims_to_be_an_image_is_named(tmp_path: Path) -> None:
    write(tmp_path, noise())
    (tmp_path / "d.png").write_text("no image")
    with pytest.raises(DataError, match=rf"{tmp_path}/d.png must be a readable image, but is not"):
        open_folder(tmp_path)


def png_of_16_bits(path: Path) -> None:
    """Pillow does not write coloured ones, so: signature, header, data, end."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    data = zlib.compress(b"\0" + bytes(range(12)))
    content = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def test_16_bits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    png_of_16_bits(path)
    with Image.open(path) as image:
        assert image.mode == "RGB"  # so that nothing but the check would notice
    with pytest.raises(
        DataError, match=rf"{path} must have 8 bits a channel, but has 16 bits\. Co"
    ):
        open_folder(tmp_path)
    Image.fromarray(np.zeros((2, 2), np.uint16)).save(path)
    with pytest.raises(DataError, match="but has 16 bits"):
        open_folder(tmp_path)


def test_floats_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif must have 8 bits a channel, but has floats"):
        open_folder(tmp_path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_refused_unless_nothing_is_transparent(tmp_path: Path, mode: str) -> None:
    (image,) = noise(1)
    rgba = picture(image).convert("RGBA")
    path = tmp_path / "a.png"
    rgba.save(path)
    assert torch.equal(read(tmp_path)[0], image)
    rgba.putpixel((1, 1), (0, 0, 0, 254))
    (rgba.quantize() if mode == "P" else rgba.convert(mode)).save(path)
    with pytest.raises(DataError, match=f"{path} must be opaque, but is transparent in places"):
        open_folder(tmp_path)


def test_animations_are_refused(tmp_path: Path) -> None:
    first, second, _ = map(picture, noise())
    path = tmp_path / "a.webp"
    first.save(path, save_all=True, append_images=[second])
    with pytest.raises(DataError, match=rf"{path} must be one image, but has several frames"):
        open_folder(tmp_path)


def test_grey_files_have_three_equal_channels(tmp_path: Path) -> None:
    gray = noise(1)[0, 0]
    Image.fromarray(gray.numpy()).save(tmp_path / "a.png")
    assert torch.equal(read(tmp_path)[0], gray.expand(3, -1, -1))


@pytest.mark.parametrize("is_last", [True, False])
def test_an_archive_gives_its_images(tmp_path: Path, is_last: bool) -> None:
    images = noise()
    stored = images.permute(0, 2, 3, 1) if is_last else images
    np.savez(tmp_path / "a.npz", stored.numpy(), labels=np.arange(3))
    assert torch.equal(read_npz(tmp_path / "a.npz").images, images)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": noise().float().numpy()}, r"uint8 \(n, h, w, 3\) .*, got x: float32 \(3, 3, 6, 5\)"),
        ({"x": noise(2, 3, 3).numpy()}, r"got x: uint8 \(2, 3, 3, 3\)"),
        ({"x": noise().numpy(), "y": noise().numpy()}, r"got x: uint8 .*, y: uint8"),
        ({"x": np.zeros((0, 4, 4, 3), np.uint8)}, r"got x: uint8 \(0, 4, 4, 3\)"),
        ({}, "got nothing"),
        ({"x": np.array([{}])}, "plain numbers, but is not .*allow_pickle=False"),
    ],
)
def test_an_archive_of_something_else_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=rf"{path} must .*{message}"):
        read_npz(path)


def test_a_missing_or_cut_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(DataNotFoundError, match=f"{path} is no file"):
        open_images(str(path))
    np.savez(path, noise(30).numpy())
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=f"{path} must be a whole .npz archive"):
        read_npz(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=f"{path} must be a whole .npz archive"):
        read_npz(path)


def test_an_archive_with_a_damaged_directory_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "stats.npz", mu=np.zeros(2), sigma=np.eye(2))
    content = (tmp_path / "stats.npz").read_bytes()
    (tmp_path / "stats.npz").write_bytes(content.replace(b"PK\x01\x02", b"XXXX"))
    assert not holds_statistics(tmp_path / "stats.npz")
    with pytest.raises(DataError, match=r"stats\.npz must be a whole \.npz archive"):
        open_images(str(tmp_path / "stats.npz"))


def test_images_are_found_by_what_names_them(tmp_path: Path) -> None:
    images = noise()
    write(tmp_path, images)
    np.savez(tmp_path / "a.npz", images.numpy())
    for source in (tmp_path, tmp_path / "a.npz"):
        opened = open_images(str(source))
        assert (opened.name, opened.split) == (str(source), "all")
        assert torch.equal(opened.read(torch.arange(3)), images)
    for source, split in (("digits", "train"), ("digits/test", "test")):
        digits = load_dataset("digits", split)
        assert torch.equal(open_images(source).read(torch.arange(9)), digits.read(torch.arange(9)))


def test_what_names_no_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"digits, cifar10, .*but svhn/test is none of th"):
        open_images("svhn/test")
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(DataNotFoundError, match=r"a\.zip is a file of another kind"):
        open_images(str(tmp_path / "a.zip"))
    with pytest.raises(ConfigurationError, match=r"split of digits must be .*, got 'val'"):
        open_images("digits/val")
    with pytest.raises(ConfigurationError, match=r"data_dir is not given"):
        open_images("cifar10/test")
