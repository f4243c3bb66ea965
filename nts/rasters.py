"""Rasterisation of polygons, strokes and points, and conversion of arrays of any type to masks.

Coordinates are ``x, y`` in pixels, continuous: the pixel in column ``c`` and row ``r`` is the square from ``(c, r)`` to
``(c + 1, r + 1)``. Geometry outside the image is clipped; the image's right and lower border belong to the last
pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

_MANY_VALUES = 16
"""More distinct integers than this are grey values, not object ids."""


def binary_mask(values: ArrayLike, *, channels_last: bool = False) -> np.ndarray:
    """Foreground of a stored mask: booleans, integers, probabilities, logits or colours.

    ====================================  ==========================================================
    booleans, integers                    nonzero
    integers of many values               above half of the maximum: antialiased, or ringing of JPEG
    floats, one value beside 0            nonzero
    floats in ``[0, 1]`` (probabilities)  above 0.5
    floats with negative values (logits)  above 0
    colours ``[h, w, 3]``                 any channel nonzero
    grey or colours with alpha            the same where opaque; alpha alone, if the colour is constant
    ====================================  ==========================================================

    Leading axes of length 1 (``[1, h, w]``, as torch and SAM2 return masks) and a single trailing channel are dropped.

    Args:
        values: the array.
        channels_last: interpret any three-dimensional array as ``[h, w, channels]``, as image files are read.

    Returns:
        bool ``[h, w]``.

    Raises:
        ValueError: if it is not a mask. The message completes "its mask ...".
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"holds values of type {array.dtype}, not numbers")
    array = drop_axes(array, channels_last)
    if array.size == 0:
        raise ValueError("is empty")
    if not np.isfinite(array).all():
        raise ValueError("holds NaN or infinity")
    return _foreground(array) if array.ndim == 2 else _foreground_of_colours(array)


def drop_axes(array: np.ndarray, channels_last: bool = False) -> np.ndarray:
    """Reduce an array to ``[h, w]``, or ``[h, w, channels]`` with 2, 3 or 4 channels; see :func:`binary_mask`.

    Raises:
        ValueError: if it has another shape. The message completes "its mask ...".
    """
    shape = array.shape
    least = 3 if channels_last else 2
    while array.ndim > least and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (2, 3, 4)):
        return array
    raise ValueError(f"has the shape {list(shape)}, not [height, width]")


def _foreground(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "b":
        return array
    return _foreground_of_floats(array) if array.dtype.kind == "f" else _foreground_of_integers(array)


def _foreground_of_integers(array: np.ndarray) -> np.ndarray:
    lowest, highest = int(array.min()), int(array.max())
    if lowest < 0:
        raise ValueError(f"holds negative integers (as low as {lowest}): 0 is background, any other number the object")
    if len(np.unique(array)) > _MANY_VALUES:
        return array > highest / 2
    if 0 < lowest < highest:
        # Without a 0, everything would be foreground.
        raise ValueError(f"holds integers from {lowest} to {highest} but no 0, which is background")
    return array != 0


def _foreground_of_floats(array: np.ndarray) -> np.ndarray:
    lowest, highest = float(array.min()), float(array.max())
    if lowest < 0:
        return array > 0
    if highest <= 1 and not _is_binary(array):
        return array > 0.5
    if lowest == highest or _is_binary(array):
        return array != 0
    raise ValueError(
        f"holds numbers from {lowest:.3g} to {highest:.3g}: neither 0 and 1, nor probabilities, nor logits"
    )


def _is_binary(array: np.ndarray) -> bool:
    """True if all values are 0 or the maximum."""
    return bool(((array == 0) | (array == array.max())).all())


def _foreground_of_colours(array: np.ndarray) -> np.ndarray:
    has_alpha = array.shape[2] in (2, 4)
    colours = array[:, :, :-1] if has_alpha else array
    opaque = array[:, :, -1] != 0 if has_alpha else np.ones(array.shape[:2], bool)
    is_constant = bool((colours == colours[:1, :1]).all())
    if is_constant and opaque.any() and not opaque.all():
        return opaque
    foreground = _foreground(colours.max(2))
    # Transparent pixels are background, unless alpha is 0 everywhere.
    return foreground & opaque if opaque.any() else foreground


def fill_polygons(shapes: Sequence[ArrayLike], image_size: tuple[int, int]) -> np.ndarray:
    """Fill polygons by the even-odd rule at pixel centres: a shape inside another one is a hole.

    Args:
        shapes: ``[n, 2]`` vertices of each closed shape.
        image_size: ``(H, W)``.

    Returns:
        bool ``[H, W]``.
    """
    height, width = image_size
    # Where an edge crosses the centre line of a row, inside and outside swap for all pixels to the right.
    crossings = np.zeros((height, width + 1), bool)
    for shape in shapes:
        vertices = np.asarray(shape, np.float64).reshape(-1, 2)
        for (x1, y1), (x2, y2) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
            first, last = np.clip(np.ceil(np.array(sorted((y1, y2))) - 0.5), 0, height).astype(int)
            rows = np.arange(first, last)
            if len(rows):
                x = x1 + (rows + 0.5 - y1) * (x2 - x1) / (y2 - y1)
                crossings[rows, np.clip(np.ceil(x - 0.5), 0, width).astype(int)] ^= True
    return np.logical_xor.accumulate(crossings, axis=1)[:, :width]


def draw_strokes(shapes: Sequence[ArrayLike], image_size: tuple[int, int]) -> np.ndarray:
    """Draw the open polylines through the vertices of each shape, bool ``[H, W]``; a single vertex is a point."""
    height, width = image_size
    drawn = np.zeros((height, width), bool)
    for shape in shapes:
        vertices = np.asarray(shape, np.float64).reshape(-1, 2)
        drawn |= mark_points(vertices, image_size)
        for start, end in pairwise(vertices):
            step = end - start
            inside = _part_inside(start, step, (width, height))
            if inside is not None:
                first, last = inside
                # Two positions per pixel leave no gap.
                positions = np.linspace(first, last, 2 + int(2 * np.abs(step).max() * (last - first)))
                line = (start + positions[:, None] * step).clip(0, (width, height))
                drawn |= mark_points(line, image_size)
    return drawn


def mark_points(points: ArrayLike, image_size: tuple[int, int]) -> np.ndarray:
    """Mark the pixels that contain points ``[n, 2]``, bool ``[H, W]``; points outside the image are ignored."""
    height, width = image_size
    marked = np.zeros((height, width), bool)
    points = np.asarray(points, np.float64).reshape(-1, 2)
    x, y = points[((points >= 0) & (points <= (width, height))).all(1)].T
    marked[np.minimum(y.astype(int), height - 1), np.minimum(x.astype(int), width - 1)] = True
    return marked


def _part_inside(start: np.ndarray, step: np.ndarray, size: tuple[int, int]) -> tuple[float, float] | None:
    """First and last multiple of ``step`` in ``[0, 1]`` at which a line is in ``[0, width] x [0, height]``."""
    first, last = 0.0, 1.0
    for position, change, limit in zip(start, step, size, strict=True):
        if change == 0:
            if not 0 <= position <= limit:
                return None
            continue
        enter, leave = sorted((-position / change, (limit - position) / change))
        first, last = max(first, enter), min(last, leave)
    return (first, last) if first <= last else None
