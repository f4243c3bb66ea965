"""Golden cases of the matching.

`tests/golden/` holds cases that the project generates by its reference implementation. A folder `shared/` beside the
checkout may hold more in the same format, made by the publication's own code.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from paths import ROOT, SHARED

from nts.images import prepare_target, read_image
from nts.matching import MatchingConfig, match_proposals
from nts.memory import class_prototype, instance_prototype
from nts.presets import PAPER
from nts.references import Reference, prepare_reference

OWN = ROOT / "tests" / "golden"
CASES = [*sorted(OWN.glob("*.npz")), *(p for p in sorted(SHARED.glob("golden/*.npz")) if p.stem != "inputs")]


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
def test_matching_reproduces_the_golden_case(path):
    case = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    instances = torch.stack(
        [
            torch.stack([instance_prototype(t, m) for t, m in zip(tokens, masks, strict=True)])
            for tokens, masks in zip(case["ref_tokens"], case["ref_masks"], strict=True)
        ]
    )
    assert torch.allclose(instances, case["instance_prototypes"], atol=1e-5)
    height, width = case["original_size"].tolist()
    found = match_proposals(
        case["target_tokens"],
        case["mask_logits"],
        case["predicted_iou"],
        torch.stack([class_prototype(of_class) for of_class in instances]),
        (height, width),
        MatchingConfig(nms_iou=case["nms_iou"].item(), max_instances=case["max_instances"].item()),
    )
    assert found.labels.tolist() == case["labels"].tolist()
    assert (found.scores - case["scores"]).abs().max() < 1e-5
    masks = np.unpackbits(case["masks_packed"].numpy(), axis=1)[:, : height * width].reshape(-1, height, width)
    assert (found.masks.numpy() != masks.astype(bool)).sum((1, 2)).max() <= 2
    inclusive = found.boxes - torch.tensor([0, 0, 1, 1])
    assert (inclusive - case["boxes_xyxy"]).abs().max() <= 1


@pytest.mark.skipif(
    not (SHARED / "golden/inputs.npz").exists(), reason="the published inputs are not beside the checkout"
)
def test_paper_preset_prepares_images_and_masks_as_published():
    case = np.load(SHARED / "golden/inputs.npz")
    for i, photo in enumerate(case["photo"]):
        image = read_image(SHARED / "photos/images" / str(photo), exif=PAPER.exif)
        reference = Reference(image, "object", case["mask"][i], tuple(case["bbox"][i].tolist()))
        pixels, weights = prepare_reference(
            reference, 518, (37, 37), antialias=PAPER.antialias, patch_weights=PAPER.patch_weights
        )
        encoder_input, segmenter_input = prepare_target(image, 518, 1024, antialias=PAPER.antialias)
        assert np.abs(pixels[:, 7::14, 7::14].numpy() - case["reference_input"][i]).max() < 2e-3
        assert np.abs(weights.numpy() - case["reference_weights"][i]).max() < 1e-4
        assert np.abs(encoder_input[:, 7::14, 7::14].numpy() - case["target_encoder_input"][i]).max() < 2e-3
        assert np.abs(segmenter_input[:, 8::16, 8::16].numpy() - case["target_segmenter_input"][i]).max() < 2e-3
