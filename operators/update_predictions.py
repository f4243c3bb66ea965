"""Update predictions: teach the memory what was decided, and segment the rest again."""

from __future__ import annotations

from . import forms
from .base import JobOperator
from .outcomes import NextStep
from .words import bullets, paragraphs


class UpdatePredictions(JobOperator):
    """See :func:`nts.fiftyone_adapter.teaching.teach`. The review panel runs it without its form."""

    @property
    def config(self):
        return self.settings(
            "update_predictions",
            "Update predictions",
            "Teach a memory the decisions about its predictions, and find the undecided ones again",
            risk_level="MEDIUM",
            icon="review",
            execute_as_generator=True,
            allow_delegated_execution=True,
            unlisted=True,
        )

    def __call__(self, sample_collection, predictions_field, *, delegate=False):
        """Teach from Python; returns a report, or, with ``delegate``, the scheduled operation."""
        from ..nts.fiftyone_adapter.teaching import teach

        if delegate:
            return self.schedule(sample_collection, predictions_field=predictions_field)
        return teach(sample_collection, predictions_field)

    def form(self, ctx, inputs) -> None:
        forms.predictions(ctx, inputs, description="The field whose decisions are taught")

    def makes(self, ctx) -> str | None:
        return ctx.params.get("predictions_field")

    def next_steps(self, ctx, report) -> list[NextStep]:
        field = report.segmentation.output_field
        return [NextStep("Review", panel="review_panel", params={"header": {"field": field}})]

    def job(self, ctx):
        from ..nts.fiftyone_adapter.teaching import teaching_job

        field = ctx.params["predictions_field"]
        return teaching_job(ctx.dataset.exists(field), field)

    def summary(self, report) -> str:
        words = f"{report.references} references and {report.negatives} negatives added: "
        words += f"{report.appeared} predictions new, {report.disappeared} gone"
        recommended = report.segmentation.recommendation
        if recommended is not None and recommended.precision is not None:
            before = "" if report.precision_before is None else f"{report.precision_before:.0%} → "
            words += f", expected precision {before}{recommended.precision:.0%}"
        left_out = [item.reason for item in report.skipped]
        return paragraphs(words, bullets(f"{len(left_out)} decided labels could not be used", left_out))
