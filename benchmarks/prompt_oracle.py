"""Upper bound of sparse prompts for SAM2: tokens optimised against the true mask of each image.

    python -m benchmarks.prompt_oracle --tokens 1 4 16 50

A visual reference prompt can be no better than the best tokens for an image. If these miss the objects too, it is the
decoder that limits it, not the training or the reference. The masks are those of a single object, which SAM2 was
trained for, and of all objects of a class, which a reference prompt is asked for. For comparison, a click in the middle
of the largest object, and the tokens with a dense prompt, optimised too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring import markdown_table
from benchmarks.worlds import WORLDS
from nts.images import normalise, stretch
from nts.models import load_segmenter
from nts.segmenter import ImageEmbedding, Segmenter
from nts.vrp.training.loss import mask_loss

WORLD = "validation-1"
RATE = 0.05


def problems(count: int) -> tuple[list[np.ndarray], dict[str, Tensor]]:
    """Images with several objects of a class, and true masks, bool ``[count, H, W]``, of one and of all of them."""
    world = WORLDS[WORLD]
    images, single, union = [], [], []
    for scene in world.targets(20 * count):
        for species in world.novel:
            of_class = scene.masks[scene.species == species]
            if len(of_class) > 1 and len(images) < count:
                images.append(scene.image)
                single.append(max(of_class, key=np.count_nonzero))
                union.append(of_class.any(0))
                break
    return images, {
        "one object": torch.from_numpy(np.stack(single)),
        "all of a class": torch.from_numpy(np.stack(union)),
    }


def embed(segmenter: Segmenter, images: Sequence[np.ndarray]) -> ImageEmbedding:
    """Embeddings of the images, one after the other in each tensor."""
    made = [segmenter.embed(normalise(stretch(image, segmenter.input_size))) for image in images]
    levels = zip(*(each.high_resolution for each in made), strict=True)
    return ImageEmbedding(torch.cat([each.features for each in made]), tuple(torch.cat(level) for level in levels))


def optimise(
    segmenter: Segmenter, embedding: ImageEmbedding, truth: Tensor, tokens: int, steps: int, *, dense: bool = False
) -> Tensor:
    """IoU ``[B]`` of the masks of the best tokens found.

    Args:
        segmenter: SAM2, frozen.
        embedding: of ``B`` images.
        truth: bool ``[B, H, W]``.
        tokens: number of tokens for each image.
        steps: of Adam.
        dense: optimise a dense prompt too.
    """
    torch.manual_seed(0)
    count, width = len(truth), segmenter.info.prompt_dim
    side = segmenter.mask_side
    goal = F.adaptive_avg_pool2d(truth[:, None].float(), side)[:, 0]
    sparse = torch.randn(count, tokens, width).requires_grad_()
    extra = torch.zeros(count, width, side // 4, side // 4).requires_grad_() if dense else None
    optimiser = torch.optim.Adam([sparse, extra] if extra is not None else [sparse], lr=RATE)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - step / steps)
        logits = segmenter.decode(embedding, sparse, extra).mask_logits
        # Images do not share tokens, so the sum over them optimises each by itself.
        loss = count * mask_loss(logits, (goal > 0.5).float(), torch.ones_like(goal, dtype=torch.bool))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return _iou(segmenter.decode(embedding, sparse, extra).mask_logits, truth)


def clicked(segmenter: Segmenter, images: Sequence[np.ndarray], truth: Tensor) -> Tensor:
    """IoU ``[B]`` of the best of SAM2's masks for a click on the middle of each mask."""
    found = []
    for image, mask in zip(images, truth, strict=True):
        ys, xs = mask.nonzero().T
        nearest = ((ys - ys.float().mean()) ** 2 + (xs - xs.float().mean()) ** 2).argmin()
        point = torch.tensor([[float(xs[nearest]), float(ys[nearest])]]) * segmenter.input_size / mask.shape[1]
        embedding = segmenter.embed(normalise(stretch(image, segmenter.input_size)))
        logits, _ = segmenter.predict_points(embedding, point[None], torch.ones(1, 1))
        found.append(_iou(logits.flatten(0, -3), mask[None]).amax())
    return torch.stack(found)


def _iou(logits: Tensor, truth: Tensor) -> Tensor:
    masks = F.interpolate(logits[:, None], truth.shape[1:], mode="bilinear", antialias=False)[:, 0] > 0
    return (masks & truth).flatten(1).sum(1) / (masks | truth).flatten(1).sum(1).clamp(min=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 4, 16, 50])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--segmenter", default="small")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    args = parser.parse_args()
    segmenter = load_segmenter(args.segmenter, "cpu", "float32")
    images, masks = problems(args.images)
    embedding = embed(segmenter, images)
    rows = {}
    for name, truth in masks.items():
        rows[name] = {"a click": clicked(segmenter, images, truth)}
        rows[name] |= {f"{n} tokens": optimise(segmenter, embedding, truth, n, args.steps) for n in args.tokens}
        most = max(args.tokens)
        rows[name][f"{most} and a dense prompt"] = optimise(segmenter, embedding, truth, most, args.steps, dense=True)
    means = {name: {column: float(iou.mean()) for column, iou in row.items()} for name, row in rows.items()}
    head = ["mask", *next(iter(means.values()))]
    print(markdown_table(head, [[name, *(f"{value:.2f}" for value in row.values())] for name, row in means.items()]))
    if args.out:
        args.out.write_text(json.dumps(means, indent=1) + "\n")


if __name__ == "__main__":
    main()
