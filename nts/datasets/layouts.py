"""Layouts of data sets on disk, read into COCO dictionaries.

Annotations stay in the order of their files, which determines the published draw of references. Every image gets the
``path`` of its file. :mod:`nts.datasets.repair` ensures what the evaluators rely on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from .protocol_data import ProtocolData, protocol_data
from .protocols import VOC_CLASSES, Protocol
from .repair import LayoutError, check_structure

IGNORE = 255
"""Value of pixels that are neither class nor background in PASCAL VOC's segmentations."""

LAYOUTS = {
    "coco": """the folder of COCO:
    annotations/instances_train2017.json  annotations/instances_val2017.json
    train2017/*.jpg  val2017/*.jpg
(for COCO-20i the same with 2014)""",
    "lvis": """the folder of COCO with LVIS's annotations:
    lvis_v1_train.json  lvis_v1_val.json   (or both in annotations/)
    train2017/*.jpg  val2017/*.jpg""",
    "voc": """the folder of PASCAL VOC, or the VOCdevkit in it:
    VOC2007/JPEGImages/*.jpg  VOC2007/Annotations/*.xml  VOC2007/ImageSets/Main/{trainval,test}.txt
    VOC2012/JPEGImages/*.jpg  VOC2012/Annotations/*.xml  VOC2012/ImageSets/Main/trainval.txt
(for PASCAL-5i VOC2012/SegmentationClass/*.png and VOC2012/ImageSets/Segmentation/val.txt)""",
    "cd-fsod": """the folder of CD-FSOD's data sets, or that of one of them:
    <set>/annotations/{1,5,10}_shot.json  <set>/annotations/test.json   (or <set>/test.json)
    <set>/train/*.jpg  <set>/test/*.jpg""",
}
"""Required contents of the folder of every layout."""


VOC_REFERENCES = (("VOC2007", "trainval"), ("VOC2012", "trainval"))
VOC_TARGETS = (("VOC2007", "test"),)
"""Years and lists of PASCAL VOC that few-shot detection evaluates; references come from the lists above."""


def load(
    protocol: Protocol, data: Path | str, *, edition: str | None = None, classes: str | Sequence[str] | None = None
) -> ProtocolData:
    """Read the data set of a protocol.

    Args:
        protocol: to read the data set of.
        data: folder of the data set, see :data:`LAYOUTS`.
        edition: year of COCO to read instead of the protocol's, ``"2014"`` or ``"2017"``.
        classes: classes to evaluate instead of the protocol's.

    Raises:
        LayoutError: if a file is missing or invalid.
    """
    folder = Path(data).expanduser().absolute()
    if protocol.layout == "fiftyone":
        raise LayoutError(
            f"the protocol {protocol.name!r} has no layout on disk: give it FiftyOne views "
            "(nts.fiftyone_adapter.importing.custom_data)"
        )
    if not folder.is_dir():
        raise LayoutError(f"there is no folder {folder}. It must be {LAYOUTS[protocol.layout]}")
    notes: tuple[str, ...] = ()
    year = ""
    match protocol.layout:
        case "coco":
            year, notes = _edition_of_coco(protocol, folder, edition)
            references, targets = _load_coco(protocol, folder, year)
        case "lvis":
            references, targets = (_load_lvis(folder, split) for split in ("train", "val"))
        case "cd-fsod":
            references, targets = _load_cd_fsod(protocol, folder)
        case "voc" if protocol.task == "semantic":
            references = targets = _load_voc_segmentation(voc_root(folder), "VOC2012", "val")
        case "voc":
            references = _load_voc_detection(voc_root(folder), VOC_REFERENCES)
            targets = _load_voc_detection(voc_root(folder), VOC_TARGETS)
    evaluated = protocol.novel_classes if classes is None else classes
    if evaluated is None:
        evaluated = [category["name"] for category in targets["categories"]]
    loaded = protocol_data(references, targets, evaluated, notes, strict=True)
    return replace(loaded, edition=year)


# ----------------------------------------------------------------------------------------------------------------------
# COCO and LVIS


def _edition_of_coco(protocol: Protocol, folder: Path, edition: str | None) -> tuple[str, tuple[str, ...]]:
    """Year of COCO to read, and notes."""
    # All images of 2014 are in 2017 too, and few users have both.
    only_2017 = _coco_json(folder, "val", "2017").is_file() and not _coco_json(folder, "val", "2014").is_file()
    if edition is None and protocol.edition == "2014" and only_2017:
        return "2017", ("The protocol was published on COCO 2014; this was read from COCO 2017.",)
    return edition or protocol.edition, ()


def _load_coco(protocol: Protocol, folder: Path, year: str) -> tuple[dict, dict]:
    """References and targets; for episodes both are the validation images."""
    targets = _read_coco(_coco_json(folder, "val", year), folder / f"val{year}", "coco")
    if protocol.task == "semantic":
        return targets, targets
    return _read_coco(_coco_json(folder, "train", year), folder / f"train{year}", "coco"), targets


def _coco_json(folder: Path, split: str, year: str) -> Path:
    return folder / "annotations" / f"instances_{split}{year}.json"


def _load_lvis(folder: Path, split: str) -> dict:
    """Read LVIS. Its images are named by their COCO URL, and some validation images are training images of COCO."""
    name = f"lvis_v1_{split}.json"
    path = _first_of([folder / name, folder / "annotations" / name], "lvis")
    dataset = _read_json(path, "lvis")
    needed = {
        "images": ("coco_url", "neg_category_ids", "not_exhaustive_category_ids"),
        "categories": ("frequency",),
    }
    for part, keys in needed.items():
        if missing := [key for key in keys if any(key not in item for item in dataset[part])]:
            raise LayoutError(f"{path} is no LVIS data set: some of its {part} lack {', '.join(missing)}")
    for image in dataset["images"]:
        image["file_name"] = "/".join(image["coco_url"].split("/")[-2:])
    return _with_paths(dataset, folder, "lvis")


def _read_coco(path: Path, images: Path, layout: str) -> dict:
    return _with_paths(_read_json(path, layout), images, layout)


# ----------------------------------------------------------------------------------------------------------------------
# CD-FSOD


def _load_cd_fsod(protocol: Protocol, folder: Path) -> tuple[dict, dict]:
    """References of all shot files, and targets."""
    if (folder / protocol.folder).is_dir():
        folder = folder / protocol.folder
    tests = [folder / "annotations" / "test.json", folder / "test.json"]
    targets = _read_coco(_first_of(tests, "cd-fsod"), folder / "test", "cd-fsod")
    files = {shots: folder / "annotations" / f"{shots}_shot.json" for shots in protocol.shots}
    if not any(path.is_file() for path in files.values()):
        raise LayoutError(_not_found(list(files.values()), "cd-fsod"))
    shot_files = {shots: _read_json(path, "cd-fsod") for shots, path in files.items() if path.is_file()}
    return _with_paths(_merge_shot_files(shot_files), folder / "train", "cd-fsod"), targets


def _merge_shot_files(shot_files: dict[int, dict]) -> dict:
    """Merge shot files: images by file name, and annotations with their number of ``shots``."""
    images: dict[str, dict] = {}
    categories: dict[int, dict] = {}
    annotations: list[dict] = []
    for shots, dataset in shot_files.items():
        ids = {}
        for image in dataset["images"]:
            merged = images.setdefault(image["file_name"], {**image, "id": len(images) + 1})
            ids[image["id"]] = merged["id"]
        for category in dataset["categories"]:
            known = categories.setdefault(category["id"], category)
            if known["name"] != category["name"]:
                raise LayoutError(
                    f"category {category['id']} is {known['name']!r} in one shot file, and {category['name']!r} in "
                    f"{shots}_shot.json"
                )
        for annotation in dataset["annotations"]:
            number = len(annotations) + 1
            image_id = ids.get(annotation.get("image_id"))
            annotations.append({**annotation, "id": number, "image_id": image_id, "shots": shots})
    return {"images": list(images.values()), "annotations": annotations, "categories": list(categories.values())}


# ----------------------------------------------------------------------------------------------------------------------
# PASCAL VOC


def voc_root(folder: Path) -> Path:
    """Folder of ``VOC2007`` and ``VOC2012``: the given one, or the ``VOCdevkit`` in it."""
    for root in (folder, folder / "VOCdevkit"):
        if (root / "VOC2012").is_dir():
            return root
    raise LayoutError(_not_found([folder / "VOC2012", folder / "VOCdevkit" / "VOC2012"], "voc"))


def voc_list(folder: Path, task: str, split: str) -> list[str]:
    """Image names of a list of PASCAL VOC, such as ``VOC2007/ImageSets/Main/trainval.txt``."""
    path = folder / "ImageSets" / task / f"{split}.txt"
    if not path.is_file():
        raise LayoutError(_not_found([path], "voc"))
    return [line.split()[0] for line in path.read_text().splitlines() if line.strip()]


def _load_voc_detection(root: Path, splits: Iterable[tuple[str, str]]) -> dict:
    """Read lists of PASCAL VOC as one COCO dataset, with images and annotations numbered in their order.

    Boxes are converted as published: all four coordinates minus one, as integers. Category ids start at 0.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    class_ids = {name: class_id for class_id, name in enumerate(VOC_CLASSES)}
    for year, split in splits:
        for name in voc_list(root / year, "Main", split):
            tree = _read_xml(root / year / "Annotations" / f"{name}.xml")
            width, height = (int(_text(tree, f"size/{side}", name)) for side in ("width", "height"))
            image = {"id": len(images) + 1, "file_name": f"{year}/JPEGImages/{name}.jpg"}
            images.append({**image, "width": width, "height": height})
            for item in tree.findall("object"):
                label = _text(item, "name", name)
                if label not in class_ids:
                    raise LayoutError(
                        f"{name}.xml has an object of the class {label!r}, which PASCAL VOC does not know"
                    )
                x1, y1, x2, y2 = (_coordinate(item, side, name) for side in ("xmin", "ymin", "xmax", "ymax"))
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": len(images),
                        "category_id": class_ids[label],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": int(item.findtext("difficult", "0").strip() or 0),
                    }
                )
    categories = [{"id": class_id, "name": name} for name, class_id in class_ids.items()]
    return _with_paths({"images": images, "annotations": annotations, "categories": categories}, root, "voc")


def _load_voc_segmentation(root: Path, year: str, split: str) -> dict:
    """Read a list of PASCAL VOC's segmentations: one annotation per class and image, category ids 1 to 20."""
    images: list[dict[str, Any]] = []
    annotations: list[dict] = []
    for image_id, name in enumerate(voc_list(root / year, "Segmentation", split), start=1):
        classes = _read_classes(root / year / "SegmentationClass" / f"{name}.png")
        height, width = classes.shape
        image = {"id": image_id, "file_name": f"{year}/JPEGImages/{name}.jpg", "width": width, "height": height}
        if (classes == IGNORE).any():
            image["ignore"] = _encode(classes == IGNORE)
        images.append(image)
        for class_id in np.unique(classes[(classes > 0) & (classes != IGNORE)]).tolist():
            rle = _encode(classes == class_id)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": class_id,
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "area": int(coco_mask.area(rle)),
                    "iscrowd": 0,
                    "segmentation": rle,
                }
            )
    categories = [{"id": class_id, "name": name} for class_id, name in enumerate(VOC_CLASSES, start=1)]
    return _with_paths({"images": images, "annotations": annotations, "categories": categories}, root, "voc")


def _read_xml(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise LayoutError(_not_found([path], "voc")) from None
    except ElementTree.ParseError as error:
        raise LayoutError(f"{path} is no XML: {error}") from error


def _text(element: ElementTree.Element, tag: str, name: str) -> str:
    text = element.findtext(tag)
    if text is None:
        raise LayoutError(f"{name}.xml has no <{tag.replace('/', '><')}>")
    return text.strip()


def _coordinate(item: ElementTree.Element, side: str, name: str) -> int:
    """Coordinate of a box, 0-based. Some of VOC2012 have decimals."""
    return int(float(_text(item, f"bndbox/{side}", name))) - 1


def _read_classes(path: Path) -> np.ndarray:
    """Class of every pixel, the index of the palette: uint8 ``[H, W]``."""
    if not path.is_file():
        raise LayoutError(_not_found([path], "voc"))
    with Image.open(path) as image:
        if image.mode not in ("P", "L"):
            raise LayoutError(f"{path} must be an image of class numbers (palette or grey), its mode is {image.mode}")
        classes = np.array(image)
    if unknown := sorted(set(np.unique(classes).tolist()) - {*range(len(VOC_CLASSES) + 1), IGNORE}):
        raise LayoutError(f"{path} has pixels of unknown classes {unknown}")
    return classes


def _encode(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


# ----------------------------------------------------------------------------------------------------------------------
# All of them


def read_json(path: Path) -> dict:
    """Read a COCO dataset, with its annotations in the order of the file.

    Raises:
        FileNotFoundError: if the file does not exist.
        LayoutError: if it cannot be read, or is not a COCO dataset.
    """
    try:
        dataset = json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise LayoutError(f"{path} is no JSON: it is not text in UTF-8 ({error})") from error
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"{path} is no JSON: {error}") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise LayoutError(f"{path} cannot be read: {error.strerror or error}") from error
    check_structure(dataset, str(path))
    return dataset


def _read_json(path: Path, layout: str) -> dict:
    try:
        return read_json(path)
    except FileNotFoundError:
        raise LayoutError(_not_found([path], layout)) from None


def _with_paths(dataset: dict, folder: Path, layout: str) -> dict:
    """Add the path of every image. Only the first is checked: more often all files are missing than one."""
    for image in dataset["images"]:
        image["path"] = str(folder / file_name(image, str(folder)))
    if dataset["images"] and not Path(dataset["images"][0]["path"]).is_file():
        raise LayoutError(_not_found([Path(dataset["images"][0]["path"])], layout))
    return dataset


def file_name(image: Mapping, where: str) -> str:
    """File name of an image.

    Raises:
        LayoutError: if the image has none.
    """
    name = image.get("file_name")
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise LayoutError(f"the image {image.get('id')!r} of the data set in {where} has no file_name")
    return name


def _first_of(paths: Sequence[Path], layout: str) -> Path:
    for path in paths:
        if path.is_file():
            return path
    raise LayoutError(_not_found(paths, layout))


def _not_found(paths: Sequence[Path], layout: str) -> str:
    return f"there is no {' and no '.join(map(str, paths))}. The data must be {LAYOUTS[layout]}"
