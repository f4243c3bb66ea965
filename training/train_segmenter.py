"""Train the small SAM2 on drawn scenes and photographs: a click or a box to three masks and their predicted IoU.

    python -m training.train_segmenter --pool POOL --steps 8000 --out nts/small/segmenter/small_sam2.pt

A click is ambiguous: it may denote a part or the whole, and in photographs masks may contain each other. Each answer is
compared with the best of three masks for it: the object that was drawn for the click, and, with smaller weights, all
other objects under it, its part, and in photographs the regions of even colour around it, which teach where borders
are. The target of the predicted IoU is the largest IoU with an object, or less than the IoU with the part or a region:
it must rank wholes above parts, parts above other pieces, and masks of objects above masks from clicks on the
background. The background is clicked only where all objects are known.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from nts.images import normalise
from nts.models import build_sam2
from nts.utils.training_loop import Training, advance, learning_rate, log, mean_of, resume, save, start
from synthetic.scenes import SIDE, VALIDATION_SPECIES, draw_scene

from .examples import DRAWN, MIN_AREA, Example, Examples, draw_species, of_scene, place
from .pool import Pool, read_pool

MODEL_FILE = Path(__file__).parents[1] / "nts" / "small" / "segmenter" / "small_sam2.yaml"
LOGIT_SIDE = 64

Encode = Callable[[Tensor], dict[str, list[Tensor]]]


@dataclass(frozen=True)
class SegmenterTraining:
    """Constants of the training."""

    images: int = 10  # of each process
    clicks: int = 5
    background_clicks: int = 1  # among the clicks
    boxes_every: int = 8  # every n-th step uses boxes instead of clicks
    peak_rate: float = 6e-4
    drawn: float = DRAWN  # fraction of drawn scenes as in the benchmark
    focal_weight: float = 20.0
    other_weight: float = 0.3  # of each answer but the object that was drawn for the click
    region_weight: float = 0.12  # the same for regions of even colour
    part_credit: float = 0.85  # factor of the IoU with the part under the click
    region_credit: float = 0.35  # the same for regions: a region is better than nothing, and worse than any object
    mean_weight: float = 0.1
    single_weight: float = 0.2
    iou_weight: float = 2.0


@dataclass(frozen=True)
class Prompts:
    """``n`` prompts of a batch of images.

    Attributes:
        image: int64 ``[n]``, index of the image.
        points: float ``[n, P, 2]``, ``x, y`` in pixels.
        labels: int64 ``[n, P]``, 1 for a click, 2 and 3 for the corners of a box.
        answers: float ``[n, A, S, S]``, fraction of each cell that a right answer covers: the object drawn for the
            prompt first, then its part, then regions, then other objects under the click, as far as there are any; 0
            for none, and for a click on the background.
    """

    image: Tensor
    points: Tensor
    labels: Tensor
    answers: Tensor

    @property
    def on_object(self) -> Tensor:
        """bool ``[n]``: not on the background."""
        return self.answers[:, 0].amax((1, 2)) > 0.5


PART = 1  # index of the part among the answers
REGIONS = (2, 3)
ANSWERS = 6
MOST = 0.8  # of the image that a region may cover


def build_model() -> nn.Module:
    """Build the untrained SAM2 of the model file."""
    return build_sam2(MODEL_FILE)


def draw_prompts(
    rng: np.random.Generator, examples: list[Example], clicks: int, background: int, boxes: bool, side: int = LOGIT_SIDE
) -> Prompts:
    """Clicks on random visible pixels of objects in turn and of the background, or a loose box of each object."""
    image, points, labels, answers = [], [], [], []
    for index, example in enumerate(examples):
        order = _draw_order(rng, example)
        if boxes and not len(order):
            continue
        for c in range(clicks):
            on_background = c < background and not boxes
            if not len(order) or (on_background and example.exhaustive):
                outside = ~example.masks.any(0)
                if not example.exhaustive or not outside.any():
                    continue
                y, x = _random_pixel(rng, outside)
                points.append(_near(rng, x, y))
                answers.append(np.zeros((ANSWERS, side, side), np.float32))
            else:
                drawn = int(order[c % len(order)])
                whole = example.masks[drawn]
                y, x = _random_pixel(rng, whole)
                points.append(_loose_box(rng, whole) if boxes else _near(rng, x, y))
                right = [whole] if boxes else _right_answers(example, drawn, y, x)
                answers.append(_shrink(right, side))
            image.append(index)
            labels.append([2, 3] if boxes else [1])
    return Prompts(
        torch.tensor(image),
        torch.from_numpy(np.stack(points)).float(),
        torch.tensor(labels),
        torch.from_numpy(np.stack(answers)),
    )


def _draw_order(rng: np.random.Generator, example: Example) -> np.ndarray:
    """Objects in random order; the larger ones of photographs tend to come first, since most are small."""
    if example.exhaustive:
        return rng.permutation(len(example.masks))
    odds = example.masks.sum((1, 2)) ** 0.5
    return np.argsort(rng.exponential(size=len(odds)) / odds)


def _right_answers(example: Example, drawn: int, y: int, x: int) -> list[np.ndarray]:
    """The object, its part under the click, regions around the click, and the smallest other objects under it."""
    whole = example.masks[drawn]
    part = whole & (example.parts == example.parts[y, x]) & (example.parts > 0)
    regions = [of_scale == of_scale[y, x] for of_scale in example.regions if of_scale[y, x] >= 0]
    regions = [each if MIN_AREA <= each.sum() <= MOST * each.size else np.zeros_like(each) for each in regions]
    regions += [np.zeros_like(whole)] * (len(REGIONS) - len(regions))
    others = [i for i in np.flatnonzero(example.masks[:, y, x]) if i != drawn]
    others.sort(key=lambda i: np.count_nonzero(example.masks[i]))
    return [whole, part, *regions, *[example.masks[i] for i in others[: ANSWERS - 2 - len(REGIONS)]]]


def _random_pixel(rng: np.random.Generator, mask: np.ndarray) -> tuple[int, int]:
    at = np.flatnonzero(mask)
    return divmod(int(at[rng.integers(len(at))]), mask.shape[1])


def _near(rng: np.random.Generator, x: int, y: int) -> np.ndarray:
    """Point ``[1, 2]`` within the pixel, or half a pixel off, as in the published grid."""
    return np.array([[x, y]]) + rng.uniform(-0.5, 1.0, (1, 2))


def _loose_box(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Corners ``[2, 2]`` of the mask's box, each side jittered by up to 8 %."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([[xs[0], ys[0]], [xs[-1] + 1, ys[-1] + 1]], float)
    return box + rng.uniform(-0.08, 0.08, (2, 2)) * (box[1] - box[0])


def _shrink(masks: list[np.ndarray], side: int) -> np.ndarray:
    """Covered fraction of each cell, ``[ANSWERS, side, side]``, 0 for answers that are missing.

    With soft edges, enlarged logits can cross zero between grid points.
    """
    shares = np.zeros((ANSWERS, side, side), np.float32)
    stacked = np.stack(masks)
    cell = stacked.shape[1] // side
    shares[: len(masks)] = stacked.reshape(len(stacked), side, cell, side, cell).mean((2, 4), dtype=np.float32)
    return shares


def decode(
    model: nn.Module, encode: Encode, images: Tensor, prompts: Prompts, add_no_mem: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """All four masks of every prompt; ``encode`` is the model's ``forward_image``, possibly compiled.

    Returns mask logits [n, 4, 64, 64], predicted IoU [n, 4], object score logits [n, 1].
    """
    fine, middle, coarse = encode(images)["backbone_fpn"]
    if add_no_mem:
        coarse = coarse + model.no_mem_embed.reshape(1, -1, 1, 1)
    sparse, dense = model.sam_prompt_encoder((prompts.points, prompts.labels), boxes=None, masks=None)
    logits, iou, _, objectness = model.sam_mask_decoder.predict_masks(
        image_embeddings=coarse[prompts.image],
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=False,
        high_res_features=[fine[prompts.image], middle[prompts.image]],
    )
    return logits.float(), iou.float(), objectness.float()


def mask_loss(logits: Tensor, target: Tensor, focal_weight: float) -> Tensor:
    """focal_weight · focal + dice of each mask: logits [n, k, S, S] against covered shares [n, S, S] → [n, k]."""
    target = target[:, None].expand_as(logits)
    probability = logits.sigmoid()
    # For soft targets |target − p| is the natural 1 − p_t.
    weight = 0.25 * target + 0.75 * (1 - target)
    focal = (
        weight * (target - probability).square() * F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    )
    dice = 1 - (2 * (probability * target).sum((2, 3)) + 1) / (probability.sum((2, 3)) + target.sum((2, 3)) + 1)
    return focal_weight * focal.mean((2, 3)) + dice


def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """IoU [n, k] of masks: logits [n, k, S, S] > 0 with covered shares [n, S, S] > 0.5; 0 for an empty target."""
    a, b = logits > 0, target[:, None] > 0.5
    return (a & b).sum((2, 3)) / (a | b).sum((2, 3)).clamp(min=1)


def images_tensor(images: np.ndarray) -> Tensor:
    """uint8 ``[B, H, W, 3]`` to normalised float ``[B, 3, H, W]``."""
    return normalise(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)


def step_loss(
    model: nn.Module,
    rng: np.random.Generator,
    config: SegmenterTraining,
    source: Examples,
    step: int,
    encode: Encode,
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of one batch, and numbers for the log."""
    examples = source.draw(rng, step, config.images)
    boxes = rng.integers(config.boxes_every) == 0
    prompts = draw_prompts(rng, examples, config.clicks, config.background_clicks, boxes)
    images = images_tensor(np.stack([example.image for example in examples]))
    # Presets differ in whether no_mem_embed is added: train for both.
    add_no_mem = bool(rng.integers(2))
    # The plain attention is the faster one: on a CPU the fused kernel's backward pass is slow for short sequences.
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32), sdpa_kernel(SDPBackend.MATH):
        logits, iou, objectness = decode(model, encode, images, prompts, add_no_mem)

    real = prompts.on_object
    answers = prompts.answers[real]
    losses = mask_loss(logits[real], answers[:, 0], config.focal_weight)
    whole = losses[:, 1:].amin(1).mean()
    others = sum(
        (config.region_weight if a in REGIONS else config.other_weight)
        * _best_for(logits[real, 1:], answers[:, a], config.focal_weight)
        for a in range(1, ANSWERS)
    )
    with torch.no_grad():
        truth = torch.stack([mask_iou(logits, prompts.answers[:, a]) for a in range(ANSWERS)], 2)
        truth[:, :, PART] *= config.part_credit
        truth[:, :, REGIONS] *= config.region_credit
        credited = truth.amax(2)
    iou_error = (iou - credited).square().mean()
    presence = F.binary_cross_entropy_with_logits(objectness[:, 0], real.float())
    loss = (
        whole
        + others
        + config.mean_weight * losses[:, 1:].mean()
        + config.single_weight * losses[:, 0].mean()
        + config.iou_weight * iou_error
        + 0.1 * presence
    )
    chosen = credited[:, 1:].gather(1, iou[:, 1:].argmax(1, keepdim=True))[real].mean()
    return loss, {"whole": float(whole.detach()), "chosen_iou": float(chosen), "iou_error": float(iou_error.detach())}


def _best_for(logits: Tensor, answers: Tensor, focal_weight: float) -> Tensor:
    """Loss of the best mask for answers that some prompts lack, as a sum over those that have one per prompt."""
    there = answers.amax((1, 2)) > 0.5
    if not there.any():
        return logits.new_zeros(())
    return mask_loss(logits[there], answers[there], focal_weight).amin(1).sum() / len(answers)


@torch.inference_mode()
def validate(model: nn.Module, pool: Pool, images: int = 48, clicks: int = 12) -> dict[str, float]:
    """IoU of the mask with the highest predicted IoU, IoU of the best mask, and predicted IoU.

    On scenes of held-out species, with clicks on the background, and on held-out photographs: as they are, and shrunk.
    """
    rng = np.random.default_rng(5)
    model.eval()
    scenes = [
        of_scene(draw_scene(int(seed), draw_species(rng, VALIDATION_SPECIES)))
        for seed in rng.integers(2**31, size=images)
    ]
    found = {f"val_{name}": value for name, value in _figures(model, scenes, rng, clicks).items()}
    for name, zoom in (("photos", 1.0), ("shrunk", 0.4)):
        chosen = [
            photograph for of_set in pool.sets.values() for photograph in of_set[: max(1, images // len(pool.sets))]
        ]
        placed = [place(np.random.default_rng([6, i]), each, zoom=zoom) for i, each in enumerate(chosen)]
        examples = [Example(image, masks, np.zeros((SIDE, SIDE), np.uint8), False) for image, masks, _ in placed]
        examples = [replace(e, masks=e.masks[e.masks.sum((1, 2)) >= MIN_AREA]) for e in examples]
        figures = _figures(model, examples, rng, clicks)
        found |= {f"{name}_{key}": value for key, value in figures.items() if "background" not in key}
    return found


def _figures(model: nn.Module, examples: list[Example], rng: np.random.Generator, clicks: int) -> dict[str, float]:
    chosen, best, on_object, on_background = [], [], [], []
    for first in range(0, len(examples), 8):
        batch = examples[first : first + 8]
        prompts = draw_prompts(rng, batch, clicks, 2, boxes=False, side=SIDE)
        with torch.autocast("cpu", torch.bfloat16):
            logits, iou, _ = decode(
                model, model.forward_image, images_tensor(np.stack([e.image for e in batch])), prompts, add_no_mem=False
            )
        masks = F.interpolate(logits[:, 1:], size=(SIDE, SIDE), mode="bilinear")
        objects = [a for a in range(ANSWERS) if a not in (PART, *REGIONS)]
        truth = torch.stack([mask_iou(masks, prompts.answers[:, a]) for a in objects], 2).amax(2)
        predicted, at = iou[:, 1:].max(1)
        real = prompts.on_object
        chosen.append(truth.gather(1, at[:, None])[real, 0])
        best.append(truth[real].amax(1))
        on_object.append(predicted[real])
        on_background.append(predicted[~real])
    chosen_iou = torch.cat(chosen)
    return {
        "chosen_iou": float(chosen_iou.mean()),
        "best_iou": float(torch.cat(best).mean()),
        "above_half": float((chosen_iou > 0.5).float().mean()),
        "above_three_quarters": float((chosen_iou > 0.75).float().mean()),
        "predicted_on_object": float(torch.cat(on_object).mean()),
        "predicted_on_background": float(torch.cat(on_background).mean()),
    }


def export(model: nn.Module, path: Path) -> None:
    """Write half precision weights in the format of the released checkpoints."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}}, path)


def train(
    steps: int,
    seed: int,
    run: Path,
    config: SegmenterTraining,
    folder: Path,
    initial: dict[str, Tensor] | None = None,
    log_every: int = 100,
    check_every: int = 200,
    compiled: bool = False,
) -> Training:
    """Train up to `steps`, resuming from the checkpoint in `run` if there is one.

    In a process group of ``torch.distributed``, each process draws its own examples; the first one writes the files.

    Args:
        steps: in total.
        seed: of the random numbers.
        run: folder of the checkpoint and the log.
        config: constants.
        folder: of the pool of photographs.
        initial: weights to begin with.
        log_every: steps between entries of the log.
        check_every: steps between checkpoints.
        compiled: compile the image encoder, which takes minutes and needs a C++ compiler; steps are then faster.
    """
    torch.manual_seed(seed)
    pool, held_out = read_pool(folder, "train"), read_pool(folder, "validation")
    model = build_model()
    if initial is not None:
        model.load_state_dict(initial)
    training = start(model)
    if (run / "checkpoint.pt").exists():
        resume(training, run / "checkpoint.pt")
    rank = dist.get_rank() if dist.is_initialized() else 0
    source = Examples(pool, seed, rank, config.drawn)
    encode = training.model.forward_image
    if compiled:
        encode = torch.compile(encode, dynamic=False)
    began, entries = time.perf_counter(), []
    while training.step < steps:
        rate = learning_rate(training.step, steps, config.peak_rate)
        loss = partial(step_loss, config=config, source=source, step=training.step, encode=encode)
        entries.append(advance(training, loss, seed=seed, rate=rate))
        if rank:
            continue
        if training.step % log_every == 0:
            seconds = (time.perf_counter() - began) / len(entries)
            log(
                run / "log.jsonl",
                {"step": training.step, "rate": rate, **mean_of(entries), "seconds_per_step": seconds},
            )
            began, entries = time.perf_counter(), []
        if training.step % check_every == 0 or training.step == steps:
            save(training, run / "checkpoint.pt")
        if training.step % (5 * check_every) == 0 or training.step == steps:
            log(run / "log.jsonl", {"step": training.step, **validate(training.average, held_out)})
    return training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", type=Path, required=True, help="folder of photographs with masks, in COCO's layout")
    parser.add_argument("--init", type=Path, help="weights to begin with, instead of random ones")
    parser.add_argument(
        "--average",
        nargs=2,
        metavar=("FILE", "SHARE"),
        help="begin with a weighted mean: this share of other weights, and the rest of those of --init",
    )
    parser.add_argument("--drawn", type=float, default=DRAWN, help="fraction of drawn scenes (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=SegmenterTraining.peak_rate, help="peak (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--run",
        type=Path,
        default=Path("runs/segmenter"),
        help="folder of the checkpoint and the log; resumed if it exists",
    )
    parser.add_argument("--out", type=Path, default=MODEL_FILE.with_suffix(".pt"))
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--processes", type=int, default=2, help="each draws its own batch; gradients are averaged")
    parser.add_argument("--compile", action="store_true", help="compile the image encoder")
    parser.add_argument(
        "--export-only", action="store_true", help="write the averaged weights of the checkpoint and stop"
    )
    args = parser.parse_args()
    if args.export_only:
        training = start(build_model())
        resume(training, args.run / "checkpoint.pt")
        export(training.average, args.out)
    elif args.processes == 1:
        _train_and_export(args)
    else:
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(_join_group, (Path(folder) / "group", args), nprocs=args.processes)


def _join_group(rank: int, meeting: Path, args: argparse.Namespace) -> None:
    dist.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=args.processes)
    _train_and_export(args)
    dist.destroy_process_group()


def _initial(args: argparse.Namespace) -> dict[str, Tensor] | None:
    """Weights to begin with."""
    if args.init is None:
        return None
    first = torch.load(args.init, weights_only=True)["model"]
    if args.average is None:
        return first
    other, share = torch.load(args.average[0], weights_only=True)["model"], float(args.average[1])
    return {
        name: torch.lerp(value.float(), other[name].float(), share) if value.is_floating_point() else value
        for name, value in first.items()
    }


def _train_and_export(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    config = SegmenterTraining(peak_rate=args.rate, drawn=args.drawn)
    training = train(args.steps, args.seed, args.run, config, args.pool, _initial(args), compiled=args.compile)
    if not dist.is_initialized() or dist.get_rank() == 0:
        export(training.average, args.out)


if __name__ == "__main__":
    main()
