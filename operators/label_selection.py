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


def shown_field(view, field: str) -> str | None:
    """The field of a view with the predictions of ``field``: that field, or, in patches of its map, the map."""
    from ..nts.fiftyone_adapter.runs import map_field

    return next((name for name in (field, map_field(field)) if view.has_field(name)), None)


def map_patches(dataset, name: str):
    """Patches of a map of predictions: references, predictions, negatives.

    Negatives come last: those without a box are shown as whole images, the same image many times.
    """
    return dataset.to_patches(name).sort_by(f"{name}.role", reverse=True)


def selected_labels(ctx, field: str) -> list[str] | None:
    """Ids of the selected labels of a field of predictions, or of its map; ``None`` if nothing is selected.

    Of a map, references and negatives may be among them: their ids are in no prediction.
    """
    from ..nts.fiftyone_adapter.runs import map_field

    if ctx.selected_labels:
        fields = (field, map_field(field))
        return [label["label_id"] for label in ctx.selected_labels if label["field"] in fields]
    shown = shown_field(ctx.view, field) if ctx.selected else None
    return None if shown is None else label_ids(ctx.view.select(ctx.selected), shown)


def lassoed_labels(view, field: str) -> set[str] | None:
    """Ids of the labels in the lasso of the Embeddings panel, if it was drawn over predictions, or over their map.

    The lasso turns a view of samples into one of the samples that have such labels, and leaves their other labels in.
    """
    import fiftyone as fo

    from ..nts.fiftyone_adapter.runs import map_field

    for stage in reversed(view._stages):
        if isinstance(stage, fo.MatchLabels) and stage.ids and {field, map_field(field)} & set(stage.fields or ()):
            return set(stage.ids)
    return None


def label_ids(view, field: str) -> list[str]:
    """Ids of the labels of a field in a view; a patches view has one label in every sample."""
    values = view.values(view._get_label_field_path(field, "id")[1])
    return [each for of_sample in values for each in (of_sample or () if isinstance(of_sample, list) else [of_sample])]
