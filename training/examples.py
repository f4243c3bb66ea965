"""Images to train the segmenter on: drawn scenes, photographs at many scales, and objects pasted on other images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from PIL import Image
from scipy import ndimage

from synthetic.natural import draw_natural_scene, draw_surface, lay, photograph, spectral_noise
from synthetic.scenes import SIDE, TRAIN_SPECIES, Scene, Sprite, draw_scene

from .bodies import arrange
from .pool import Photograph, Pool, resize

ZOOM = (0.35, 2.0)
NEAR = (0.8, 1.25)
NEAR_SHARE = 0.65
"""Range of zoom of most photographs: objects are as large as in images to segment."""

CANVAS = 0.5
"""Fraction of shrunken photographs that lie on a surface; the others lie on another photograph."""

PASTED_SIZES = (0.06, 0.9)
MIN_AREA = 80
"""Pixels of the smallest object of a photograph that is clicked: 4 % of the side. Smaller ones have no shape."""


@dataclass(frozen=True, eq=False)
class Example:
    """Image with objects that can be clicked.

    Attributes:
        image: uint8 ``[H, W, 3]``.
        masks: bool ``[n, H, W]``; they may overlap.
        parts: uint8 ``[H, W]``, number of the part of the object that is visible, 0 where nothing is known of parts.
        exhaustive: every object has a mask, so anything else is background.
        regions: int32 ``[r, H, W]``, numbers of regions of even colour at several scales, -1 outside; none for scenes.
    """

    image: np.ndarray
    masks: np.ndarray
    parts: np.ndarray
    exhaustive: bool
    regions: np.ndarray = field(default_factory=lambda: np.zeros((0, SIDE, SIDE), np.int32))


def of_scene(scene: Scene) -> Example:
    """Drawn scene as an example."""
    return Example(scene.image, scene.masks, scene.parts, True)


def draw_species(rng: np.random.Generator, numbers: range = TRAIN_SPECIES) -> list[int]:
    """Six species, including a pair of look-alikes."""
    pool = rng.integers(numbers.start // 2, numbers.stop // 2, size=5) * 2
    return [*pool.tolist(), int(pool[0]) + 1]


def drawn(rng: np.random.Generator, pool: Pool) -> Example:
    """Scene as in the benchmark."""
    return of_scene(draw_scene(int(rng.integers(2**31)), draw_species(rng)))


def natural(rng: np.random.Generator, pool: Pool) -> Example:
    """Natural scene on a surface, or on a blurred photograph."""
    background = None
    if rng.uniform() < 0.3:
        background = _backdrop(rng, pool)
    return of_scene(draw_natural_scene(int(rng.integers(2**31)), draw_species(rng), background=background))


def zoomed(rng: np.random.Generator, pool: Pool) -> Example:
    """Photograph stretched to a square and zoomed; a shrunken one lies on a surface or on another photograph."""
    image, masks, regions = place(rng, pool.draw(rng), pool)
    return replace(_finish(rng, image, masks), regions=regions)


def place(
    rng: np.random.Generator, source: Photograph, pool: Pool | None = None, zoom: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, masks and regions of :func:`zoomed`, without the camera.

    Args:
        rng: source of random numbers.
        source: the photograph.
        pool: for other photographs to lie on; ``None`` for surfaces only.
        zoom: of the whole photograph, 1 to fill the square; ``None`` for a random one of :data:`NEAR` or :data:`ZOOM`.
    """
    if zoom is None:
        low, high = NEAR if rng.uniform() < NEAR_SHARE else ZOOM
        zoom = low * (high / low) ** rng.uniform()
    aspect = np.exp(rng.uniform(-0.25, 0.25))
    size = (max(16, round(SIDE * zoom * aspect)), max(16, round(SIDE * zoom / aspect)))
    image, masks, regions = source.image(), source.masks(), source.regions()
    if rng.uniform() < 0.5:
        image, masks, regions = image[:, ::-1], masks[:, :, ::-1], regions[:, :, ::-1]
    rows, columns = (np.arange(to) * of // to for to, of in zip(size, regions.shape[1:], strict=True))
    regions = regions[:, rows[:, None], columns]
    image = resize(np.ascontiguousarray(image), size)
    masks = np.stack([resize(np.ascontiguousarray(mask), size) for mask in masks])

    # A larger photograph is cropped, with an object of it in sight, a smaller one lies anywhere.
    spare = [SIDE - extent for extent in size]
    at = [int(rng.integers(min(s, 0), max(s, 0) + 1)) for s in spare]
    chosen = masks[int(rng.integers(len(masks)))]
    if chosen.any():
        inside = [coordinates[int(rng.integers(len(coordinates)))] for coordinates in np.nonzero(chosen)]
        at = [
            int(np.clip(rng.uniform(0.2, 0.8) * SIDE - y, s, 0)) if s < 0 else a
            for a, s, y in zip(at, spare, inside, strict=True)
        ]
    if min(spare) <= 0 and max(spare) <= 0:
        canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
    elif pool is None or rng.uniform() < CANVAS:
        canvas = (np.clip(draw_surface(rng, SIDE), 0, 1) * 255).astype(np.uint8)
    else:
        canvas = resize(pool.draw(rng).image(), (SIDE, SIDE)).copy()
    target, source_window = _overlap(at, size)
    canvas[target] = image[source_window]
    placed = np.zeros((len(masks), SIDE, SIDE), bool)
    placed[:, target[0], target[1]] = masks[:, source_window[0], source_window[1]]
    numbers = np.full((len(regions), SIDE, SIDE), -1, np.int32)
    numbers[:, target[0], target[1]] = regions[:, source_window[0], source_window[1]]
    return canvas, placed, numbers


def mosaic(rng: np.random.Generator, pool: Pool) -> Example:
    """Four or nine shrunken photographs side by side."""
    count = int(rng.integers(2, 4))
    borders = np.linspace(0, SIDE, count + 1).round().astype(int)
    image, masks = np.zeros((SIDE, SIDE, 3), np.uint8), []
    for top, bottom in pairwise(borders):
        for left, right in pairwise(borders):
            source = pool.draw(rng)
            size = (bottom - top, right - left)
            image[top:bottom, left:right] = resize(source.image(), size)
            for mask in source.masks(rng.permutation(len(source.rles))[:12].tolist()):
                placed = np.zeros((SIDE, SIDE), bool)
                placed[top:bottom, left:right] = resize(mask, size)
                masks.append(placed)
    return _finish(rng, image, np.stack(masks))


def pasted(rng: np.random.Generator, pool: Pool) -> Example:
    """Objects of photographs on a surface or a blurred photograph (exhaustive), or on a sharp photograph."""
    exhaustive = bool(rng.uniform() < 0.6)
    below = np.zeros((0, SIDE, SIDE), bool)
    if exhaustive:
        background = _backdrop(rng, pool) if rng.uniform() < 0.5 else draw_surface(rng, SIDE)
    else:
        image, below, _ = place(rng, pool.draw(rng), zoom=1.0)
        background = (image / 255).astype(np.float32)
    scene = paste(rng, pool, background)
    uncovered = below & ~scene.masks.any(0)
    return _finish(rng, scene.image, np.concatenate([scene.masks, uncovered]), exhaustive)


def arranged(rng: np.random.Generator, pool: Pool) -> Example:
    """Bodies of few kinds on a surface or a blurred photograph, many of which touch."""
    background = _backdrop(rng, pool) if rng.uniform() < 0.3 else draw_surface(rng, SIDE)
    scene = arrange(rng, background, [pool.draw(rng).image() for _ in range(3)])
    return _finish(rng, scene.image, scene.masks, exhaustive=True)


def paste(rng: np.random.Generator, pool: Pool, background: np.ndarray) -> Scene:
    """Paste cut-outs on a background; ``species`` are indices of ``pool.cut_outs``.

    Returns:
        scene with a float image in about ``[0, 1]``, as of :func:`synthetic.natural.lay`.
    """
    typical = PASTED_SIZES[0] * (PASTED_SIZES[1] / PASTED_SIZES[0]) ** (rng.uniform() ** 0.6)
    count = int(rng.integers(1, int(np.clip(0.7 / typical**2, 1, 9)) + 1))
    chosen = rng.integers(len(pool.cut_outs), size=count)
    if rng.uniform() < 0.5:
        chosen[: count // 2 + 1] = chosen[0]
    sprites = [
        _sprite(rng, *pool.cut_outs[i], diameter=SIDE * typical * np.exp(rng.uniform(-0.4, 0.4))) for i in chosen
    ]
    light = np.array([*rng.normal(0, 0.5, 2), 0.7])
    return lay(rng, background.copy(), sprites, chosen.tolist(), light)


def _sprite(rng: np.random.Generator, source: Photograph, i: int, diameter: float) -> Sprite:
    """Cut an object out of a photograph, turned and scaled to a diameter in pixels."""
    mask = source.masks([i])[0]
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    rows, columns = slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1)
    cut = np.dstack([source.image()[rows, columns], mask[rows, columns].astype(np.uint8) * 255])
    if rng.uniform() < 0.5:
        cut = cut[:, ::-1]
    turned = Image.fromarray(np.ascontiguousarray(cut)).rotate(
        rng.normal(0, 25) if rng.uniform() < 0.7 else rng.uniform(0, 360), Image.Resampling.BILINEAR, expand=True
    )
    scale = diameter / max(cut.shape[:2])
    aspect = np.exp(rng.uniform(-0.15, 0.15))
    width, height = (
        max(4, round(extent * scale * a)) for extent, a in zip(turned.size, (aspect, 1 / aspect), strict=True)
    )
    pixels = np.asarray(turned.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 255
    opacity = ndimage.gaussian_filter(np.clip((pixels[..., 3] - 0.25) / 0.6, 0, 1), rng.uniform(0.2, 0.8))
    colour = pixels[..., :3] * np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.05, 3)).astype(np.float32)

    # No more than a fifth of an object is beyond the border.
    margin = np.array([height, width]) * 0.3
    extents = np.array([height, width])
    centre = rng.uniform(margin, np.maximum(margin + 1, SIDE - margin))
    top, left = (centre - extents / 2).astype(int).tolist()
    target, window = _overlap([top, left], (height, width))
    opacity, colour = opacity[window], colour[window]
    return Sprite(
        rows=target[0],
        columns=target[1],
        colour=colour * opacity[..., None],
        opacity=opacity,
        part=(opacity > 0.5).astype(np.uint8),
        centre=(left + width / 2, top + height / 2),
        diameter=diameter,
    )


def _overlap(at: Sequence[int], size: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Windows of the canvas and of an image of ``size`` that lies at ``at`` = ``(top, left)`` on it."""
    target = tuple(slice(max(0, a), max(0, min(SIDE, a + extent))) for a, extent in zip(at, size, strict=True))
    window = tuple(slice(t.start - a, t.stop - a) for t, a in zip(target, at, strict=True))
    return (target[0], target[1]), (window[0], window[1])


def _backdrop(rng: np.random.Generator, pool: Pool) -> np.ndarray:
    """Blurred photograph, float32 ``[SIDE, SIDE, 3]`` in ``[0, 1]``: natural colours and light without objects."""
    blurred = ndimage.gaussian_filter(
        resize(pool.draw(rng).image(), (SIDE, SIDE)).astype(np.float32) / 255, (*[rng.uniform(14, 30)] * 2, 0)
    )
    grain = rng.uniform(0, 0.12) * spectral_noise(rng, SIDE, rng.uniform(0.3, 1.2))
    return (blurred * (1 + grain[..., None])).astype(np.float32)


def _finish(rng: np.random.Generator, image: np.ndarray, masks: np.ndarray, exhaustive: bool = False) -> Example:
    """Take the picture, and drop masks of which too little is visible; what is left is then not exhaustive."""
    pixels = image.astype(np.float32) / 255 if image.dtype == np.uint8 else image
    seen = masks.sum((1, 2)) >= MIN_AREA
    return Example(
        photograph(rng, pixels, 0.7), masks[seen], np.zeros(masks.shape[1:], np.uint8), exhaustive and bool(seen.all())
    )


KINDS: tuple[tuple[Callable[[np.random.Generator, Pool], Example], float], ...] = (
    (natural, 0.12),
    (pasted, 0.16),
    (arranged, 0.22),
    (zoomed, 0.48),
    (mosaic, 0.02),
)
"""Kinds of examples and their frequency, beside scenes as in the benchmark."""

DRAWN = 0.5
"""Fraction of scenes as in the benchmark: small objects with exact outlines, which photographs do not teach."""

USES = 4  # of each example, mirrored and in other light: drawing one takes as long as learning from it
IN_USE = 120  # examples at a time
GREY = 0.12  # fraction of uses without colours


class Examples:
    """Examples to train on, each of which is used several times."""

    def __init__(self, pool: Pool, seed: int, rank: int = 0, drawn: float = DRAWN) -> None:
        self._pool, self._share = pool, drawn
        self._seed = [seed, 3, rank]
        self._drawn: dict[int, Example] = {}

    def draw(self, rng: np.random.Generator, step: int, count: int) -> list[Example]:
        """Examples of a step. They depend on the random numbers and the step only, not on earlier calls."""
        first = step * count // USES
        self._drawn = {number: example for number, example in self._drawn.items() if number >= first}
        numbers = first + rng.choice(max(IN_USE, count), size=count, replace=False)
        return [_again(rng, self._numbered(int(number))) for number in numbers]

    def _numbered(self, number: int) -> Example:
        if number not in self._drawn:
            self._drawn[number] = draw_example(np.random.default_rng([*self._seed, number]), self._pool, self._share)
        return self._drawn[number]


def _again(rng: np.random.Generator, example: Example) -> Example:
    """An example, possibly mirrored or without colours, in slightly other light."""
    light = np.exp(rng.normal(0, 0.1) + rng.normal(0, 0.04, 3))
    pixels = example.image * light.astype(np.float32)
    if rng.uniform() < GREY:
        pixels = np.repeat(pixels.mean(2, keepdims=True), 3, 2)
    image = np.minimum(pixels, 255).astype(np.uint8)
    if rng.uniform() < 0.5:
        return replace(example, image=image)
    return Example(
        np.ascontiguousarray(image[:, ::-1]),
        np.ascontiguousarray(example.masks[:, :, ::-1]),
        np.ascontiguousarray(example.parts[:, ::-1]),
        example.exhaustive,
        np.ascontiguousarray(example.regions[:, :, ::-1]),
    )


def draw_example(rng: np.random.Generator, pool: Pool, drawn_share: float = DRAWN) -> Example:
    """Example of a random kind."""
    if rng.uniform() < drawn_share:
        return drawn(rng, pool)
    kinds, shares = zip(*KINDS, strict=True)
    return kinds[rng.choice(len(kinds), p=np.array(shares) / sum(shares))](rng, pool)
