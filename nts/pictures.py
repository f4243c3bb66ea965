"""Drawing of instances: masks in class colours, captions, and contact sheets."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_INK, _PAPER, _GREY = (25, 25, 25), (255, 255, 255), (110, 110, 110)
_MARGIN = 10


Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def class_colours(classes: Sequence[str]) -> dict[str, Colour]:
    """Assign an RGB colour, 0 to 255, to each class, with distant hues and alternating lightness."""
    colours = {}
    for k, name in enumerate(classes):
        red, green, blue = colorsys.hsv_to_rgb((0.61 * k) % 1.0, 0.85, (1.0, 0.75)[k % 2])
        colours[name] = (round(255 * red), round(255 * green), round(255 * blue))
    return colours


def draw_instances(
    image: np.ndarray,
    masks: np.ndarray,
    names: Sequence[str],
    colours: Mapping[str, Colour],
    captions: Sequence[str] = (),
    size: int = 320,
) -> Image.Image:
    """Overlay masks on an image.

    Args:
        image: uint8 ``[H, W, 3]``.
        masks: bool ``[n, H, W]``; earlier ones are drawn on top of later ones.
        names: class of each mask.
        colours: colour of each class.
        captions: text drawn next to each mask; empty for no captions.
        size: longer side of the picture in pixels.
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
    pixels = np.asarray(Image.fromarray(image).resize(fitted, Image.Resampling.LANCZOS)).astype(np.float32)
    picture_masks = [_fit(mask, fitted) for mask in masks]
    if names:
        pixels = pixels * 0.75  # darkened for contrast with the masks
    for mask, name in reversed(list(zip(picture_masks, names, strict=True))):
        colour = np.array(colours[name], np.float32)
        pixels[mask] = 0.45 * pixels[mask] + 0.55 * colour
        pixels[_outline(mask)] = colour
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for mask, caption in reversed(list(zip(picture_masks, captions, strict=bool(captions)))):
        if mask.any():
            _write_beside(draw, mask, caption, font)
    return picture


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    headings: Sequence[str],
    colours: Mapping[str, Colour],
    title: str,
) -> Image.Image:
    """Arrange pictures in rows and columns, with a title, a legend of the classes, and column headings."""
    font, small = ImageFont.load_default(20), ImageFont.load_default(15)
    cell_width = max(picture.width for row in rows for picture in row)
    width = len(headings) * (cell_width + _MARGIN) + _MARGIN
    legend = _legend_rows(list(colours), small, width - 2 * _MARGIN)
    top = _MARGIN + 30 + 22 * len(legend) + 28
    height = top + sum(max(picture.height for picture in row) + _MARGIN for row in rows)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), title, _INK, font)
    for line, entries in enumerate(legend):
        for x, name in entries:
            y = _MARGIN + 32 + 22 * line
            draw.rectangle((_MARGIN + x, y, _MARGIN + x + 14, y + 14), colours[name])
            draw.text((_MARGIN + x + 20, y - 2), name, _INK, small)
    for column, heading in enumerate(headings):
        draw.text((_MARGIN + column * (cell_width + _MARGIN), top - 24), heading, _GREY, small)
    for row in rows:
        for column, picture in enumerate(row):
            sheet.paste(picture, (_MARGIN + column * (cell_width + _MARGIN), top))
        top += max(picture.height for picture in row) + _MARGIN
    return sheet


def _fit(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)) > 127


def _outline(mask: np.ndarray) -> np.ndarray:
    """Boundary pixels of a mask."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def _write_beside(draw: ImageDraw.ImageDraw, mask: np.ndarray, caption: str, font: Font) -> None:
    """Write a caption above the mask, or below it if there is no room, within the picture."""
    ys, xs = mask.nonzero()
    left, top, right, bottom = draw.textbbox((0, 0), caption, font)
    width, height = right - left + 4, bottom - top + 4
    y = ys.min() - height if ys.min() >= height else min(ys.max() + 1, mask.shape[0] - height)
    x = int(np.clip((xs.min() + xs.max() - width) // 2, 0, max(0, mask.shape[1] - width)))
    draw.rectangle((x, y, x + width, y + height), _INK)
    draw.text((x + 2 - left, y + 2 - top), caption, _PAPER, font)


def _legend_rows(names: list[str], font: Font, width: int) -> list[list[tuple[int, str]]]:
    """Break the legend into lines of entries, each with its horizontal position and name."""
    rows: list[list[tuple[int, str]]] = [[]]
    x = 0
    for name in names:
        needed = 20 + round(font.getlength(name)) + 18
        if x + needed > width and rows[-1]:
            rows.append([])
            x = 0
        rows[-1].append((x, name))
        x += needed
    return rows
