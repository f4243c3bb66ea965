"""Annotations simulated from masks: boxes, points and scribbles.

Kinds and numbers are those of SEEM (NeurIPS 2023), which VRP-SAM (CVPR 2024) adopts. Scribbles are free-form strokes as
in Yu et al. (ICCV 2019). Simulated points and strokes never leave the mask, so metrics computed with them are those of
a careful annotator.

Only ``random()`` of the generator is used, so equal seeds give equal annotations on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ..references import KINDS, Kind, Reference

STROKE_SIDE = 512
"""Longer side of the image to which the lengths of a brush refer; they scale with the image."""


@dataclass(frozen=True)
class Brush:
    """Parameters of strokes. Ranges include both ends.

    Attributes:
        vertices: range of the number of vertices.
        speed: largest distance of consecutive vertices, in pixels at :data:`STROKE_SIDE`.
        acceleration: largest change of the step between vertices, in the same pixels.
        width: range of the width, in the same pixels.
    """

    vertices: tuple[int, int]
    speed: float
    acceleration: float
    width: tuple[int, int]


LARGE_BRUSH = Brush(vertices=(10, 30), speed=20, acceleration=15, width=(3, 9))
SMALL_BRUSH = Brush(vertices=(6, 22), speed=12, acceleration=8, width=(2, 4))


@dataclass(frozen=True)
class Simulation:
    """Amount of simulated annotation. Ranges include both ends.

    Attributes:
        points: range of the number of points.
        strokes: range of the number of strokes of a scribble.
        brushes: one of them draws all strokes of a scribble.
    """

    points: tuple[int, int]
    strokes: tuple[int, int]
    brushes: tuple[Brush, ...]


TRAINING = Simulation(points=(1, 20), strokes=(1, 20), brushes=(LARGE_BRUSH, SMALL_BRUSH))
EVALUATION = Simulation(points=(20, 20), strokes=(9, 9), brushes=(LARGE_BRUSH,))


def simulate(
    mask: np.ndarray,
    kind: Kind,
    rng: np.random.Generator,
    settings: Simulation = TRAINING,
    *,
    points: int | None = None,
) -> np.ndarray:
    """Simulate an annotation of an object from its mask.

    Args:
        mask: bool ``[H, W]``, not empty.
        kind: ``"mask"``: the mask. ``"box"``: its bounding box, filled. ``"point"``: distinct pixels of the mask.
            ``"scribble"``: strokes that start in the mask, clipped to it.
        rng: source of randomness; unused for masks and boxes.
        settings: numbers of points and strokes, and brushes.
        points: number of points; random where ``None``.

    Returns:
        Marked pixels, bool ``[H, W]``, never empty; fewer points than requested only if the mask has fewer pixels.

    Raises:
        ValueError: if the mask is empty or not bool ``[H, W]``, the kind is unknown, or ``points`` is below 1.
    """
    if mask.ndim != 2 or mask.dtype != bool:
        raise ValueError(f"the mask must be bool [H, W], got {mask.dtype} {list(mask.shape)}")
    if points is not None and points < 1:
        raise ValueError(f"an annotation needs at least one point, got {points}")
    ys, xs = mask.nonzero()
    if len(ys) == 0:
        raise ValueError("the mask is empty: there is nothing to annotate")
    match kind:
        case "mask":
            return mask.copy()
        case "box":
            marked = np.zeros_like(mask)
            marked[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = True
            return marked
        case "point":
            count = _between(rng, settings.points) if points is None else points
            chosen = rng.random(len(ys)).argsort(kind="stable")[:count]
            marked = np.zeros_like(mask)
            marked[ys[chosen], xs[chosen]] = True
            return marked
        case "scribble":
            brush = settings.brushes[_below(rng, len(settings.brushes))]
            marked = np.zeros_like(mask)
            for _ in range(_between(rng, settings.strokes)):
                start = _below(rng, len(ys))
                _draw_stroke(marked, (int(xs[start]), int(ys[start])), brush, rng)
            return marked & mask
    raise ValueError(f"unknown kind of annotation {kind!r}; there are {', '.join(KINDS)}")


def simulate_reference(
    reference: Reference,
    kind: Kind,
    rng: np.random.Generator,
    settings: Simulation = TRAINING,
    *,
    points: int | None = None,
) -> Reference:
    """Replace the mask of a reference by a simulated annotation; see :func:`simulate`.

    The box is dropped unless ``kind`` is ``"mask"``, since it would reveal the extent of the object.

    Raises:
        ValueError: if the reference has no mask.
    """
    if reference.kind != "mask":
        raise ValueError(f"annotations are simulated from masks, and this reference is a {reference.kind}")
    marked = simulate(reference.mask, kind, rng, settings, points=points)
    return replace(reference, mask=marked, kind=kind, box=reference.box if kind == "mask" else None)


def _draw_stroke(marked: np.ndarray, start: tuple[int, int], brush: Brush, rng: np.random.Generator) -> None:
    """Mark a polyline with a round brush; its step changes by a random acceleration, up to the brush's speed."""
    height, width = marked.shape
    scale = max(height, width) / STROKE_SIDE
    radius = max(1.0, _between(rng, brush.width) * scale) / 2
    x, y = float(start[0]), float(start[1])
    step_x, step_y = _vector(rng, brush.speed * scale)
    line = [np.array([[x, y]])]
    for _ in range(_between(rng, brush.vertices) - 1):
        line.append(_segment(x, y, x + step_x, y + step_y))
        x, y = x + step_x, y + step_y
        turn_x, turn_y = _vector(rng, brush.acceleration * scale)
        step_x, step_y = step_x + turn_x, step_y + turn_y
        slower = min(1.0, brush.speed * scale / max(math.hypot(step_x, step_y), 1e-9))
        step_x, step_y = slower * step_x, slower * step_y
    centres = np.unique(np.floor(np.concatenate(line) + 0.5).astype(np.int64), axis=0)
    stamped = (centres[:, None] + _disc(radius)[None]).reshape(-1, 2)
    inside = (stamped >= 0).all(1) & (stamped < [width, height]).all(1)
    marked[stamped[inside, 1], stamped[inside, 0]] = True


def _segment(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    """Points from one end to the other, at most one pixel apart per axis: ``[n, 2]``."""
    steps = max(1, math.ceil(max(abs(x2 - x1), abs(y2 - y1))))
    along = np.arange(1, steps + 1)[:, None] / steps
    return np.array([[x1, y1]]) * (1 - along) + np.array([[x2, y2]]) * along


def _disc(radius: float) -> np.ndarray:
    """Integer offsets ``x, y`` within a radius: int64 ``[n, 2]``."""
    side = np.arange(-math.floor(radius), math.floor(radius) + 1)
    xs, ys = np.meshgrid(side, side)
    near = xs**2 + ys**2 <= radius**2
    return np.stack([xs[near], ys[near]], 1)


def _vector(rng: np.random.Generator, longest: float) -> tuple[float, float]:
    """Vector of random direction, and of random length up to ``longest``."""
    angle, length = 2 * math.pi * rng.random(), longest * rng.random()
    return length * math.cos(angle), length * math.sin(angle)


def _below(rng: np.random.Generator, count: int) -> int:
    return int(rng.random() * count)


def _between(rng: np.random.Generator, ends: tuple[int, int]) -> int:
    return ends[0] + _below(rng, ends[1] - ends[0] + 1)
