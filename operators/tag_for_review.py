"""Tag for review: tag predictions that may be wrong, and show them."""

from __future__ import annotations

import fiftyone.operators.types as types
from fiftyone.operators.cache import execution_cache

from . import forms
from .base import SimpleOperator
from .label_selection import target

TAG, CLEAR = "tag", "clear"
REASONS = {
    "margin_below": ("nts_low_margin", "Margin below", "The second best class is nearly as similar"),
    "score_below": ("nts_low_score", "Score below", "Similar to no class, or covered by a better mask"),
}
WORDS = {"nts_low_margin": "torn between two classes", "nts_low_score": "with a low score"}


class TagForReview(SimpleOperator):
    """See :func:`nts.fiftyone_adapter.tag_for_review`."""

    @property
    def config(self):
        return self.settings(
            "tag_for_review",
            "Tag for review",
            "Tag predictions with a small margin or a low score, and save a view of them",
            risk_level="LOW",
            icon="review",
            unlisted=True,
        )

    def __call__(self, sample_collection, predictions_field, *, margin_below=None, score_below=None, clear=False):
        """Tag from Python; returns a report, or, with ``clear``, removes the tags and returns the number of labels."""
        from ..nts.fiftyone_adapter import tag_for_review
        from ..nts.fiftyone_adapter.reviewing import clear_review

        if clear:
            return clear_review(sample_collection, predictions_field)
        return tag_for_review(sample_collection, predictions_field, margin_below=margin_below, score_below=score_below)

    def form(self, ctx, inputs) -> None:
        from ..nts.fiftyone_adapter.runs import SEGMENTATION, list_runs

        view = forms.target_view(ctx, inputs, "Review")
        if view is None:
            return
        predictions = forms.detections_field(
            ctx,
            inputs,
            view,
            "predictions_field",
            label="Predictions",
            description="The field to review",
            default=next(reversed(list_runs(ctx.dataset, SEGMENTATION)), None),
        )
        if predictions is None:
            return
        actions = types.RadioGroup(label="Action")
        actions.add_choice(TAG, label="Tag predictions for review")
        actions.add_choice(CLEAR, label="Remove these tags")
        inputs.enum("action", actions.values(), default=TAG, required=False, view=actions)
        if ctx.params.get("action") != CLEAR:
            _thresholds(ctx, inputs, view, predictions[0])

    def do(self, ctx) -> str:
        from ..nts.fiftyone_adapter.reviewing import suggest_thresholds

        view, field = target(ctx), ctx.params["predictions_field"]
        if ctx.params.get("action") == CLEAR:
            return f"Removed the tags of {self(view, field, clear=True)} labels of **{field}**."
        report = self(view, field, **_given(ctx, suggest_thresholds(view, field)))
        if report.view_name is None:
            return f"None of the {report.labels} labels of **{field}** is below the thresholds."
        if ctx.params.get("show", True):
            # Not by its name: the App does not know of a view that was saved just now.
            ctx.ops.set_view(ctx.dataset.load_saved_view(report.view_name))
        return (
            f"**{report.tagged} of {report.labels} labels** of {field} are tagged nts_review: "
            f"{_in_words(report.reasons)}.\n\n"
            f"The saved view **{report.view_name}** shows them, smallest margin first; a label leaves it when its tag "
            "is removed."
        )


def _thresholds(ctx, inputs: types.Object, view, field: str) -> None:
    from ..nts.fiftyone_adapter.reviewing import REVIEW, REVIEW_FRACTION

    suggested = _suggested(ctx, view, field)
    for option, (reason, label, description) in REASONS.items():
        if suggested[reason] is not None:
            default = f"Default: {suggested[reason]:.3f}, the lowest {REVIEW_FRACTION:.0%}; 0 tags none"
            inputs.float(option, label=label, description=f"{description}. {default}", min=0, max=1, required=False)
    thresholds = _given(ctx, suggested)
    if not thresholds:
        forms.refuse(inputs, "Nothing to compare", "these labels have neither a margin nor a confidence")
        return
    counts = _counts(ctx, view, field, thresholds)
    reasons = {reason: count for reason, count in counts.items() if reason != REVIEW}
    inputs.view("counts", types.Notice(label=f"{counts[REVIEW]} labels will be tagged", description=_in_words(reasons)))
    inputs.bool("show", label="Show them in the grid", default=True, view=types.SwitchView())


def _in_words(reasons: dict[str, int]) -> str:
    """Numbers of labels by reason: "77 torn between two classes, 12 with a low score"."""
    return ", ".join(f"{count} {WORDS[reason]}" for reason, count in reasons.items())


def _given(ctx, suggested: dict[str, float | None]) -> dict[str, float]:
    """Thresholds of the form; the suggested ones by default."""
    thresholds = {}
    for option, (reason, _, _) in REASONS.items():
        given = ctx.params.get(option)
        if suggested[reason] is not None:
            thresholds[option] = suggested[reason] if given is None else given
    return thresholds


def _suggested(ctx, view, field: str) -> dict[str, float | None]:
    """Suggested thresholds, cached while the form is open: it is built at every keystroke, and they read all labels."""
    from ..nts.fiftyone_adapter.reviewing import suggest_thresholds

    return suggest_thresholds(view, field) if ctx.prompt_id is None else _suggested_once(ctx, _stages(view), field)


def _counts(ctx, view, field: str, thresholds: dict[str, float]) -> dict[str, int]:
    from ..nts.fiftyone_adapter.reviewing import count_for_review

    if ctx.prompt_id is None:
        return count_for_review(view, field, **thresholds)
    return _counted_once(ctx, _stages(view), field, thresholds.get("margin_below"), thresholds.get("score_below"))


@execution_cache(prompt_scoped=True, residency="ephemeral")
def _suggested_once(ctx, stages: str, field: str):
    from ..nts.fiftyone_adapter.reviewing import suggest_thresholds

    return suggest_thresholds(target(ctx), field)


@execution_cache(prompt_scoped=True, residency="ephemeral")
def _counted_once(ctx, stages: str, field: str, margin_below: float | None, score_below: float | None):
    from ..nts.fiftyone_adapter.reviewing import count_for_review

    return count_for_review(target(ctx), field, margin_below=margin_below, score_below=score_below)


def _stages(view) -> str:
    """Serialised stages of a view, which identify it within its dataset."""
    return str(view.view()._serialize(False))
