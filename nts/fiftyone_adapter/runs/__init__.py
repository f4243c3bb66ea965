"""Everything that the plugin stores in a dataset. Only this package stores, lists and deletes runs.

All of it are custom runs of FiftyOne, with FiftyOne's own classes and plain values, so that a dataset opens where the
plugin is not installed:

* a *memory* (method ``nts_memory``), registered on the view of its references; its results hold the bank's bytes;
* a *segmentation* (``nts_segmentation``), under the name of its output field, registered on the view it segmented;
* an *evaluation* (``nts_nap``), registered on the view it evaluated; its results hold the numbers. Beside it stands an
  evaluation of FiftyOne's own kind under the same name, which FiftyOne's Model Evaluation panel shows;
* a *reference prompt* (``nts_prompt``), trained here or read from a file; its results hold its bytes and its log;
* a *set of heat maps* (``nts_heatmaps``), under ``<memory>_similarity``, or ``_probability`` if made by a reference
  prompt; its configuration names the field of every class;
* a *set of class maps* (``nts_class_maps``), under the name of its output field.

:mod:`.kinds` is the table of them, :mod:`.storage` reads and writes any run, :mod:`.deletion` deletes any run with
everything made with it; the other modules hold the stored format of one kind each.
"""

from .brain_runs import (
    EMBEDDINGS,
    SIMILARITY,
    brain_runs,
    check_map_field,
    create_map,
    delete_brain_runs,
    has_map,
    is_map,
    map_field,
    renew_brain_runs,
)
from .decided import DECISION, REFUSED, UNFINISHED, count_decided, with_decisions
from .deletion import delete_predictions, delete_run, run_contents
from .history import MOST_LABELS, MOST_STEPS, add_step, delete_history, list_steps, remove_step, step_content
from .kinds import (
    CLASS_MAPS,
    EVALUATION,
    HEATMAPS,
    MEMORY,
    PROMPT,
    RUN_KINDS,
    SEGMENTATION,
    RunKind,
    error_field,
    heatmaps_key,
)
from .memories import (
    check_memory,
    fingerprint,
    label_fields,
    load_memory,
    reference_sources,
    replace_memory,
    store_memory,
)
from .native_records import (
    ATTRIBUTE_SUFFIXES,
    COUNT_SUFFIXES,
    METRIC,
    PENDING,
    delete_native_evaluation,
    error_attribute,
    has_native_evaluation,
    label_attributes,
    native_stamp,
)
from .saved_views import (
    CONFIDENT_VIEW,
    REVIEW_VIEW,
    FieldView,
    check_field_view,
    delete_field_view,
    has_field_view,
    save_field_view,
)
from .storage import (
    Collection,
    all_images,
    begin,
    change_runs,
    check_draft,
    check_editable,
    check_owner,
    complete,
    config,
    created,
    discard_draft,
    explained,
    in_batches,
    is_draft,
    list_drafts,
    list_runs,
    results,
    store,
    update,
    update_draft,
)
from .trained_prompts import LOCK_FILE, load_stored_prompt, store_prompt

__all__ = [
    "ATTRIBUTE_SUFFIXES",
    "CLASS_MAPS",
    "CONFIDENT_VIEW",
    "COUNT_SUFFIXES",
    "DECISION",
    "EMBEDDINGS",
    "EVALUATION",
    "HEATMAPS",
    "LOCK_FILE",
    "MEMORY",
    "METRIC",
    "MOST_LABELS",
    "MOST_STEPS",
    "PENDING",
    "PROMPT",
    "REFUSED",
    "REVIEW_VIEW",
    "RUN_KINDS",
    "SEGMENTATION",
    "SIMILARITY",
    "UNFINISHED",
    "Collection",
    "FieldView",
    "RunKind",
    "add_step",
    "all_images",
    "begin",
    "brain_runs",
    "change_runs",
    "check_draft",
    "check_editable",
    "check_field_view",
    "check_map_field",
    "check_memory",
    "check_owner",
    "complete",
    "config",
    "count_decided",
    "create_map",
    "created",
    "delete_brain_runs",
    "delete_field_view",
    "delete_history",
    "delete_native_evaluation",
    "delete_predictions",
    "delete_run",
    "discard_draft",
    "error_attribute",
    "error_field",
    "explained",
    "fingerprint",
    "has_field_view",
    "has_map",
    "has_native_evaluation",
    "heatmaps_key",
    "in_batches",
    "is_draft",
    "is_map",
    "label_attributes",
    "label_fields",
    "list_drafts",
    "list_runs",
    "list_steps",
    "load_memory",
    "load_stored_prompt",
    "map_field",
    "native_stamp",
    "reference_sources",
    "remove_step",
    "renew_brain_runs",
    "replace_memory",
    "results",
    "run_contents",
    "save_field_view",
    "step_content",
    "store",
    "store_memory",
    "store_prompt",
    "update",
    "update_draft",
    "with_decisions",
]
