"""Rounded bodies of one kind, side by side: fruit, coins, stones, cells, parts on a table.

A kind has an outline, a skin and a size; its bodies vary. Skins are pieces of photographs, or plain colours with grain.
Many bodies touch another one: what is to be learnt is where one ends, although its neighbour looks the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from synthetic.natural import lay, spectral_noise
from synthetic.scenes import SIDE, Scene, Sprite

from .pool import resize

HARMONICS = 5
SIZES = (0.05, 0.45)
"""Diameters of the bodies of a scene, relative to the side."""
MOST = 28
TOUCHING = 0.6
"""Fraction of bodies that lie beside another one."""
_TRIES = 12


@dataclass(frozen=True, eq=False)
class Kind:
    """Shared properties of the bodies of a kind.

    Attributes:
        elongation: length over width.
        bumps: amplitudes of the outline's harmonics, relative to the radius.
        variety: deviation of what varies between bodies, relative.
        skin: float ``[s, s, 3]`` in ``[0, 1]``, from which each body takes another piece.
        roundness: slope of the shading; 0 is flat.
        gloss: strength of the highlight.
        rim: brightness of the rim, relative; 1 for none.
    """

    elongation: float
    bumps: np.ndarray
    variety: float
    skin: np.ndarray
    roundness: float
    gloss: float
    rim: float


def draw_kind(rng: np.random.Generator, photographs: Sequence[np.ndarray]) -> Kind:
    """Draw a kind; its skin is a piece of one of the photographs, uint8 ``[H, W, 3]``, or a plain colour."""
    angular = rng.uniform() < 0.5
    falling = np.arange(1, HARMONICS + 1) ** -1.2
    return Kind(
        elongation=float(np.exp(abs(rng.normal(0, 0.35)))),
        bumps=rng.uniform(0.0, 0.16 if angular else 0.03, HARMONICS) * falling,
        variety=rng.uniform(0.02, 0.15),
        skin=_plain_skin(rng) if rng.uniform() < 0.5 else _photographed_skin(rng, photographs),
        roundness=rng.uniform(0.0, 1.2),
        gloss=rng.uniform(0, 0.5) if rng.uniform() < 0.5 else 0.0,
        rim=rng.uniform(0.6, 1.3) if rng.uniform() < 0.3 else 1.0,
    )


def _plain_skin(rng: np.random.Generator) -> np.ndarray:
    base = rng.uniform(0.1, 0.95) + rng.uniform(0, 0.3) * rng.uniform(-1, 1, 3)
    grain = rng.uniform(0.0, 0.25) * spectral_noise(rng, 128, rng.uniform(0.5, 1.8))
    return np.clip(base * (1 + grain[..., None]), 0, 1).astype(np.float32)


def _photographed_skin(rng: np.random.Generator, photographs: Sequence[np.ndarray]) -> np.ndarray:
    image = photographs[int(rng.integers(len(photographs)))]
    extent = max(8, int(min(image.shape[:2]) * rng.uniform(0.06, 0.5)))
    top, left = (int(rng.integers(side - extent + 1)) for side in image.shape[:2])
    return resize(np.ascontiguousarray(image[top : top + extent, left : left + extent]), (128, 128)) / np.float32(255)


def draw_body(
    rng: np.random.Generator, kind: Kind, diameter: float, centre: tuple[float, float], light: np.ndarray
) -> Sprite:
    """Draw a body of a kind.

    Args:
        rng: source of random numbers.
        kind: of the body.
        diameter: in pixels.
        centre: ``x, y`` in pixels.
        light: ``x, y`` towards the light, and its height, of unit length.
    """
    (x, y), radius = centre, diameter / 2
    reach = radius * (1 + kind.bumps.sum()) + 1
    rows, columns = (slice(max(0, int(c - reach)), min(SIDE, int(c + reach) + 2)) for c in (y, x))
    dy, dx = np.mgrid[rows, columns] + 0.5 - np.array([y, x])[:, None, None]
    turn = rng.uniform(0, 2 * np.pi)
    u, v = np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx
    v = v * kind.elongation * np.exp(rng.normal(0, kind.variety))
    theta, phases = np.arctan2(v, u), rng.uniform(0, 2 * np.pi, HARMONICS)
    waves = (np.arange(2, HARMONICS + 2)[:, None, None] * theta) + phases[:, None, None]
    rim = radius * (1 + np.tensordot(kind.bumps, np.cos(waves), 1))
    depth = np.hypot(u, v) / rim  # 0 in the middle, 1 at the rim
    width = max(1.0, rng.uniform(0.5, 1.5))
    opacity = np.clip((1 - depth) * radius / kind.elongation / width + 0.5, 0, 1).astype(np.float32)

    rise = np.sqrt(np.clip(1 - depth**2, 0, 1)) * radius
    slope_y, slope_x = np.gradient(ndimage.gaussian_filter(rise, max(0.7, radius / 12)))
    normal = np.stack([-slope_x, -slope_y, np.full_like(rise, 1 / max(kind.roundness, 1e-3))], 2)
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    shade = 0.4 + 0.6 * np.clip(normal @ light, 0, 1) / light[2]
    shade = np.where(depth > 0.85, kind.rim, 1.0) * shade
    half = light + [0, 0, 1]
    shine = kind.gloss * np.clip(normal @ half / np.linalg.norm(half), 0, 1) ** 30

    size, skin = opacity.shape, kind.skin
    piece = int(skin.shape[0] * rng.uniform(0.4, 0.9))
    top, left = rng.integers(skin.shape[0] - piece + 1, size=2)
    colour = resize(np.ascontiguousarray((skin[top : top + piece, left : left + piece] * 255).astype(np.uint8)), size)
    colour = colour / np.float32(255) * np.exp(rng.normal(0, kind.variety)) * shade[..., None] + shine[..., None]
    return Sprite(
        rows=rows,
        columns=columns,
        colour=(colour * opacity[..., None]).astype(np.float32),
        opacity=opacity,
        part=(opacity > 0.5).astype(np.uint8),
        centre=centre,
        diameter=diameter,
    )


def arrange(rng: np.random.Generator, background: np.ndarray, photographs: Sequence[np.ndarray]) -> Scene:
    """Lay bodies of one to three kinds on a background, float32 ``[SIDE, SIDE, 3]``; ``species`` number the kinds.

    Returns:
        scene with a float image in about ``[0, 1]``, as of :func:`synthetic.natural.lay`.
    """
    kinds = [draw_kind(rng, photographs) for _ in range(int(rng.integers(1, 4)))]
    typical = SIDE * SIZES[0] * (SIZES[1] / SIZES[0]) ** rng.uniform()
    sizes = [typical * np.exp(rng.normal(0, 0.3)) for _ in kinds]
    most = int(np.clip(0.6 * (SIDE / typical) ** 2, 2, MOST))
    angle, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.9)
    light = np.array([np.sqrt(1 - height**2) * np.cos(angle), np.sqrt(1 - height**2) * np.sin(angle), height])
    sprites: list[Sprite] = []
    labels = []
    for _ in range(max(2, round(most * rng.uniform() ** 0.5))):
        number = int(rng.integers(len(kinds)))
        diameter = sizes[number] * np.exp(rng.normal(0, kinds[number].variety))
        centre = _free_place(rng, diameter, sprites)
        if centre is not None:
            sprites.append(draw_body(rng, kinds[number], diameter, centre, light))
            labels.append(number)
    return lay(rng, background.copy(), sprites, labels, light)


def _free_place(rng: np.random.Generator, diameter: float, others: Sequence[Sprite]) -> tuple[float, float] | None:
    """A place for a body, at most slightly over another one, often beside one; ``None`` if none was found."""
    for _ in range(_TRIES):
        x, y = rng.uniform(0.03, 0.97, 2) * SIDE
        if others and rng.uniform() < TOUCHING:
            neighbour = others[int(rng.integers(len(others)))]
            angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.05) * (neighbour.diameter + diameter) / 2
            x, y = neighbour.centre[0] + distance * np.cos(angle), neighbour.centre[1] + distance * np.sin(angle)
        apart = [np.hypot(x - o.centre[0], y - o.centre[1]) / (o.diameter + diameter) * 2 for o in others]
        if 0 <= x <= SIDE and 0 <= y <= SIDE and min(apart, default=1.0) >= 0.75:
            return float(x), float(y)
    return None
