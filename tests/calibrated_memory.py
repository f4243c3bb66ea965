"""Memory with negatives, and therefore with a calibration, for the drawn dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import fiftyone

    from nts.encoder import Encoder
    from nts.memory import MemoryBank
    from nts.presets import Preset
    from nts.segmenter import Segmenter


def store_calibrated_memory(
    references: fiftyone.DatasetView, key: str, encoder: Encoder, segmenter: Segmenter, preset: Preset
) -> MemoryBank:
    """Build a memory of the labels in `ground_truth`, with all of them, and store it under a key."""
    from nts.building import build_memory
    from nts.cache import default_cache
    from nts.fiftyone_adapter import runs
    from nts.fiftyone_adapter.references import annotations_of_sample, references_of_sample

    labelled = [
        reference
        for sample in references
        for reference in references_of_sample(sample, annotations_of_sample(sample, "ground_truth", {}))
    ]
    bank, skipped = build_memory(
        labelled, encoder, preset, segmenter=segmenter, complete_labels=True, cache=default_cache()
    )
    assert skipped == []
    runs.store_memory(references, key, bank)
    return bank
