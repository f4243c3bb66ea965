"""Accept or reject predictions: decisions about the selected labels, the selected patches, or the labels in view."""

from __future__ import annotations

from collections.abc import Sequence

import fiftyone.operators.types as types

from . import forms
from .base import SimpleOperator
from .label_selection import label_ids, lassoed_labels, map_patches, selected_labels, shown_field

ACCEPT, REJECT, OUTLINE, CHANGE, CLEAR = "accepted", "rejected", "wrong outline", "corrected", "clear"
ACTIONS = {
    ACCEPT: ("Accept", "Right class, good outline"),
    REJECT: ("Reject", "Not an object of this class"),
    OUTLINE: ("Wrong outline", "An object of this class, not well outlined: it teaches nothing"),
    CHANGE: ("Change class", "Good outline, another class"),
    CLEAR: ("Undecided", "Take decisions back"),
}
DONE = {
    ACCEPT: "accepted",
    REJECT: "rejected",
    OUTLINE: "rejected for their outline",
    CHANGE: "corrected",
    CLEAR: "undecided again",
}


class DecidePredictions(SimpleOperator):
    """See :func:`nts.fiftyone_adapter.decisions.decide`."""

    @property
    def config(self):
        return self.settings(
            "decide_predictions",
            "Accept or reject predictions",
            "Decided predictions are kept: later segmentations neither change nor repeat them",
            risk_level="LOW",
            icon="accept",
        )

    def __call__(self, sample_collection, predictions_field, decision, label_ids=None, *, class_name=None):
        """Decide from Python; returns the earlier states, for :func:`nts.fiftyone_adapter.decisions.undo`."""
        from ..nts.fiftyone_adapter.decisions import decide

        return decide(sample_collection, predictions_field, decision, label_ids, class_name=class_name)

    def form(self, ctx, inputs) -> None:
        from ..nts.fiftyone_adapter.runs import SEGMENTATION, list_runs

        if ctx.dataset is None:
            forms.refuse(inputs, "No dataset", "open a dataset first")
            return
        made = [name for name in list_runs(ctx.dataset, SEGMENTATION) if shown_field(ctx.view, name)]
        if not made:
            forms.refuse(inputs, "No predictions", "segment some samples first, with Auto-segment view")
            return
        default = _selected_field(ctx, made) or made[-1]
        forms.choice(
            inputs,
            "predictions_field",
            made,
            label="Predictions",
            description="The field to decide about",
            default=default,
            required=False,
        )
        name = ctx.params.get("predictions_field") or default
        count = len(_label_ids(ctx, name))
        what = "selected" if selected_labels(ctx, name) is not None else "in view"
        if not count:
            forms.refuse(inputs, "No labels", f"none of the labels {what} belongs to {name!r}")
            return
        inputs.view("count", types.Notice(label=f"{count} label{'s' if count > 1 else ''} {what}"))
        actions = types.RadioGroup(label="Decision")
        for action, (label, description) in ACTIONS.items():
            actions.add_choice(action, label=label, description=description)
        inputs.enum("action", actions.values(), default=ACCEPT, required=False, view=actions)
        if ctx.params.get("action") == CHANGE:
            classes = list_runs(ctx.dataset, SEGMENTATION)[name]["classes"]
            dropdown = types.AutocompleteView(label="Class", description="The right class; it may be a new one")
            for each in classes:
                dropdown.add_choice(each, label=each)
            inputs.str("class_name", required=True, view=dropdown)

    def do(self, ctx) -> str:
        field, action = ctx.params["predictions_field"], ctx.params.get("action", ACCEPT)
        before = self(
            ctx.dataset,
            field,
            None if action == CLEAR else action,
            _label_ids(ctx, field),
            class_name=ctx.params["class_name"] if action == CHANGE else None,
        )
        if _is_of_map(ctx, field):
            # Patches are copies, and keep the decisions from before.
            ctx.ops.set_view(map_patches(ctx.dataset, shown_field(ctx.view, field)))
        return f"**{len(before)} labels** of {field} are {DONE[action]}."


def _label_ids(ctx, field: str) -> list[str]:
    """Ids of the labels to decide about."""
    selected, lassoed = selected_labels(ctx, field), lassoed_labels(ctx.view, field)
    ids = label_ids(ctx.view, shown_field(ctx.view, field)) if selected is None else selected
    if selected is None and lassoed is not None:
        ids = [each for each in ids if each in lassoed]
    if _is_of_map(ctx, field):
        # References and negatives are in the map too.
        ids = label_ids(ctx.dataset.select_labels(ids=ids, fields=field), field)
    return ids


def _is_of_map(ctx, field: str) -> bool:
    """Whether the grid shows patches of the map of a field."""
    return shown_field(ctx.view, field) != field


def _selected_field(ctx, fields: Sequence[str]) -> str | None:
    """Field of the selected labels, if it is one of ``fields`` or the map of one."""
    from ..nts.fiftyone_adapter.runs import map_field

    selected = {label["field"] for label in ctx.selected_labels or ()}
    return next((name for name in fields if selected & {name, map_field(name)}), None)
