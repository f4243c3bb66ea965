"""The labels of a field that a person has selected in the App: in a sample, or as patches in the grid."""

from __future__ import annotations


def selected_labels(ctx, field: str) -> list[str] | None:
    """Ids of the selected labels of a field; ``None`` if nothing is selected."""
    if ctx.selected_labels:
        return [label["label_id"] for label in ctx.selected_labels if label["field"] == field]
    if not ctx.selected or not ctx.view.has_field(field):
        return None
    return label_ids(ctx.view.select(ctx.selected), field)


def label_ids(view, field: str) -> list[str]:
    """Ids of the labels of a field in a view; a patches view has one label in every sample."""
    values = view.values(view._get_label_field_path(field, "id")[1])
    return [each for of_sample in values for each in (of_sample or () if isinstance(of_sample, list) else [of_sample])]
