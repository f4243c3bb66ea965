"""Tiny drawn data sets in the layouts of the published protocols.

    python -m synthetic.layouts coco data/coco     # or voc, cd-fsod, lvis

Folders, file names, fields and class names are those of the real data sets. Objects are drawn species, one per class.
Every special case of a protocol occurs: crowds; objects too small or too close to the border to be references; images
without annotations, or with base classes only; several objects of a class in an image; images that are not square;
annotations in no order. In LVIS: classes that are known to be absent, annotated in part, or not annotated at all, and
classes with too few references or none. In VOC: difficult objects, parts within objects, coordinates with decimals, and
outlines of no class. In CD-FSOD: boxes without masks, and a class with fewer references than shots.

The images are few and small: they test that a protocol is followed, not accuracy. They are equal on every machine, up
to the last bits of JPEG.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from nts.datasets.layouts import IGNORE
from nts.datasets.protocols import COCO_CLASSES, COCO_NOVEL, VOC_CLASSES, VOC_NOVEL
from nts.datasets.sampling import qualifies

from .scenes import MIN_VISIBLE_PIXELS, SIDE, draw_scene

COCO_IDS = tuple(i for i in range(1, 91) if i not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
"""COCO's category ids: 80 of the numbers to 90."""

_FIRST_SPECIES = 30_000  # even numbers: none a look-alike of another
_UNLISTED_SPECIES = (50_000, 50_002, 50_004)  # in pictures, but of no class
_CUT_HEIGHT = SIDE - 48


@dataclass(frozen=True, eq=False)
class _Object:
    """Drawn object: class, mask bool ``[H, W]``, and whether it is a crowd."""

    name: str
    mask: np.ndarray
    crowd: bool = False

    @property
    def box(self) -> tuple[int, int, int, int]:
        """``x, y, width, height`` in pixels."""
        ys, xs = self.mask.nonzero()
        x, y = int(xs.min()), int(ys.min())
        return x, y, int(xs.max()) + 1 - x, int(ys.max()) + 1 - y

    @property
    def may_be_reference(self) -> bool:
        height, width = self.mask.shape
        return qualifies({"bbox": self.box, "iscrowd": self.crowd}, width, height)


@dataclass(frozen=True, eq=False)
class _Picture:
    """Image, uint8 ``[H, W, 3]``, and its objects."""

    image: np.ndarray
    objects: tuple[_Object, ...]

    @property
    def size(self) -> dict[str, int]:
        height, width = self.image.shape[:2]
        return {"width": width, "height": height}

    def only(self, wanted: Callable[[_Object], bool]) -> _Picture:
        """Copy of the picture with some of its objects."""
        return _Picture(self.image, tuple(o for o in self.objects if wanted(o)))

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.image).save(path, quality=95)


# ----------------------------------------------------------------------------------------------------------------------
# Pictures


def _draw(seed: Sequence[int], species: Mapping[str, int], names: Iterable[str]) -> _Picture:
    """Draw a scene with objects of some classes, or of none; every other one is cropped to a rectangle."""
    names_of = {number: name for name, number in species.items()}
    scene = draw_scene(seed, [species[name] for name in names] or _UNLISTED_SPECIES)
    height = _CUT_HEIGHT if seed[-1] % 2 else SIDE
    objects = [
        _Object(names_of[number], mask[:height])
        for mask, number in zip(scene.masks, scene.species.tolist(), strict=True)
        if number in names_of and np.count_nonzero(mask[:height]) >= MIN_VISIBLE_PIXELS
    ]
    return _Picture(scene.image[:height], tuple(objects))


def _draw_until(
    seed: int, species: Mapping[str, int], references: Mapping[str, int], images: Mapping[str, int]
) -> list[_Picture]:
    """Draw scenes until every class occurs often enough.

    Args:
        seed: of the scenes.
        species: of every class.
        references: required number of images with an object that qualifies as a reference, by class.
        images: required number of images with an object, by class.
    """
    short, unseen = Counter(references), Counter(images)
    pictures: list[_Picture] = []
    while names := sorted((+short).keys() | (+unseen).keys()):
        pictures.append(_draw([seed, len(pictures)], species, names))
        short.subtract({o.name for o in pictures[-1].objects if o.may_be_reference})
        unseen.subtract({o.name for o in pictures[-1].objects})
    return pictures


def _draw_crowd(seed: int, species: Mapping[str, int], name: str) -> _Picture:
    """Draw a scene with objects of one class, annotated as a crowd."""
    drawn = (_draw([seed, number], species, [name]) for number in count())
    picture = next(picture for picture in drawn if len(picture.objects) > 2)
    everyone = np.any([o.mask for o in picture.objects], axis=0)
    return _Picture(picture.image, (_Object(name, everyone, crowd=True),))


def _species(names: Sequence[str]) -> dict[str, int]:
    return {name: _FIRST_SPECIES + 2 * k for k, name in enumerate(names)}


# ----------------------------------------------------------------------------------------------------------------------
# Annotations


def _annotation(item: _Object, image_id: int, category_id: int) -> dict:
    """COCO annotation without an id: polygons, or uncompressed RLE for a crowd, as in COCO."""
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [float(value) for value in item.box],
        "area": float(np.count_nonzero(item.mask)),
        "iscrowd": int(item.crowd),
        "segmentation": _run_lengths(item.mask) if item.crowd else _polygons(item.mask),
    }


def _run_lengths(mask: np.ndarray) -> dict:
    """Run lengths in column order, starting with background."""
    pixels = mask.flatten(order="F")
    ends = np.flatnonzero(np.diff(pixels, prepend=False))
    return {"size": list(mask.shape), "counts": np.diff(ends, prepend=0, append=pixels.size).tolist()}


def _polygons(mask: np.ndarray) -> list[list[float]]:
    """Rectangles that cover a mask exactly: runs of pixels, extended down over equal rows."""
    open_since: dict[tuple[int, int], int] = {}
    polygons = []
    for y in range(mask.shape[0] + 1):
        row = mask[y] if y < mask.shape[0] else np.zeros(mask.shape[1], bool)
        borders = np.flatnonzero(np.diff(row, prepend=False, append=False)).reshape(-1, 2).tolist()
        runs = {(left, right) for left, right in borders}
        for left, right in sorted(open_since.keys() - runs):
            top = open_since.pop((left, right))
            polygons.append([float(v) for v in (left, top, right, top, right, y, left, y)])
        for run in runs - open_since.keys():
            open_since[run] = y
    return polygons


def _numbered(annotations: Sequence[dict], seed: int, first: int = 1) -> list[dict]:
    """Shuffle annotations, since real files have no order, and number them."""
    shuffled = list(annotations)
    random.Random(seed).shuffle(shuffled)
    return [{"id": number, **annotation} for number, annotation in enumerate(shuffled, start=first)]


def _write_json(path: Path, dataset: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dataset))


# ----------------------------------------------------------------------------------------------------------------------
# COCO


def write_coco(folder: Path | str) -> None:
    """Write COCO 2017 (train, val) and val2014 with all 80 classes, for COCO few-shot, all classes, and COCO-20i.

    Every class has at least one qualifying reference, novel ones two, and occurs in two images of val2014. As in the
    real data, images of val2014 are those of train2017 under other names.
    """
    folder, species = Path(folder), _species(COCO_CLASSES)
    references = {name: 2 if name in COCO_NOVEL else 1 for name in COCO_CLASSES}
    train = _draw_until(101, species, references, dict.fromkeys(COCO_CLASSES, 2))
    base = [name for name in COCO_CLASSES if name not in COCO_NOVEL]
    train += [_draw_crowd(102, species, name) for name in ("person", "sheep")]
    val = [_draw([103, k], species, COCO_NOVEL + COCO_NOVEL + tuple(base)) for k in range(8)]
    val += [_draw([104, k], species, base) for k in range(2)]
    val += [_draw_crowd(105, species, "person"), _draw([106, 0], species, [])]
    _write_coco_split(folder, "train2017", train, species, "{:012d}.jpg")
    _write_coco_split(folder, "val2017", val, species, "{:012d}.jpg")
    _write_coco_split(folder, "val2014", train, species, "COCO_val2014_{:012d}.jpg")


def _write_coco_split(
    folder: Path, split: str, pictures: Sequence[_Picture], species: Mapping[str, int], file_name: str
) -> None:
    ids = dict(zip(species, COCO_IDS, strict=True))
    images: list[dict] = []
    annotations = []
    image_ids = random.Random(6).sample(range(1000, 9000), len(pictures))  # neither 1, 2, … nor ascending
    for image_id, picture in zip(image_ids, pictures, strict=True):
        images.append({"id": image_id, "file_name": file_name.format(image_id), **picture.size})
        picture.save(folder / split / images[-1]["file_name"])
        annotations += [_annotation(o, image_id, ids[o.name]) for o in picture.objects]
    categories = [{"id": i, "name": name, "supercategory": "drawn"} for name, i in ids.items()]
    dataset = {"images": images, "annotations": _numbered(annotations, seed=7, first=501), "categories": categories}
    _write_json(folder / "annotations" / f"instances_{split}.json", dataset)


# ----------------------------------------------------------------------------------------------------------------------
# LVIS

# Class names are those of LVIS; the frequencies are made up for a tiny data set.
_LVIS_FREQUENCIES = {
    "banana": "f",
    "bottle": "f",
    "chair": "f",
    "birdcage": "c",
    "lizard": "c",
    "parrot": "c",
    "applesauce": "r",
    "gargoyle": "r",
    "hornet": "r",
}
_LVIS_ONE_REFERENCE, _LVIS_NO_REFERENCE = "gargoyle", "hornet"


def write_lvis(folder: Path | str) -> None:
    """Write LVIS v1 with nine classes, three of each frequency.

    ``gargoyle`` has one qualifying reference, ``hornet`` none. Some validation images are in ``train2017``.
    """
    folder, species = Path(folder), _species(list(_LVIS_FREQUENCIES))
    plenty = [name for name in species if name not in (_LVIS_ONE_REFERENCE, _LVIS_NO_REFERENCE)]
    train = _draw_until(201, species, dict.fromkeys(plenty, 3), {})
    for seed, name in ((202, _LVIS_ONE_REFERENCE), (203, _LVIS_NO_REFERENCE)):
        train += [_draw([seed, k], species, [name]) for k in range(3)]
    left = Counter({_LVIS_ONE_REFERENCE: 1, _LVIS_NO_REFERENCE: 0})
    known = [_limit(picture, left) for picture in train]
    _write_lvis_split(folder, "train", train, known, species, ["train2017"])

    val = [_draw([204, k], species, species if k < 11 else []) for k in range(12)]
    known = []
    for k, picture in enumerate(val):
        counts = Counter(o.name for o in picture.objects)
        names = sorted(counts)
        # Nobody looked for the one class, and of every other that has several objects one was overlooked.
        unknown = names[k % len(names)] if len(names) > 1 and k % 2 else ""
        left = Counter({name: counts[name] - 1 for name in names if counts[name] > 1} | {unknown: 0})
        known.append(_limit(picture, left, references_only=False))
    _write_lvis_split(folder, "val", val, known, species, ["train2017", "val2017", "val2017"])


def _limit(picture: _Picture, left: Counter[str], *, references_only: bool = True) -> _Picture:
    """Drop objects of classes that exceed the numbers in ``left``, which is decremented.

    Args:
        picture: to limit.
        left: remaining number of objects by class; other classes are not limited.
        references_only: limit only objects that qualify as references.
    """

    def wanted(item: _Object) -> bool:
        if item.name not in left or (references_only and not item.may_be_reference):
            return True
        left[item.name] -= 1
        return left[item.name] >= 0

    return picture.only(wanted)


def _write_lvis_split(
    folder: Path,
    split: str,
    pictures: Sequence[_Picture],
    known: Sequence[_Picture],
    species: Mapping[str, int],
    image_folders: Sequence[str],
) -> None:
    """Write pictures with their ``known`` annotations; files go to the folders in turn."""
    ids = {name: number for number, name in enumerate(species, start=1)}
    images: list[dict] = []
    annotations: list[dict] = []
    for k, (picture, annotated) in enumerate(zip(pictures, known, strict=True)):
        image_id = (10_000 if split == "train" else 20_000) + k
        file = f"{image_folders[k % len(image_folders)]}/{image_id:012d}.jpg"
        picture.save(folder / file)
        there, found = (Counter(o.name for o in p.objects) for p in (picture, annotated))
        absent = [class_id for name, class_id in ids.items() if name not in there]
        images.append(
            {
                "id": image_id,
                "coco_url": f"http://images.cocodataset.org/{file}",
                **picture.size,
                "neg_category_ids": absent[k % 3 :: 3],
                "not_exhaustive_category_ids": [i for name, i in ids.items() if 0 < found[name] < there[name]],
            }
        )
        annotations += [_annotation(o, image_id, ids[o.name]) for o in annotated.objects]
    for annotation in annotations:
        del annotation["iscrowd"]
    categories = [
        {
            "id": class_id,
            "name": name,
            "synset": f"{name}.n.01",
            "synonyms": [name],
            "def": "a drawn species",
            "frequency": _LVIS_FREQUENCIES[name],
            "image_count": len({a["image_id"] for a in annotations if a["category_id"] == class_id}),
            "instance_count": sum(a["category_id"] == class_id for a in annotations),
        }
        for name, class_id in ids.items()
    ]
    dataset = {"images": images, "annotations": _numbered(annotations, seed=8), "categories": categories}
    _write_json(folder / f"lvis_v1_{split}.json", dataset)


# ----------------------------------------------------------------------------------------------------------------------
# PASCAL VOC


def write_voc(folder: Path | str) -> None:
    """Write VOC2007 (trainval, test) and VOC2012 (trainval; segmentations) in ``VOCdevkit``.

    Every novel class has at least two qualifying references, and every class occurs in at least two segmented images.
    """
    root, species = Path(folder) / "VOCdevkit", _species(VOC_CLASSES)
    novel = sorted(set().union(*VOC_NOVEL.values()))
    first = _draw_until(301, species, dict.fromkeys(novel, 1), {})
    second = _draw_until(302, species, dict.fromkeys(novel, 2), dict.fromkeys(VOC_CLASSES, 3))
    test = [_draw([303, k], species, VOC_CLASSES) for k in range(9)]
    test += [_draw([304, 0], species, ["person"]), _draw([305, 0], species, [])]
    splits = {
        ("VOC2007", "trainval"): {f"{2 * k + 5:06d}": picture for k, picture in enumerate(first)},
        ("VOC2007", "test"): {f"{2 * k + 6:06d}": picture for k, picture in enumerate(test)},
        ("VOC2012", "trainval"): {f"20{8 + k % 4:02d}_{k + 3:06d}": picture for k, picture in enumerate(second)},
    }
    for (year, split), pictures in splits.items():
        _write_voc_list(root / year, "Main", split, pictures)
        for name, picture in pictures.items():
            _write_voc_picture(root / year, name, picture)
    segmented = splits["VOC2012", "trainval"]
    _write_voc_list(root / "VOC2012", "Segmentation", "val", segmented)
    for name, picture in segmented.items():
        _write_voc_segmentation(root / "VOC2012" / "SegmentationClass" / f"{name}.png", picture)


def _write_voc_list(folder: Path, task: str, split: str, names: Iterable[str]) -> None:
    path = folder / "ImageSets" / task / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def _write_voc_picture(folder: Path, name: str, picture: _Picture) -> None:
    """Write an image and its XML. VOC counts pixels from 1, and boxes include their last row and column."""
    picture.save(folder / "JPEGImages" / f"{name}.jpg")
    tree = ElementTree.Element("annotation")
    _add(tree, "folder", folder.name)
    _add(tree, "filename", f"{name}.jpg")
    _add(tree, "size", **picture.size, depth=3)
    for number, item in enumerate(picture.objects):
        x, y, width, height = item.box
        difficult = int(np.count_nonzero(item.mask) < 300 and not item.may_be_reference)
        element = _add(
            tree, "object", name=item.name, pose="Unspecified", truncated=int(min(x, y) == 0), difficult=difficult
        )
        left = f"{x + 1.4:.1f}" if number % 3 == 0 else x + 1
        _add(element, "bndbox", xmin=left, ymin=y + 1, xmax=x + width, ymax=y + height)
        if item.name == "person":
            part = _add(element, "part", name="head")
            _add(part, "bndbox", xmin=x + 1, ymin=y + 1, xmax=x + 5, ymax=y + 5)
    ElementTree.indent(tree)
    path = folder / "Annotations" / f"{name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ElementTree.tostring(tree, encoding="unicode"))


def _add(parent: ElementTree.Element, tag: str, text: object = None, **children: object) -> ElementTree.Element:
    """Add an element with text, or with children that have text."""
    element = ElementTree.SubElement(parent, tag)
    element.text = None if text is None else str(text)
    for name, value in children.items():
        _add(element, name, value)
    return element


def _write_voc_segmentation(path: Path, picture: _Picture) -> None:
    """Palette image of classes, with an outline of no class around every object."""
    classes = np.zeros(picture.image.shape[:2], np.uint8)
    for item in picture.objects:
        classes[item.mask] = 1 + VOC_CLASSES.index(item.name)
    outline = np.zeros(classes.shape, bool)
    for axis in (0, 1):
        changes = np.diff(classes, axis=axis) != 0
        outline |= np.pad(changes, [(0, int(axis == 0)), (0, int(axis == 1))])
    classes[outline] = IGNORE
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(classes)
    image.putpalette([value * 37 % 256 for value in range(768)])
    image.save(path)


# ----------------------------------------------------------------------------------------------------------------------
# CD-FSOD

# Names are the benchmark's own; of the sets of twenty classes a few.
CD_FSOD_CLASSES = {
    "ArTaxOr": ("Araneae", "Coleoptera", "Diptera", "Hemiptera", "Hymenoptera", "Lepidoptera", "Odonata"),
    "clipart1k": ("sheep", "chair", "boat", "bottle"),
    "DIOR": ("airplane", "ship", "vehicle", "windmill"),
    "FISH": ("fish",),
    "NEU-DET": ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches"),
    "UODD": ("seacucumber", "seaurchin", "scallop"),
}
_FEWER_REFERENCES = {("clipart1k", "bottle"): 7}


def write_cd_fsod(folder: Path | str, sets: Sequence[str] = tuple(CD_FSOD_CLASSES)) -> None:
    """Write the data sets of CD-FSOD with 1, 5 and 10 shots, boxes only.

    A class may have several references in one image, some of a few pixels. ``bottle`` of clipart1k has only seven.
    """
    for name in sets:
        number = list(CD_FSOD_CLASSES).index(name)
        _write_cd_fsod_set(Path(folder) / name, CD_FSOD_CLASSES[name], seed=400 + 10 * number)


def _write_cd_fsod_set(folder: Path, names: Sequence[str], seed: int) -> None:
    species = _species(names)
    categories = [{"id": k, "name": name, "supercategory": "none"} for k, name in enumerate(names)]
    limits = {name: _FEWER_REFERENCES.get((folder.name, name), 10) for name in names}
    short = Counter(limits)
    train: list[_Picture] = []
    while +short:
        train.append(_draw([seed, len(train)], species, sorted((+short).keys())))
        short.subtract(o.name for o in train[-1].objects)
        train[-1].save(folder / "train" / f"{len(train):05d}.jpg")
    for shots in (1, 5, 10):
        left = Counter({name: min(shots, limit) for name, limit in limits.items()})
        taken = [_limit(picture, left, references_only=False) for picture in train]
        dataset = _boxes_only(taken, names, skip_empty=True)
        _write_json(folder / "annotations" / f"{shots}_shot.json", {**dataset, "categories": categories})

    test = [_draw([seed + 1, k], species, names) for k in range(4)] + [_draw([seed + 2, 0], species, [])]
    for k, picture in enumerate(test, start=1):
        picture.save(folder / "test" / f"{k:05d}.jpg")
    # Both places are read, so both are drawn.
    path = folder / "test.json" if folder.name == "UODD" else folder / "annotations" / "test.json"
    _write_json(path, {**_boxes_only(test, names, skip_empty=False), "categories": categories})


def _boxes_only(pictures: Sequence[_Picture], names: Sequence[str], *, skip_empty: bool) -> dict:
    """COCO dataset without masks: images are named by their index, and annotations start at 0."""
    images: list[dict] = []
    annotations: list[dict] = []
    for k, picture in enumerate(pictures, start=1):
        if skip_empty and not picture.objects:
            continue
        images.append({"id": len(images), "file_name": f"{k:05d}.jpg", **picture.size})
        for item in picture.objects:
            annotation = _annotation(item, images[-1]["id"], names.index(item.name))
            annotations.append({**annotation, "area": item.box[2] * item.box[3], "segmentation": []})
    return {"images": images, "annotations": _numbered(annotations, seed=9, first=0)}


WRITERS: dict[str, Callable[[Path | str], None]] = {
    "coco": write_coco,
    "voc": write_voc,
    "cd-fsod": write_cd_fsod,
    "lvis": write_lvis,
}
"""Layouts that can be drawn, see :data:`nts.datasets.layouts.LAYOUTS`."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m synthetic.layouts", description="Draw a tiny data set.")
    parser.add_argument("layout", choices=list(WRITERS))
    parser.add_argument("folder", type=Path, help="where it is written; made if need be")
    options = parser.parse_args(arguments)
    WRITERS[options.layout](options.folder)
    print(
        f"{options.layout}: {sum(1 for path in options.folder.rglob('*') if path.is_file())} files in {options.folder}"
    )


if __name__ == "__main__":
    main()
