"""Draw the concept figure of the README from drawn scenes, with the small models.

Crops, prototypes, proposals, similarities and labels in the figure are computed, not sketched::

    python tools/concept_figure.py            # writes docs/concept.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nts import Instances, Reference, build_memory, load_encoder, load_segmenter, match_proposals  # noqa: E402
from nts.images import prepare_target  # noqa: E402
from nts.masks import draw_masks  # noqa: E402
from nts.matching import pool_tokens, similarity  # noqa: E402
from nts.references import box_of_mask, crop_window  # noqa: E402
from synthetic.scenes import NOVEL_SPECIES, Scene, draw_scene, reference_scenes, species_name  # noqa: E402

SHOTS = 4
SEED = 23
"""Names the target: a scene without distractors whose objects are all found at the threshold below."""
SCORE_THRESHOLD = 0.65
COLOURS = ("#0072b2", "#d55e00", "#009e73")  # told apart by colour-blind readers, too
INK, GREY, CARD, PANEL = "#1f2328", "#59636e", "#ffffff", "#f3f5f8"
WIDTH, HEIGHT, DPI = 1600, 806, 100


@dataclass(frozen=True)
class Content:
    """Everything that the figure shows.

    Attributes:
        references: crops of the references of each class, with their masks.
        prototypes: ``[K, C]``, by class in alphabetical order.
        target: the scene.
        masks: bool ``[n, H, W]``, the proposals.
        similarities: ``[n, K]``, of the proposals to the classes.
        instances: those above the threshold.
        colours: of the classes.
    """

    references: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]
    prototypes: Tensor
    target: Scene
    masks: np.ndarray
    similarities: Tensor
    instances: Instances
    colours: Mapping[str, str]


def compute() -> Content:
    """Run the pipeline on one drawn scene of three novel species."""
    rng = np.random.default_rng(SEED)
    species = [NOVEL_SPECIES[k] for k in sorted(rng.choice(len(NOVEL_SPECIES), len(COLOURS), replace=False))]
    target = draw_scene([91, SEED], species)
    encoder, segmenter = load_encoder("small", device="cpu"), load_segmenter("small", device="cpu")

    scenes = {species_name(number): reference_scenes(number, SHOTS) for number in species}
    references = {name: [(scene.image, scene.masks[0]) for scene in scenes[name]] for name in sorted(scenes)}
    labelled = (Reference(image, name, mask) for name, pairs in references.items() for image, mask in pairs)
    memory, _ = build_memory(labelled, encoder)

    pixels = prepare_target(target.image, encoder.info.input_size, segmenter.input_size, antialias=True)
    tokens = encoder.encode(pixels[0][None])[0]
    proposals = segmenter.propose(segmenter.embed(pixels[1]))
    size = target.image.shape[:2]
    instances = match_proposals(tokens, proposals.mask_logits, proposals.predicted_iou, memory.prototypes(), size)
    return Content(
        references={name: [_crop(*each) for each in references[name]] for name in references},
        prototypes=memory.prototypes(),
        target=target,
        masks=draw_masks(proposals.mask_logits, size).numpy(),
        similarities=similarity(pool_tokens(tokens, proposals.mask_logits > 0), memory.prototypes()),
        instances=instances.rows((instances.scores > SCORE_THRESHOLD).nonzero()[:, 0].tolist()),
        colours=dict(zip(memory.classes, COLOURS, strict=True)),
    )


def _crop(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    left, top, right, bottom = crop_window(box_of_mask(mask), mask.shape)
    return image[top:bottom, left:right], mask[top:bottom, left:right]


class Canvas:
    """A figure on which everything is placed in pixels, from the upper left corner."""

    def __init__(self) -> None:
        self.figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="none")
        self._page = self.figure.add_axes((0, 0, 1, 1))
        self._page.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
        self._page.axis("off")

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        axes = self.figure.add_axes((x / WIDTH, 1 - (y + height) / HEIGHT, width / WIDTH, height / HEIGHT))
        axes.set(xticks=(), yticks=())
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def card(self, x: float, y: float, width: float, height: float, colour: str, edge: str = "none") -> None:
        style = "round,pad=0,rounding_size=14"
        self._page.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=colour, edgecolor=edge))

    def text(self, x: float, y: float, words: str, size: float = 12, colour: str = INK, **options: str) -> None:
        self._page.text(x, y, words, fontsize=size, color=colour, **{"va": "center", **options})

    def arrow(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        style = "-|>,head_length=9,head_width=5"
        self._page.add_patch(
            FancyArrowPatch(start, end, arrowstyle=style, color=GREY, linewidth=2.2, shrinkA=0, shrinkB=0)
        )


def draw(content: Content) -> Figure:
    """Two rows: references become prototypes above, and a target becomes labels below."""
    canvas = Canvas()
    canvas.card(1, 1, WIDTH - 2, HEIGHT - 2, CARD, "#d1d9e0")
    _draw_references(canvas, content)
    _draw_prototypes(canvas, content)
    _draw_target(canvas, content)
    _draw_matches(canvas, content)
    _draw_labels(canvas, content)
    return canvas.figure


TOP, BOTTOM, SIDE = 78, 478, 300
COLUMNS = (40, 434, 828, 1260)
"""Left edges of the panels of the lower row."""


def _heading(canvas: Canvas, x: float, y: float, title: str, note: str) -> None:
    canvas.text(x, y - 46, title, 17, fontweight="bold")
    canvas.text(x, y - 19, note, 12.5, GREY)


def _draw_references(canvas: Canvas, content: Content) -> None:
    _heading(canvas, COLUMNS[0], TOP, "References", f"{SHOTS} labelled objects of each class, cut out")
    crop, gap = 94, 8
    for row, (name, references) in enumerate(content.references.items()):
        y = TOP + row * (crop + gap)
        for k, (image, mask) in enumerate(references):
            axes = canvas.axes(COLUMNS[0] + k * (crop + gap), y, crop, crop)
            axes.imshow(image, aspect="auto", interpolation="bilinear")
            _outline(axes, mask, content.colours[name], 2.2)
        canvas.text(
            COLUMNS[0] + SHOTS * (crop + gap) + 6, y + crop / 2, name, 15, content.colours[name], fontweight="bold"
        )


def _draw_prototypes(canvas: Canvas, content: Content) -> None:
    x, width = COLUMNS[2], WIDTH - 40 - COLUMNS[2]
    canvas.arrow((590, TOP + 149), (x - 24, TOP + 149))
    canvas.text((590 + x - 24) / 2, TOP + 128, "DINOv2 patch tokens", 12.5, GREY, ha="center")
    canvas.text((590 + x - 24) / 2, TOP + 170, "averaged over each mask", 12.5, GREY, ha="center")
    _heading(canvas, x, TOP, "Prototypes", "one vector for each class, the mean of its references: nothing is trained")
    for row, (name, colour) in enumerate(content.colours.items()):
        y = TOP + row * 102
        prototype = content.prototypes[row]
        axes = canvas.axes(x, y + 12, width, 52)
        values = prototype.reshape(1, -1).numpy()
        colours = matplotlib.colors.LinearSegmentedColormap.from_list(name, ["#ffffff", colour])
        axes.imshow(values, aspect="auto", cmap=colours, vmin=-0.08, vmax=0.16, interpolation="nearest")
        canvas.text(x, y + 80, f"{name}: {len(prototype)} numbers", 12.5, colour)


def _draw_target(canvas: Canvas, content: Content) -> None:
    _heading(canvas, COLUMNS[0], BOTTOM, "Target", "any other image")
    canvas.axes(COLUMNS[0], BOTTOM, SIDE, SIDE).imshow(content.target.image)
    canvas.arrow((COLUMNS[0] + SIDE + 16, BOTTOM + SIDE / 2), (COLUMNS[1] - 16, BOTTOM + SIDE / 2))
    canvas.text((COLUMNS[0] + SIDE + COLUMNS[1]) / 2, BOTTOM + SIDE / 2 - 22, "SAM2", 12.5, GREY, ha="center")

    _heading(canvas, COLUMNS[1], BOTTOM, "Proposals", f"{len(content.masks)} masks, as yet without a class")
    axes = canvas.axes(COLUMNS[1], BOTTOM, SIDE, SIDE)
    axes.imshow((content.target.image * 0.55).astype(np.uint8))
    hues = matplotlib.colormaps["hsv"]
    for k in np.argsort([-mask.sum() for mask in content.masks]):
        _fill(axes, content.masks[k], hues((0.38 * k) % 1), 0.12)
        _outline(axes, content.masks[k], hues((0.38 * k) % 1), 1.3)
    canvas.arrow((COLUMNS[1] + SIDE + 16, BOTTOM + SIDE / 2), (COLUMNS[2] - 16, BOTTOM + SIDE / 2))
    canvas.text((COLUMNS[1] + SIDE + COLUMNS[2]) / 2, BOTTOM + SIDE / 2 - 22, "DINOv2", 12.5, GREY, ha="center")


def _draw_matches(canvas: Canvas, content: Content) -> None:
    x, width = COLUMNS[2], 348
    canvas.arrow((x + width / 2, TOP + 3 * 102 - 4), (x + width / 2, BOTTOM - 64))
    _heading(canvas, x, BOTTOM, "Match", "similarity of each mask to each prototype")
    shown = content.instances.proposals[:5].tolist()
    height = SIDE / 5
    for row, k in enumerate(shown):
        y = BOTTOM + row * height
        image, mask = _crop(content.target.image, content.masks[k])
        alone = np.where(mask[..., None], image, 255)
        canvas.axes(x, y + 3, height - 8, height - 8).imshow(alone, aspect="auto")
        axes = canvas.axes(x + height + 8, y + 4, width - height - 60, height - 10)
        values = content.similarities[k].tolist()
        best = int(np.argmax(values))
        axes.barh(range(len(values)), values, color=list(content.colours.values()), height=0.78)
        axes.set(xlim=(0, 1), ylim=(len(values) - 0.4, -0.6))
        for bar, alpha in zip(axes.patches, (1.0 if c == best else 0.35 for c in range(len(values))), strict=True):
            bar.set_alpha(alpha)
        canvas.text(x + width - 44, y + height / 2, f"{values[best]:.2f}", 13, COLOURS[best], fontweight="bold")
    canvas.arrow((x + width + 14, BOTTOM + SIDE / 2), (COLUMNS[3] - 16, BOTTOM + SIDE / 2))
    canvas.text((x + width + COLUMNS[3]) / 2, BOTTOM + SIDE / 2 - 22, "merge", 12.5, GREY, ha="center")


def _draw_labels(canvas: Canvas, content: Content) -> None:
    _heading(canvas, COLUMNS[3], BOTTOM, "Labels", "mask, class and score of each object")
    axes = canvas.axes(COLUMNS[3], BOTTOM, SIDE, SIDE)
    axes.imshow((content.target.image * 0.75).astype(np.uint8))
    names = list(content.colours)
    height, width = content.target.image.shape[:2]
    taken = np.zeros((height, width), bool)
    for k in range(len(content.instances)):
        mask = content.instances.mask(k).numpy()
        name = names[int(content.instances.labels[k])]
        _fill(axes, mask, content.colours[name], 0.55)
        _outline(axes, mask, "white", 1.6)
        taken |= mask
    for k in range(len(content.instances)):
        name = names[int(content.instances.labels[k])]
        x, y = _place_beside(content.instances.mask(k).numpy(), taken)
        axes.text(
            x + TAG[0] / 2,
            y + TAG[1] / 2,
            f"{name} {float(content.instances.scores[k]):.2f}",
            ha="center",
            va="center",
            fontsize=11,
            color="white",
            fontweight="bold",
            bbox={"boxstyle": "round,pad=0.2", "facecolor": content.colours[name], "edgecolor": "none"},
        )
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


TAG = (92, 19)
"""Width and height of a caption in pixels of the target."""


def _place_beside(mask: np.ndarray, taken: np.ndarray) -> tuple[int, int]:
    """Upper left corner of a caption right, left, below or above a mask, where it covers least of ``taken``.

    The place is marked in ``taken``.
    """
    rows, columns = mask.nonzero()
    (top, bottom), (left, right) = (np.percentile(each, (1, 99)).astype(int) for each in (rows, columns))
    middle_x, middle_y = (left + right - TAG[0]) // 2, (top + bottom - TAG[1]) // 2
    places = [
        (right + 5, middle_y),
        (left - 5 - TAG[0], middle_y),
        (middle_x, bottom + 5),
        (middle_x, top - 5 - TAG[1]),
    ]
    inside = [
        (int(np.clip(x, 2, taken.shape[1] - TAG[0] - 2)), int(np.clip(y, 2, taken.shape[0] - TAG[1] - 2)))
        for x, y in places
    ]
    x, y = min(inside, key=lambda place: taken[place[1] : place[1] + TAG[1], place[0] : place[0] + TAG[0]].sum())
    taken[y : y + TAG[1], x : x + TAG[0]] = True
    return x, y


def _outline(axes: Axes, mask: np.ndarray, colour: str | tuple[float, ...], width: float) -> None:
    axes.contour(mask, levels=[0.5], colors=[colour], linewidths=width)


def _fill(axes: Axes, mask: np.ndarray, colour: str | tuple[float, ...], opacity: float) -> None:
    layer = np.zeros((*mask.shape, 4))
    layer[mask] = (*matplotlib.colors.to_rgb(colour), opacity)
    axes.imshow(layer)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tools/concept_figure.py", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "concept.png", help="(default: docs/concept.png)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    draw(compute()).savefig(arguments.out, dpi=DPI)
    print(arguments.out)


if __name__ == "__main__":
    main()
