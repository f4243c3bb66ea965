"""Data sets as they lie on disk, brought to COCO's dictionaries with everything a protocol needs kept.

Annotations stay in the order of their files, which decides the published draw of references. Every image says where its
file is (``path``). What the evaluators rely on is made sure of by :mod:`nts.datasets.repair`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ..images import ImageError, read_image
from ..metrics.matches import to_rle
from ..references import InvalidReference
from ..utils.names import as_names
from .protocols import VOC_CLASSES, Protocol
from .repair import LayoutError as LayoutError
from .repair import check_structure, complete, unify_ids
from .repair import has_mask as has_mask

IGNORE = 255
"""The value of a pixel that counts neither as a class nor as background in PASCAL VOC's segmentations."""

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
"""What the folder of every layout must look like."""


VOC_REFERENCES = (("VOC2007", "trainval"), ("VOC2012", "trainval"))
VOC_TARGETS = (("VOC2007", "test"),)
"""Years and lists of PASCAL VOC that few-shot detection draws references from, and evaluates."""


@dataclass(frozen=True)
class ProtocolData:
    """A data set as a protocol uses it.

    Attributes:
        references: COCO data set that references are drawn from, annotations in the order of the file. Every image has
            its absolute ``path`` beside its ``file_name``. Annotations of shot files say of which in ``shots``.
        targets: COCO data set of all images that are evaluated, with the annotations of all classes; those of classes
            that are not evaluated are distractors. An image may have ``ignore``, the run-length code of pixels that
            are neither class nor background.
        class_ids: category ids of the classes evaluated, ascending.
        base_class_ids: category ids of the other classes, ascending.
        box_references: some references have no mask (no or an empty ``segmentation``): it must be got from the box.
        notes: what a reader of the numbers must know about this copy of the data set.
        edition: year of COCO that was read; empty where there is no choice.
    """

    references: dict
    targets: dict
    class_ids: tuple[int, ...]
    base_class_ids: tuple[int, ...]
    box_references: bool
    notes: tuple[str, ...] = ()
    edition: str = ""


def load(
    protocol: Protocol, data: Path | str, *, edition: str | None = None, classes: str | Sequence[str] | None = None
) -> ProtocolData:
    """Read a protocol's data set.

    Args:
        protocol: which.
        data: folder of the data set, see :data:`LAYOUTS`.
        edition: year of COCO to read instead of the protocol's, ``"2014"`` or ``"2017"``.
        classes: evaluate these classes instead of the protocol's.

    Raises:
        LayoutError: if a file is missing or not as it must be.
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


def protocol_data(
    references: dict,
    targets: dict,
    novel_classes: str | Sequence[str] | None,
    notes: Sequence[str] = (),
    *,
    strict: bool = False,
    crowds_as_objects: bool = False,
) -> ProtocolData:
    """Two COCO data sets as a protocol's data: their classes compared and their annotations made fit.

    Args:
        references: to draw references from. Both are changed in place.
        targets: to evaluate.
        novel_classes: names of the classes to evaluate; without, all of ``targets`` that have a reference: an
            annotation that is no crowd.
        notes: see :class:`ProtocolData`.
        strict: they are published, see :func:`nts.datasets.repair.complete`. Otherwise categories without any
            annotation, such as the root category of many exporters, are left out, and notes tell of classes that
            cannot be evaluated.
        crowds_as_objects: count crowds like any other object.

    Raises:
        LayoutError: if a class to evaluate is missing, the data sets number or name their classes differently, or
            their parts are not those of a COCO data set.
    """
    wanted = as_names(novel_classes)
    roles = {"targets": targets} if references is targets else {"references": references, "targets": targets}
    told = list(notes)
    for role, dataset in roles.items():
        check_structure(dataset, f"the COCO data set of the {role}")
        told += unify_ids(dataset, role)
    unused = [] if strict else _drop_unused_categories(list(roles.values()), set(wanted or ()))
    names = _names(targets, "the targets")
    reference_names = _names(references, "the references")
    for class_id in names.keys() & reference_names.keys():
        if names[class_id] != reference_names[class_id]:
            raise LayoutError(
                f"category {class_id} is {names[class_id]!r} in the targets, but {reference_names[class_id]!r} in the "
                "references: the two files do not belong together"
            )
    ids = {name: class_id for class_id, name in names.items()}
    if missing := [name for name in wanted or () if name not in ids]:
        raise LayoutError(f"the data set has no class {', '.join(map(repr, missing))}; it has {', '.join(ids)}")
    reference_ids = {name: class_id for class_id, name in reference_names.items()}
    for name in ids if wanted is None else wanted:
        if reference_ids.get(name, ids[name]) != ids[name]:
            raise LayoutError(
                f"the class {name!r} is category {ids[name]} in the targets, but {reference_ids[name]} in the "
                "references: give it one id in both files"
            )
    if missing := [name for name in wanted or () if name not in reference_ids]:
        raise LayoutError(f"the references have no class {', '.join(map(repr, missing))}")
    for role, dataset in roles.items():
        told += complete(dataset, role, strict=strict, crowds_as_objects=crowds_as_objects)
    if wanted is None:
        with_reference = {a["category_id"] for a in references["annotations"] if not a["iscrowd"]}
        wanted = [name for name, class_id in ids.items() if class_id in with_reference]
        if not wanted:
            raise LayoutError(" ".join([_no_reference(references), *told]))
        told += _notes_of_others(names, reference_names, {ids[name] for name in wanted}, unused, targets)
    novel = {ids[name] for name in wanted}
    if not strict:
        told += _notes_of_objects(names, novel, targets)
    return ProtocolData(
        references=references,
        targets=targets,
        class_ids=tuple(sorted(novel)),
        base_class_ids=tuple(sorted(set(names) - novel)),
        box_references=any(a["category_id"] in novel and not has_mask(a) for a in references["annotations"]),
        notes=tuple(told),
    )


_CROWDS = (
    "Set iscrowd to 0 where it marks single objects (CVAT writes 1 for every mask), or run COCO files with "
    "--crowds-as-objects."
)


def _drop_unused_categories(datasets: Sequence[dict], wanted: set[str]) -> list[str]:
    """Take categories out of data sets that have no annotation of them, if no other needs their names; these names.

    A class may have annotations in one of the data sets only. One name may be that of the root category and of a class.
    """
    used = [{a["category_id"] for a in d["annotations"] if _is_labelled(a)} for d in datasets]
    needed = set(wanted)
    for dataset, here in zip(datasets, used, strict=True):
        needed |= {category["name"] for category in dataset["categories"] if category["id"] in here}
    anywhere = set().union(*used)
    dropped: dict[str, None] = {}
    for dataset, here in zip(datasets, used, strict=True):
        kept = []
        for category in dataset["categories"]:
            of_name = [c for c in dataset["categories"] if c["name"] == category["name"]]
            twin = any(c is not category and c["id"] in anywhere for c in of_name)
            if category["id"] in here or (category["name"] in needed and not twin):
                kept.append(category)
            else:
                dropped[category["name"]] = None
        dataset["categories"] = kept
    return list(dropped)


def _is_labelled(annotation: Any) -> bool:
    return isinstance(annotation, dict) and isinstance(annotation.get("category_id"), int)


def _no_reference(references: dict) -> str:
    crowds = sum(a["iscrowd"] for a in references["annotations"])
    if crowds and crowds == len(references["annotations"]):
        return f"all {crowds} annotations of the references are crowds, which cannot be references. {_CROWDS}"
    return (
        "no class of the targets has a usable reference: there are no annotations of it in the references, or they "
        "were left out."
    )


def _notes_of_others(
    names: Mapping[int, str],
    reference_names: Mapping[int, str],
    evaluated: set[int],
    unused: Sequence[str],
    targets: dict,
) -> list[str]:
    """Notes of the classes that are not evaluated because a reference or a target is missing."""
    counts = Counter(annotation["category_id"] for annotation in targets["annotations"])
    distractors = [f"{name} ({counts[k]})" for k, name in names.items() if k not in evaluated and counts[k]]
    without = [name for k, name in names.items() if k not in evaluated and not counts[k]]
    without += [name for name in unused if name not in names.values()]
    beyond = [name for k, name in reference_names.items() if k not in names]
    notes = []
    if without:
        notes.append(f"Categories without a reference, not evaluated: {', '.join(without)}.")
    if distractors:
        notes.append(
            f"Categories without a reference, not evaluated, whose objects are distractors: {', '.join(distractors)}."
        )
    if beyond:
        notes.append(f"Categories of the references that the targets do not have, not evaluated: {', '.join(beyond)}.")
    return notes


def _notes_of_objects(names: Mapping[int, str], novel: set[int], targets: dict) -> list[str]:
    """Notes of evaluated classes that have no AP, and of objects whose masks are not known."""
    of_novel = [a for a in targets["annotations"] if a["category_id"] in novel]
    everything = Counter(a["category_id"] for a in of_novel)
    crowds = Counter(a["category_id"] for a in of_novel if a["iscrowd"])
    notes = []
    if only := [f"{names[k]} ({crowds[k]})" for k in sorted(novel) if everything[k] and crowds[k] == everything[k]]:
        notes.append(
            f"{sum(crowds.values())} of the {len(of_novel)} objects of the targets are crowds (iscrowd), which count "
            f"for nothing. Classes of which every object is one, and which have no AP: {', '.join(only)}. {_CROWDS}"
        )
    if absent := [names[k] for k in sorted(novel) if not everything[k]]:
        notes.append(f"Classes without an object in the targets, which have no AP: {', '.join(absent)}.")
    if boxes := sum(not has_mask(a) for a in of_novel):
        notes.append(
            f"{boxes} objects of the targets have no mask: their boxes stand in for it, so the AP of masks means "
            "little."
        )
    return notes


def read_annotated_image(record: Mapping, *, exif: bool = True) -> np.ndarray:
    """Read the image of a COCO record, which holds its ``path``, ``width`` and ``height``.

    Raises:
        ImageError: if the file cannot be read, or has another size than its annotations.
    """
    image = read_image(record["path"], exif=exif)
    if image.shape[:2] != (record["height"], record["width"]):
        raise ImageError(
            f"the image {record['path']} has {image.shape[1]} x {image.shape[0]} pixels, but its annotations are for "
            f"{record['width']} x {record['height']}"
        )
    return image


def mask_of_annotation(annotation: Mapping, height: int, width: int) -> np.ndarray:
    """The pixels of a COCO segmentation, of polygons or run lengths: bool ``[H, W]``.

    Raises:
        InvalidReference: if there is no segmentation, or none of this size.
    """
    segmentation = annotation.get("segmentation")
    if not has_mask(annotation):
        raise InvalidReference(f"annotation {annotation.get('id')!r} has no segmentation")
    rle = to_rle(segmentation, (height, width), annotation.get("image_id", ""))
    mask = coco_mask.decode(rle).astype(bool)
    if mask.shape != (height, width):
        raise InvalidReference(
            f"the segmentation of annotation {annotation.get('id')!r} has {mask.shape[1]} x {mask.shape[0]} pixels, "
            f"its image {width} x {height}"
        )
    return mask


# ----------------------------------------------------------------------------------------------------------------------
# COCO and LVIS


def _edition_of_coco(protocol: Protocol, folder: Path, edition: str | None) -> tuple[str, tuple[str, ...]]:
    """The year to read, and notes."""
    # All images of 2014 are in 2017 too, and few who have the one keep the other.
    only_2017 = _coco_json(folder, "val", "2017").is_file() and not _coco_json(folder, "val", "2014").is_file()
    if edition is None and protocol.edition == "2014" and only_2017:
        return "2017", ("The protocol was published on COCO 2014; this was read from COCO 2017.",)
    return edition or protocol.edition, ()


def _load_coco(protocol: Protocol, folder: Path, year: str) -> tuple[dict, dict]:
    """References and targets. Episodes take both from the validation images."""
    targets = _read_coco(_coco_json(folder, "val", year), folder / f"val{year}", "coco")
    if protocol.task == "semantic":
        return targets, targets
    return _read_coco(_coco_json(folder, "train", year), folder / f"train{year}", "coco"), targets


def _coco_json(folder: Path, split: str, year: str) -> Path:
    return folder / "annotations" / f"instances_{split}{year}.json"


def _load_lvis(folder: Path, split: str) -> dict:
    """LVIS names an image by its address at COCO, and takes those of its validation from COCO's training images too."""
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
    """References of all shot files together, and targets."""
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
    """One data set of several shot files: images by their file names, annotations each with its number of ``shots``."""
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
    """The folder that holds ``VOC2007`` and ``VOC2012``: the given one, or the ``VOCdevkit`` in it."""
    for root in (folder, folder / "VOCdevkit"):
        if (root / "VOC2012").is_dir():
            return root
    raise LayoutError(_not_found([folder / "VOC2012", folder / "VOCdevkit" / "VOC2012"], "voc"))


def voc_list(folder: Path, task: str, split: str) -> list[str]:
    """The names in a list of PASCAL VOC, such as ``VOC2007/ImageSets/Main/trainval.txt``."""
    path = folder / "ImageSets" / task / f"{split}.txt"
    if not path.is_file():
        raise LayoutError(_not_found([path], "voc"))
    return [line.split()[0] for line in path.read_text().splitlines() if line.strip()]


def _load_voc_detection(root: Path, splits: Iterable[tuple[str, str]]) -> dict:
    """Lists of PASCAL VOC as one COCO data set, images and annotations numbered in their order.

    Boxes as the publication converted them: all four coordinates less one, as integers. Category ids are 0-based.
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
    """A list of PASCAL VOC's segmentations: one annotation for every class in an image, category ids 1 to 20."""
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
    """Some coordinates of VOC2012 are written with decimals."""
    return int(float(_text(item, f"bndbox/{side}", name))) - 1


def _read_classes(path: Path) -> np.ndarray:
    """Class of every pixel, uint8 ``[H, W]``: the palette's index."""
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
    """A COCO data set, its annotations in the order of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        LayoutError: if it cannot be read, or is no COCO data set.
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
    """Give every image its path. That of the first is looked up: all files are missing more often than one is."""
    for image in dataset["images"]:
        image["path"] = str(folder / file_name(image, str(folder)))
    if dataset["images"] and not Path(dataset["images"][0]["path"]).is_file():
        raise LayoutError(_not_found([Path(dataset["images"][0]["path"])], layout))
    return dataset


def file_name(image: Mapping, where: str) -> str:
    """The name of an image's file.

    Raises:
        LayoutError: if it has none.
    """
    name = image.get("file_name")
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise LayoutError(f"the image {image.get('id')!r} of the data set in {where} has no file_name")
    return name


def _names(dataset: dict, where: str) -> dict[int, str]:
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    if len(set(names.values())) < len(dataset["categories"]):
        raise LayoutError(f"{where} have two categories of one name or id: {list(_repeated(dataset['categories']))}")
    return dict(sorted(names.items()))


def _repeated(categories: Iterable[dict]) -> Iterator[str]:
    seen: set[int | str] = set()
    for category in categories:
        if category["id"] in seen or category["name"] in seen:
            yield category["name"]
        seen |= {category["id"], category["name"]}


def _first_of(paths: Sequence[Path], layout: str) -> Path:
    for path in paths:
        if path.is_file():
            return path
    raise LayoutError(_not_found(paths, layout))


def _not_found(paths: Sequence[Path], layout: str) -> str:
    return f"there is no {' and no '.join(map(str, paths))}. The data must be {LAYOUTS[layout]}"
