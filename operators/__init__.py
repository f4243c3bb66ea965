"""FiftyOne's side of the plugin: forms in, fields and runs out. All the work is done by the engine, ``nts``.

The engine brings torch along, so it is imported where it is used and not here: FiftyOne registers the operators of
every plugin whenever it starts.
"""

from .add_references import AddReferences
from .auto_segment_view import AutoSegmentView
from .build_reference_memory import BuildReferenceMemory
from .clear_cache import ClearCache
from .copy_accepted import CopyAccepted
from .decide_predictions import DecidePredictions
from .delete_runs import (
    DeleteClassMaps,
    DeleteEvaluation,
    DeleteHeatmaps,
    DeleteMemory,
    DeleteReferencePrompt,
    DeleteSegmentation,
)
from .evaluate_nap import EvaluateNAP
from .exchange import ExportMemory, ExportReferencePrompt, ImportMemory, ImportReferencePrompt
from .index_predictions import IndexPredictions
from .map_classes import MapClasses
from .memory_panel import MemoryPanel, OpenMemoryPanel
from .move_reference import MoveReference
from .nap_metric import NAPMetric
from .nap_panel import NAPPanel, OpenNAPPanel
from .review_panel import OpenReviewPanel, ReviewPanel
from .runs_panel import OpenRunsPanel, RunsPanel
from .similarity_heatmaps import SimilarityHeatmaps
from .tag_for_review import TagForReview
from .train_reference_prompt import TrainReferencePrompt
from .update_predictions import UpdatePredictions

OPERATORS = (
    BuildReferenceMemory,
    AutoSegmentView,
    AddReferences,
    MoveReference,
    EvaluateNAP,
    NAPMetric,
    NAPPanel,
    MemoryPanel,
    ReviewPanel,
    RunsPanel,
    OpenMemoryPanel,
    OpenNAPPanel,
    OpenReviewPanel,
    OpenRunsPanel,
    SimilarityHeatmaps,
    MapClasses,
    DecidePredictions,
    CopyAccepted,
    UpdatePredictions,
    IndexPredictions,
    TagForReview,
    TrainReferencePrompt,
    DeleteEvaluation,
    DeleteMemory,
    DeleteReferencePrompt,
    DeleteSegmentation,
    DeleteHeatmaps,
    DeleteClassMaps,
    ExportMemory,
    ExportReferencePrompt,
    ImportMemory,
    ImportReferencePrompt,
    ClearCache,
)
