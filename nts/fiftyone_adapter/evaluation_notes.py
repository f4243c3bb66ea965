"""Notes on an evaluation: everything about the data that a reader of the numbers must know."""

from __future__ import annotations

from collections.abc import Sequence

from .coco import CocoData
from .jobs import first_few


def notes_on_names(predicted: Sequence[str], present: Sequence[str]) -> list[str]:
    """Predicted classes that the ground truth does not have, and those that may be meant to be one of its own."""
    notes, known = [], {_plain(name): name for name in present}
    unmatched = sorted(set(predicted) - set(present))
    alike = [name for name in unmatched if _plain(name) in known]
    if alike:
        pairs = ", ".join(f"{name!r} and {known[_plain(name)]!r}" for name in alike)
        notes.append(
            f"predictions and ground truth have labels that differ in case or spaces only ({pairs}): they count as "
            "different classes; rename one of them if they are the same"
        )
    if others := [repr(name) for name in unmatched if name not in alike]:
        notes.append(
            f"the ground truth has no object of {first_few(others)}: predictions of these labels match nothing"
        )
    return notes


def notes_on_data(data: CocoData, predictions_field: str, total: int, crowd: str | None) -> list[str]:
    """Missing predictions, masks and labels, stale metadata, and classes with nothing but crowds.

    Args:
        data: the labels that were read.
        predictions_field: name of the field with the predictions.
        total: number of images in the view.
        crowd: attribute that marks crowds.
    """
    notes = []
    if data.without_predictions:
        notes.append(
            f"{data.without_predictions} of {total} images have no {predictions_field!r} (not segmented, or failed): "
            "they count as images in which nothing was found"
        )
    if data.rejected:
        notes.append(f"{data.rejected} predictions that were rejected by a person were left out")
    if data.without_mask:
        counts = ", ".join(f"{count} labels of {name!r}" for name, count in data.without_mask.items())
        notes.append(f"{counts} have no mask: their boxes stand in for it, so the AP of masks means little")
    if data.unplaced:
        notes.append(f"{len(data.unplaced)} labels or images were left out: {first_few(data.unplaced)}")
    if data.stale_metadata:
        notes.append(
            f"{data.stale_metadata} samples have metadata of another size than their file: the file's size was taken; "
            "compute the metadata again with overwrite=True"
        )
    return [*notes, *_notes_on_crowds(data, crowd)]


def samples_are(count: int) -> str:
    """ "1 sample is", "2 samples are"."""
    return "1 sample is" if count == 1 else f"{count} samples are"


def _notes_on_crowds(data: CocoData, crowd: str | None) -> list[str]:
    crowds = data.crowds()
    only_crowds = [name for name, (count, objects) in crowds.items() if count == objects]
    if not only_crowds:
        return []
    count = sum(crowds[name][0] for name in only_crowds)
    return [
        f"all {count} objects of {', '.join(only_crowds)} are crowds (by their attribute {crowd!r}), which are neither "
        "to be found nor mistakes: these classes have no AP. If they are single objects (some tools mark every mask as "
        "a crowd), set the attribute to 0, or count crowds as objects (crowd=None)"
    ]


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()
