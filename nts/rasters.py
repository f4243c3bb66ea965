"""Polygons, strokes and points as the pixels that they mark.

Coordinates are ``x, y`` in pixels, continuous: the pixel in column ``c`` and row ``r`` is the square from ``(c, r)`` to
``(c + 1, r + 1)``. What lies outside the image is cut off; its right and lower border belong to the last pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike


def fill_polygons(shapes: Sequence[ArrayLike], image_size: tuple[int, int]) -> np.ndarray:
    """Pixels whose middle lies inside an odd number of the shapes: a shape inside another one is a hole.

    Args:
        shapes: ``[n, 2]`` vertices each, the last joined to the first.
        image_size: ``(H, W)``.

    Returns:
        bool ``[H, W]``.
    """
    height, width = image_size
    # Where an edge crosses the middle of a row, everything to the right of the crossing changes sides.
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
    """Pixels along the lines through the vertices of each shape, bool ``[H, W]``; one vertex alone is a point."""
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
    """The pixels that hold the points ``[n, 2]``, bool ``[H, W]``; points outside the image mark nothing."""
    height, width = image_size
    marked = np.zeros((height, width), bool)
    points = np.asarray(points, np.float64).reshape(-1, 2)
    x, y = points[((points >= 0) & (points <= (width, height))).all(1)].T
    marked[np.minimum(y.astype(int), height - 1), np.minimum(x.astype(int), width - 1)] = True
    return marked


def _part_inside(start: np.ndarray, step: np.ndarray, size: tuple[int, int]) -> tuple[float, float] | None:
    """From where to where, in units of ``step``, a line lies in ``[0, width] x [0, height]``."""
    first, last = 0.0, 1.0
    for position, change, limit in zip(start, step, size, strict=True):
        if change == 0:
            if not 0 <= position <= limit:
                return None
            continue
        enter, leave = sorted((-position / change, (limit - position) / change))
        first, last = max(first, enter), min(last, leave)
    return (first, last) if first <= last else None
