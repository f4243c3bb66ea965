"""The engine in FiftyOne: datasets in, labels and runs out. The only part of ``nts`` that imports FiftyOne.

>>> from nts.fiftyone_adapter import auto_segment_view, build_reference_memory, evaluate_nap
>>> references, targets = dataset.match_tags("reference"), dataset.match_tags("target")
>>> built = build_reference_memory(references, "ground_truth", "birds")
>>> segmented = auto_segment_view(targets, "birds")
>>> evaluated = evaluate_nap(targets, "nts_birds", "ground_truth")
>>> 0 < evaluated.result.masks.novel.ap50 <= 1
True

Each task is a job, a generator that yields its progress (``segmentation_job``), and a function that runs the job to
completion (``auto_segment_view``). Everything else is imported from the submodules: :mod:`.runs` lists and deletes
stored runs, :mod:`.evaluation_results` opens stored evaluations, :mod:`.inspecting` inspects memories,
:mod:`.decisions` and :mod:`.teaching` are for reviews.
"""

from .adding_negatives import add_negatives, negatives_job
from .building import build_reference_memory, export_memory, import_memory, memory_job
from .class_maps import class_maps_job, map_classes
from .errors import InputError
from .heatmaps import heatmaps_job, similarity_heatmaps
from .jobs import run
from .model import ReferenceSegmenterModel
from .nap_evaluation import evaluate_nap, evaluation_job
from .prompt_training import train_reference_prompt
from .reviewing import tag_for_review
from .runs import load_memory
from .segmenting import auto_segment_view, segmentation_job

__all__ = [
    "InputError",
    "ReferenceSegmenterModel",
    "add_negatives",
    "auto_segment_view",
    "build_reference_memory",
    "class_maps_job",
    "evaluate_nap",
    "evaluation_job",
    "export_memory",
    "heatmaps_job",
    "import_memory",
    "load_memory",
    "map_classes",
    "memory_job",
    "negatives_job",
    "run",
    "segmentation_job",
    "similarity_heatmaps",
    "tag_for_review",
    "train_reference_prompt",
]
