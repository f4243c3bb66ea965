"""FiftyOne's side of the plugin: forms in, fields and runs out. All the work is done by the engine, ``nts``.

The engine brings torch along, so it is imported where it is used and not here: FiftyOne registers the operators of
every plugin whenever it starts.
"""

from .auto_segment_view import AutoSegmentView
from .build_reference_memory import BuildReferenceMemory
from .clear_cache import ClearCache
from .delete_evaluation import DeleteEvaluation
from .delete_memory import DeleteMemory
from .delete_reference_prompt import DeleteReferencePrompt
from .delete_segmentation import DeleteSegmentation
from .evaluate_nap import EvaluateNAP
from .export_memory import ExportMemory
from .export_reference_prompt import ExportReferencePrompt
from .import_memory import ImportMemory
from .import_reference_prompt import ImportReferencePrompt
from .map_classes import DeleteClassMaps, MapClasses
from .memory_panel import MemoryPanel, OpenMemoryPanel
from .nap_metric import NAPMetric
from .nap_panel import NAPPanel, OpenNAPPanel
from .similarity_heatmaps import DeleteHeatmaps, SimilarityHeatmaps
from .tag_for_review import TagForReview
from .train_reference_prompt import TrainReferencePrompt

OPERATORS = (
    BuildReferenceMemory,
    AutoSegmentView,
    EvaluateNAP,
    NAPMetric,
    NAPPanel,
    MemoryPanel,
    OpenMemoryPanel,
    OpenNAPPanel,
    SimilarityHeatmaps,
    MapClasses,
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
