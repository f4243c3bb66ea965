"""Train reference prompt: learn to follow references on labelled classes, for use on new ones."""

from __future__ import annotations

from typing import Any

import fiftyone.operators.types as types

from . import charts, forms
from .base import JobOperator
from .label_selection import target
from .words import bullets, paragraphs


class TrainReferencePrompt(JobOperator):
    """See :func:`nts.fiftyone_adapter.train_reference_prompt`."""

    @property
    def config(self):
        return self.settings(
            "train_reference_prompt",
            "Train reference prompt",
            "Learn to follow references on your labelled classes, to find new ones",
            risk_level="MEDIUM",
            icon="prompt",
            execute_as_generator=True,
            allow_delegated_execution=True,
            default_choice_to_delegated=True,
        )

    def __call__(self, sample_collection, label_field, prompt_key, *, delegate=False, **options):
        """Train from Python; returns a report, or, with ``delegate``, the scheduled operation.

        ``options`` are those of :func:`nts.fiftyone_adapter.train_reference_prompt`.
        """
        from ..nts.fiftyone_adapter import train_reference_prompt

        if delegate:
            return self.schedule(sample_collection, label_field=label_field, prompt_key=prompt_key, **options)
        return train_reference_prompt(sample_collection, label_field, prompt_key, **options)

    def form(self, ctx, inputs) -> None:
        from ..nts.fiftyone_adapter.config import PromptConfig
        from ..nts.fiftyone_adapter.runs import PROMPT
        from ..nts.references import KINDS

        view = forms.target_view(ctx, inputs, "Learn from")
        if view is None:
            return
        chosen = forms.detections_field(
            ctx, inputs, view, "label_field", label="Label field", description="Field with the objects and masks"
        )
        if chosen is None:
            return
        _, counts = chosen
        forms.multiple_choice(inputs, PromptConfig, "classes", counts.classes)
        tested = forms.multiple_choice(inputs, PromptConfig, "test_classes", counts.classes)
        leaked = sorted(set(ctx.params.get("classes") or ()) & set(ctx.params.get("test_classes") or ()))
        if leaked:
            forms.mark_invalid(tested, f"{', '.join(leaked)}: training and test classes overlap")
        _advise(inputs, counts, set(ctx.params.get("test_classes") or ()))
        forms.run_name(ctx, inputs, "prompt_key", PROMPT, label="Name", suggested="prompt")
        forms.option(inputs, PromptConfig, "overwrite")
        forms.multiple_choice(inputs, PromptConfig, "kinds", KINDS)
        for name in ("steps", "most_shots", "seed", "encoder", "segmenter", "preset"):
            forms.option(inputs, PromptConfig, name)
        forms.device(ctx, inputs, PromptConfig)

    def makes(self, ctx) -> str | None:
        return ctx.params.get("prompt_key")

    def job(self, ctx):
        from ..nts.fiftyone_adapter.config import PromptConfig
        from ..nts.fiftyone_adapter.prompt_training import prompt_job

        config = PromptConfig.from_params(ctx.params)
        return prompt_job(target(ctx), ctx.params["label_field"], ctx.params["prompt_key"], config=config)

    def summary(self, report) -> str:
        miou = 100 * report.validation_miou
        words = (
            f"The reference prompt **{report.prompt_key}** ({report.parameters:,} parameters) learned from "
            f"{len(report.classes)} classes. Validation on {len(report.validation_classes)} of them selected the "
            f"weights of step {report.best_step} of {report.steps}: mIoU {miou:.1f} with one reference each."
        )
        left_out = bullets("Left out", report.left_out)
        return paragraphs(words, *(f"**Note**: {warning}." for warning in report.warnings), left_out)

    def plot(self, report) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        layout = charts.layout(
            260,
            xaxis=charts.axis("step"),
            yaxis=charts.axis("loss", rangemode="tozero"),
            yaxis2=charts.axis("mIoU, percent", overlaying="y", side="right", showgrid=False, range=[0, 100]),
        )
        steps = [entry["step"] for entry in report.log]
        miou = [100 * entry["validation_miou"] for entry in report.log]
        curves = [
            charts.line("loss", steps, [entry["loss"] for entry in report.log], charts.MASKS),
            charts.line("mIoU on validation classes", steps, miou, charts.BOXES) | {"yaxis": "y2"},
        ]
        return curves, layout


def _advise(inputs, counts, tested: set[str]) -> None:
    """Warnings before hours of training."""
    from ..nts.vrp.training import FEW_CLASSES

    left = len(set(counts.classes) - tested)
    if left < FEW_CLASSES:
        inputs.view(
            "few",
            types.Notice(
                label=f"Only {left} classes to learn from",
                description=f"With fewer than {FEW_CLASSES}, a prompt tends to learn the classes, and not to follow "
                "a reference. Compare it with the prototypes before relying on it",
            ),
        )
    if counts.masks < counts.labels:
        inputs.view(
            "boxes",
            types.Notice(
                label=f"{counts.labels - counts.masks} labels have no mask",
                description="They are left out of the training",
            ),
        )
