"""Drawn scenes: the images that the shipped small models are trained on, and that tests, demo and benchmarks use.

A scene is a cluttered 256×256 image with a few overlapping objects. Each object belongs to a *species*, which is drawn
from its number alone. The number of species is unlimited, and classes unseen in training are numbers of another range.
Properties that make segmentation non-trivial:

* a species has **several parts** (a body, a mark on it, an appendage around it), each with its own colours and texture,
  so that a part and the whole compete as proposals, as in photographs;
* a species has **varieties** (one part differs in texture, the others in hue), and its members differ in view, shape,
  texture scale, light and occlusion, so that one reference is not enough;
* species come in **families of look-alikes** that share some of outline, layout and parts;
* members of a species touch and overlap, and objects measure 4 % to 30 % of the side of the image.

Everything here is a pure function of numbers: equal seeds give equal scenes.
"""

from __future__ import annotations

import colorsys
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

SIDE = 256
MIN_VISIBLE_PIXELS = 20
MIN_VISIBLE_FRACTION = 0.25
VARIETIES = 2

# Disjoint ranges of species numbers, for training, validation and evaluation.
TRAIN_SPECIES = range(20_000)
VALIDATION_SPECIES = range(20_000, 20_200)
NOVEL_SPECIES = (30_000, 30_001, 30_002, 30_003, 30_004, 30_006, 30_008, 30_010, 30_012, 30_014)  # two pairs of kin
DISTRACTOR_SPECIES = range(40_000, 40_024)
IMPOSTORS = 6  # distractors that resemble a novel species

OUTLINES = ("disc", "square", "polygon", "star", "petals", "blob", "gear")
APPENDAGES = ("none", "limbs", "lobes", "spikes", "halo", "tail")
MARKS = ("disc", "square", "diamond", "ring", "eyes", "band", "half", "cross")
TEXTURES = ("plain", "stripes", "checks", "dots", "rings", "fade")


@dataclass(frozen=True)
class Sizes:
    """Diameters of objects, as fractions of the image side.

    Attributes:
        least, most: bounds.
        lean: exponent of a uniform number that interpolates between the bounds on a logarithmic scale: 1 for sizes that
            lie evenly on it, less for larger objects.
    """

    least: float
    most: float
    lean: float = 1.0


SIZES = Sizes(0.04, 0.30, lean=0.2)  # half of the objects are above 23 % of the side


@dataclass(frozen=True)
class Texture:
    """Pattern of two RGB colours in [0, 1]; `frequency` in cycles per object radius, `angle` in radians."""

    kind: str
    first: tuple[float, float, float]
    second: tuple[float, float, float]
    frequency: float
    angle: float


@dataclass(frozen=True)
class Outline:
    """Contour of the body as radius over angle.

    `teeth` corners or petals, `depth` of the notches in [0, 1], `aspect` height over width, `harmonics` amplitude and
    phase of a blob's bends.
    """

    family: str
    teeth: int
    depth: float
    aspect: float
    harmonics: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Layout:
    """Appendage around the body, and mark on it; lengths in object radii, `offset` of the mark in body radii."""

    appendage: str
    count: int
    width: float
    body_radius: float
    mark: str
    mark_radius: float
    offset: float
    mark_angle: float


@dataclass(frozen=True)
class Species:
    """Class of objects. `varieties` holds the textures of appendage, body and mark of each variety."""

    number: int
    outline: Outline
    layout: Layout
    varieties: tuple[tuple[Texture, ...], ...]

    @property
    def name(self) -> str:
        return species_name(self.number)


@dataclass(frozen=True)
class Scene:
    """Drawn image with its ground truth.

    Attributes:
        image: uint8 ``[H, W, 3]``.
        masks: bool ``[n, H, W]``, visible pixels, pairwise disjoint.
        species: int64 ``[n]``.
        parts: uint8 ``[H, W]``: 0 background, 1 appendage, 2 body, 3 mark of the visible object.
    """

    image: np.ndarray
    masks: np.ndarray
    species: np.ndarray
    parts: np.ndarray


# ----------------------------------------------------------------------------------------------------------------------
# Species


def species_name(number: int) -> str:
    """Pronounceable name, unique for numbers below 512 000."""
    consonants, vowels = "bdfgjklmnprstvwz", "aeiou"
    code = (number * 7919 + 4242) % 80**3  # 7919 is prime to 80: a permutation, so that neighbours do not rhyme
    syllables = [code // 80**2, code // 80 % 80, code % 80]
    return "".join(consonants[s // 5] + vowels[s % 5] for s in syllables)


def look_alike(number: int) -> int | None:
    """Species that this one resembles, or None for the original of a family.

    Odd numbers resemble the even number before them. The first distractors resemble the novel species at the same
    index, the others nothing.
    """
    if number in DISTRACTOR_SPECIES:
        place = number - DISTRACTOR_SPECIES.start
        return NOVEL_SPECIES[place] if place < IMPOSTORS else None
    return number - 1 if number % 2 else None


@lru_cache(maxsize=4096)
def make_species(number: int) -> Species:
    """Draw a species from its number."""
    rng = np.random.default_rng([71, number])
    outline, layout, textures = _draw_outline(rng), _draw_layout(rng), [_draw_texture(rng) for _ in range(3)]
    relative = look_alike(number)
    if relative is not None:
        model = make_species(relative)
        # Two of four groups of traits are inherited: enough to be mistaken, never enough to be the same.
        inherited = set(rng.permutation(4)[:2].tolist())
        outline = model.outline if 0 in inherited else outline
        layout = model.layout if 1 in inherited else layout
        textures[1] = model.varieties[0][1] if 2 in inherited else textures[1]
        if 3 in inherited:
            textures[0], textures[2] = model.varieties[0][0], model.varieties[0][2]
    varieties = [tuple(textures)]
    for _ in range(VARIETIES - 1):
        changed = int(rng.integers(3))
        variety = [_turn_hue(t, rng.uniform(-0.08, 0.08)) for t in textures]
        variety[changed] = _draw_texture(rng)
        varieties.append(tuple(variety))
    return Species(number, outline, layout, tuple(varieties))


def _draw_outline(rng: np.random.Generator) -> Outline:
    harmonics = tuple((float(rng.uniform(0.0, 0.30 / k)), float(rng.uniform(0, 2 * np.pi))) for k in (1, 2, 3, 4))
    return Outline(
        family=_pick(rng, OUTLINES),
        teeth=int(rng.integers(3, 8)),
        depth=float(rng.uniform(0.25, 0.55)),
        aspect=float(rng.uniform(0.6, 1.0)),
        harmonics=harmonics,
    )


def _draw_layout(rng: np.random.Generator) -> Layout:
    appendage = _pick(rng, APPENDAGES)
    return Layout(
        appendage=appendage,
        count=1 if appendage == "tail" else int(rng.integers(2, 7)),
        width=float(rng.uniform(0.16, 0.28)),
        body_radius=1.0 if appendage == "none" else float(rng.uniform(0.55, 0.75)),
        mark=_pick(rng, MARKS),
        mark_radius=float(rng.uniform(0.30, 0.55)),
        offset=float(rng.uniform(0.0, 0.4)),
        mark_angle=float(rng.uniform(0, 2 * np.pi)),
    )


def _draw_texture(rng: np.random.Generator) -> Texture:
    hue = rng.uniform()
    first = colorsys.hsv_to_rgb(hue, rng.uniform(0.25, 1.0), rng.uniform(0.35, 1.0))
    second = colorsys.hsv_to_rgb((hue + rng.uniform(0.1, 0.9)) % 1, rng.uniform(0.0, 1.0), rng.uniform(0.05, 1.0))
    return Texture(_pick(rng, TEXTURES), first, second, float(rng.uniform(1.2, 4.0)), float(rng.uniform(0, np.pi)))


def _turn_hue(texture: Texture, turn: float) -> Texture:
    def turned(rgb: tuple[float, float, float]) -> tuple[float, float, float]:
        hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
        return colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)

    return Texture(texture.kind, turned(texture.first), turned(texture.second), texture.frequency, texture.angle)


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]


# ----------------------------------------------------------------------------------------------------------------------
# Drawing


def draw_scene(
    seed: int | Sequence[int], species: Sequence[int], *, featured: int | None = None, side: int = SIDE
) -> Scene:
    """Draw a scene with 2 to 7 objects of the given species.

    Args:
        seed: one number or several.
        species: numbers to choose from, with repetition, so that members of one species meet.
        featured: species of a well visible member that is drawn on top, at least 8 % of the side wide before
            foreshortening (a reference image); the first object.
        side: of the image in pixels; the composition does not depend on it.
    """
    rng = np.random.default_rng(seed)
    background = _draw_background(rng, side)
    sprites: list[Sprite] = []
    chosen = _choose_species(rng, species)
    for i, number in enumerate(chosen):
        sprites.append(draw_sprite(rng, number, side, sprites, chosen[:i]))
    if featured is not None:
        chosen.append(featured)
        sprites.append(draw_sprite(rng, featured, side, sprites, (), replace(SIZES, least=0.08)))
    image, masks, numbers, parts = compose(background, sprites, chosen)
    grain = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0.005, 0.04)
    image = np.clip((image + grain) * 255 + 0.5, 0, 255).astype(np.uint8)
    if featured is not None:
        masks, numbers = masks[::-1].copy(), numbers[::-1].copy()
    return Scene(image, masks, numbers, parts)


@dataclass(frozen=True)
class Sprite:
    """Object, drawn in its window of the image.

    Attributes:
        rows, columns: the window.
        colour: RGB times opacity, float ``[h, w, 3]``.
        opacity: float ``[h, w]``.
        part: part numbers, uint8 ``[h, w]``, 0 outside the object.
        centre: ``x, y`` in pixels.
        diameter: in pixels.
    """

    rows: slice
    columns: slice
    colour: np.ndarray
    opacity: np.ndarray
    part: np.ndarray
    centre: tuple[float, float]
    diameter: float


def _choose_species(rng: np.random.Generator, species: Sequence[int]) -> list[int]:
    """Choose 2 to 7 numbers; half of the scenes have a group of one species."""
    count = int(rng.integers(2, 8))
    chosen = [int(species[i]) for i in rng.integers(len(species), size=count)]
    if rng.uniform() < 0.5:
        members = int(rng.integers(2, 4))
        chosen[:members] = [chosen[0]] * min(members, count)
    return chosen


def draw_sprite(
    rng: np.random.Generator,
    number: int,
    side: int,
    others: Sequence[Sprite],
    numbers: Sequence[int],
    sizes: Sizes = SIZES,
) -> Sprite:
    """Draw a member of a species: its view, its place, its parts.

    Args:
        rng: source of random numbers.
        number: the species.
        side: of the image in pixels.
        others: sprites drawn before; the new one often touches one of its species.
        numbers: their species.
        sizes: diameters.
    """
    species = make_species(number)
    diameter = side * sizes.least * (sizes.most / sizes.least) ** (rng.uniform() ** sizes.lean)
    radius = diameter / 2
    kin = [s for s, n in zip(others, numbers, strict=False) if n == number]
    x, y = rng.uniform(0.06, 0.94, 2) * side
    if others and rng.uniform() < (0.8 if kin else 0.35):
        neighbour = (kin or others)[int(rng.integers(len(kin or others)))]
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.1) * (neighbour.diameter / 2 + radius)
        x = float(np.clip(neighbour.centre[0] + distance * np.cos(angle), 0.06 * side, 0.94 * side))
        y = float(np.clip(neighbour.centre[1] + distance * np.sin(angle), 0.06 * side, 0.94 * side))

    top, left = max(0, int(y - radius) - 1), max(0, int(x - radius) - 1)
    bottom, right = min(side, int(y + radius) + 2), min(side, int(x + radius) + 2)
    to_object = _view(rng) / radius
    px = (np.arange(left, right, dtype=np.float32) + 0.5 - np.float32(x))[None, :]
    py = (np.arange(top, bottom, dtype=np.float32) + 0.5 - np.float32(y))[:, None]
    u, v = to_object[0, 0] * px + to_object[0, 1] * py, to_object[1, 0] * px + to_object[1, 1] * py

    colour, opacity, part = _paint(rng, species, u, v, radius)
    return Sprite(slice(top, bottom), slice(left, right), colour, opacity, part, (float(x), float(y)), diameter)


def _view(rng: np.random.Generator) -> np.ndarray:
    """Image → object coordinates [2, 2]: rotation, foreshortening across some axis, mirror."""
    turn, axis = _rotation(rng.uniform(0, 2 * np.pi)), _rotation(rng.uniform(0, np.pi))
    flatten = np.diag([1.0, 1.0 / rng.uniform(0.7, 1.0)])
    mirror = np.diag([1.0, float(rng.choice([-1, 1]))])
    return (mirror @ turn @ axis.T @ flatten @ axis).astype(np.float32)


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _paint(
    rng: np.random.Generator, species: Species, u: np.ndarray, v: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parts of an object over its coordinates u, v [h, w], which span the unit disc.

    Returns RGB times opacity [h, w, 3], opacity [h, w], part numbers [h, w].
    """
    outline, layout = species.outline, species.layout
    textures = species.varieties[int(rng.integers(len(species.varieties)))]
    v_wide = v / np.float32(outline.aspect * rng.uniform(0.85, 1.15))
    rho, theta = np.hypot(u, v_wide), np.arctan2(v_wide, u)
    body = (_contour(rng, outline, theta) * layout.body_radius - rho) * outline.aspect
    inside = {
        1: _appendage(rng, layout, rho, theta),
        2: body,
        3: np.minimum(_mark(rng, layout, u, v_wide), body - 0.04),
    }

    light = 1 + rng.uniform(0.0, 0.3) * (u * np.cos(a := rng.uniform(0, 2 * np.pi)) + v * np.sin(a))
    light = (light * rng.uniform(0.7, 1.2)).astype(np.float32)
    turn = rng.uniform(-0.05, 0.05)
    scale, phases = rng.uniform(0.75, 1.35), rng.uniform(0, 2 * np.pi, 3)
    colour = np.zeros((*u.shape, 3), np.float32)
    opacity = np.zeros(u.shape, np.float32)
    part = np.zeros(u.shape, np.uint8)
    for i, distance in inside.items():
        cover = np.clip(distance * np.float32(radius) + 0.5, 0, 1)  # one pixel of soft edge
        paint = _texture(_turn_hue(textures[i - 1], turn), u, v, rho, scale, phases[i - 1], radius)
        colour += cover[..., None] * (paint - colour)
        opacity += cover * (1 - opacity)
        part[cover > 0.5] = i
    return colour * light[..., None], opacity, part


def _contour(rng: np.random.Generator, outline: Outline, theta: np.ndarray) -> np.ndarray:
    """Radius of the body over the angle, at most about 1, with the small bends of one member."""
    n, depth = outline.teeth, np.float32(outline.depth)
    match outline.family:
        case "square":
            r = 0.85 * (np.abs(np.cos(theta)) ** 5 + np.abs(np.sin(theta)) ** 5) ** np.float32(-0.2)
        case "polygon":
            r = np.float32(np.cos(np.pi / n)) / np.cos(_fold(theta, n))
        case "star":
            r = 1 - depth * np.abs(_fold(theta, n)) * np.float32(n / np.pi)
        case "petals":
            r = 1 - depth + depth * np.sqrt(np.abs(np.cos(theta * np.float32(n / 2))))
        case "gear":
            r = 1 - depth * 0.6 * np.clip(0.5 - 2 * np.cos(theta * n), 0, 1)
        case "blob":
            r = np.full_like(theta, 0.85)
            for k, (amplitude, phase) in enumerate(outline.harmonics, start=1):
                r += np.float32(amplitude) * np.cos((k + 1) * theta + np.float32(phase))
        case _:
            r = np.ones_like(theta)
    for k in (1, 2, 3):
        r = r + np.float32(rng.uniform(-0.05, 0.05)) * np.cos(k * theta + np.float32(rng.uniform(0, 2 * np.pi)))
    return np.clip(r, 0.2, 1.05)


def _fold(theta: np.ndarray, n: int) -> np.ndarray:
    """Angle from the nearest of n directions, in [−π/n, π/n]."""
    sector = np.float32(2 * np.pi / n)
    return theta - sector * np.round(theta / sector)


def _appendage(rng: np.random.Generator, layout: Layout, rho: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Signed distance (positive inside) to the appendage, of which a member may lack some."""
    jitter, width = rng.uniform(-0.25, 0.25), np.float32(layout.width * rng.uniform(0.8, 1.2))
    lost, gap_at = rng.uniform() < 0.25, np.float32(rng.uniform(-np.pi, np.pi))
    if layout.appendage == "none":
        return np.full_like(rho, -1)
    if layout.appendage == "halo":
        distance = 1 - rho
    else:
        folded = _fold(theta - np.float32(layout.mark_angle + jitter), layout.count)
        x, y = rho * np.cos(folded), rho * np.sin(folded)
        match layout.appendage:
            case "lobes":
                distance = width - np.hypot(x - (1 - width), y)
            case "spikes":
                distance = 1.5 * width * (1 - x) / np.float32(1 - layout.body_radius / 2) - np.abs(y)
            case _:
                distance = np.minimum(width * 0.6 - np.abs(y), 1 - x)
        distance = np.minimum(distance, x)
    if lost:
        distance = np.minimum(distance, np.abs(_fold(theta - gap_at, 1)) - 0.6)
    return distance


def _mark(rng: np.random.Generator, layout: Layout, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance (positive inside) to the mark."""
    r = layout.body_radius
    size = np.float32(r * layout.mark_radius * rng.uniform(0.8, 1.2))
    angle = layout.mark_angle + rng.uniform(-0.25, 0.25)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x = u * c + v * s - np.float32(r * (layout.offset + rng.uniform(-0.1, 0.1)))
    y = v * c - u * s
    match layout.mark:
        case "square":
            return size - np.maximum(np.abs(x), np.abs(y))
        case "diamond":
            return (1.3 * size - np.abs(x) - np.abs(y)) * np.float32(0.7)
        case "ring":
            return size * 0.35 - np.abs(np.hypot(x, y) - size)
        case "eyes":
            return size * 0.6 - np.hypot(x, np.abs(y) - size * 0.9)
        case "band":
            return size * 0.55 - np.abs(x)
        case "half":
            return x + 0.1
        case "cross":
            return np.maximum(
                np.minimum(size * 0.3 - np.abs(x), size - np.abs(y)),
                np.minimum(size * 0.3 - np.abs(y), size - np.abs(x)),
            )
        case _:
            return size - np.hypot(x, y)


def _texture(
    texture: Texture, u: np.ndarray, v: np.ndarray, rho: np.ndarray, scale: float, phase: float, radius: float
) -> np.ndarray:
    """Colour [h, w, 3] of a textured part, or [3] where it does not vary.

    A pattern too fine for the object's radius in pixels greys out instead of aliasing.
    """
    first, second = np.array(texture.first, np.float32), np.array(texture.second, np.float32)
    wave = np.float32(2 * np.pi * texture.frequency * scale)
    offset = np.float32(phase)
    c, s = np.float32(np.cos(texture.angle)), np.float32(np.sin(texture.angle))
    match texture.kind:
        case "plain":
            return first
        case "stripes":
            t = np.sin(wave * (c * u + s * v) + offset)
        case "checks":
            t = np.sin(wave * (c * u + s * v) + offset) * np.sin(wave * (c * v - s * u) + offset) * 2
        case "dots":
            t = np.cos(wave * (c * u + s * v) + offset) + np.cos(wave * (c * v - s * u) + offset) - 0.6
        case "rings":
            t = np.sin(wave * rho + offset)
        case _:
            t = 0.8 * (c * u + s * v)
    contrast = 1.0 if texture.kind == "fade" else min(1.0, radius / (2.5 * texture.frequency * scale))
    t = 0.5 + np.float32(contrast) * (np.clip(1.5 * t + 0.5, 0, 1) - 0.5)
    return first + t[..., None] * (second - first)


def _draw_background(rng: np.random.Generator, side: int) -> np.ndarray:
    """Clutter, float32 [side, side, 3] in about [0, 1]: one to three fields of colour noise, some of them striped."""
    across = np.linspace(-1, 1, side, dtype=np.float32)
    x, y = across[None, :], across[:, None]
    background = _field(rng, x, y)
    for _ in range(int(rng.integers(0, 3))):
        angle, bend = rng.uniform(0, 2 * np.pi), rng.uniform(-0.4, 0.4)
        border = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y + np.float32(bend) * x * y
        cover = np.clip((border - np.float32(rng.uniform(-0.2, 0.8))) * np.float32(side / 2), 0, 1)
        background += cover[..., None] * (_field(rng, x, y) - background)
    return background


def _field(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    side = x.shape[1]
    base = rng.uniform(0.15, 0.85, 3).astype(np.float32)
    field = base + _noise(rng, side, int(rng.integers(2, 6)), rng.uniform(0.05, 0.3))
    field += _noise(rng, side, int(rng.integers(12, 64)), rng.uniform(0.0, 0.10))
    if rng.uniform() < 0.35:
        angle, waves = rng.uniform(0, np.pi), rng.uniform(2, 30)
        t = np.sin(np.float32(np.pi * waves) * (np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y))
        field += t[..., None] * rng.uniform(-0.15, 0.15, 3).astype(np.float32)
    return field


def _noise(rng: np.random.Generator, side: int, cells: int, strength: float) -> np.ndarray:
    """Smooth colour noise [side, side, 3]: a coarse grid of normal numbers, enlarged bilinearly by two products."""
    coarse = rng.standard_normal((cells, cells, 3), dtype=np.float32) * np.float32(strength)
    enlarge = _enlargement(side, cells)
    return np.einsum("ya,abc,xb->yxc", enlarge, coarse, enlarge, optimize=["einsum_path", (0, 1), (0, 1)])


@lru_cache(maxsize=256)
def _enlargement(side: int, cells: int) -> np.ndarray:
    """Bilinear enlargement as a matrix [side, cells]."""
    at = np.clip((np.arange(side) + 0.5) * cells / side - 0.5, 0, cells - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells))).astype(np.float32)


def compose(
    background: np.ndarray, sprites: Sequence[Sprite], numbers: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw the sprites on the background in their order, without those that later ones hide."""
    side = len(background)
    top = np.full((side, side), -1)
    for i, sprite in enumerate(sprites):
        window = top[sprite.rows, sprite.columns]
        window[sprite.part > 0] = i
    shown = []
    for i, sprite in enumerate(sprites):
        visible = np.count_nonzero(top[sprite.rows, sprite.columns] == i)
        if visible >= max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_FRACTION * np.count_nonzero(sprite.part)):
            shown.append(i)

    image, owner, parts = background, np.full((side, side), -1), np.zeros((side, side), np.uint8)
    for i in shown:
        sprite = sprites[i]
        at = (sprite.rows, sprite.columns)
        image[at] = sprite.colour + (1 - sprite.opacity[..., None]) * image[at]
        solid = sprite.part > 0
        owner[at][solid] = i
        parts[at][solid] = sprite.part[solid]
    masks = owner[None] == np.array(shown, dtype=np.int64)[:, None, None]
    return image, masks, np.array([numbers[i] for i in shown], dtype=np.int64), parts


# ----------------------------------------------------------------------------------------------------------------------
# Data sets


def target_scenes(count: int = 120, *, first: int = 0) -> list[Scene]:
    """Target images of the benchmark: novel species among distractors, slightly more objects of the former.

    Scene `i` does not depend on `first` and `count`, so a small data set is a part of a larger one.
    """
    pool = [*NOVEL_SPECIES * 3, *DISTRACTOR_SPECIES]
    return [draw_scene([72, i], pool) for i in range(first, first + count)]


def reference_scenes(number: int, count: int = 20, *, first: int = 0) -> list[Scene]:
    """Images with one well visible member of a species, the first object, among distractors."""
    return [draw_scene([73, number, i], DISTRACTOR_SPECIES, featured=number) for i in range(first, first + count)]


def coco_dataset(scenes: Sequence[Scene], categories: Sequence[int] = NOVEL_SPECIES) -> dict:
    """Convert scenes to a COCO dataset, with images numbered from 1.

    Args:
        scenes: to convert.
        categories: annotated species, with the ids 1, 2, … in this order, and their names. Objects of other species are
            distractors without annotation.
    """
    ids = {number: i for i, number in enumerate(categories, start=1)}
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, scene in enumerate(scenes, start=1):
        height, width = scene.parts.shape
        images.append({"id": image_id, "file_name": f"{image_id:04d}.png", "width": width, "height": height})
        for mask, number in zip(scene.masks, scene.species.tolist(), strict=True):
            if number not in ids:
                continue
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ids[number],
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "area": int(coco_mask.area(rle)),
                    "segmentation": {"size": [height, width], "counts": rle["counts"].decode()},
                    "iscrowd": 0,
                }
            )
    return {
        "info": {"description": "Drawn scenes", "version": "1"},
        "categories": [{"id": i, "name": species_name(number)} for number, i in ids.items()],
        "images": images,
        "annotations": annotations,
    }


def write_coco(folder: Path | str, scenes: Sequence[Scene], categories: Sequence[int] = NOVEL_SPECIES) -> Path:
    """Write scenes in FiftyOne's COCODetectionDataset layout: ``data/*.png`` and ``labels.json``.

    Args:
        folder: created if it is missing.
        scenes: to write.
        categories: see :func:`coco_dataset`.

    Returns:
        Path of ``labels.json``.
    """
    folder = Path(folder)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    dataset = coco_dataset(scenes, categories)
    for scene, image in zip(scenes, dataset["images"], strict=True):
        Image.fromarray(scene.image).save(folder / "data" / image["file_name"])
    path = folder / "labels.json"
    path.write_text(json.dumps(dataset))
    return path


def write_data_set(folder: Path | str, *, targets: int = 40, references_per_class: int = 10) -> dict[str, Path]:
    """Write the splits ``references`` and ``targets`` under a folder, and return the path of each ``labels.json``.

    References have annotations of the novel species only, targets of the distractors too, so that an evaluation can
    distinguish distractors from background.
    """
    folder = Path(folder)
    featured = [scene for number in NOVEL_SPECIES for scene in reference_scenes(number, references_per_class)]
    return {
        "references": write_coco(folder / "references", featured),
        "targets": write_coco(folder / "targets", target_scenes(targets), (*NOVEL_SPECIES, *DISTRACTOR_SPECIES)),
    }
