"""Evaluation protocols of the field as data: classes, shots, seeds and figures.

A protocol states everything that must be equal for two numbers to be comparable, and nothing about the computation:
:mod:`nts.datasets.layouts` reads its data set, :mod:`nts.datasets.sampling` draws its references, and
:mod:`nts.datasets.published` lists the figures of others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from .published import (
    CD_FSOD_SHOTS,
    COCO_80_PUBLISHED,
    VOC_SHOTS,
    Published,
    cd_fsod_published,
    coco_published,
    episodes_published,
    voc_published,
)

# fmt: off
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
"""COCO's 80 classes by ascending category id."""

COCO_NOVEL = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "boat", "bird", "cat", "dog", "horse",
    "sheep", "cow", "bottle", "chair", "couch", "potted plant", "dining table", "tv",
)
"""COCO's 20 classes that are in PASCAL VOC too: the novel ones of few-shot detection."""

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
"""PASCAL VOC's 20 classes in alphabetical order."""

VOC_NOVEL = {
    1: ("bird", "bus", "cow", "motorbike", "sofa"),
    2: ("aeroplane", "bottle", "cow", "horse", "sofa"),
    3: ("boat", "cat", "motorbike", "sheep", "sofa"),
}
# fmt: on

SHOTS = (1, 2, 3, 5, 10, 30)
SEEDS = (42, 13, 27, 36, 88, 33, 69, 55, 77, 99)
"""Published seeds, in the published order. Headline figures are of seed 33, the best of them at ten shots."""


@dataclass(frozen=True)
class Protocol:
    """Evaluation protocol.

    Attributes:
        name: identifier, such as ``"coco-fsod"``.
        title: readable name.
        source: publication that defines it.
        layout: layout of its data set on disk, see :mod:`nts.datasets.layouts`.
        task: ``"instances"`` (find every object) or ``"semantic"`` (find all pixels of one class).
        novel_classes: the evaluated classes; all of the data set where ``None``.
        base_classes: the others, on which methods may train. This one does not, so their objects are distractors.
        shots: published numbers of references per class.
        seeds: of the draw of references, the published ones first.
        draw: rule for choosing references, see :func:`nts.datasets.sampling.draw_references`.
        evaluator: ``"coco"`` (COCOeval), ``"lvis"`` (federated), ``"episodes"`` (mIoU, FB-IoU).
        iou_types: geometries that are compared with the ground truth.
        headline: the main figure of a table.
        max_detections: results that count per image.
        published: figures of other methods.
        notes: caveats for readers of the figures.
        folder: name of the data set's folder in a collection of data sets; empty for other layouts.
        edition: release of the data set that the protocol was published on, such as ``"2017"``.
        class_count: number of classes of the data set, if ``novel_classes`` does not list them.
    """

    name: str
    title: str
    source: str
    layout: Literal["coco", "voc", "cd-fsod", "lvis", "fiftyone"]
    task: Literal["instances", "semantic"]
    novel_classes: tuple[str, ...] | None
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    draw: Literal["published", "shot-files", "lvis", "stratified", "episodes"]
    evaluator: Literal["coco", "lvis", "episodes"]
    iou_types: tuple[Literal["boxes", "masks"], ...]
    headline: str
    max_detections: int = 100
    base_classes: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()
    notes: tuple[str, ...] = ()
    folder: str = ""
    edition: str = ""
    class_count: int | None = None


def get_protocol(name: str) -> Protocol:
    """Return a protocol by its name.

    Raises:
        ValueError: if the name is unknown; the message lists the known ones.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"there is no protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def describe(protocol: Protocol, evaluated: Sequence[str] | None = None, *, published: bool = True) -> str:
    """Describe a protocol in Markdown, as every report of its numbers does.

    Args:
        protocol: to describe.
        evaluated: the evaluated classes, if they are not the protocol's.
        published: include the published figures.
    """
    novel = "all of the data set" if protocol.novel_classes is None else _count_and_names(protocol.novel_classes)
    instead = {} if evaluated is None else {"Classes evaluated instead": _count_and_names(evaluated)}
    rows = {
        "Source": protocol.source,
        "Classes evaluated" if evaluated is None else "Classes of the protocol": novel,
        **instead,
        "Base classes": _count_and_names(protocol.base_classes) if protocol.base_classes else "none",
        "References per class": _listed(protocol.shots),
        "Draw of references": _DRAWS[protocol.draw],
        "Seeds": "none: the references are given" if protocol.draw == "shot-files" else _listed(protocol.seeds),
        "Evaluator": _EVALUATORS[protocol.evaluator],
        "Headline figure": f"{protocol.headline} ({_counted(protocol)})",
    }
    lines = [f"### {protocol.title} (`{protocol.name}`)", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    if protocol.notes:
        lines += ["", *(f"* {note}" for note in protocol.notes)]
    if published and protocol.published:
        lines += ["", *_published_table(protocol.published)]
    return "\n".join(lines) + "\n"


_DRAWS = {
    "published": "the published rule: random within each class in the order of the file, no crowds, at least 32 px "
    "wide and high, 10 px from the border, one per image",
    "shot-files": "the benchmark's own shot files, every annotation once",
    "lvis": "the published rule; a class with too few that qualify repeats them, a class with none takes what it has",
    "stratified": "spread over images and object sizes, seeded",
    "episodes": "a class, a target and other images of the class as references, drawn for every episode",
}
_EVALUATORS = {
    "coco": "COCOeval of pycocotools, IoU 0.50:0.95, all areas",
    "lvis": "federated: a class counts only in the images in which it is known to be or not to be",
    "episodes": "mIoU (pixels summed over the episodes of a class, mean over classes) and FB-IoU",
}


def _counted(protocol: Protocol) -> str:
    """Unit of the headline figure."""
    if protocol.task == "semantic":
        return "percent; pixels are compared"
    return f"percent; {' and '.join(protocol.iou_types)} are compared, {protocol.max_detections} results per image"


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _count_and_names(names: Sequence[str]) -> str:
    return f"{len(names)}: {', '.join(names)}"


def _published_table(published: Sequence[Published]) -> Iterator[str]:
    """Lines of a Markdown table of the published figures, with the sources below it."""
    sources = list(dict.fromkeys(row.source for row in published))
    yield "| published | shots | seeds | split | figures in percent | source |"
    yield "|---|---:|---|---|---|---|"
    for row in published:
        figures = ", ".join(f"{name} {value:.1f}" for name, value in row.figures.items())
        shots = "" if row.shots is None else row.shots
        source = sources.index(row.source) + 1
        yield f"| {row.method} | {shots} | {row.seeds} | {row.split or ''} | {figures} | [{source}] |"
    yield ""
    yield from (f"{number}. {source}" for number, source in enumerate(sources, start=1))


# ----------------------------------------------------------------------------------------------------------------------
# The protocols

_DISTRACTORS = (
    "The method is shown no base class, so objects of the other classes are false positives waiting to happen; results "
    "for them are not asked for and cannot be got right."
)
_ONE_IN_TEN = (
    "The published headline figures are those of seed 33, at ten shots the best of the ten seeds (36.6); the mean of "
    "the ten seeds, 35.9 ± 0.5, is the fair target."
)
_AREAS = (
    "AP by size of masks takes a result's area from its mask; the publication's evaluation took it from the box, and "
    "so does the preset `paper`."
)
_VOC_MASKS = (
    "The data set has boxes and no masks: references get theirs from SAM2, prompted by the box (the publication used "
    "SAM's ViT-H), and only boxes are evaluated."
)
_EPISODE_NOTES = (
    "Episodes are drawn from the seed and their number alone, never from the order of workers or devices, so no two "
    "devices repeat each other's; VRP-SAM's published validation repeats the same episodes on all of them.",
    "VRP-SAM's episodes (seed 321) and those of HSNet, Matcher and GF-SAM (seed 0) are different ones; their figures "
    "and ours are of different episodes again. How far that moves a figure was not measured.",
    "VRP-SAM's published figures compare masks at 512 x 512 pixels; ours do so at the image's own size, unless a run "
    "is given `--side 512`.",
    "Class ids count from 1, 0 is the background, and all classes of the fold are evaluated. The semantic evaluation "
    "of No time to train! let 0 be a class too, and reached about 5 of the 20.",
    "Where instances are painted into one map, they are painted in ascending order of their scores, so that the best "
    "stays on top; the publication painted the other way round.",
    "Nothing is trained or chosen on the images or classes evaluated; VRP-SAM chose its checkpoint on the novel fold.",
    "mIoU is the mean over the classes of the fold of intersection over union, summed over the episodes of a class; a "
    "class without episodes is left out and named (published: it counts as 0). No FB-IoU was published with the "
    "methods below.",
)


def _without(classes: Sequence[str], novel: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in classes if name not in novel)


def _coco_few_shot() -> Protocol:
    return Protocol(
        name="coco-fsod",
        title="COCO few-shot, 20 novel classes",
        source="No time to train!, evaluation protocol; the class split of few-shot object detection on COCO",
        layout="coco",
        task="instances",
        novel_classes=COCO_NOVEL,
        base_classes=_without(COCO_CLASSES, COCO_NOVEL),
        shots=SHOTS,
        seeds=SEEDS,
        draw="published",
        evaluator="coco",
        iou_types=("boxes", "masks"),
        headline="boxes ap",
        published=tuple(coco_published()),
        notes=(
            "References are drawn from train2017; all images of val2017 are evaluated, with the ground truth filtered "
            "to the novel classes. Crowds are neither to be found nor mistakes.",
            _DISTRACTORS,
            _ONE_IN_TEN,
            _AREAS,
        ),
        edition="2017",
    )


def _coco_all() -> Protocol:
    return Protocol(
        name="coco-80",
        title="COCO, all 80 classes",
        source="No time to train!, evaluation protocol",
        layout="coco",
        task="instances",
        novel_classes=None,
        shots=SHOTS,
        seeds=SEEDS,
        draw="published",
        evaluator="coco",
        iou_types=("boxes", "masks"),
        headline="boxes ap",
        published=COCO_80_PUBLISHED,
        notes=("References are drawn from train2017; all images and classes of val2017 are evaluated.", _AREAS),
        edition="2017",
        class_count=len(COCO_CLASSES),
    )


def _voc(split: int) -> Protocol:
    return Protocol(
        name=f"voc-{split}",
        title=f"PASCAL VOC few-shot, split {split}",
        source="No time to train!, evaluation protocol; the class splits of few-shot object detection on PASCAL VOC",
        layout="voc",
        task="instances",
        novel_classes=VOC_NOVEL[split],
        base_classes=_without(VOC_CLASSES, VOC_NOVEL[split]),
        shots=VOC_SHOTS,
        seeds=(33, *(seed for seed in SEEDS if seed != 33)),
        draw="published",
        evaluator="coco",
        iou_types=("boxes",),
        headline="boxes ap50",
        published=tuple(voc_published(split)),
        notes=(
            "References are drawn from VOC2007 and VOC2012 trainval, all images of VOC2007 test are evaluated. The "
            "publication's figures are of seed 33 alone.",
            "nAP50 is COCOeval's AP50, of 101 points; most compared few-shot detectors report VOC2007's, of 11 points.",
            "Boxes have all four coordinates less one, as integers, and are a pixel narrower and lower than the pixels "
            "they hold; `difficult` objects count as crowds. Both as published.",
            "The draw depends on the order of the annotations. The publication's converted file is not at hand; here "
            "it is VOC2007 before VOC2012, images in the order of the lists, objects in the order of their files. "
            "Equal seeds of the two are therefore different references.",
            _VOC_MASKS,
            _DISTRACTORS,
        ),
    )


# folder: name, contents, number of classes, and (used, there are) references by number of shots, where they differ
_CD_FSOD_SETS: dict[str, tuple[str, str, int, dict[int, tuple[int, int]]]] = {
    "ArTaxOr": ("artaxor", "insects and spiders", 7, {10: (68, 70)}),
    "clipart1k": ("clipart1k", "clip art", 20, {5: (95, 100), 10: (181, 197)}),
    "DIOR": ("dior", "aerial photographs", 20, {5: (87, 100), 10: (155, 200)}),
    "FISH": ("deepfish", "DeepFish: fish under water", 1, {}),
    "NEU-DET": ("neu-det", "defects of steel", 6, {}),
    "UODD": ("uodd", "life on the sea floor", 3, {5: (13, 15), 10: (20, 30)}),
}


def _cd_fsod(folder: str) -> Protocol:
    name, contents, class_count, once = _CD_FSOD_SETS[folder]
    seen = " and ".join(f"at {shots} shots {used} of {there}" for shots, (used, there) in once.items())
    repeated = f" Of this set's references it saw {seen}." if once else " This set's references are not affected."
    contents += f", {class_count} class" + ("es" if class_count > 1 else "")
    return Protocol(
        name=f"cd-fsod-{name}",
        title=f"CD-FSOD, {folder} ({contents})",
        source="Cross-domain few-shot object detection (CD-FSOD), the benchmark's own files; No time to train!, "
        "evaluation protocol",
        layout="cd-fsod",
        task="instances",
        novel_classes=None,
        shots=CD_FSOD_SHOTS,
        seeds=(0,),
        draw="shot-files",
        evaluator="coco",
        iou_types=("boxes",),
        headline="boxes ap",
        published=tuple(cd_fsod_published(folder)),
        notes=(
            "References are the annotations of the benchmark's shot file, every one used once. The publication took "
            "the first annotation of an image as often as the image has annotations of the class, and left out the "
            f"others.{repeated}",
            "A class with fewer annotations than shots keeps the fewer; the publication filled up with random "
            "repetitions, which weigh references and add none.",
            "Masks of references come from SAM2, prompted by the box, where the file has none (the publication used "
            "SAM's ViT-H); only boxes are evaluated.",
        ),
        folder=folder,
        class_count=class_count,
    )


def _lvis() -> Protocol:
    return Protocol(
        name="lvis",
        title="LVIS v1",
        source="LVIS: A dataset for large vocabulary instance segmentation, federated evaluation; references as in "
        "No time to train!",
        layout="lvis",
        task="instances",
        novel_classes=None,
        shots=SHOTS,
        seeds=(42,),
        draw="lvis",
        evaluator="lvis",
        iou_types=("boxes", "masks"),
        headline="masks ap",
        max_detections=300,
        notes=(
            "References are drawn from lvis_v1_train, all images of lvis_v1_val are evaluated, with all 1203 classes: "
            "337 rare, 461 common and 405 frequent ones.",
            "AP is LVIS's own, federated, of 300 results per image. The publication used COCOeval with 100 on classes "
            "of one frequency at a time, which nothing in the literature can be compared with; its figures are not at "
            "hand.",
            _AREAS,
        ),
        edition="v1",
        class_count=1203,
    )


def _coco_20i(fold: int) -> Protocol:
    novel = COCO_CLASSES[fold::4]
    return Protocol(
        name=f"coco-20i-{fold}",
        title=f"COCO-20i, fold {fold}",
        source="COCO-20i as VRP-SAM, HSNet and Matcher evaluate it: class index modulo 4",
        layout="coco",
        task="semantic",
        novel_classes=novel,
        base_classes=_without(COCO_CLASSES, novel),
        shots=(1, 5),
        seeds=(0, 1, 2, 3, 4),
        draw="episodes",
        evaluator="episodes",
        iou_types=("masks",),
        headline="miou",
        published=tuple(episodes_published("coco", fold)),
        notes=("References and targets are images of val2014 that hold a class of the fold.", *_EPISODE_NOTES),
        edition="2014",
    )


def _pascal_5i(fold: int) -> Protocol:
    novel = VOC_CLASSES[5 * fold : 5 * fold + 5]
    return Protocol(
        name=f"pascal-5i-{fold}",
        title=f"PASCAL-5i, fold {fold}",
        source="PASCAL-5i as VRP-SAM, HSNet and Matcher evaluate it: five classes in the order of the alphabet",
        layout="voc",
        task="semantic",
        novel_classes=novel,
        base_classes=_without(VOC_CLASSES, novel),
        shots=(1, 5),
        seeds=(0, 1, 2, 3, 4),
        draw="episodes",
        evaluator="episodes",
        iou_types=("masks",),
        headline="miou",
        published=tuple(episodes_published("pascal", fold)),
        notes=(
            "References and targets are images of VOC2012's segmentation val list that hold a class of the fold.",
            "An episode draws its class uniformly, then an image of it. The published episodes go through a list of "
            "images and classes for every fold by its index, so that a class is asked for as often as it is listed, "
            "with masks of SegmentationClassAug: other images and other frequencies than here.",
            "Pixels marked 255 (outlines, and undecided regions) are left out of the count.",
            *_EPISODE_NOTES,
        ),
        edition="VOC2012",
    )


def _custom() -> Protocol:
    return Protocol(
        name="custom",
        title="Your own data set and classes",
        source="this project",
        layout="fiftyone",
        task="instances",
        novel_classes=None,
        shots=SHOTS,
        seeds=SEEDS,
        draw="stratified",
        evaluator="coco",
        iou_types=("boxes", "masks"),
        headline="masks ap",
        notes=(
            "References are spread over images and object sizes. They depend on the seed and on the labels themselves "
            "(name of the file, class, box), not on their order or on the ids that a database gave them.",
        ),
    )


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        _coco_few_shot(),
        _coco_all(),
        *(_voc(split) for split in VOC_NOVEL),
        *(_cd_fsod(folder) for folder in _CD_FSOD_SETS),
        _lvis(),
        *(_coco_20i(fold) for fold in range(4)),
        *(_pascal_5i(fold) for fold in range(4)),
        _custom(),
    )
}
