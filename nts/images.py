"""Reading of image files, and resizing to the square inputs of the two models.

Images are stretched to squares; the aspect ratio is not preserved (paper, Sec. 3.2 and 3.3).
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

READER = 2
"""Version of :func:`read_image`, part of cache keys. It increases with every change in the pixels of any file."""

_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
_ROUNDING = 1e-3
"""Tolerance of floats in [0, 1], for rounding in resizing and saving."""
_AMBIGUOUS_BELOW = 8
"""Floats with a maximum between 1 and this are of unknown scale rather than in [0, 255]."""
_GREATEST_FLOAT = 65535


class ImageError(ValueError):
    """An image that cannot be used; the message names the file and the reason."""


def failure(path: str, error: Exception) -> str:
    """Reason why an image could not be processed, with its file."""
    return str(error) if isinstance(error, ImageError) else f"{path}: {type(error).__name__}: {error}"


def read_image(path: str | os.PathLike, *, exif: bool = True, content: bytes | None = None) -> np.ndarray:
    """Read an image file as 8-bit RGB.

    Grey, palette and CMYK images are converted, an alpha channel is dropped, and the first of several pages is read.
    Values of more than 8 bits are scaled to 8 bits, with one scale for all channels:

    * integers by their bit depth: the number of bits of the maximum, rounded up to an even number and at least 8. A
      maximum of 4095 gives 12 bits, also in a 16-bit file;
    * floats in [0, 1] by 255, floats in [0, 255] unscaled, larger ones like integers.

    Args:
        path: the file.
        exif: apply the EXIF orientation, as viewers do. The published code does not. In TIFF files the orientation is
            part of the format, and is always applied.
        content: content of the file by :func:`read_file`, if it was read before.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        ImageError: if the file is missing, truncated, too large to decode safely, or not an image, or if its values are
            negative, not finite, or floats of an unknown scale.
    """
    with _errors_named(path), _opened(path, content) as stream:
        try:
            opened = Image.open(stream)
        except Image.UnidentifiedImageError:
            if not _is_tiff(content := _all_of(stream)):
                raise
            return _read_unusual_tiff(path, content)
        with opened as file:
            orientation = _orientation(file) if exif or file.format == "TIFF" else 1
            signed, white_is_zero = _is_signed(file), _white_is_zero(file)
            if _has_deep_colour(file):
                values = _decode_deep(path, _all_of(stream))
                image: Image.Image = _turned(Image.fromarray(_to_eight_bits(path, values)), orientation)
            elif file.mode.startswith("I") or file.mode == "F":
                # Pillow would clip the values at 255 instead of scaling them.
                image = ImageOps.exif_transpose(file) if exif else file
                values = np.asarray(image)
                if image.mode == "I" and signed is False:
                    values = values.view(np.uint32)  # Pillow has no unsigned mode
                image = Image.fromarray(_to_eight_bits(path, values, white_is_zero=white_is_zero))
            else:
                image = ImageOps.exif_transpose(file) if exif else file
                if signed:
                    image = Image.fromarray(_to_eight_bits(path, np.asarray(image).view(np.int8)))
            return np.array(image.convert("RGB"))


def image_size(path: str | os.PathLike, *, exif: bool = True, content: bytes | None = None) -> tuple[int, int]:
    """Read the size of an image from the header of its file, without decoding pixels.

    Args:
        path: the file.
        exif: return the size after applying the EXIF orientation, see :func:`read_image`.
        content: see :func:`read_image`.

    Returns:
        ``(height, width)`` in pixels.

    Raises:
        ImageError: if the file is missing, not an image, or too large to decode safely.
    """
    with _errors_named(path), _opened(path, content) as stream:
        try:
            opened = Image.open(stream)
        except Image.UnidentifiedImageError:
            if not _is_tiff(content := _all_of(stream)):
                raise
            tags = _tiff_tags(path, content)
            (width, height), orientation = _size_of_tiff(path, tags), tags.get(_ORIENTATION, (1, 0))[0]
        else:
            with opened as file:
                if file.format == "TIFF":
                    # Whether Pillow has exchanged the sides of file.size already depends on its version.
                    width, height = (file.tag_v2[tag] for tag in (_WIDTH, _HEIGHT))  # type: ignore[attr-defined]
                    orientation = _orientation(file)
                else:
                    width, height = file.size
                    orientation = _orientation(file) if exif else 1
    return (width, height) if orientation in _TURNED else (height, width)


def _opened(path: str | os.PathLike, content: bytes | None = None) -> IO[bytes]:
    """Open a file, or its content. Given a path, Pillow would map the file and garble rotated TIFF files."""
    if content is None and "://" in str(path):
        content = read_file(path)
    return Path(path).open("rb") if content is None else io.BytesIO(content)


def _all_of(stream: IO[bytes]) -> bytes:
    stream.seek(0)
    return stream.read()


_ON_BROKEN_CONTENT = (
    OSError,
    SyntaxError,
    ValueError,
    RuntimeError,
    EOFError,
    OverflowError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
)
"""Exceptions that Pillow's decoders raise on damaged files."""


@contextmanager
def _errors_named(path: str | os.PathLike) -> Iterator[None]:
    """Convert exceptions of Pillow and OpenCV into an :class:`ImageError` that names the file."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"the image {path} does not exist") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{path} is not an image of a known format") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        why = str(error) or "not enough memory"
        raise ImageError(f"the image {path} cannot be decoded: it is too large to decode safely ({why})") from error
    except _ON_BROKEN_CONTENT as error:
        raise ImageError(f"the image {path} cannot be decoded: {error or type(error).__name__}") from error


# ----------------------------------------------------------------------------------------------------------------------
# More than 8 bits


def _to_eight_bits(path: str | os.PathLike, values: np.ndarray, *, white_is_zero: bool = False) -> np.ndarray:
    """Scale values of any type to uint8, see :func:`read_image`.

    Args:
        path: name of the file in messages.
        values: ``[H, W]`` or ``[H, W, C]``, without alpha.
        white_is_zero: 0 is white, and the maximum of the bit depth is black (integers).
    """
    floats = values.dtype.kind == "f"
    if floats and not np.isfinite(values).all():
        raise ImageError(
            f"the image {path} has values that are not finite (NaN or infinity): replace them, by 0 for example"
        )
    low, high = values.min().item(), values.max().item()
    if low < (-_ROUNDING if floats else 0):
        raise _unknown_scale(path, low, high, "negative values are not brightness")
    if floats:
        if high <= 1 + _ROUNDING:
            return np.rint(values.clip(0, 1) * 255).astype(np.uint8)
        if high < _AMBIGUOUS_BELOW and not np.array_equal(values, np.rint(values)):
            raise _unknown_scale(path, low, high, "white may be 1 or 255")
        if high > _GREATEST_FLOAT:
            raise _unknown_scale(path, low, high, "the value of white is not known")
        white = (1 << _bit_depth(math.ceil(high))) - 1
        return np.rint(values.clip(0, None) * (255 / white)).astype(np.uint8)
    bits = _bit_depth(high)
    white = (1 << bits) - 1
    wide = values.astype(np.uint32 if bits <= 16 else np.uint64)
    if white_is_zero:
        wide = white - wide
    return (wide * 255 // white).astype(np.uint8)


def _bit_depth(greatest: int) -> int:
    """Number of bits of the maximum, rounded up to an even number, at least 8."""
    return max(8, greatest.bit_length() + greatest.bit_length() % 2)


def _unknown_scale(path: str | os.PathLike, low: float, high: float, why: str) -> ImageError:
    return ImageError(
        f"the image {path} has values from {low:g} to {high:g}: {why}. Scale it to values of 0 to 1, 0 to 255 or 0 to "
        "65535 and save it again"
    )


def _has_deep_colour(file: Image.Image) -> bool:
    """True if Pillow would drop the low byte of the channels; known before pixels are decoded."""
    if file.mode not in ("RGB", "RGBA", "RGBX", "RGBa", "LA"):
        return False
    if file.format == "TIFF":
        bits = file.tag_v2.get(_BITS, (1,))  # type: ignore[attr-defined]
        return max(bits if isinstance(bits, tuple) else (bits,)) > 8
    return file.format == "PNG" and any("16" in str(tile[3]) for tile in file.tile)  # type: ignore[attr-defined]


def _decode_deep(path: str | os.PathLike, content: bytes) -> np.ndarray:
    """Decode with OpenCV: ``[H, W]`` or RGB ``[H, W, 3]`` of the file's dtype, without alpha or orientation."""
    import cv2  # slow to import, and rarely needed

    try:
        values = cv2.imdecode(np.frombuffer(_without_orientation(path, content), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError(f"the image {path} cannot be decoded: {error}") from error
    if values is None:
        raise ImageError(f"the image {path} cannot be decoded: it is damaged, or of a kind that OpenCV does not know")
    return values if values.ndim == 2 else np.ascontiguousarray(values[:, :, 2::-1])


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """Apply an EXIF orientation to an image."""
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(image)


def _orientation(file: Image.Image) -> int:
    """EXIF orientation, read without decoding pixels; 1 if there is none."""
    # Pillow's getexif() for PNG decodes the image, because metadata may follow the pixels.
    exif = Image.Image.getexif(file)
    if ExifTags.Base.Orientation not in exif and file.format == "PNG" and file.tile and file.fp:  # type: ignore[attr-defined]
        try:
            with Image.open(io.BytesIO(_png_without_pixels(file.fp))) as header:  # type: ignore[attr-defined]
                exif = Image.Image.getexif(header)
        except _ON_BROKEN_CONTENT:
            return 1  # only metadata after the pixels is damaged; the image itself can be decoded
    return exif.get(ExifTags.Base.Orientation, 1)


def _png_without_pixels(stream: IO[bytes]) -> bytes:
    """The PNG file with all its metadata, followed by an empty image."""
    position = stream.tell()
    stream.seek(0)
    chunks = stream.read(len(_PNG))
    while len(head := stream.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name == b"IEND":  # bytes after it are not part of the image
            break
        if name == b"IDAT":
            stream.seek(length + 4, os.SEEK_CUR)
        else:
            chunks += head + stream.read(length + 4)
    stream.seek(position)
    return chunks + b"".join(struct.pack(">I4sI", 0, name, zlib.crc32(name)) for name in (b"IDAT", b"IEND"))


# ----------------------------------------------------------------------------------------------------------------------
# TIFF

_PNG = b"\x89PNG\r\n\x1a\n"
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _SAMPLE_FORMAT = 256, 257, 258, 262, 274, 277, 339
_KINDS = {1: "u", 2: "i", 3: "f"}
"""NumPy dtype kinds by TIFF sample format."""


def _is_tiff(content: bytes) -> bool:
    return content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _tiff_tags(path: str | os.PathLike, content: bytes) -> dict[int, tuple[int, int]]:
    """Integer tags of a TIFF file's first page: the first value of each, and its position in the file."""
    order = "<" if content[:2] == b"II" else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    head, count_type, entry_size, inline = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    types = {1: "B", 3: "H", 4: "I", 16: "Q"}
    try:
        (start,) = struct.unpack_from(order + head, content, 8 if big else 4)
        (entries,) = struct.unpack_from(order + count_type, content, start)
        start += struct.calcsize(count_type)
        tags = {}
        for at in range(start, start + entries * entry_size, entry_size):
            tag, kind = struct.unpack_from(order + "HH", content, at)
            (count,) = struct.unpack_from(order + head, content, at + 4)
            if kind not in types:
                continue
            position = at + entry_size - inline
            if count * struct.calcsize(types[kind]) > inline:
                (position,) = struct.unpack_from(order + head, content, position)
            tags[tag] = struct.unpack_from(order + types[kind], content, position)[0], position
    except (struct.error, OverflowError) as error:
        raise ImageError(f"the image {path} cannot be decoded: its TIFF header is damaged") from error
    return tags


def _size_of_tiff(path: str | os.PathLike, tags: Mapping[int, tuple[int, int]]) -> tuple[int, int]:
    """``(width, height)``, checked against Pillow's limit on the number of pixels."""
    width, height = (tags.get(tag, (0, 0))[0] for tag in (_WIDTH, _HEIGHT))
    if min(width, height) < 1:
        raise ImageError(f"the image {path} cannot be decoded: its TIFF header has no size")
    if Image.MAX_IMAGE_PIXELS and width * height > 2 * Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(
            f"{width} x {height} pixels exceed the limit of {2 * Image.MAX_IMAGE_PIXELS} pixels"
        )
    return width, height


def _read_unusual_tiff(path: str | os.PathLike, content: bytes) -> np.ndarray:
    """Read a TIFF file that Pillow does not support, such as float colours."""
    tags = _tiff_tags(path, content)
    width, height = _size_of_tiff(path, tags)
    channels, sample_format = tags.get(_SAMPLES, (1, 0))[0], tags.get(_SAMPLE_FORMAT, (1, 0))[0]
    bits = tags.get(_BITS, (1, 0))[0]
    kind = f"{channels} channels of {bits} bits, sample format {sample_format}"
    refused = ImageError(f"the image {path} is a TIFF file of a kind that is not read ({kind}): save it as 8-bit RGB")
    if channels not in (1, 3, 4) or tags.get(_PHOTOMETRIC, (1, 0))[0] not in (1, 2):
        raise refused
    values = _decode_deep(path, content)
    # OpenCV reduces some formats to 8 bits, or reads floats as integers.
    same_type = (values.dtype.kind, 8 * values.dtype.itemsize) == (_KINDS.get(sample_format), bits)
    if not same_type or values.shape[:2] != (height, width):
        raise refused
    image = Image.fromarray(_to_eight_bits(path, values))
    return np.array(_turned(image, tags.get(_ORIENTATION, (1, 0))[0]).convert("RGB"))


def _without_orientation(path: str | os.PathLike, content: bytes) -> bytes:
    """Set the orientation of a TIFF file to 1, as OpenCV applies it for some formats only."""
    if not _is_tiff(content):
        return content
    orientation, position = _tiff_tags(path, content).get(_ORIENTATION, (1, 0))
    if orientation == 1:
        return content
    return content[:position] + struct.pack("<H" if content[:2] == b"II" else ">H", 1) + content[position + 2 :]


def _is_signed(file: Image.Image) -> bool | None:
    """True if the values of a TIFF file may be negative; ``None`` for other files."""
    if file.format != "TIFF":
        return None
    formats = file.tag_v2.get(_SAMPLE_FORMAT, (1,))  # type: ignore[attr-defined]
    return 2 in (formats if isinstance(formats, tuple) else (formats,))


def _white_is_zero(file: Image.Image) -> bool:
    """True if 0 is white in a TIFF file. For 8-bit files Pillow inverts the values."""
    return file.format == "TIFF" and file.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]


# ----------------------------------------------------------------------------------------------------------------------
# Content of files


def digest(image: np.ndarray) -> str:
    """Hash of the content of an image, or of any other array: shape, dtype and values."""
    content = repr((image.shape, image.dtype.str)).encode() + np.ascontiguousarray(image).tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def digest_content(content: bytes) -> str:
    """Hash of the content of a file."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def read_file(path: str | os.PathLike) -> bytes:
    """Read the content of an image file.

    Args:
        path: a file, or the address of one, such as ``s3://bucket/image.jpg``, which ``fsspec`` reads.

    Raises:
        ImageError: if the file is missing or cannot be read.
    """
    if "://" in str(path):
        return _read_address(str(path))
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"the image {path} does not exist") from error
    except OSError as error:
        raise ImageError(f"the image {path} cannot be read: {error.strerror or error}") from error


def _read_address(address: str) -> bytes:
    try:
        import fsspec
    except ImportError as error:
        raise ImageError(f"the image {address} cannot be read: it needs the package fsspec") from error
    try:
        with fsspec.open(address, "rb") as stream:
            return stream.read()
    except FileNotFoundError as error:
        raise ImageError(f"the image {address} does not exist") from error
    except Exception as error:  # each file system raises its own errors
        raise ImageError(f"the image {address} cannot be read: {type(error).__name__}: {error}") from error


def stretch(image: np.ndarray, size: int, box: tuple[int, int, int, int] | None = None) -> Tensor:
    """Stretch an image, or a crop of it, to a square, antialiased.

    Args:
        image: uint8 ``[H, W, 3]``.
        size: side of the square in pixels.
        box: crop ``x1, y1, x2, y2`` in pixels, half-open; ``None`` for the whole image.

    Returns:
        float ``[3, size, size]`` in ``[0, 1]``, resized by Pillow's bicubic filter (a = -0.5, 8-bit rounding).
    """
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=box)
    return to_float(np.asarray(resized))


def to_float(image: np.ndarray) -> Tensor:
    """uint8 ``[H, W, 3]`` to float ``[3, H, W]`` in ``[0, 1]``."""
    return torch.from_numpy(image / 255.0).permute(2, 0, 1).float()


def resize_bicubic(pixels: Tensor, size: int) -> Tensor:
    """Resize ``[3, H, W]`` to ``[3, size, size]`` by torch's bicubic filter, as in the published code.

    a = -0.75, without antialiasing or clipping of overshoot; the identity if the size already fits.
    """
    return F.interpolate(pixels[None], size=(size, size), mode="bicubic", align_corners=False)[0]


def normalise(pixels: Tensor) -> Tensor:
    """ImageNet normalisation of ``[..., 3, H, W]`` in ``[0, 1]``; DINOv2 and SAM2 use the same constants."""
    mean = torch.tensor(IMAGENET_MEAN, device=pixels.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, device=pixels.device)[:, None, None]
    return (pixels - mean) / std


@dataclass(frozen=True)
class PreparedImage:
    """Model inputs of a target image, see :func:`prepare_target`.

    Attributes:
        encoder_input, segmenter_input: normalised float ``[3, s, s]``, each at its model's input size.
        image: uint8 ``[H, W, 3]``, from which crops and tiles are cut.
    """

    encoder_input: Tensor
    segmenter_input: Tensor
    image: np.ndarray

    @property
    def image_size(self) -> tuple[int, int]:
        """``(H, W)`` in pixels."""
        return self.image.shape[0], self.image.shape[1]


def prepare_target(
    image: np.ndarray, encoder_size: int, segmenter_size: int, *, antialias: bool = True
) -> tuple[Tensor, Tensor]:
    """Prepare the inputs of both models for a target image.

    Args:
        image: uint8 ``[H, W, 3]``.
        encoder_size: side of the encoder's input (518 for DINOv2).
        segmenter_size: side of the segmenter's input (1024 for SAM2).
        antialias: resize both from the image, antialiased. False follows the published code, which resizes the
            segmenter's input to the encoder's by a bicubic filter without antialiasing.

    Returns:
        normalised float ``[3, encoder_size, encoder_size]`` and ``[3, segmenter_size, segmenter_size]``.
    """
    segmenter_input = stretch(image, segmenter_size)
    encoder_input = stretch(image, encoder_size) if antialias else resize_bicubic(segmenter_input, encoder_size)
    return normalise(encoder_input), normalise(segmenter_input)
