"""Published figures of few-shot methods, in percent.

Some figures come from reprints or from memory; their ``source`` says so. They are landmarks, not evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Published:
    """Published figures of a method under a protocol.

    Attributes:
        method: name of the method.
        shots: references per class; ``None`` for a mean over several numbers.
        seeds: draws of references, such as ``"10 seeds"`` or ``"33"``.
        split: the evaluated split, if it is not exactly the protocol's.
        figures: percent by name, such as ``"boxes ap"``, ``"boxes ap std"`` or ``"miou"``.
        source: publication of the figures, and their reliability.
    """

    method: str
    shots: int | None
    seeds: str
    split: str | None
    figures: Mapping[str, float]
    source: str


_OURS = "No time to train!"
_ABLATION = "No time to train!, the repository's ablation of the ten seeds (mean, standard deviation, seed 33, range)"
_README = (
    "No time to train!, the repository's README: the same seed as in the ablation, after the code had changed "
    "(the ablation has 37.3 / 34.7); a run anywhere between is a match"
)
_DEV_LOG = "No time to train!, development log of an older version, on a part of the validation images"
_REPRINT = "quoted from the tables of FSOD-VFM (arXiv 2602.03137), read from images of them; not checked at the source"
_VRP_1 = "VRP-SAM (CVPR 2024), Table 1"
_VRP_2 = "VRP-SAM (CVPR 2024), Table 2"
_VRP_3 = "VRP-SAM (CVPR 2024), Table 3; Tables 1 and 3 differ by 0.1 to 0.2 for points and scribbles"
_VRP_7 = "VRP-SAM (CVPR 2024), Table 7"
_LOGS = "GF-SAM's own logs, as quoted in a comparison with VRP-SAM"
_SANSA = "SANSA, appendix, Table 7: VRP-SAM run again by others; not checked at the source"
_VLP = "VLP-SAM, figure of results: VRP-SAM run again by others; not checked at the source"
_LATER = "quoted from a comparison of frozen models; not checked at the source"

# shots: (boxes mean, std, masks mean, std, boxes of seed 33, masks of seed 33, lowest and highest boxes)
_COCO_SEEDS = {
    1: (24.5, 1.5, 22.9, 1.6, 25.6, 24.1, 22.0, 26.8),
    2: (29.5, 2.0, 27.5, 1.9, 30.7, 28.5, 25.1, 31.4),
    3: (32.3, 1.3, 30.1, 1.3, 32.4, 29.7, 29.3, 34.0),
    5: (34.4, 0.8, 32.1, 0.7, 35.1, 32.4, 33.0, 35.7),
    10: (35.9, 0.5, 33.4, 0.5, 36.6, 33.8, 35.1, 36.6),
    30: (37.0, 0.2, 34.4, 0.2, 37.3, 34.7, 36.6, 37.3),
}
# method: shots: (AP, AP50, AP75) of boxes
_COCO_COMPARED = {
    _OURS: {10: (36.6, 54.1, 38.3), 30: (36.8, 54.5, 38.7)},
    "DE-ViT-L": {10: (34.0, 53.0, 37.0), 30: (34.0, 52.9, 37.2)},
    "CD-ViTO (fine-tuned)": {10: (35.3, 54.9, 37.2), 30: (35.9, 54.5, 38.0)},
    "FSOD-VFM": {10: (44.0, 59.4, 47.6), 30: (45.8, 61.9, 49.4)},
}
VOC_SHOTS = (1, 2, 3, 5, 10)
"""Numbers of shots of the published figures on PASCAL VOC."""
# method: AP50 of boxes by split, for every number of shots; and the mean of all
_VOC_COMPARED = {
    _OURS: (
        {1: (70.8, 72.3, 73.3, 77.2, 79.1), 2: (54.5, 67.0, 76.3, 75.9, 78.2), 3: (61.1, 67.9, 71.3, 70.8, 72.6)},
        71.2,
    ),
    "FSOD-VFM": (
        {1: (77.5, 82.3, 83.0, 85.8, 85.8), 2: (64.8, 68.0, 77.4, 79.5, 81.6), 3: (65.3, 75.1, 78.7, 78.2, 79.3)},
        77.5,
    ),
    "DE-ViT-B": (
        {1: (56.9, 61.8, 68.0, 73.9, 72.8), 2: (45.3, 47.3, 58.2, 59.8, 60.6), 3: (58.6, 62.3, 62.7, 64.6, 67.8)},
        61.4,
    ),
}
CD_FSOD_SHOTS = (1, 5, 10)
"""Numbers of shots of CD-FSOD's shot files."""
# method: AP of boxes by data set, for every number of shots
_CD_FSOD_COMPARED = {
    _OURS: {
        "ArTaxOr": (28.2, 35.7, 35.0),
        "clipart1k": (18.9, 24.9, 25.9),
        "DIOR": (14.9, 18.5, 16.4),
        "FISH": (30.5, 28.9, 29.6),
        "NEU-DET": (5.5, 5.2, 5.5),
        "UODD": (10.0, 20.2, 16.0),
        "mean of the six": (18.0, 22.4, 21.4),
    },
    "FSOD-VFM": {
        "ArTaxOr": (51.4, 62.0, 61.5),
        "clipart1k": (29.1, 43.7, 46.5),
        "DIOR": (18.3, 23.5, 22.5),
        "FISH": (35.0, 33.9, 34.3),
        "NEU-DET": (5.9, 7.4, 7.2),
        "UODD": (11.8, 17.3, 17.5),
        "mean of the six": (25.3, 31.3, 31.6),
    },
    "DE-ViT (not fine-tuned)": {
        "ArTaxOr": (0.4, 10.1, 9.2),
        "clipart1k": (0.5, 5.5, 11.0),
        "DIOR": (2.7, 7.8, 8.4),
        "FISH": (0.4, 2.5, 2.1),
        "NEU-DET": (0.4, 1.5, 1.8),
        "UODD": (1.5, 3.1, 3.1),
        "mean of the six": (1.0, 5.1, 5.9),
    },
    "CD-ViTO (fine-tuned)": {
        "ArTaxOr": (21.0, 47.9, 60.5),
        "clipart1k": (17.7, 41.1, 44.3),
        "DIOR": (17.8, 26.9, 30.8),
        "FISH": (20.3, 22.3, 22.3),
        "NEU-DET": (3.6, 11.4, 12.8),
        "UODD": (3.1, 6.8, 7.0),
        "mean of the six": (13.9, 26.1, 29.6),
    },
}
# method: mIoU of folds 0 to 3 and their mean, one reference
_COCO_FOLDS_1 = {
    "Painter": (31.2, 35.3, 33.5, 32.4, 33.1),
    "SegGPT (trained on COCO)": (56.3, 57.4, 58.9, 51.7, 56.1),
    "PerSAM": (23.1, 23.6, 22.0, 23.4, 23.0),
    "PerSAM-F": (22.3, 24.0, 23.4, 24.1, 23.5),
    "Matcher": (52.7, 53.5, 52.6, 52.1, 52.7),
    "VRP-SAM ResNet-50, point": (30.1, 39.2, 43.0, 40.4, 38.2),
    "VRP-SAM ResNet-50, scribble": (40.2, 52.0, 52.4, 44.4, 47.2),
    "VRP-SAM ResNet-50, box": (44.5, 49.3, 55.7, 49.1, 49.7),
    "VRP-SAM ResNet-50, mask": (48.1, 55.8, 60.0, 51.6, 53.9),
}
# method: (COCO-20i, PASCAL-5i)
_FOLDS_2 = {
    "PFENet VGG-16": ((35.4, 38.1, 36.8, 34.7, 36.3), (56.9, 68.2, 54.5, 52.4, 58.0)),
    "BAM VGG-16": ((36.4, 47.1, 43.3, 41.7, 42.1), (63.2, 70.8, 66.1, 57.5, 64.4)),
    "HDMNet VGG-16": ((40.7, 50.6, 48.2, 44.0, 45.9), (64.8, 71.4, 67.7, 56.4, 65.1)),
    "VRP-SAM VGG-16, mask": ((43.6, 51.7, 50.0, 46.5, 48.0), (70.0, 74.7, 68.3, 61.9, 68.7)),
    "PFENet ResNet-50": ((36.5, 38.6, 34.5, 33.8, 35.8), (61.7, 69.5, 55.4, 56.3, 60.8)),
    "HSNet ResNet-50": ((36.3, 43.1, 38.7, 38.7, 39.2), (64.3, 70.7, 60.3, 60.5, 64.0)),
    "CyCTR ResNet-50": ((38.9, 43.0, 39.6, 39.8, 40.3), (65.7, 71.0, 59.5, 59.7, 64.0)),
    "SSP ResNet-50": ((35.5, 39.6, 37.9, 36.7, 37.4), (60.5, 67.8, 66.4, 51.0, 61.4)),
    "NTRENet ResNet-50": ((36.8, 42.6, 39.9, 37.9, 39.3), (65.4, 72.3, 59.4, 59.8, 64.2)),
    "DPCN ResNet-50": ((42.0, 47.0, 43.3, 39.7, 43.0), (65.7, 71.6, 69.1, 60.6, 66.7)),
    "VAT ResNet-50": ((39.0, 43.8, 42.6, 39.7, 41.3), (67.6, 72.0, 62.3, 60.1, 65.5)),
    "BAM ResNet-50": ((39.4, 49.9, 46.2, 45.2, 45.2), (69.0, 73.6, 67.6, 61.1, 67.8)),
    "HDMNet ResNet-50": ((43.8, 55.3, 51.6, 49.4, 50.0), (71.0, 75.4, 68.9, 62.1, 69.4)),
    "VRP-SAM ResNet-50, mask": ((48.1, 55.8, 60.0, 51.6, 53.9), (73.9, 78.3, 70.6, 65.0, 71.9)),
    "DCAMA Swin-B": ((49.5, 52.7, 52.8, 48.7, 50.9), (72.2, 73.8, 64.3, 67.1, 69.3)),
}
# method: (shots, mean over the folds, source)
_COCO_MEANS = (
    ("GP-SAM ResNet-50, box", 1, 19.7, _VRP_3),
    ("GP-SAM ResNet-50, point", 1, 21.7, _VRP_3),
    ("GP-SAM ResNet-50, box and point", 1, 23.2, _VRP_3),
    ("GP-SAM DINOv2, box", 1, 31.3, _VRP_3),
    ("GP-SAM DINOv2, point", 1, 36.6, _VRP_3),
    ("GP-SAM DINOv2, box and point", 1, 37.8, _VRP_3),
    ("VRP-SAM ResNet-50, point", 1, 38.4, _VRP_3),
    ("VRP-SAM ResNet-50, scribble", 1, 47.3, _VRP_3),
    ("VRP-SAM DINOv2, mask", 1, 60.4, _VRP_3),
    ("GF-SAM", 1, 58.7, _LOGS),
    ("GF-SAM", 5, 66.8, _LOGS),
    ("VRP-SAM ResNet-50 with SAM2-L, mask", 1, 54.3, _SANSA),
    ("VRP-SAM ResNet-50, mask, run again", 1, 50.41, _VLP),
    ("SANSA, mask", 1, 60.2, _LATER),
    ("INSID3", 1, 57.6, _LATER),
    ("FoRIS", 1, 60.9, _LATER),
    ("FSS-SAM3 (visual prompts only)", 1, 66.6, _LATER),
)
_PASCAL_MEANS = (
    ("VRP-SAM ResNet-50, point", 1, 62.9, _VRP_7),
    ("VRP-SAM ResNet-50, point", 5, 64.1, _VRP_7),
    ("VRP-SAM ResNet-50, scribble", 1, 66.8, _VRP_7),
    ("VRP-SAM ResNet-50, scribble", 5, 68.4, _VRP_7),
    ("VRP-SAM ResNet-50, box", 1, 69.4, _VRP_7),
    ("VRP-SAM ResNet-50, box", 5, 70.5, _VRP_7),
    ("VRP-SAM ResNet-50, mask", 1, 71.9, _VRP_7),
    ("VRP-SAM ResNet-50, mask", 5, 72.9, _VRP_7),
    ("VRP-SAM ResNet-50, mask, run again", 1, 70.66, _VLP),
)
_EPISODES = "1000 episodes"


def coco_published() -> Iterator[Published]:
    """Figures on the 20 novel classes of COCO."""
    for shots, (boxes, boxes_std, masks, masks_std, boxes_33, masks_33, low, high) in _COCO_SEEDS.items():
        mean = {
            "boxes ap": boxes,
            "boxes ap std": boxes_std,
            "masks ap": masks,
            "masks ap std": masks_std,
            "boxes ap min": low,
            "boxes ap max": high,
        }
        yield Published(_OURS, shots, "10 seeds", None, mean, _ABLATION)
        yield Published(_OURS, shots, "33", None, {"boxes ap": boxes_33, "masks ap": masks_33}, _ABLATION)
    yield Published(_OURS, 30, "33", None, {"boxes ap": 36.8, "masks ap": 34.2}, _README)
    for method, by_shots in _COCO_COMPARED.items():
        for shots, values in by_shots.items():
            figures = dict(zip(("boxes ap", "boxes ap50", "boxes ap75"), values, strict=True))
            yield Published(method, shots, "33" if method == _OURS else "not stated", None, figures, _REPRINT)


def voc_published(split: int) -> Iterator[Published]:
    """Figures on a split of PASCAL VOC, 1 to 3."""
    for method, (by_split, mean) in _VOC_COMPARED.items():
        seeds = "33" if method == _OURS else "not stated"
        for shots, value in zip(VOC_SHOTS, by_split[split], strict=True):
            yield Published(method, shots, seeds, None, {"boxes ap50": value}, _REPRINT)
        yield Published(method, None, seeds, "mean of all shots and splits", {"boxes ap50": mean}, _REPRINT)


def cd_fsod_published(folder: str) -> Iterator[Published]:
    """Figures on a data set of CD-FSOD, by the name of its folder."""
    for method, by_set in _CD_FSOD_COMPARED.items():
        for name, split in ((folder, None), ("mean of the six", "mean of the six data sets")):
            for shots, value in zip(CD_FSOD_SHOTS, by_set[name], strict=True):
                doubt = ""
                if method == _OURS and folder == "FISH" and shots == 5 and split is None:
                    doubt = "; the published mean of 22.4 needs about 29.6, which is also how the paper is remembered"
                yield Published(method, shots, "shot files", split, {"boxes ap": value}, _REPRINT + doubt)


def episodes_published(kind: Literal["coco", "pascal"], fold: int) -> Iterator[Published]:
    """Figures on a fold, 0 to 3, of COCO-20i or PASCAL-5i."""
    tables = [(_VRP_1, _COCO_FOLDS_1)] if kind == "coco" else []
    tables.append((_VRP_2, {method: both[0 if kind == "coco" else 1] for method, both in _FOLDS_2.items()}))
    for source, table in tables:
        for method, values in table.items():
            yield Published(method, 1, _EPISODES, None, {"miou": values[fold]}, source)
            yield Published(method, 1, _EPISODES, "mean of the folds", {"miou": values[4]}, source)
    for method, shots, mean, source in _COCO_MEANS if kind == "coco" else _PASCAL_MEANS:
        yield Published(method, shots, _EPISODES, "mean of the folds", {"miou": mean}, source)


COCO_80_PUBLISHED = (
    Published(_OURS, 5, "not stated", "all classes, part of val2017", {"boxes ap": 19.5, "masks ap": 19.2}, _DEV_LOG),
)
"""Figures on all 80 classes of COCO."""
