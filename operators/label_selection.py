"""The samples and labels that a person has chosen in the App: in the grid, as patches, or in an open sample."""

from __future__ import annotations

THIS_SAMPLE = "THIS_SAMPLE"
"""Choice of a target view beside FiftyOne's own: the sample that is open."""


def target(ctx):
    """The chosen target view, as whole images: of patches, the images with the labels of these patches only."""
    if ctx.params.get("view_target") == THIS_SAMPLE:
        return ctx.dataset.select(ctx.current_sample)
    view = ctx.target_view()
    if not getattr(view, "_is_patches", False):
        return view
    fields = list(view._label_fields)
    ids = [label_id for field in fields for label_id in label_ids(view, field) if label_id is not None]
    return ctx.dataset.select_labels(ids=ids, fields=fields)


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
