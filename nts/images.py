"""Reading images, and bringing them to the square inputs of the two models.

Both models take squares, so an image is stretched: its aspect ratio is not kept (paper, Sec. 3.2 and 3.3).
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


class ImageError(ValueError):
    """An image that cannot be used. The message names the file and says what is wrong with it."""


def read_image(path: str | os.PathLike, *, exif: bool = True, content: bytes | None = None) -> np.ndarray:
    """Read any image file as RGB.

    Grey and palette images become RGB, 16-bit grey is scaled to 8 bits, an alpha channel is dropped, CMYK is converted.

    Args:
        path: the file.
        exif: turn the image as its EXIF orientation says, as viewers do. The publication does not.
        content: of the file, by :func:`read_file`, where it was read before.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        ImageError: if the file is missing, truncated, too large to decode safely, or no image.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as file:
            image: Image.Image = ImageOps.exif_transpose(file) if exif else file
            # Pillow would clip 16-bit values at 255 instead of scaling them.
            if image.mode.startswith("I"):
                grey = np.asarray(image).astype(np.int64).clip(0, 65535) // 257
                image = Image.fromarray(grey.astype(np.uint8))
            return np.array(image.convert("RGB"))
    except FileNotFoundError as error:
        raise ImageError(f"the image {path} does not exist") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{path} is not an image of a known format") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"the image {path} cannot be decoded: {error}") from error


def image_size(path: str | os.PathLike, *, exif: bool = True) -> tuple[int, int]:
    """The size of an image, from the header of its file: no pixel is decoded.

    Args:
        path: the file.
        exif: the size after turning the image as its EXIF orientation says, as :func:`read_image` and viewers do.

    Returns:
        ``(height, width)`` in pixels.

    Raises:
        ImageError: if the file is missing, no image, or too large to decode safely.
    """
    try:
        with Image.open(path) as file:
            width, height = file.size
            turned = exif and file.getexif().get(ExifTags.Base.Orientation) in _TURNED
    except FileNotFoundError as error:
        raise ImageError(f"the image {path} does not exist") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{path} is not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"the image {path} cannot be decoded: it is too large to decode safely ({error})") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"the image {path} cannot be decoded: {error}") from error
    return (width, height) if turned else (height, width)


def digest(image: np.ndarray) -> str:
    """A name for the content of an image, or of any other array: equal for equal pixels, wherever they came from."""
    content = repr((image.shape, image.dtype.str)).encode() + np.ascontiguousarray(image).tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def digest_content(content: bytes) -> str:
    """A name for the content of a file: equal for equal bytes, wherever they lay."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def read_file(path: str | os.PathLike) -> bytes:
    """The content of an image's file.

    Raises:
        ImageError: if the file is missing or cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"the image {path} does not exist") from error
    except OSError as error:
        raise ImageError(f"the image {path} cannot be read: {error.strerror or error}") from error


def stretch(image: np.ndarray, size: int, box: tuple[int, int, int, int] | None = None) -> Tensor:
    """Stretch an image, or a crop of it, to a square, antialiased.

    Args:
        image: uint8 ``[H, W, 3]``.
        size: side of the square in pixels.
        box: crop ``x1, y1, x2, y2`` in pixels, half-open; the whole image without.

    Returns:
        float ``[3, size, size]`` in ``[0, 1]``, resized by Pillow's bicubic filter (a = -0.5, 8-bit rounding).
    """
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=box)
    return to_float(np.asarray(resized))


def to_float(image: np.ndarray) -> Tensor:
    """uint8 ``[H, W, 3]`` to float ``[3, H, W]`` in ``[0, 1]``."""
    return torch.from_numpy(image / 255.0).permute(2, 0, 1).float()


def resize_bicubic(pixels: Tensor, size: int) -> Tensor:
    """Torch's bicubic resize as the publication uses it: a = -0.75, no antialiasing, overshoot kept.

    ``[3, H, W]`` to ``[3, size, size]``; the identity where the size already fits.
    """
    return F.interpolate(pixels[None], size=(size, size), mode="bicubic", align_corners=False)[0]


def normalise(pixels: Tensor) -> Tensor:
    """ImageNet normalisation of ``[..., 3, H, W]`` in ``[0, 1]``; DINOv2 and SAM2 use the same constants."""
    mean = torch.tensor(IMAGENET_MEAN, device=pixels.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, device=pixels.device)[:, None, None]
    return (pixels - mean) / std


@dataclass(frozen=True)
class PreparedImage:
    """A target image as both models take it, by :func:`prepare_target`.

    Attributes:
        encoder_input, segmenter_input: normalised float ``[3, s, s]``, each of its model's size.
        image_size: ``(H, W)`` in pixels.
    """

    encoder_input: Tensor
    segmenter_input: Tensor
    image_size: tuple[int, int]


def prepare_target(
    image: np.ndarray, encoder_size: int, segmenter_size: int, *, antialias: bool = True
) -> tuple[Tensor, Tensor]:
    """The inputs of both models for a target image.

    Args:
        image: uint8 ``[H, W, 3]``.
        encoder_size: side of the encoder's input (518 for DINOv2).
        segmenter_size: side of the segmenter's input (1024 for SAM2).
        antialias: resize both from the image itself, antialiased. False follows the publication, which takes the
            encoder's input from the segmenter's by a bicubic resize without antialiasing.

    Returns:
        normalised float ``[3, encoder_size, encoder_size]`` and ``[3, segmenter_size, segmenter_size]``.
    """
    segmenter_input = stretch(image, segmenter_size)
    encoder_input = stretch(image, encoder_size) if antialias else resize_bicubic(segmenter_input, encoder_size)
    return normalise(encoder_input), normalise(segmenter_input)
