"""Image files into pixels: one, or all into memory.

Files of unknown origin are decoded to RGB with 8 bits per channel, or refused by name:

    decoded    gray, black and white, palettes, CMYK and other color spaces (without their color profiles), the
               first picture of a JPEG that holds several; transparent pixels are put on white
    as stored  the orientation that a camera notes beside the pixels is not applied, as in torchvision
    refused    more than 8 bits or floats per channel, animations and other files of several frames, more pixels
               than `MAX_PIXELS`, or half of it with transparency, more bytes than so many pixels have, JPEGs of
               hundreds of scans, PPMs of long comments, formats that are not in `FORMATS` whatever the file's
               name, pipes, devices, folders named like images, links that lead nowhere

JPEGs are always decoded in full. Pillow's `draft` takes 0.4 of the time where noisy pictures of 3000 x 2250 become
224 x 224, but changes pixels by 2.5 of 255 on average and up to 24: scores depend on less.
"""

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from nacgen.data.decoders import try_each
from nacgen.errors import DataError
from nacgen.system.files import open_regular

# Pillow's other formats are not tried: PostScript, for example, would start a program. AVIF and JPEG 2000 do not
# tell that they have more than 8 bits a channel.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF", "GIF")
MAX_PIXELS = 89_478_485  # a quarter of a gigabyte as RGB
MAX_FILE = 3 * MAX_PIXELS + 2**20  # bytes, because some readers take a whole file into memory
WHOLE = 2**18  # bytes of a file that is read at once
MAX_SCANNED = 16 * MAX_PIXELS  # pixels that a JPEG's scans may pass over, seconds of work
DEEP_MODES = ("I", "F")  # of Pillow's images with more than 8 bits a channel
MAX_SKIPPED = 0.01  # of all images

SMALL = 2**22  # pixels that an image of fewer counts as, per scan of a JPEG
ROWS = 2**20  # pixels that are put on white at once
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # of a segment of a JPEG
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
MAX_SEGMENTS = 20_000
# Pillow reads comments of PPM byte by byte.
SPACE = rb"(?:\s|#[^\r\n]*[\r\n])+"
PPM = re.compile(rb"P[1-6]")
PPM_HEADER = re.compile(rb"P(?:[14]|[2356]%b\d+)(?:%b\d+){2}" % (SPACE, SPACE))
MAX_HEADER, MAX_COMMENTS = 2**16, 100
NO_IMAGES = {  # first bytes
    b"version https://git-lfs": "it is a Git LFS pointer: run `git lfs pull` for the file itself",
    b"<": "it is a web page or a drawing (SVG)",
}
# Pillow turns a TIFF by its orientation, 2 to 8, while it is loaded; these turn it back.
T = Image.Transpose
TURNS = (
    T.FLIP_LEFT_RIGHT,
    T.ROTATE_180,
    T.FLIP_TOP_BOTTOM,
    T.TRANSPOSE,
    T.ROTATE_90,
    T.TRANSVERSE,
    T.ROTATE_270,
)


@contextmanager
def open_image(path: str) -> Iterator[ImageFile.ImageFile]:
    """Open an image file without decoding it; errors of Pillow or the block become a `DataError` with its name."""
    try:
        with open_regular(path) as opened:
            # Pillow's many short reads are faster in memory.
            is_small = os.fstat(opened.fileno()).st_size <= WHOLE
            file = io.BytesIO(opened.read()) if is_small else opened
            _check_content(file)
            with Image.open(file, formats=FORMATS) as image:
                kind = " and transparency" if image.has_transparency_data else ""
                if image.width * image.height > (MAX_PIXELS / 2 if kind else MAX_PIXELS):
                    raise ValueError(f"it has {image.width} x {image.height} pixels{kind}")
                yield image
    except (MemoryError, DataError):
        raise
    except Exception as error:  # damaged files make Pillow's readers raise almost anything
        raise DataError(
            f"{path} must be a readable image, but is not ({_reason(error)}). Repair or remove it."
        ) from error


def _check_content(file: io.BufferedIOBase) -> None:
    """Refuse what is no image by its first bytes, and what would take long to open."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(64)
    file.seek(0)
    for mark, kind in NO_IMAGES.items():
        if start.startswith(mark):
            raise ValueError(kind)
    if size == 0 or size > MAX_FILE:
        raise ValueError(f"it has {size:,} bytes")
    if PPM.match(start):
        if not PPM_HEADER.match(file.read(MAX_HEADER)):
            raise ValueError(f"its header is damaged or longer than {MAX_HEADER} bytes")
        file.seek(0)
        if start[1] in b"123" and file.read().count(b"#") > MAX_COMMENTS:
            raise ValueError(f"it has more than {MAX_COMMENTS} comments")
        file.seek(0)


def channel_depth(image: ImageFile.ImageFile) -> str:
    """Return `"8 bits"`, or else the depth of an undecoded image's channels in words."""
    # Pillow reads colored 16-bit files as 8 bits without a warning.
    bits = {"I": 32, "I;16": 16, "I;16B": 16}.get(image.mode, 8)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = int(np.max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, 1)))
    for tile in image.tile:  # only the arguments of their decoders tell
        arguments = tile.args if isinstance(tile.args, tuple | list) else (tile.args,)
        raw_mode, *others = map(str, arguments)
        if ";16" in raw_mode and raw_mode != "BGR;16":  # 16 bits for all three channels
            bits = 16
        if tile.codec_name.startswith("ppm") and others:
            bits = int(others[0]).bit_length()
    return "floats" if image.mode == "F" else f"{max(8, bits)} bits"


def require_8_bits(image: Image.Image) -> None:
    """Raise a `DataError` if a picture that is in hand has more than 8 bits a channel."""
    depth = channel_depth(image) if isinstance(image, ImageFile.ImageFile) else "8 bits"
    if depth != "8 bits" or image.mode.startswith(DEEP_MODES):
        raise DataError(
            f"images must have 8 bits a channel, got one of mode {image.mode}. Convert it, so that you know "
            "how it was rounded."
        )


def orientation(image: ImageFile.ImageFile) -> int:
    """Return the orientation, 1 to 8, by which an undecoded image will be turned: that of a TIFF, or 1."""
    noted = image.getexif().get(ExifTags.Base.Orientation, 1) if image.format == "TIFF" else 1
    return int(noted) if noted in range(1, 9) else 1


def decode(path: str, image_size: int | None) -> UInt8[np.ndarray, "h w 3"]:
    """Read one image file as RGB; one that is damaged, or of a kind that is refused, is a `DataError`.

    The shorter side is resized to `image_size` pixels (bicubic, antialiased) and the center is cropped. None keeps
    the size of the file.
    """
    with open_image(path) as file:
        depth = channel_depth(file)
        turned = orientation(file)
        if depth != "8 bits":
            raise ValueError(f"it has {depth} a channel, and only you know how to round them")
        if getattr(file, "is_animated", False) and file.format != "MPO":
            raise ValueError("it has several frames")
        if image_size is not None and max(file.size) * image_size**2 > MAX_PIXELS * min(file.size):
            raise ValueError(f"{file.width} x {file.height} pixels are too many at {image_size}")
        if file.format in ("JPEG", "MPO"):
            _check_scans(file)
        image: Image.Image = to_rgb(file)
        if turned > 1:
            image.load()
            image = image.transpose(TURNS[turned - 2])
        return fit_image(image, image_size)


def to_rgb(image: Image.Image) -> Image.Image:
    """Bring an image to red, green and blue, with transparent pixels on white."""
    image = _on_white(image) if image.has_transparency_data else image
    return image if image.mode == "RGB" else image.convert("RGB")


def fit_image(image: Image.Image, image_size: int | None) -> UInt8[np.ndarray, "h w 3"]:
    """Resize the shorter side of an RGB image and crop its center, as `decode` does, and return its pixels."""
    if image_size is not None and image.size != (image_size, image_size):
        scale = image_size / min(image.size)
        width, height = (max(image_size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - image_size) // 2, (height - image_size) // 2
        image = image.crop((left, top, left + image_size, top + image_size))
    pixels = np.frombuffer(image.tobytes(), np.uint8)
    return pixels.reshape(image.height, image.width, 3)


def _on_white(image: Image.Image) -> Image.Image:
    """Put transparent pixels on white, some rows at a time, which takes a third of the memory."""
    result = Image.new("RGB", image.size)
    step = max(1, ROWS // image.width)
    for top in range(0, image.height, step):
        box = (0, top, image.width, min(top + step, image.height))
        rows = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", rows.size, "white")
        result.paste(Image.alpha_composite(white, rows).convert("RGB"), box)
    return result


def _check_scans(image: ImageFile.ImageFile) -> None:
    """Refuse a JPEG whose scans, each of which passes over all pixels, would take minutes."""
    assert image.fp is not None
    start = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read(MAX_SCANNED)
    image.fp.seek(start)
    most = content.count(bytes((0xFF, START_OF_SCAN))) * max(SMALL, image.width * image.height)
    if most <= MAX_SCANNED and content.count(0xFF) < MAX_SEGMENTS:
        return
    scans, position = 0, 2
    for number in range(MAX_SEGMENTS + 1):
        match = MARKER.search(content, position)
        if match is None or content[match.end() - 1] == END_OF_IMAGE:
            break
        scans += content[match.end() - 1] == START_OF_SCAN
        length = int.from_bytes(content[match.end() : match.end() + 2], "big")
        position = match.end() + max(2, length)
        if number == MAX_SEGMENTS or scans * max(SMALL, image.width * image.height) > MAX_SCANNED:
            raise ValueError(f"it has {scans} scans or more, and {number} segments")


def decoded_bytes(paths: Sequence[str], image_size: int | None) -> int:
    """Return the bytes of all images in memory, at the size of the first readable one if none is given."""
    if image_size is not None:
        return len(paths) * 3 * image_size**2
    for path in paths:
        try:
            with open_image(path) as image:
                return len(paths) * 3 * image.width * image.height
        except DataError:  # read_images names it, together with the other unreadable ones
            continue
    return 0


def read_images(
    paths: Sequence[str], image_size: int | None, skip_bad: bool = False
) -> tuple[UInt8[Tensor, "n 3 h w"], dict[str, DataError]]:
    """Decode files of one square size into a tensor; return it and the errors of paths that were left out."""
    images, kept = np.empty((0, 3, 0, 0), np.uint8), 0
    sizes: set[tuple[int, int]] = set()
    errors: dict[str, DataError] = {}
    results = try_each(paths, lambda path: decode(path, image_size))
    for path, result in zip(paths, results, strict=True):
        if isinstance(result, DataError):
            errors[path] = result
            continue
        height, width, _ = result.shape
        if not sizes and height == width:
            images = np.empty((len(paths), 3, height, width), np.uint8)
        sizes.add((height, width))
        if len(sizes) == 1 and height == width:
            images[kept] = rearrange(result, "h w c -> c h w")
            kept += 1
    _check_readable(errors, len(paths), skip_bad)
    if len(sizes) > 1 or kept == 0:
        raise DataError(
            f"images of one square size are expected, got heights and widths {sorted(sizes)[:5]}. "
            "Give --data.image-size to resize and crop them."
        )
    return torch.from_numpy(images[:kept]), errors


def find_unreadable(
    paths: Sequence[str], no_files: Sequence[str], image_size: int, skip_bad: bool
) -> tuple[str, ...]:
    """Return unreadable files to leave out, before images are decoded as they are read."""
    suspects = paths if skip_bad else no_files
    results = zip(suspects, try_each(suspects, lambda p: decode(p, image_size)), strict=True)
    errors = {path: result for path, result in results if isinstance(result, DataError)}
    return _check_readable(errors, len(paths), skip_bad)


def _check_readable(
    errors: Mapping[str, DataError], num_files: int, skip_bad: bool
) -> tuple[str, ...]:
    """Return the unreadable paths if they may be left out, or raise an error that names them."""
    if not errors or (skip_bad and len(errors) <= MAX_SKIPPED * num_files):
        return tuple(errors)
    bound = f"all but {MAX_SKIPPED:.0%} of the images" if skip_bad else "every image"
    listed = "; ".join(
        f"{path} ({_reason(error.__cause__ or error)})" for path, error in list(errors.items())[:10]
    )
    how = "" if skip_bad else ", or pass over a few with --data.skip-bad"
    raise DataError(
        f"{bound} must be readable, but {len(errors)} of {num_files} are not: {listed}. Repair or remove "
        f"them{how}."
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"it is damaged or none of {', '.join(FORMATS)}"
    return f"{type(error).__name__}: {error}"
