"""Drawn scenes that look more like photographs: the species of :mod:`synthetic.scenes` in natural sizes and light.

Objects measure 4 % to 90 % of the side of the image, those of one scene about the same. Colours are muted, each species
has its own grain, bodies are shaded and cast shadows, and surfaces have the spectrum of natural images
(amplitudes that fall with the inverse of the frequency). A camera adds exposure, a colour cast, blur, noise and JPEG.

As in :mod:`synthetic.scenes`, everything is a pure function of numbers.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy import ndimage

from .scenes import MIN_VISIBLE_FRACTION, MIN_VISIBLE_PIXELS, SIDE, Scene, Sizes, Sprite, draw_sprite

NATURAL_SIZES = Sizes(0.04, 0.9)
SPREAD = 1.8
"""Largest ratio of an object's diameter to the typical one of its scene, in both directions."""

COVERAGE = 0.7
"""Fraction of the image that the objects would cover if they were discs that do not overlap."""

MAX_OBJECTS = 14


def draw_natural_scene(
    seed: int | Sequence[int],
    species: Sequence[int],
    *,
    featured: int | None = None,
    side: int = SIDE,
    background: np.ndarray | None = None,
    camera: bool = True,
) -> Scene:
    """Draw a scene with 1 to 14 objects of the given species, fewer the larger they are.

    Args:
        seed: one number or several.
        species: numbers to choose from, with repetition, so that members of one species meet.
        featured: species of a well visible member that is drawn on top (a reference image); the first object.
        side: of the image in pixels.
        background: float32 ``[side, side, 3]`` in about ``[0, 1]`` to draw on, instead of a drawn surface.
        camera: apply :func:`photograph`.
    """
    rng = np.random.default_rng(seed)
    image = draw_surface(rng, side) if background is None else background.copy()
    typical = NATURAL_SIZES.least * (NATURAL_SIZES.most / NATURAL_SIZES.least) ** (rng.uniform() ** 0.7)
    sizes = Sizes(max(NATURAL_SIZES.least, typical / SPREAD), min(NATURAL_SIZES.most, typical * SPREAD))
    most = int(np.clip(COVERAGE / (np.pi / 4 * typical**2), 1, MAX_OBJECTS))
    chosen = [int(species[i]) for i in rng.integers(len(species), size=int(rng.integers(1, most + 1)))]
    if rng.uniform() < 0.5:
        chosen[: len(chosen) // 2 + 1] = [chosen[0]] * (len(chosen) // 2 + 1)

    sprites: list[Sprite] = []
    for i, number in enumerate(chosen):
        sprites.append(draw_sprite(rng, number, side, sprites, chosen[:i], sizes))
    # Large objects lie below small ones, or they would hide them.
    order = sorted(range(len(sprites)), key=lambda i: -sprites[i].diameter * rng.uniform(0.6, 1))
    sprites, chosen = [sprites[i] for i in order], [chosen[i] for i in order]
    if featured is not None:
        sprites.append(draw_sprite(rng, featured, side, sprites, (), replace(sizes, least=max(sizes.least, 0.08))))
        chosen.append(featured)

    light = _direction(rng)
    sprites = [_shaded(rng, sprite, number, light) for sprite, number in zip(sprites, chosen, strict=True)]
    scene = lay(rng, image, sprites, chosen, light)
    if featured is not None:
        scene = replace(scene, masks=scene.masks[::-1].copy(), species=scene.species[::-1].copy())
    return replace(scene, image=photograph(rng, scene.image)) if camera else scene


def lay(
    rng: np.random.Generator, image: np.ndarray, sprites: Sequence[Sprite], labels: Sequence[int], light: np.ndarray
) -> Scene:
    """Lay sprites on an image in their order, each with its shadow, without those that later ones hide.

    Args:
        rng: source of random numbers.
        image: float32 ``[side, side, 3]``, overwritten.
        sprites: to lay.
        labels: of the sprites.
        light: ``x, y`` towards the light, and its height, of unit length.

    Returns:
        the scene, with a float image in about ``[0, 1]``.
    """
    side = len(image)
    top = np.full((side, side), -1)
    for i, sprite in enumerate(sprites):
        window = top[sprite.rows, sprite.columns]
        window[sprite.part > 0] = i
    shown = [
        i
        for i, sprite in enumerate(sprites)
        if np.count_nonzero(top[sprite.rows, sprite.columns] == i)
        >= max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_FRACTION * np.count_nonzero(sprite.part))
    ]
    depth, softness = rng.uniform(0, 0.6), rng.uniform(0.02, 0.1)
    owner, parts = np.full((side, side), -1), np.zeros((side, side), np.uint8)
    for i in shown:
        sprite = sprites[i]
        at = (sprite.rows, sprite.columns)
        _cast_shadow(image, sprite, light, depth, softness)
        image[at] = sprite.colour + (1 - sprite.opacity[..., None]) * image[at]
        solid = sprite.part > 0
        owner[at][solid] = i
        parts[at][solid] = sprite.part[solid]
    masks = owner[None] == np.array(shown, dtype=np.int64)[:, None, None]
    return Scene(image, masks, np.array([labels[i] for i in shown], dtype=np.int64), parts)


def _cast_shadow(image: np.ndarray, sprite: Sprite, light: np.ndarray, depth: float, softness: float) -> None:
    """Darken the image beside a sprite, away from the light."""
    reach = max(1, round(2 * softness * sprite.diameter))
    opacity = np.pad(sprite.opacity, 2 * reach)
    shadow = ndimage.shift(opacity, -reach * light[1::-1], order=1)
    shadow = ndimage.gaussian_filter(shadow, reach / 2)
    top, left = sprite.rows.start - 2 * reach, sprite.columns.start - 2 * reach
    rows = slice(max(0, top), min(len(image), top + len(shadow)))
    columns = slice(max(0, left), min(len(image), left + shadow.shape[1]))
    shadow = shadow[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    image[rows, columns] *= 1 - np.float32(depth) * shadow[..., None].astype(np.float32)


def _direction(rng: np.random.Generator) -> np.ndarray:
    """Direction to the light: ``x, y``, and its height above the image, of unit length."""
    angle, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.8)
    flat = np.sqrt(1 - height**2)
    return np.array([flat * np.cos(angle), flat * np.sin(angle), height])


def _shaded(rng: np.random.Generator, sprite: Sprite, number: int, light: np.ndarray) -> Sprite:
    """Mute a sprite's colours, add the grain of its species, and shade it as a rounded body."""
    of_species = np.random.default_rng([91, number])
    muted, grain, fall = of_species.uniform(0.25, 0.9), of_species.uniform(0.0, 0.35), of_species.uniform(0.6, 1.6)
    roundness, gloss = of_species.uniform(0.1, 1.0), of_species.uniform(0, 0.6)

    colour = sprite.colour
    grey = colour.mean(2, keepdims=True)
    colour = grey + np.float32(muted) * (colour - grey)
    height, width = sprite.opacity.shape
    texture = spectral_noise(rng, max(height, width), fall)[:height, :width]
    # Depth below the rim rises like a sphere's, up to a part of the object's radius.
    below = ndimage.distance_transform_edt(sprite.opacity > 0.5)
    rise = np.clip(below / (0.5 * max(below.max(), 1.0)), 0, 1)
    surface = ndimage.gaussian_filter(np.sqrt(1 - (1 - rise) ** 2) * below.max() * 0.5, max(1.0, sprite.diameter / 40))
    slope_y, slope_x = np.gradient(surface)
    normal = np.stack([-slope_x, -slope_y, np.full_like(slope_x, 1 / roundness)], 2)
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    lit = np.clip(normal @ light, 0, 1) / light[2]
    shade = np.clip(0.35 + 0.65 * lit, 0.2, 1.6) * (1 + grain * texture)
    shine = gloss * np.clip(normal @ (light + [0, 0, 1]) / np.linalg.norm(light + [0, 0, 1]), 0, 1) ** 30
    colour = colour * shade[..., None] + (shine * sprite.opacity)[..., None]
    return replace(sprite, colour=colour.astype(np.float32))


def draw_surface(rng: np.random.Generator, side: int) -> np.ndarray:
    """Surface with natural statistics, float32 ``[side, side, 3]`` in about ``[0, 1]``, at times two that meet."""
    surface = _one_surface(rng, side)
    if rng.uniform() < 0.4:
        across = np.linspace(-1, 1, side, dtype=np.float32)
        angle, where = rng.uniform(0, 2 * np.pi), rng.uniform(-0.6, 0.6)
        border = np.float32(np.cos(angle)) * across[None] + np.float32(np.sin(angle)) * across[:, None]
        cover = np.clip((border - np.float32(where)) * np.float32(side / 2) + 0.5, 0, 1)[..., None]
        surface += cover * (_one_surface(rng, side) - surface)
    return surface


def _one_surface(rng: np.random.Generator, side: int) -> np.ndarray:
    """Surface of a muted colour with grain, planks or waves, and uneven light."""
    value, warm, strength = rng.uniform(0.15, 0.9), rng.uniform(-1, 1), rng.uniform(0.0, 0.15)
    base = value + strength * np.array([warm, 0.3 * rng.uniform(-1, 1), -warm])
    luminance = rng.uniform(0.02, 0.15) * spectral_noise(rng, side, rng.uniform(0.8, 1.8))
    if rng.uniform() < 0.3:
        angle, waves = rng.uniform(0, np.pi), rng.uniform(2, 25)
        across = np.linspace(-1, 1, side)
        t = np.cos(angle) * across[None] + np.sin(angle) * across[:, None]
        t = np.sin(np.pi * waves * t + rng.uniform(0, 3) * spectral_noise(rng, side, 1.5))
        luminance += rng.uniform(0.02, 0.15) * (np.sign(t) if rng.uniform() < 0.4 else t)
    uneven = 1 + rng.uniform(0, 0.25) * spectral_noise(rng, side, 2.0)
    tints = rng.uniform(0, 0.025) * np.stack([spectral_noise(rng, side, 1.4) for _ in range(3)], 2)
    return ((base * (1 + luminance[..., None]) + tints) * uneven[..., None]).astype(np.float32)


def spectral_noise(rng: np.random.Generator, side: int, fall: float) -> np.ndarray:
    """Noise ``[side, side]`` of mean 0 and deviation 1 whose amplitude falls with ``frequency ** -fall``."""
    size = 1 << max(3, (side - 1).bit_length())
    spectrum = np.fft.rfft2(rng.standard_normal((size, size), dtype=np.float32))
    noise = np.fft.irfft2(spectrum * _frequencies(size) ** -fall, s=(size, size))[:side, :side]
    return ((noise - noise.mean()) / (noise.std() + 1e-6)).astype(np.float32)


@lru_cache(maxsize=16)
def _frequencies(size: int) -> np.ndarray:
    """Frequencies of the real transform in cycles per image; infinite, not 0, for the mean."""
    frequencies = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) * size
    frequencies[0, 0] = np.inf
    return frequencies.astype(np.float32)


def photograph(rng: np.random.Generator, image: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Take a picture: exposure, colour cast, blur, noise and JPEG.

    Args:
        rng: source of random numbers.
        image: float ``[H, W, 3]`` in about ``[0, 1]``.
        strength: of all effects.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    gain = np.exp(strength * (rng.normal(0, 0.15) + rng.normal(0, 0.06, 3)))
    gamma = np.exp(strength * rng.normal(0, 0.2))
    image = np.clip(image, 0, 1) ** gamma * gain
    if rng.uniform() < 0.08 * strength:
        image = np.repeat(image.mean(2, keepdims=True), 3, 2)
    if rng.uniform() < 0.4 * strength:
        sigma = rng.uniform(0.3, 1.3) * strength
        image = ndimage.gaussian_filter(image, (sigma, sigma, 0))
    image = image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.03) * strength)
    pixels = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    if rng.uniform() < 0.6 * strength:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=int(rng.integers(40, 95)))
        pixels = np.array(Image.open(buffer))
    return pixels
