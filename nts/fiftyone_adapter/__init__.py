"""The engine in FiftyOne: datasets in, labels and runs out. The only part of ``nts`` that imports FiftyOne.

>>> from nts.fiftyone_adapter import auto_segment_view, build_reference_memory, evaluate_nap  # doctest: +SKIP
>>> build_reference_memory(dataset.match_tags("reference"), "ground_truth", "birds")  # doctest: +SKIP
>>> auto_segment_view(dataset.match_tags("target"), "birds")  # doctest: +SKIP
>>> evaluate_nap(dataset.match_tags("target"), "nts_birds", "ground_truth").result.masks.novel.ap  # doctest: +SKIP
"""

from .building import MemoryReport, build_reference_memory, export_memory, import_memory, memory_job
from .checks import (
    InputError,
    LabelCounts,
    check_key,
    check_output_field,
    check_view,
    label_counts,
    suggest_output_field,
)
from .evaluating import EvaluationReport, evaluate_nap, evaluation_job, load_evaluation
from .jobs import Job, Progress, run
from .model import ReferenceSegmenterModel
from .model_evaluation import check_evaluation_fields
from .runs import (
    EVALUATION,
    MEMORY,
    RunNotFound,
    delete_evaluation,
    delete_memory,
    delete_segmentation,
    list_evaluations,
    list_memories,
    list_segmentations,
    load_memory,
    made_with_evaluation,
    made_with_memory,
    made_with_segmentation,
)
from .segmenting import SegmentationReport, auto_segment_view, segmentation_job

__all__ = [
    "EVALUATION",
    "MEMORY",
    "EvaluationReport",
    "InputError",
    "Job",
    "LabelCounts",
    "MemoryReport",
    "Progress",
    "ReferenceSegmenterModel",
    "RunNotFound",
    "SegmentationReport",
    "auto_segment_view",
    "build_reference_memory",
    "check_evaluation_fields",
    "check_key",
    "check_output_field",
    "check_view",
    "delete_evaluation",
    "delete_memory",
    "delete_segmentation",
    "evaluate_nap",
    "evaluation_job",
    "export_memory",
    "import_memory",
    "label_counts",
    "list_evaluations",
    "list_memories",
    "list_segmentations",
    "load_evaluation",
    "load_memory",
    "made_with_evaluation",
    "made_with_memory",
    "made_with_segmentation",
    "memory_job",
    "run",
    "segmentation_job",
    "suggest_output_field",
]
