"""A stranger's folder of images: every file in it is decoded as promised, or named."""

import os
import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from io import BytesIO
from itertools import product
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from PIL import Image

from nacgen.data import decoders, decoding, lazy
from nacgen.data.datasets import ImageDataset, load_dataset, load_splits
from nacgen.data.decoding import MAX_PIXELS, decode, read_images
from nacgen.data.image_sets import open_folder
from nacgen.data.lazy import LazyImageDataset
from nacgen.data.stream import ImageStream
from nacgen.errors import ConfigurationError, DataError, DataNotFoundError
from tests.data.files import write_photographs

ROOT = Path(__file__).parents[2]
SCALE = int(os.environ.get("NACGEN_FAULTS_SCALE", "1"))
MUTATIONS = 100  # times SCALE

GRADIENT = np.linspace(0, 255, 20 * 24 * 3).reshape(20, 24, 3).astype(np.uint8)
PICTURE = Image.fromarray(GRADIENT)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))


def encoded(image: Image.Image = PICTURE, kind: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(width: int, height: int, color_type: int = 2) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (24, 20), color) for color in ("red", "green", "blue")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


DEEP = ((16, b"P6"), (10, b"P6"), (15, b"P3"), (12, b"P5"))


def deep(bits: int, magic: bytes) -> bytes:
    """A PPM or PGM of so many bits a channel, which Pillow cuts to 8 without a warning."""
    values = np.linspace(0, 2**bits - 1, 24 * 20 * (1 if magic == b"P5" else 3)).astype(">u2")
    content = " ".join(map(str, values)).encode() if magic == b"P3" else values.tobytes()
    return b"%b\n24 20\n%d\n%b" % (magic, 2**bits - 1, content)


def progressive(num_scans: int) -> bytes:
    """A JPEG that repeats its last scan so many times."""
    content = encoded(PICTURE, "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + num_scans * last + content[-2:]


def tiff_of_planes(bits: int) -> bytes:
    """A color TIFF that stores its channels one after the other."""
    planes = np.linspace(0, 2**bits - 1, 3 * 20 * 24).astype("<u2" if bits > 8 else "u1")
    size, start = planes.nbytes // 3, 182
    entries = [
        *((256, 24), (257, 20), (258, 158), (259, 1), (262, 2), (273, 164)),
        *((277, 3), (278, 20), (279, 176), (284, 2)),
    ]
    counts = {258: 3, 273: 3, 279: 3}
    tags = [struct.pack("<HHII", tag, 3, counts.get(tag, 1), value) for tag, value in entries]
    shorts = struct.pack(
        "<12H", *[bits] * 3, *(start + i * size for i in range(3)), *[size] * 3, 0, 0, 0
    )
    header = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(tags) + bytes(4)
    return (header.ljust(158, b"\0") + shorts).ljust(start, b"\0") + planes.tobytes()


def chain(num_pages: int) -> bytes:
    """A TIFF of many pages of one pixel, each a few bytes."""
    tags = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (278, 1), (279, 1)]
    page = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", k, 4, 1, v) for k, v in tags
    )
    size = len(page) + 4
    return b"II*\0\x08\0\0\0" + b"".join(
        page + struct.pack("<I", 8 + (i + 1) * size) for i in range(num_pages)
    )


def large_tail(path: Path) -> None:
    """A small picture with gigabytes of nothing behind it."""
    path.write_bytes(encoded(kind="WEBP"))
    os.truncate(path, 3_000_000_000)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 20\n%%EndComments\n(x) run\n%%EOF\n"
DAMAGED = "damaged or none of PNG, JPEG, BMP"

REFUSED: dict[str, tuple[bytes | Callable[[Path], object], str]] = {
    "empty.png": (b"", "it has 0 bytes"),
    "cut.png": (encoded(NOISE)[:-500], "OSError.*truncated"),
    "cut.jpg": (encoded(NOISE, "JPEG")[:-500], "OSError"),
    "header_alone.jpg": (encoded(kind="JPEG")[:20], DAMAGED),
    "text.png": (b"no image\n" * 100, DAMAGED),
    "page.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a web page or a drawing"),
    "pointer.png": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "a Git LFS pointer",
    ),
    "tail.webp": (large_tail, "it has 3,000,000,000 bytes"),
    "comment.ppm": (b"P6\n#" + b"x" * 2**20 + b"\n8 8\n255\n" + bytes(192), "longer than 65536"),
    "comments.ppm": (b"P3\n8 8\n255\n" + b"#\n" * 2**20 + b"1 2 3 " * 64, "than 100 comments"),
    "postscript.png": (POSTSCRIPT, DAMAGED),
    "icon.png": (encoded(kind="ICO"), DAMAGED),
    "folder.png": (Path.mkdir, "it is a folder"),
    "pipe.png": (os.mkfifo, "it is a pipe"),
    "device.png": (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
    "dangling.png": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "itself.png": (lambda path: path.symlink_to(path), "symbolic links"),
    "to_text.png": (lambda path: path.symlink_to("/etc/passwd"), DAMAGED),
    "grey16.png": (encoded(Image.fromarray(np.full((20, 24), 999, np.uint16))), "it has 16 bits a"),
    "floats.tif": (
        encoded(Image.fromarray(np.zeros((20, 24), np.float32)), "TIFF"),
        "has floats a",
    ),
    **{
        f"{bits}bits.ppm": (deep(bits, magic), f"it has {bits} bits a channel")
        for bits, magic in DEEP
    },
    "planes16.tif": (tiff_of_planes(16), "it has 16 bits a channel"),
    "moving.webp": (animation("WEBP"), "it has several frames"),
    "moving.gif": (animation("GIF"), "it has several frames"),
    "moving.png": (animation("PNG"), "it has several frames"),
    "pages.tif": (animation("TIFF"), "it has several frames"),
    "chain.tif": (chain(50_000), "it has several frames"),
    "bomb.png": (bomb(20_000, 20_000), "DecompressionBomb"),
    "large.png": (bomb(10_000, 10_000), "it has 10000 x 10000 pixels"),
    "clear.png": (bomb(7_000, 7_000, color_type=6), "7000 x 7000 pixels and transparency"),
    "scans.jpg": (progressive(3_000), "it has 342 scans or more"),
    "segments.jpg": (
        b"\xff\xd8" + b"\xff\xfe\0\2" * 30_000 + encoded(kind="JPEG")[2:],
        "20000 segments",
    ),
    "narrow.png": (bomb(1, 10_000_000), "1 x 10000000 pixels are too many at 16"),
}


def put(path: Path, content: bytes | Callable[[Path], object]) -> None:
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that is refused, between photographs."""
    root = tmp_path_factory.mktemp("hostile")
    write_photographs(root, (f"{i}.png" for i in range(8)))
    for name, (content, _) in REFUSED.items():
        put(root / name, content)
    return root


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_by_name_at_once(hostile: Path, name: str) -> None:
    path, start = str(hostile / name), time.monotonic()
    with pytest.raises(
        DataError, match=f"{path} must be a readable image, but .*{REFUSED[name][1]}"
    ):
        decode(path, 16)
    assert time.monotonic() - start < 5


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_hostile_folder_is_one_message_that_names_ten(hostile: Path) -> None:
    with pytest.raises(
        DataError, match=rf"but {len(REFUSED)} of {len(REFUSED) + 8} are not: "
    ) as e:
        load_dataset("folder", "train", hostile, 16)
    assert str(e.value).count("; ") == 10 - 1
    assert e.value.exit_code == 4
    with pytest.raises(DataError, match=rf"all but 1% of .* but {len(REFUSED)} of .*cut\.jpg"):
        load_dataset("folder", "train", hostile, 16, skip_bad=True)


def test_what_is_no_file_is_named_before_training_on_a_folder_that_fits_no_memory(
    hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(Image, "open", lambda *args, **options: opened.append(args[0]))
    with pytest.raises(DataError, match=r"but 5 of 44 are not: .*dangling\.png .*pipe\.png"):
        load_dataset("folder", "train", hostile, 16, max_bytes=0)
    assert not opened


RGBA = Image.fromarray(np.dstack([GRADIENT, np.full((20, 24), 255, np.uint8)]))
HALF = RGBA.copy()
HALF.putalpha(128)
CLEAR = Image.new("RGBA", (24, 20), (0, 0, 0, 0))
PALETTE = PICTURE.convert("P", palette=Image.Palette.ADAPTIVE)


@pytest.mark.parametrize(
    ("content", "expected", "tolerance"),
    [
        (encoded(), GRADIENT, 0),
        (encoded(PICTURE.convert("L")), np.asarray(PICTURE.convert("L").convert("RGB")), 0),
        (encoded(PICTURE.convert("1")), np.asarray(PICTURE.convert("1").convert("RGB")), 0),
        (encoded(PICTURE.convert("LA")), np.asarray(PICTURE.convert("L").convert("RGB")), 0),
        (encoded(PALETTE), np.asarray(PALETTE.convert("RGB")), 0),
        (encoded(PALETTE, transparency=PALETTE.getpixel((0, 0))), None, 0),
        (encoded(RGBA), GRADIENT, 0),
        (encoded(HALF), (255 + GRADIENT.astype(int)) / 2, 1.5),
        (encoded(CLEAR), np.full((20, 24, 3), 255), 0),
        (encoded(PICTURE.convert("CMYK"), "TIFF"), GRADIENT, 1),
        (encoded(PICTURE.convert("CMYK"), "JPEG", quality=100), GRADIENT, 16),
        (encoded(kind="TIFF"), GRADIENT, 0),
        (
            tiff_of_planes(8),
            np.linspace(0, 255, 1440).astype(np.uint8).reshape(3, 20, 24).transpose(1, 2, 0),
            0,
        ),
        (encoded(kind="PPM"), GRADIENT, 0),
        (encoded(kind="BMP"), GRADIENT, 0),
        (encoded(PALETTE, "GIF"), np.asarray(PALETTE.convert("RGB")), 0),
        (b"P1\n2 1\n1 0\n", np.repeat([[[0], [255]]], 3, axis=2), 0),
        (b"P6\n24 20\n15\n" + (GRADIENT // 16).tobytes(), GRADIENT // 16 * 17, 0),
        (encoded(kind="WEBP", lossless=True), GRADIENT, 0),
        (encoded(Image.new("RGB", (1, 1), "red")), np.array([[[255, 0, 0]]]), 0),
    ],
)
def test_odd_modes_are_decoded_as_promised(
    content: bytes, expected: np.ndarray | None, tolerance: float, tmp_path: Path
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    found = decode(str(path), None)
    if expected is None:  # the one colour that is a hole is white, the others are as they were
        assert found[0, 0].tolist() == [255, 255, 255]
        expected = np.asarray(PALETTE.convert("RGB"))
        hole = np.asarray(PALETTE) == PALETTE.getpixel((0, 0))
        found, expected = found[~hole], expected[~hole]
    assert found.shape == expected.shape
    assert np.abs(found.astype(float) - expected).max() <= tolerance


def test_pictures_from_cameras_are_read_as_they_are_stored(tmp_path: Path) -> None:
    for i, (kind, orientation) in enumerate(product(("PNG", "JPEG", "TIFF"), range(1, 9))):
        turned, path = Image.Exif(), tmp_path / f"{i}.png"
        turned[0x0112] = orientation
        path.write_bytes(encoded(kind=kind, exif=turned, quality=100))
        difference = np.abs(decode(str(path), None).astype(int) - GRADIENT)
        assert difference.max() <= (8 if kind == "JPEG" else 0)
    images = open_folder(tmp_path)  # of one size, as stored
    assert images.read(torch.arange(24)).shape == (24, 3, 20, 24)
    second = Image.new("RGB", (12, 10), "red")
    (tmp_path / "two.jpg").write_bytes(
        encoded(PICTURE, "MPO", save_all=True, append_images=[second])
    )
    assert decode(str(tmp_path / "two.jpg"), None).shape == GRADIENT.shape


def test_one_pixel_becomes_an_image_of_its_colour(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), "red").save(tmp_path / "1.png")
    assert (decode(str(tmp_path / "1.png"), 16) == [255, 0, 0]).all()


def test_a_name_that_is_no_text_is_a_name(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(encoded())
    (tmp_path / os.fsdecode(b"cut\xe9.png")).write_bytes(encoded()[:-200])
    with pytest.raises(DataError, match=r"1 of 2 are not: .*cut\udce9\.png"):
        load_dataset("folder", "train", tmp_path, 16)
    (tmp_path / os.fsdecode(b"cut\xe9.png")).unlink()
    assert len(load_dataset("folder", "train", tmp_path, 16)) == 1


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Three hundred photographs in two classes, three of which are none."""
    (first,) = write_photographs(tmp_path, ["a/000.png"])
    (tmp_path / "b").mkdir()
    for i in range(1, 300):
        (tmp_path / "ab"[i % 2] / f"{i:03d}.png").hardlink_to(first)
    for i, content in ((17, b""), (100, os.mkfifo), (201, b"text")):
        (tmp_path / "ab"[i % 2] / f"{i:03d}.png").unlink()
        put(tmp_path / "ab"[i % 2] / f"{i:03d}.png", content)
    return tmp_path


def test_a_few_bad_files_are_left_out_where_that_is_asked_for(mixed: Path) -> None:
    held = load_dataset("folder", "train", mixed, 16, skip_bad=True)
    read_lazily = load_dataset("folder", "train", mixed, 16, max_bytes=0, skip_bad=True)
    assert isinstance(held, ImageDataset)
    assert isinstance(read_lazily, LazyImageDataset)
    names = ("a/100.png", "b/017.png", "b/201.png")
    for dataset in (held, read_lazily):
        assert dataset.skipped == tuple(str(mixed / name) for name in names)
        assert dataset.labels is not None
        assert dataset.labels.bincount().tolist() == [149, 148]
    assert torch.equal(read_lazily.read(torch.arange(297)), held.images)
    train, test = load_splits("folder", mixed, 16, skip_bad=True)
    assert len(train) + len(test) == 297
    (mixed / "a" / "200.png").unlink()
    (mixed / "a" / "200.png").write_bytes(b"a fourth one")
    with pytest.raises(DataError, match="all but 1% of the images must be readable, but 4 of 300"):
        load_dataset("folder", "train", mixed, 16, skip_bad=True)


def test_a_run_that_needs_no_skipping_skips_nothing(tmp_path: Path) -> None:
    write_photographs(tmp_path, ["1.png", "2.png"])
    dataset = load_dataset("folder", "train", tmp_path, 16, skip_bad=True)
    assert (len(dataset), dataset.skipped) == (2, ())


@pytest.mark.parametrize("images", [0, 1, 3])
def test_too_few_images_are_an_error(images: int, tmp_path: Path) -> None:
    write_photographs(tmp_path, (f"{i}.png" for i in range(images)))
    if images == 0:
        with pytest.raises(DataNotFoundError, match=f"{tmp_path} must hold images"):
            load_dataset("folder", "train", tmp_path, 16)
        return
    dataset = load_dataset("folder", "train", tmp_path, 16)
    with pytest.raises(DataError, match=f"a batch of 4 needs as many .* has {images}"):
        ImageStream(dataset, 4, seed=0)
    with pytest.raises(DataError, match=f"its {images} images are {images} or fewer"):
        load_splits("folder", tmp_path, 16)
    with pytest.raises(
        ConfigurationError, match="a multiple of the number of processes, got 1 for 4"
    ):
        ImageStream(dataset, 1, seed=0, num_processes=4)
    assert len(ImageStream(dataset, 1, seed=0).batch(0).images) == 1


def test_a_thread_that_fails_or_hangs_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_photographs(tmp_path, (f"{i}.png" for i in range(4)))
    dataset = load_dataset("folder", "train", tmp_path, 16, max_bytes=0)
    assert isinstance(dataset, LazyImageDataset)
    over = Event()

    def broken(path: str, image_size: int | None) -> np.ndarray:
        if path == str(paths[2]):
            raise MemoryError("no room")
        over.wait(20)
        raise AssertionError

    for module in (lazy, decoding):
        monkeypatch.setattr(module, "decode", broken)
    monkeypatch.setattr(decoders, "TIMEOUT_S", 0.3)
    start = time.monotonic()
    with pytest.raises(DataError, match=f"{paths[2]} must be decoded, but .*MemoryError: no room"):
        dataset.read(torch.tensor([2]))
    with pytest.raises(DataError, match=f"{paths[1]} must be decoded within 0.3 s, but is not"):
        dataset.read(torch.tensor([1]))
    with pytest.raises(DataError, match=rf"1 of 1 are not: {paths[1]} \(TimeoutError"):
        read_images([str(paths[1])], 16)
    assert time.monotonic() - start < 5
    over.set()


def test_slow_files_are_named_and_the_good_ones_behind_them_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_slow, over = decoders.Decoders.num_threads, Event()
    paths = write_photographs(tmp_path, (f"{i:03}.png" for i in range(3 * num_slow)))
    slow = [str(path) for path in paths[:num_slow]]  # as many as there are threads

    def work(path: str) -> np.ndarray:
        if path in slow:
            over.wait(20)
        return decode(path, 16)

    monkeypatch.setattr(decoders, "TIMEOUT_S", 0.3)
    results = list(decoders.try_each([str(path) for path in paths], work))
    over.set()
    named = [str(result) for result in results if isinstance(result, DataError)]
    assert [text.partition(" must be decoded within")[0] for text in named] == slow
    assert len(list(decoders.try_each([str(path) for path in paths], work))) == len(paths)


def test_a_thread_that_hangs_does_not_keep_the_process(tmp_path: Path) -> None:
    write_photographs(tmp_path, (f"{i}.png" for i in range(4)))
    code = (
        "import sys, time\n"
        "from nacgen.data import decoders, lazy\n"
        "from nacgen.data.datasets import load_dataset\n"
        "from nacgen.data.stream import ImageStream\n"
        "from nacgen.errors import DataError\n"
        "data = load_dataset('folder', 'train', sys.argv[1], 16, max_bytes=0)\n"
        "lazy.decode, decoders.TIMEOUT_S = lambda *_: time.sleep(1000), 0.2\n"
        "try: ImageStream(data, 4, 0).batch(0)\n"
        "except DataError as error: sys.exit(error.exit_code)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, timeout=120, check=False).returncode == 4


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_mutated_files_are_decoded_or_named(tmp_path: Path) -> None:
    """Nothing but a DataError, ever, and no image that is larger than it may be."""
    draw = random.Random(0)
    kinds = [encoded(kind=kind) for kind in ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF")]
    path, num_read = tmp_path / "x.png", 0
    for _ in range(MUTATIONS * SCALE):
        content = bytearray(draw.choice(kinds))
        for _ in range(draw.choice((1, 2, 10))):
            content[draw.randrange(min(len(content), draw.choice((64, 10_000))))] = draw.randrange(
                256
            )
        path.write_bytes(content[: draw.choice((len(content), draw.randrange(len(content))))])
        try:
            pixels = decode(str(path), None)
        except DataError:
            continue
        num_read += 1
        assert pixels.size <= 3 * MAX_PIXELS
    assert 0 < num_read < MUTATIONS * SCALE
