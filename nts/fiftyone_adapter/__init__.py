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
from .heatmaps import MOST_CLASSES, HeatmapsReport, heatmap_fields, heatmaps_job, similarity_heatmaps
from .importing import custom_data, import_layout, sample_references_view
from .inspecting import (
    MemoryInspection,
    Thumbnail,
    describe_check,
    inspect_memory,
    missing_samples,
    references_view,
    thumbnails,
)
from .jobs import Job, Progress, run
from .model import ReferenceSegmenterModel
from .model_evaluation import check_evaluation_fields, nap_of_evaluation
from .reviewing import (
    REVIEW,
    REVIEW_SHARE,
    ReviewReport,
    clear_review,
    count_for_review,
    suggest_thresholds,
    tag_for_review,
)
from .runs import (
    EVALUATION,
    MEMORY,
    RunNotFound,
    delete_evaluation,
    delete_heatmaps,
    delete_memory,
    delete_segmentation,
    list_evaluations,
    list_heatmaps,
    list_memories,
    list_segmentations,
    load_memory,
    made_with_evaluation,
    made_with_heatmaps,
    made_with_memory,
    made_with_segmentation,
)
from .segmenting import SegmentationReport, auto_segment_view, segmentation_job
from .stored_evaluation import (
    COMPARED_FIGURES,
    MOST_LABELS,
    against_shots,
    compare_evaluations,
    list_runs,
    list_unfinished_evaluations,
    open_evaluation,
    percent,
)

__all__ = [
    "COMPARED_FIGURES",
    "EVALUATION",
    "MEMORY",
    "MOST_CLASSES",
    "MOST_LABELS",
    "REVIEW",
    "REVIEW_SHARE",
    "EvaluationReport",
    "HeatmapsReport",
    "InputError",
    "Job",
    "LabelCounts",
    "MemoryInspection",
    "MemoryReport",
    "Progress",
    "ReferenceSegmenterModel",
    "ReviewReport",
    "RunNotFound",
    "SegmentationReport",
    "Thumbnail",
    "against_shots",
    "auto_segment_view",
    "build_reference_memory",
    "check_evaluation_fields",
    "check_key",
    "check_output_field",
    "check_view",
    "clear_review",
    "compare_evaluations",
    "count_for_review",
    "custom_data",
    "delete_evaluation",
    "delete_heatmaps",
    "delete_memory",
    "delete_segmentation",
    "describe_check",
    "evaluate_nap",
    "evaluation_job",
    "export_memory",
    "heatmap_fields",
    "heatmaps_job",
    "import_layout",
    "import_memory",
    "inspect_memory",
    "label_counts",
    "list_evaluations",
    "list_heatmaps",
    "list_memories",
    "list_runs",
    "list_segmentations",
    "list_unfinished_evaluations",
    "load_evaluation",
    "load_memory",
    "made_with_evaluation",
    "made_with_heatmaps",
    "made_with_memory",
    "made_with_segmentation",
    "memory_job",
    "missing_samples",
    "nap_of_evaluation",
    "open_evaluation",
    "percent",
    "references_view",
    "run",
    "sample_references_view",
    "segmentation_job",
    "similarity_heatmaps",
    "suggest_output_field",
    "suggest_thresholds",
    "tag_for_review",
    "thumbnails",
]
