"""Train the small SAM2 on drawn scenes: a click or a box to three masks and their predicted IoU.

    python -m training.train_segmenter --steps 8000 --out nts/small/segmenter/small_sam2.pt

A click on a part may denote the part or the whole. The best of three masks is compared with the whole object and, with
a smaller weight, the best for the part with the part. The target of the predicted IoU is the IoU with the whole object,
or slightly less than the IoU with the part: it must rank wholes above parts, parts above other pieces, and masks of
objects above masks from clicks on the background.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from nts.images import normalise
from nts.models import build_sam2
from nts.utils.training_loop import Training, advance, learning_rate, log, mean_of, resume, save, start
from synthetic.scenes import SIDE, TRAIN_SPECIES, VALIDATION_SPECIES, Scene, draw_scene

MODEL_FILE = Path(__file__).parents[1] / "nts" / "small" / "segmenter" / "small_sam2.yaml"
LOGIT_SIDE = 64


@dataclass(frozen=True)
class SegmenterTraining:
    """Constants of the training."""

    scenes: int = 4
    clicks: int = 12
    background_clicks: int = 2  # among the clicks
    boxes_every: int = 8  # every n-th step uses boxes instead of clicks
    peak_rate: float = 6e-4
    focal_weight: float = 20.0
    part_weight: float = 0.3
    part_credit: float = 0.85  # factor of the IoU with the part under the click
    mean_weight: float = 0.1
    single_weight: float = 0.2
    iou_weight: float = 2.0


@dataclass(frozen=True)
class Prompts:
    """``n`` prompts of a batch of scenes.

    Attributes:
        scene: int64 ``[n]``, index of the scene.
        points: float ``[n, P, 2]``, ``x, y`` in pixels.
        labels: int64 ``[n, P]``, 1 for a click, 2 and 3 for the corners of a box.
        wholes: float ``[n, S, S]``, fraction of each cell that the object covers; 0 for a click on the background.
        pieces: float ``[n, S, S]``, the same for the part under the click.
    """

    scene: Tensor
    points: Tensor
    labels: Tensor
    wholes: Tensor
    pieces: Tensor


def build_model() -> nn.Module:
    """Build the untrained SAM2 of the model file."""
    return build_sam2(MODEL_FILE)


def draw_batch(rng: np.random.Generator, numbers: range, count: int) -> list[Scene]:
    """Draw scenes of six species each, including a pair of look-alikes."""
    scenes = []
    for seed in rng.integers(2**31, size=count):
        pool = rng.integers(numbers.start // 2, numbers.stop // 2, size=5) * 2
        scenes.append(draw_scene(int(seed), [*pool, pool[0] + 1]))
    return scenes


def draw_prompts(
    rng: np.random.Generator, scenes: list[Scene], clicks: int, background: int, boxes: bool, side: int = LOGIT_SIDE
) -> Prompts:
    """Clicks on random visible pixels of objects in turn and of the background, or a loose box of each object."""
    rows: list[tuple[int, np.ndarray, list[int], np.ndarray, np.ndarray]] = []
    for s, scene in enumerate(scenes):
        nothing = np.zeros(scene.parts.shape, bool)
        order = rng.permutation(len(scene.masks))
        for c in range(clicks):
            if not len(order) or (c < background and not boxes):
                y, x = _random_pixel(rng, ~scene.masks.any(0))
                rows.append((s, _near(rng, x, y), [1], nothing, nothing))
                continue
            whole = scene.masks[order[c % len(order)]]
            if boxes:
                rows.append((s, _loose_box(rng, whole), [2, 3], whole, whole))
                continue
            y, x = _random_pixel(rng, whole)
            rows.append((s, _near(rng, x, y), [1], whole, whole & (scene.parts == scene.parts[y, x])))
    scene_index, points, labels, wholes, pieces = zip(*rows, strict=True)
    return Prompts(
        torch.tensor(scene_index),
        torch.from_numpy(np.stack(points)).float(),
        torch.tensor(labels),
        _shrink(wholes, side),
        _shrink(pieces, side),
    )


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


def _shrink(masks: tuple[np.ndarray, ...], side: int) -> Tensor:
    """Covered fraction of each cell: with soft edges, enlarged logits can cross zero between grid points."""
    stacked = np.stack(masks)
    cell = stacked.shape[1] // side
    return torch.from_numpy(stacked.reshape(len(stacked), side, cell, side, cell).mean((2, 4), dtype=np.float32))


def decode(model: nn.Module, images: Tensor, prompts: Prompts, add_no_mem: bool) -> tuple[Tensor, Tensor, Tensor]:
    """All four masks of every prompt.

    Returns mask logits [n, 4, 64, 64], predicted IoU [n, 4], object score logits [n, 1].
    """
    fine, middle, coarse = model.forward_image(images)["backbone_fpn"]
    if add_no_mem:
        coarse = coarse + model.no_mem_embed.reshape(1, -1, 1, 1)
    sparse, dense = model.sam_prompt_encoder((prompts.points, prompts.labels), boxes=None, masks=None)
    logits, iou, _, objectness = model.sam_mask_decoder.predict_masks(
        image_embeddings=coarse[prompts.scene],
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=False,
        high_res_features=[fine[prompts.scene], middle[prompts.scene]],
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
    model: nn.Module, rng: np.random.Generator, config: SegmenterTraining, dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, dict[str, float]]:
    """Loss of one batch of freshly drawn scenes, and numbers for the log."""
    scenes = draw_batch(rng, TRAIN_SPECIES, config.scenes)
    boxes = rng.integers(config.boxes_every) == 0
    prompts = draw_prompts(rng, scenes, config.clicks, config.background_clicks, boxes)
    images = images_tensor(np.stack([s.image for s in scenes]))
    # Presets differ in whether no_mem_embed is added: train for both.
    add_no_mem = bool(rng.integers(2))
    # The plain attention is the faster one: on a CPU the fused kernel's backward pass is slow for short sequences.
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32), sdpa_kernel(SDPBackend.MATH):
        logits, iou, objectness = decode(model, images, prompts, add_no_mem)

    real = prompts.wholes.amax((1, 2)) > 0.5
    losses = mask_loss(logits[real], prompts.wholes[real], config.focal_weight)
    whole = losses[:, 1:].amin(1).mean()
    piece = mask_loss(logits[real, 1:], prompts.pieces[real], config.focal_weight).amin(1).mean()
    with torch.no_grad():
        truth = mask_iou(logits, prompts.wholes)
        credited = torch.maximum(truth, config.part_credit * mask_iou(logits, prompts.pieces))
    iou_error = (iou - credited).square().mean()
    presence = F.binary_cross_entropy_with_logits(objectness[:, 0], real.float())
    loss = (
        whole
        + config.part_weight * piece
        + config.mean_weight * losses[:, 1:].mean()
        + config.single_weight * losses[:, 0].mean()
        + config.iou_weight * iou_error
        + 0.1 * presence
    )
    chosen = truth[:, 1:].gather(1, iou[:, 1:].argmax(1, keepdim=True))[real].mean()
    return loss, {"whole": float(whole.detach()), "chosen_iou": float(chosen), "iou_error": float(iou_error.detach())}


@torch.inference_mode()
def validate(model: nn.Module, scenes: int = 48, clicks: int = 12) -> dict[str, float]:
    """On held-out species: IoU of the mask with the highest predicted IoU, IoU of the best mask, and predicted IoU."""
    rng = np.random.default_rng(5)
    model.eval()
    results = []
    for _ in range(scenes // 8):
        batch = draw_batch(rng, VALIDATION_SPECIES, 8)
        prompts = draw_prompts(rng, batch, clicks, 2, boxes=False, side=SIDE)
        images = images_tensor(np.stack([s.image for s in batch]))
        with torch.autocast("cpu", torch.bfloat16):
            logits, iou, _ = decode(model, images, prompts, add_no_mem=False)
        truth = mask_iou(F.interpolate(logits[:, 1:], size=(SIDE, SIDE), mode="bilinear"), prompts.wholes)
        predicted, at = iou[:, 1:].max(1)
        real = prompts.wholes.amax((1, 2)) > 0.5
        chosen = truth.gather(1, at[:, None])[real, 0]
        results.append(
            {
                "val_chosen_iou": float(chosen.mean()),
                "val_best_iou": float(truth[real].amax(1).mean()),
                "val_above_half": float((chosen > 0.5).float().mean()),
                "val_above_three_quarters": float((chosen > 0.75).float().mean()),
                "val_predicted_on_object": float(predicted[real].mean()),
                "val_predicted_on_background": float(predicted[~real].mean()),
            }
        )
    return mean_of(results)


def export(model: nn.Module, path: Path) -> None:
    """Write half precision weights in the format of the released checkpoints."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}}, path)


def train(
    steps: int, seed: int, run: Path, config: SegmenterTraining, log_every: int = 100, check_every: int = 200
) -> Training:
    """Train up to `steps`, resuming from the checkpoint in `run` if there is one."""
    torch.manual_seed(seed)
    training = start(build_model())
    if (run / "checkpoint.pt").exists():
        resume(training, run / "checkpoint.pt")
    began, entries = time.perf_counter(), []
    while training.step < steps:
        rate = learning_rate(training.step, steps, config.peak_rate)
        entries.append(advance(training, partial(step_loss, config=config), seed=seed, rate=rate))
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
            log(run / "log.jsonl", {"step": training.step, **validate(training.average)})
    return training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--run",
        type=Path,
        default=Path("runs/segmenter"),
        help="folder of the checkpoint and the log; resumed if it exists",
    )
    parser.add_argument("--out", type=Path, default=MODEL_FILE.with_suffix(".pt"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--export-only", action="store_true", help="write the averaged weights of the checkpoint and stop"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.export_only:
        training = start(build_model())
        resume(training, args.run / "checkpoint.pt")
    else:
        training = train(args.steps, args.seed, args.run, SegmenterTraining())
    export(training.average, args.out)


if __name__ == "__main__":
    main()
