"""Write the golden cases to this folder: `python tests/golden/make.py`, from the repository's root.

The expected results are computed by `reference_implementation/published_recipe.py`, a direct implementation of the
paper.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
from problems import make_problem  # noqa: E402

from reference_implementation import published_recipe  # noqa: E402

CASES = {
    "one_shot": ({"shots": 1}, {}),
    "three_shot": ({"shots": 3, "proposals": 60}, {}),
    "many_classes": ({"classes": 12, "proposals": 60}, {}),
    "strict_nms": ({"proposals": 80}, {"nms_iou": 0.2}),
    "crowded_top10": ({"proposals": 100, "classes": 2}, {"max_instances": 10}),
    "tall_image": ({"image_size": (131, 37)}, {}),
    "tiny_image": ({"image_size": (20, 12)}, {}),
}


def main() -> None:
    """Draw each case from its seed, solve it, and store problem and solution."""
    for seed, (name, (sizes, constants)) in enumerate(CASES.items()):
        problem = make_problem(seed, **sizes)
        instance_means = torch.stack(
            [
                torch.stack([published_recipe.instance_mean(t, w) for t, w in zip(tokens, weights, strict=True)])
                for tokens, weights in zip(problem.reference_tokens, problem.reference_weights, strict=True)
            ]
        )
        prototypes = torch.stack([published_recipe.class_mean(means) for means in instance_means])
        answer = published_recipe.match(
            problem.tokens, problem.mask_logits, problem.predicted_iou, prototypes, problem.image_size, **constants
        )
        np.savez_compressed(
            Path(__file__).with_name(f"{name}.npz"),
            ref_tokens=problem.reference_tokens,
            ref_masks=problem.reference_weights,
            instance_prototypes=instance_means,
            target_tokens=problem.tokens,
            mask_logits=problem.mask_logits,
            predicted_iou=problem.predicted_iou,
            original_size=problem.image_size,
            max_instances=constants.get("max_instances", 100),
            nms_iou=constants.get("nms_iou", 0.5),
            scores=answer.scores,
            labels=answer.labels,
            boxes_xyxy=answer.boxes,
            masks_packed=np.packbits(answer.masks.flatten(1), axis=1),
        )


if __name__ == "__main__":
    main()
