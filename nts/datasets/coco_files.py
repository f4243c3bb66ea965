"""COCO files as data of the protocol ``custom``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

from .layouts import file_name, read_json
from .protocol_data import ProtocolData, protocol_data
from .repair import LayoutError


def load_coco_files(
    references: Path | str,
    targets: Path | str,
    images: Path | str | None = None,
    *,
    classes: str | Sequence[str] | None = None,
    crowds_as_objects: bool = False,
) -> ProtocolData:
    """Read COCO files. Unusable entries are left out and reported in ``notes``.

    Args:
        references: JSON file to draw references from.
        targets: JSON file to evaluate; may be the same.
        images: folder of the images; the folder of each JSON file where ``None``.
        classes: classes to evaluate, see :func:`~nts.datasets.layouts.protocol_data`.
        crowds_as_objects: count crowds like any other object.

    Raises:
        LayoutError: if a file cannot be read or is not a COCO dataset, images are missing, an image has two entries, or
            there is nothing to evaluate.
    """
    files = {"references": Path(references), "targets": Path(targets)}
    datasets = [_read(path, role, None if images is None else Path(images)) for role, path in files.items()]
    data = protocol_data(datasets[0], datasets[1], classes, crowds_as_objects=crowds_as_objects)
    for role, dataset in (("references", data.references), ("targets", data.targets)):
        if not dataset["images"]:
            raise LayoutError(f"{files[role]}: none of the images can be used. {' '.join(data.notes)}".strip())
    names = {category["id"]: category["name"] for category in data.targets["categories"]}
    shown = {a["category_id"] for a in data.references["annotations"] if not a["iscrowd"]}
    if missing := [names[class_id] for class_id in data.class_ids if class_id not in shown]:
        raise LayoutError(
            f"{files['references']} has no annotation at all of {', '.join(map(repr, missing))} that can be a "
            f"reference. {' '.join(data.notes)}".strip()
        )
    if not any(a["category_id"] in data.class_ids for a in data.targets["annotations"]):
        raise LayoutError(
            f"{files['targets']} has no object of the classes {', '.join(names[k] for k in data.class_ids)}: there is "
            f"nothing to measure. {' '.join(data.notes)}".strip()
        )
    return data


def _read(path: Path, role: str, folder: Path | None) -> dict:
    """Read a COCO file, and add the path of every image."""
    try:
        dataset = read_json(path)
    except FileNotFoundError:
        raise LayoutError(f"{path} is not a COCO data set: there is no such file") from None
    if not dataset["images"]:
        raise LayoutError(f"{path} has no images")
    folder = (folder or path.parent).absolute()
    seen: dict[str, object] = {}
    for image in dataset["images"]:
        image["path"] = str(_find(folder, file_name(image, str(path))))
        same = os.path.normpath(image["path"])
        if same in seen and seen[same] != image["id"]:
            raise LayoutError(
                f"the images {seen[same]!r} and {image['id']!r} of {path} are both {image['file_name']}: give every "
                "file one entry with all its annotations"
            )
        seen[same] = image["id"]
    if not any(Path(image["path"]).is_file() for image in dataset["images"]):
        raise LayoutError(
            f"none of the {len(dataset['images'])} images of the {role} is found, such as "
            f"{dataset['images'][0]['path']}: file names are relative to --data, or to the folder of the JSON file"
        )
    return dataset


def _find(folder: Path, name: str) -> Path:
    """Path of a file; its name may have Windows separators."""
    path = folder / name
    if "\\" in name and not path.is_file():
        return folder.joinpath(*PureWindowsPath(name).parts)
    return path
