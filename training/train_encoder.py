"""Train the small DINOv2 with a supervised contrastive loss: over species of drawn scenes, and classes of photographs.

    python -m training.train_encoder --run runs/encoder --out runs/encoder/drawn     # drawn scenes only, from scratch
    python -m training.train_encoder --init runs/encoder/drawn --pool POOL --classes CLASSES --steps 2200 \\
        --run runs/encoder_photographs --out nts/small/encoder

The loss compares the same features as the pipeline: patch tokens after the final LayerNorm, averaged over an object's
mask in the scene (target side), or over its crop with weighted patches (reference side). Background windows, parts, and
windows across an object's border are negatives: proposals that must not be mistaken for an object.

The model appends the colours of each patch to its token, see :mod:`nts.encoder.colour`. Their weight is fixed; the
tokens learn what the colours do not tell.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nts.encoder.colour import ColourDinov2Config, ColourDinov2Model
from nts.encoder.files import read_encoder, write_encoder
from nts.images import IMAGENET_MEAN, IMAGENET_STD, normalise, resize_bicubic, stretch, to_float
from nts.matching import patch_weights
from nts.references import Reference, prepare_reference
from nts.utils.training_loop import Training, advance, learning_rate, log, mean_of, resume, save, start
from synthetic.natural import draw_natural_scene
from synthetic.scenes import (
    APPENDAGES,
    MARKS,
    OUTLINES,
    SIDE,
    TRAIN_SPECIES,
    VALIDATION_SPECIES,
    Scene,
    draw_scene,
    make_species,
)

from .labelled_objects import LabelledObject, View, draw_view, read_objects
from .pool import read_pool

OUT = Path(__file__).parents[1] / "nts" / "small" / "encoder"
PATCH = 14
LARGE = 80  # pixels of objects that are seen close up
NOTHING = -1  # label of regions that belong to no species
SHADES = 6  # bins per colour channel in the colour histograms
VIEWS = 4  # of each class of photographs in a batch: two as references, two as targets
PHOTOGRAPHED = 1_000_000  # first label of classes of photographs
LESSONS = ("parts", "traits", "colours", "palette")  # losses of the tutor


@dataclass(frozen=True)
class Stage:
    """A stage of the training.

    Attributes:
        side: side of the encoder's input in pixels.
        share: fraction of all steps.
        groups: groups of eight scenes per batch.
        windows: windows per scene: around single objects in the first stage, at the native scale in the second; 0 for
            whole scenes.
        crops: reference crops per batch.
        distractors: include regions that belong to no species.
        scenes: scenes per group that are used.
        classes: classes of photographs per batch, each with :data:`VIEWS` views.
    """

    side: int
    share: float
    groups: int = 1
    windows: int = 1
    crops: int = 12
    distractors: bool = True
    scenes: int = 8
    classes: int = 0


DRAWN_STAGES = (
    Stage(side=112, share=0.465, groups=2, windows=3, crops=0, distractors=False),
    Stage(side=224, share=0.335),
    Stage(side=336, share=0.2, windows=0),
)
PHOTOGRAPH_STAGES = (
    Stage(side=168, share=0.9, scenes=5, crops=6, classes=6),
    Stage(side=336, share=0.1, scenes=3, windows=0, crops=4, classes=3),
)


@dataclass(frozen=True)
class EncoderTraining:
    """Constants of the training.

    Training starts with close-ups of objects, without distractors. Small objects between background patches give no
    signal until the encoder represents colours and textures, and with distractors from the start it only learns to tell
    objects from them.
    """

    width: int = 192
    layers: int = 6
    heads: int = 3
    image_size: int = 336  # native side of the input: 24×24 patches
    stages: tuple[Stage, ...] = DRAWN_STAGES
    group_pool: int = 160  # groups of scenes in use at a time; drawing one takes longer than a step
    group_uses: int = 8  # uses of each group, rotated or mirrored
    peak_rate: float = 1e-3
    temperature: float = 0.1
    tutor_weight: float = 0.5
    colour_weight: float = 0.4  # deviation of the colours relative to that of the other features, at the start

    def stage(self, step: int, steps: int) -> Stage:
        """Stage of a step."""
        begun = 0.0
        for stage in self.stages:
            begun += stage.share
            if step < round(begun * steps):
                return stage
        return self.stages[-1]


@dataclass(frozen=True)
class Items:
    """``n`` regions to embed: regions of scenes first, then reference crops.

    Attributes:
        weights: float ``[n, h, w]`` on the patch grid.
        image: int64 ``[n]``, index into scenes followed by crops.
        labels: int64 ``[n]``, species or ``NOTHING``.
        instance: int64 ``[n]``, index of the object, equal for a target and the crop of the same object; ``NOTHING``
            for distractors.
        colours: float ``[n, 6]``, mean and standard deviation of an object's RGB values in ``[0, 1]``; 0 for
            distractors.
    """

    weights: Tensor
    image: Tensor
    labels: Tensor
    instance: Tensor
    colours: Tensor


def build_model(config: EncoderTraining) -> Tutored:
    encoder = ColourDinov2Model(
        ColourDinov2Config(
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=PATCH,
            initializer_range=0.05,  # the usual 0.02 is for wider layers; here blocks would start close to the identity
        )
    )
    # In bfloat16 on a CPU its backward pass takes half the time of the fused attention.
    encoder.set_attn_implementation("eager")
    return Tutored(encoder)


@torch.no_grad()
def spread_patches(encoder: ColourDinov2Model, config: EncoderTraining) -> None:
    """Initialise the patch embedding with the principal components of drawn patches, amplifying weaker ones.

    Most of the variance of raw patches is their mean colour. With random filters, a transformer without a convolutional
    stem is slow to represent texture.
    """
    patches = []
    for batch in range(4):
        rng = np.random.default_rng([9, batch])
        images, _, _ = draw_items(rng, list(scene_group(9, batch)), Stage(224, 1.0), config.image_size)
        patches.append(F.unfold(images, PATCH, stride=PATCH).transpose(1, 2).flatten(0, 1))
    patches = torch.cat(patches)
    mean = patches.mean(0)
    values, components = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    values, components = values[-config.width :], components[:, -config.width :]
    # The fourth root halves the spread of the standard deviations on a logarithmic scale.
    filters = 0.5 * (components * (values + 0.01 * values.mean()) ** -0.25).T
    projection = encoder.embeddings.patch_embeddings.projection
    projection.weight.copy_(filters.reshape(projection.weight.shape))
    projection.bias.copy_(-filters @ mean)


@lru_cache(maxsize=256)
def scene_group(seed: int, number: int) -> tuple[Scene, ...]:
    """Eight scenes over a pool of eight species that recur: three pairs of look-alikes and two others.

    Odd groups are natural scenes.
    """
    rng = np.random.default_rng([seed, 1, number])
    families = rng.integers(TRAIN_SPECIES.start // 2, TRAIN_SPECIES.stop // 2, size=5) * 2
    pool = [*families, *(families[:3] + 1)]
    draw = draw_natural_scene if number % 2 else draw_scene
    return tuple(draw(int(scene), pool) for scene in rng.integers(2**31, size=8))


def draw_batch(rng: np.random.Generator, config: EncoderTraining, stage: Stage, seed: int, step: int) -> list[Scene]:
    """Scenes of a step: groups from a slowly moving pool, rotated and mirrored."""
    first = step * stage.groups // config.group_uses
    groups = first + rng.choice(config.group_pool, stage.groups, replace=False)
    return [turn_scene(rng, scene) for number in groups for scene in scene_group(seed, int(number))[: stage.scenes]]


def turn_scene(rng: np.random.Generator, scene: Scene) -> Scene:
    """Rotate and mirror a scene at random, by one of the eight symmetries of the square."""
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))

    def turn(array: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
        turned = np.rot90(array, turns, axes)
        return np.ascontiguousarray(np.flip(turned, axes[1]) if mirror else turned)

    return Scene(turn(scene.image, (0, 1)), turn(scene.masks, (1, 2)), scene.species, turn(scene.parts, (0, 1)))


def draw_items(
    rng: np.random.Generator, scenes: list[Scene], stage: Stage, native: int
) -> tuple[Tensor, list[Scene], Items]:
    """Encoder inputs of a batch, and its items.

    Returns:
        images float ``[B, 3, side, side]``; the views of the scenes (windows, or whole scenes), which come first among
        the images; and the items.
    """
    side = stage.side
    grid = side // PATCH
    antialias = bool(rng.integers(2))  # presets differ in this
    images, views, weights, objects = [], [], [], []
    image, labels, instance, colours = [], [], [], []
    for scene in scenes:
        first = len(objects)
        objects += [(scene, mask, int(number)) for mask, number in zip(scene.masks, scene.species, strict=True)]
        for view, shown in cut_views(rng, scene, stage, native):
            distractors = _distractors(rng, view) if stage.distractors else []
            masks = [*view.masks, *distractors]
            if masks:
                weights.append(patch_weights(torch.from_numpy(np.stack(masks)), (grid, grid)))
            image += [len(images)] * len(masks)
            images.append(target_input(view.image, side, antialias))
            views.append(view)
            labels += [*view.species.tolist(), *[NOTHING] * len(distractors)]
            instance += [*[first + i for i in shown], *[NOTHING] * len(distractors)]
            colours += [*map(partial(_colours, view), view.masks), *[np.zeros(6)] * len(distractors)]
    for i in _choose_references(rng, objects, stage.crops):
        scene, mask, species = objects[i]
        pixels, patches = prepare_reference(
            Reference(scene.image, "", mask),
            side,
            (grid, grid),
            antialias=antialias,
            patch_weights="area" if antialias else "corner",
        )
        weights.append(patches[None])
        image.append(len(images))
        images.append(pixels)
        labels.append(species)
        instance.append(i)
        colours.append(_colours(scene, mask))
    items = Items(
        torch.cat(weights),
        torch.tensor(image),
        torch.tensor(labels),
        torch.tensor(instance),
        torch.from_numpy(np.array(colours, np.float32)),
    )
    return torch.stack(images), views, items


def cut_views(
    rng: np.random.Generator, scene: Scene, stage: Stage, native: int
) -> Iterator[tuple[Scene, Sequence[int]]]:
    """Views of a scene in a stage, each with the indices of the objects in it."""
    if stage.windows == 0 or len(scene.masks) == 0:
        yield scene, range(len(scene.masks))
        return
    for i in rng.permutation(len(scene.masks))[: stage.windows]:
        ys, xs = np.nonzero(scene.masks[i])
        extent = max(np.ptp(ys), np.ptp(xs))
        if stage.distractors and extent < LARGE:
            size = _window_size(rng, stage.side, native)
        else:
            size = int(np.clip(extent * rng.uniform(1.1, 1.7), 24, SIDE))
        yield cut_window(rng, scene, int(i), size)


def _window_size(rng: np.random.Generator, side: int, native: int) -> int:
    """Side of a window in scene pixels that is stretched to `side`: the native scale, zoomed by up to 1.6."""
    return min(SIDE, int(SIDE * side / native * 1.6 ** rng.uniform(-1, 1)))


def cut_window(rng: np.random.Generator, scene: Scene, centred: int, size: int) -> tuple[Scene, list[int]]:
    """Square window around an object, and the indices of the objects at least 60 % inside it."""
    ys, xs = np.nonzero(scene.masks[centred])
    centre = np.array([ys.min() + ys.max(), xs.min() + xs.max()]) / 2 + rng.uniform(-0.15, 0.15, 2) * size
    top, left = np.clip(centre - size / 2, 0, SIDE - size).astype(int)
    window = (slice(top, top + size), slice(left, left + size))
    masks = scene.masks[:, window[0], window[1]]
    shown = np.flatnonzero(masks.sum((1, 2)) >= 0.6 * scene.masks.sum((1, 2)))
    view = Scene(scene.image[window], masks[shown], scene.species[shown], scene.parts[window])
    return view, shown.tolist()


def _colours(scene: Scene, mask: np.ndarray) -> np.ndarray:
    pixels = scene.image[mask] / 255
    return np.concatenate([pixels.mean(0), pixels.std(0)])


def target_input(image: np.ndarray, side: int, antialias: bool) -> Tensor:
    """uint8 ``[H, W, 3]`` to encoder input ``[3, side, side]``."""
    return normalise(stretch(image, side) if antialias else resize_bicubic(to_float(image), side))


def _distractors(rng: np.random.Generator, scene: Scene) -> list[np.ndarray]:
    """Masks ``[H, W]`` of no species: background, a part, a window across a border, two objects of two species."""
    distractors = []
    side = len(scene.parts)
    taken = scene.parts > 0
    for _ in range(3):
        window = _ellipse(side, rng.uniform(0, side, 2), rng.uniform(5, 32, 2))
        if window.any() and (window & taken).sum() < 0.1 * window.sum():
            distractors.append(window)
    if len(scene.masks) == 0:
        return distractors
    i = int(rng.integers(len(scene.masks)))
    whole, area = scene.masks[i], scene.masks[i].sum()
    part = whole & (scene.parts == rng.integers(1, 4))
    # A part of a small object shares its patches, and more than half of an object counts as the object.
    if area > 600 and 60 < part.sum() < 0.5 * area:
        distractors.append(part)
    ys, xs = np.nonzero(whole)
    corner = np.array([rng.choice([ys.min(), ys.max()]), rng.choice([xs.min(), xs.max()])], float)
    window = _ellipse(side, corner, np.array([np.ptp(ys), np.ptp(xs)]) * rng.uniform(0.5, 0.9) + 2)
    if window.any() and (window & whole).sum() < 0.5 * window.sum():
        distractors.append(window)
    others = np.flatnonzero(scene.species != scene.species[i])
    if len(others):
        distractors.append(whole | scene.masks[rng.choice(others)])
    return distractors


def _ellipse(side: int, centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    y, x = np.ogrid[:side, :side]
    return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1


def _choose_references(rng: np.random.Generator, objects: list[tuple[Scene, np.ndarray, int]], count: int) -> list[int]:
    """Indices of objects to crop: at least 7 % of the side wide, over as many species as possible."""
    wide = [
        i
        for i, (_, mask, _) in enumerate(objects)
        if max(np.ptp(np.flatnonzero(mask.any(axis))) for axis in (0, 1)) >= 0.07 * SIDE
    ]
    turns: dict[int, int] = {}
    ranked = []
    for i in rng.permutation(wide):
        species = objects[i][2]
        turns[species] = turns.get(species, 0) + 1
        ranked.append((turns[species], int(i)))
    return [i for _, i in sorted(ranked, key=lambda pair: pair[0])[:count]]


def encode(model: nn.Module, images: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Patch tokens ``[B, P, C]`` after the final LayerNorm."""
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        return model(pixel_values=images).last_hidden_state[:, 1:].float()


def pool(tokens: Tensor, items: Items) -> Tensor:
    """Mean tokens ``[n, C]`` of the items, not normalised."""
    weights = items.weights.flatten(1)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-6)
    # A single product over all images: one per image would be small, one per item would copy its tokens.
    spread = torch.zeros(len(weights), *tokens.shape[:2])
    spread[torch.arange(len(weights)), items.image] = weights
    return spread.flatten(1) @ tokens.flatten(0, 1)


def draw_photographs(
    rng: np.random.Generator, objects: dict[str, list[LabelledObject]], stage: Stage
) -> tuple[Tensor, Items]:
    """Views of objects of random classes, and their items: float ``[B, 3, side, side]``, and the items."""
    names = list(objects)
    # Classes with many objects are drawn more often.
    odds = np.array([len(objects[name]) for name in names]) ** 0.5
    views: list[View] = []
    labels, instance, image = [], [], []
    for k in rng.choice(len(names), stage.classes, replace=False, p=odds / odds.sum()):
        of_class = objects[names[k]]
        for v, i in enumerate(rng.choice(len(of_class), VIEWS, replace=False)):
            view = draw_view(rng, of_class[i], stage.side, PATCH, crop=v < VIEWS // 2)
            others = len(view.weights) - 1
            labels += [PHOTOGRAPHED + int(k), *[NOTHING] * others]
            instance += [PHOTOGRAPHED + len(views), *[NOTHING] * others]
            image += [len(views)] * len(view.weights)
            views.append(view)
    return torch.stack([view.pixels for view in views]), Items(
        torch.cat([view.weights for view in views]),
        torch.tensor(image),
        torch.tensor(labels),
        torch.tensor(instance),
        torch.zeros(len(labels), 6),
    )


def _join(first: Items, images: int, second: Items) -> Items:
    """Items of two batches whose images follow each other; ``images`` of the first."""
    return Items(
        torch.cat([first.weights, second.weights]),
        torch.cat([first.image, second.image + images]),
        torch.cat([first.labels, second.labels]),
        torch.cat([first.instance, second.instance]),
        torch.cat([first.colours, second.colours]),
    )


class Tutor(nn.Module):
    """Auxiliary linear heads on the tokens; they are not exported.

    The contrastive loss alone has a long plateau: before the encoder can separate species it must represent objects,
    their parts and their colours. With direct supervision it learns these within a few hundred steps.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.parts = nn.Linear(width, 4)
        self.traits = nn.ModuleList(nn.Linear(width, len(names)) for names in (OUTLINES, APPENDAGES, MARKS))
        self.colours = nn.Linear(width, 6)
        self.palette = nn.Linear(width, SHADES**3)

    def forward(self, images: Tensor, tokens: Tensor, means: Tensor, scenes: list[Scene], items: Items) -> Tensor:
        """Losses of ``LESSONS``: parts in a patch, traits and colours of an item, palette of a patch.

        Args:
            images: ``[B, 3, side, side]``, those of scenes first.
            tokens: ``[B, P, C]``, in the same order.
            means: ``[n, C]``, mean tokens of the items.
            scenes: views of the scenes.
            items: the items.

        Returns:
            float ``[4]``.
        """
        side = int(tokens.shape[1] ** 0.5)
        shares = torch.stack([_part_shares(scene, side) for scene in scenes])
        parts = F.cross_entropy(self.parts(tokens[: len(scenes)]).flatten(0, 1), shares.flatten(0, 1))
        palette = F.cross_entropy(self.palette(tokens).flatten(0, 1), _palettes(images).flatten(0, 1))

        objects = items.labels != NOTHING
        species = [make_species(number) for number in items.labels[objects].tolist()]
        answers = [
            [OUTLINES.index(s.outline.family) for s in species],
            [APPENDAGES.index(s.layout.appendage) for s in species],
            [MARKS.index(s.layout.mark) for s in species],
        ]
        asked = zip(self.traits, answers, strict=True)
        traits = torch.stack([F.cross_entropy(head(means[objects]), torch.tensor(a)) for head, a in asked]).mean()
        colours = 10 * F.mse_loss(self.colours(means[objects]), items.colours[objects])
        return torch.stack([parts, traits, colours, palette])


def _part_shares(scene: Scene, side: int) -> Tensor:
    """Fractions of background and of the three parts in each patch: ``[side², 4]``."""
    shown = F.one_hot(torch.from_numpy(scene.parts).long(), 4).permute(2, 0, 1).float()
    return F.adaptive_avg_pool2d(shown, side).flatten(1).T


def _palettes(images: Tensor) -> Tensor:
    """Colour histogram of each patch: normalised images ``[B, 3, side, side]`` to fractions ``[B, P, SHADES³]``.

    On true masks, colour histograms separate species better than the mean colours that an encoder represents early on.
    """
    mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
    shade = ((images * std + mean).clamp(0, 0.999) * SHADES).long()
    colour = (shade[:, 0] * SHADES + shade[:, 1]) * SHADES + shade[:, 2]
    patches = colour.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).flatten(3).flatten(1, 2)
    counts = torch.zeros(*patches.shape[:2], SHADES**3)
    return counts.scatter_add_(2, patches, torch.ones_like(patches, dtype=counts.dtype)) / PATCH**2


class Tutored(nn.Module):
    """The encoder with its tutor, for training."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.tutor = Tutor(encoder.config.hidden_size + encoder.config.colour_size)


def contrastive_loss(embeddings: Tensor, labels: Tensor, instance: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss of embeddings ``[n, C]``: positives are other objects of the same label.

    Views of the same object are neither positives, which would be too easy, nor negatives.
    """
    is_object = labels != NOTHING
    same_object = (instance[:, None] == instance[None]) & is_object[:, None] & is_object[None]
    same_object |= torch.eye(len(labels), dtype=torch.bool)
    positive = (labels[:, None] == labels[None]) & is_object[:, None] & ~same_object
    logits = (embeddings @ embeddings.T / temperature).masked_fill(same_object, float("-inf"))
    log_probability = logits.log_softmax(1).masked_fill(~positive, 0)
    anchors = positive.any(1)
    return -(log_probability.sum(1)[anchors] / positive.sum(1)[anchors]).mean()


def step_loss(
    model: nn.Module,
    rng: np.random.Generator,
    config: EncoderTraining,
    stage: Stage,
    seed: int,
    step: int,
    objects: dict[str, list[LabelledObject]],
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of one batch, and numbers for the log."""
    scenes = draw_batch(rng, config, stage, seed, step)
    images, views, drawn = draw_items(rng, scenes, stage, config.image_size)
    items, count = drawn, len(images)
    if stage.classes:
        photographs, photographed = draw_photographs(rng, objects, stage)
        images, items = torch.cat([images, photographs]), _join(drawn, count, photographed)
    tokens = encode(model.encoder, images, dtype)
    means = pool(tokens, items)
    embeddings = F.normalize(means, dim=1)
    # The pipeline compares raw directions. Early on they are almost equal; standardised ones give a gradient.
    standard = F.normalize((means - means.mean(0)) / (means.std(0) + 1e-3), dim=1)
    loss = contrastive_loss(embeddings, items.labels, items.instance, config.temperature)
    loss = loss + contrastive_loss(standard, items.labels, items.instance, 2 * config.temperature)
    lessons = model.tutor(images[:count], tokens[:count], means[: len(drawn.labels)], views, drawn)
    loss = loss + config.tutor_weight * lessons.sum()
    with torch.no_grad():
        similar = embeddings @ embeddings.T
        similar[items.instance[:, None] == items.instance[None]] = -1
        nearest = items.labels[similar.argmax(1)] == items.labels
        among_objects = similar.masked_fill(items.labels == NOTHING, -1)
        nearest_object = items.labels[among_objects.argmax(1)] == items.labels
        is_object = (items.labels != NOTHING) & (items.labels < PHOTOGRAPHED)
        numbers = {
            **dict(zip(LESSONS, lessons.tolist(), strict=True)),
            "nearest_right": float(nearest[is_object].float().mean()),
            "nearest_object_right": float(nearest_object[is_object].float().mean()),
        }
        if stage.classes:
            in_photograph = items.labels >= PHOTOGRAPHED
            numbers["photographs_right"] = float(nearest_object[in_photograph].float().mean())
    return loss, numbers


@torch.inference_mode()
def validate(
    model: nn.Module, config: EncoderTraining, classes: int = 10, scenes: int = 40, shots: int = 10
) -> dict[str, float]:
    """Reduced benchmark on held-out species, with true masks in place of proposals.

    For 1, 3 and 10 shots: the rate of correct nearest prototypes, and the rate at which a correctly classified object
    scores higher than an object of another species, or a distractor, does for its nearest prototype.
    """
    rng = np.random.default_rng(6)
    model.eval()
    side = config.image_size
    grid = side // PATCH
    known = list(VALIDATION_SPECIES[:classes])
    others = list(VALIDATION_SPECIES[classes : 3 * classes])

    references = []
    for species in known:
        for shot in range(shots):
            scene = draw_scene([61, species, shot], others, featured=species)
            references.append(prepare_reference(Reference(scene.image, "", scene.masks[0]), side, (grid, grid)))
    weights = torch.stack([w for _, w in references])
    count = len(references)
    items = Items(weights, torch.arange(count), *[torch.zeros(count)] * 3)
    tokens = encode(model, torch.stack([p for p, _ in references]))
    shots_by_class = pool(tokens, items).unflatten(0, (classes, shots))

    features, labels = [], []
    for s in range(0, scenes, 8):
        batch = [draw_scene([62, s + i], [*known, *others[:classes]]) for i in range(8)]
        images, _, items = draw_items(rng, batch, Stage(side, 1.0, windows=0, crops=0), side)
        features.append(F.normalize(pool(encode(model, images), items), dim=1))
        labels.append(items.labels)
    features, labels = torch.cat(features), torch.cat(labels)
    known_labels = torch.tensor(known)
    of_class = torch.isin(labels, known_labels)
    result = {}
    for k in (1, 3, 10):
        prototypes = F.normalize(shots_by_class[:, :k].mean(1), dim=1)
        score, nearest = (features @ prototypes.T).max(1)
        right = known_labels[nearest] == labels
        above = score[right & of_class][:, None] > score[~of_class][None]
        result[f"val_right_{k}"] = float(right[of_class].float().mean())
        result[f"val_above_others_{k}"] = float(above.float().mean())
    return result


def export(model: ColourDinov2Model, folder: Path) -> None:
    """Write half precision weights in Hugging Face's format: config.json and model.safetensors."""
    half = ColourDinov2Model(model.config)
    half.load_state_dict(model.state_dict())
    write_encoder(half.half(), folder)


@torch.no_grad()
def weigh_colours(
    encoder: ColourDinov2Model, config: EncoderTraining, objects: dict[str, list[LabelledObject]] | None = None
) -> None:
    """Project colours on the principal components of histograms of patches, centred and weighted.

    Args:
        encoder: the encoder.
        config: constants.
        objects: of photographs, by class; ``None`` for drawn scenes only.
    """
    tokens, histograms, items = [], [], []
    count = 0
    for batch in range(8):
        rng = np.random.default_rng([10, batch])
        images, _, regions = draw_items(rng, list(scene_group(9, batch)), Stage(224, 1.0), config.image_size)
        if objects:
            photographs, photographed = draw_photographs(rng, objects, Stage(224, 1.0, classes=5))
            images, regions = torch.cat([images, photographs]), _join(regions, len(images), photographed)
        tokens.append(encode(encoder, images, torch.float32)[..., : encoder.config.hidden_size])
        histograms.append(encoder.colours.histograms(images))
        items.append(regions if count == 0 else _join(items.pop(), count, regions))
        count += len(images)
    of_patches = torch.cat(histograms).flatten(0, 1)
    mean = of_patches.mean(0)
    _, components = torch.linalg.eigh((of_patches - mean).T @ (of_patches - mean))
    projection = components[:, -encoder.config.colour_size :].T
    is_object = items[0].labels != NOTHING
    features = pool(torch.cat(tokens), items[0])[is_object]
    colours = pool(torch.cat(histograms), items[0])[is_object] @ projection.T
    weight = config.colour_weight * _deviation(features) / _deviation(colours)
    encoder.colours.projection.weight.copy_(weight * projection)
    encoder.colours.projection.bias.copy_(-weight * projection @ mean)


def _deviation(features: Tensor) -> Tensor:
    return (features - features.mean(0)).norm(dim=1).mean()


def train(
    steps: int,
    seed: int,
    run: Path,
    config: EncoderTraining,
    *,
    initial: Path | None = None,
    objects: dict[str, list[LabelledObject]] | None = None,
    log_every: int = 100,
    check_every: int = 200,
) -> Training:
    """Train up to `steps`, resuming from the checkpoint in `run` if there is one.

    Args:
        steps: in total.
        seed: of the random numbers.
        run: folder of the checkpoint and the log.
        config: constants.
        initial: folder of an encoder to begin with.
        objects: of photographs, by class.
        log_every: steps between entries of the log.
        check_every: steps between checkpoints.
    """
    torch.manual_seed(seed)
    model = build_model(config)
    if initial is None:
        spread_patches(model.encoder, config)
    else:
        known = read_encoder(initial / "config.json", initial / "model.safetensors").state_dict()
        transformer = {name: tensor for name, tensor in known.items() if not name.startswith("colours.")}
        model.encoder.load_state_dict(transformer, strict=False)
    weigh_colours(model.encoder, config, objects)
    # The colours are not trained: the loss would give up those that classes of photographs do not share.
    model.encoder.colours.requires_grad_(False)
    training = start(model)
    if (run / "checkpoint.pt").exists():
        resume(training, run / "checkpoint.pt")
    began, entries = time.perf_counter(), []
    while training.step < steps:
        rate = learning_rate(training.step, steps, config.peak_rate, warmup=100)
        stage = config.stage(training.step, steps)
        loss = partial(step_loss, config=config, stage=stage, seed=seed, step=training.step, objects=objects or {})
        entries.append(advance(training, loss, seed=seed, rate=rate))
        if training.step % log_every == 0:
            seconds = (time.perf_counter() - began) / len(entries)
            entry = {"step": training.step, "side": stage.side, "rate": rate, **mean_of(entries)}
            log(run / "log.jsonl", {**entry, "seconds_per_step": seconds})
            began, entries = time.perf_counter(), []
        if training.step % check_every == 0 or training.step == steps:
            save(training, run / "checkpoint.pt")
        if training.step % (5 * check_every) == 0 or training.step == steps:
            log(run / "log.jsonl", {"step": training.step, **validate(training.average.encoder, config)})
    return training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--init", type=Path, help="folder of an encoder to begin with, to train on photographs too")
    parser.add_argument("--pool", type=Path, help="folder of photographs with masks, in COCO's layout")
    parser.add_argument("--classes", type=Path, help="folder of photographs with a class each")
    parser.add_argument("--steps", type=int, default=7600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--run",
        type=Path,
        default=Path("runs/encoder"),
        help="folder of the checkpoint and the log; resumed if it exists",
    )
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--export-only", action="store_true", help="write the averaged weights of the checkpoint and stop"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.init is not None and (args.pool is None or args.classes is None):
        parser.error("--init needs --pool and --classes")
    config = EncoderTraining()
    objects = None
    if args.init is not None:
        config = EncoderTraining(stages=PHOTOGRAPH_STAGES, peak_rate=5e-4, tutor_weight=0.1)
        objects = read_objects(read_pool(args.pool, "train"), args.classes)
    if args.export_only:
        training = start(build_model(config))
        resume(training, args.run / "checkpoint.pt")
    else:
        training = train(args.steps, args.seed, args.run, config, initial=args.init, objects=objects)
    export(training.average.encoder, args.out)


if __name__ == "__main__":
    main()
