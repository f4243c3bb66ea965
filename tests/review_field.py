"""The field of predictions that tests of the review use."""

from __future__ import annotations

FIELD = "nts_shapes"


def decisions_of(dataset) -> dict[str, str | None]:
    """Decisions by label id."""
    found = dataset.exists(FIELD).values(f"{FIELD}.detections", unwind=True)
    return {label.id: label.get_attribute_value("decision", None) for label in found}
