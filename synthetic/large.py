"""Large drawn scenes with many small objects, as drones and microscopes see them.

Objects measure 1 % to 8 % of the longer side. As in :mod:`synthetic.scenes`, everything is a pure function of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .natural import draw_surface
from .scenes import Scene, Sizes, Sprite, compose, draw_sprite

LARGE_SIZE = (1536, 2048)
LARGE_SCENE_SIZES = Sizes(0.01, 0.08)


def draw_large_scene(
    seed: int | Sequence[int],
    species: Sequence[int],
    *,
    featured: int | None = None,
    objects: int = 40,
    image_size: tuple[int, int] = LARGE_SIZE,
) -> Scene:
    """Draw a scene with objects of the given species.

    Args:
        seed: one number or several.
        species: numbers to choose from, with repetition.
        featured: species of a well visible member that is drawn on top (a reference image); the first object.
        objects: number of them that are drawn; some are hidden by others, or lie outside.
        image_size: ``(H, W)`` in pixels, ``H <= W``.
    """
    rng = np.random.default_rng(seed)
    height, side = image_size
    background = draw_surface(rng, side)
    chosen = [int(species[i]) for i in rng.integers(len(species), size=objects)]
    sprites: list[Sprite] = []
    for i, number in enumerate(chosen):
        sprites.append(draw_sprite(rng, number, side, sprites, chosen[:i], LARGE_SCENE_SIZES))
    if featured is not None:
        while True:
            sprite = draw_sprite(rng, featured, side, (), (), replace(LARGE_SCENE_SIZES, least=0.02))
            if sprite.rows.stop <= height:
                break
        sprites.append(sprite)
        chosen.append(featured)
    image, masks, numbers, parts = compose(background, sprites, chosen)
    image, masks, parts = image[:height], masks[:, :height], parts[:height]
    inside = masks.reshape(len(masks), -1).sum(1) >= 64
    grain = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0.005, 0.03)
    image = np.clip((image + grain) * 255 + 0.5, 0, 255).astype(np.uint8)
    masks, numbers = masks[inside], numbers[inside]
    if featured is not None:
        masks, numbers = masks[::-1].copy(), numbers[::-1].copy()
    return Scene(image, masks, numbers, parts)
