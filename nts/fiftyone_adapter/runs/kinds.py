"""The kinds of run that the plugin stores in a dataset: what each writes, and with what it is deleted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RunKind:
    """One kind of run.

    Attributes:
        method: the name that FiftyOne stores with every run of the kind.
        noun: for messages.
        schema: version of the stored format.
        made_by: the function that makes it.
        title: the noun beside the name of one run: "heat maps 'birds_similarity'".
        field_keys: values of the configuration that name the fields of the run.
        label_type: name of the label class in the first of these fields.
        parent: the kind of run that it is made with, and deleted with.
        parent_key: the value of the configuration that names the parent.
    """

    method: str
    noun: str
    schema: int
    made_by: str
    title: str = ""
    field_keys: tuple[str, ...] = ()
    label_type: str = ""
    parent: RunKind | None = None
    parent_key: str = ""

    def fields(self, config: Mapping[str, Any]) -> list[str]:
        """Names of the fields that a run of this configuration writes; they need not exist."""
        values = [config[key] for key in self.field_keys]
        return [name for value in values for name in ([value] if isinstance(value, str) else value)]

    def words(self, key: str) -> str:
        """A run in a list of what is deleted: "segmentation 'nts_birds'"."""
        return f"{self.title or self.noun} {key!r}"


_OUTPUT = ("output_field", "error_field")

MEMORY = RunKind("nts_memory", "memory", schema=1, made_by="build_reference_memory")
SEGMENTATION = RunKind(
    "nts_segmentation",
    "segmentation",
    schema=1,
    made_by="auto_segment_view",
    field_keys=_OUTPUT,
    label_type="Detections",
    parent=MEMORY,
    parent_key="memory_key",
)
EVALUATION = RunKind(
    "nts_nap",
    "evaluation",
    schema=2,
    made_by="evaluate_nap",
    parent=SEGMENTATION,
    parent_key="predictions_field",
)
HEATMAPS = RunKind(
    "nts_heatmaps",
    "set of heat maps",
    schema=1,
    made_by="similarity_heatmaps",
    title="heat maps",
    field_keys=("fields",),
    label_type="Heatmap",
    parent=MEMORY,
    parent_key="memory_key",
)
PROMPT = RunKind("nts_prompt", "reference prompt", schema=1, made_by="train_reference_prompt")
CLASS_MAPS = RunKind(
    "nts_class_maps",
    "set of class maps",
    schema=1,
    made_by="map_classes",
    title="class maps",
    field_keys=_OUTPUT,
    label_type="Segmentation",
    parent=MEMORY,
    parent_key="memory_key",
)

RUN_KINDS = (MEMORY, SEGMENTATION, EVALUATION, HEATMAPS, PROMPT, CLASS_MAPS)


def error_field(output_field: str) -> str:
    """Name of the field with the reason for every sample without a result."""
    return f"{output_field}_error"


def heatmaps_key(memory_key: str, shown: str = "similarity") -> str:
    """Name of the heat maps of a memory: one set for each quantity that they show."""
    return f"{memory_key}_{shown}"
