"""Train reference prompt: learn on labelled classes how to follow references, for classes that are still to come."""

from __future__ import annotations

import fiftyone.operators.types as types

from . import charts, forms
from .base import JobOperator, bullets, paragraphs


class TrainReferencePrompt(JobOperator):
    """See :func:`nts.fiftyone_adapter.train_reference_prompt`."""

    @property
    def config(self):
        return self.settings(
            "train_reference_prompt",
            "Train reference prompt",
            "Learn on your labelled classes how to follow references, to find classes that are still to come",
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
        from ..nts.fiftyone_adapter import PROMPT, MemoryConfig

        view = forms.target_view(ctx, inputs, "Learn from")
        if view is None:
            return
        chosen = forms.detections_field(
            ctx, inputs, view, "label_field", label="Label field", description="The field with the objects, with masks"
        )
        if chosen is None:
            return
        _, counts = chosen
        forms.classes(inputs, counts.classes, description="To learn from. Left empty: all but the test classes")
        tested = forms.classes(
            inputs,
            counts.classes,
            name="test_classes",
            label="Test classes",
            description="Never to be learned from: images that show one of them are left out, so that they stay new",
        )
        leaked = sorted(set(ctx.params.get("classes") or ()) & set(ctx.params.get("test_classes") or ()))
        if leaked:
            forms.mark_invalid(tested, f"{', '.join(leaked)}: both to be trained on and to be tested, that is a leak")
        _advise(inputs, counts, set(ctx.params.get("test_classes") or ()))
        forms.run_name(ctx, inputs, "prompt_key", PROMPT, label="Name")
        forms.overwrite(inputs, "Replace a prompt of this name, and begin anew where a training was interrupted")
        _settings(inputs)
        for name in ("encoder", "segmenter", "preset", "device"):
            forms.option(inputs, MemoryConfig, name)

    def job(self, ctx):
        from ..nts.fiftyone_adapter import prompt_job

        options = forms.given(
            ctx.params,
            "classes",
            "test_classes",
            "kinds",
            "steps",
            "most_shots",
            "preset",
            "encoder",
            "segmenter",
            "seed",
            "folder",
            "overwrite",
            "device",
        )
        return prompt_job(ctx.target_view(), ctx.params["label_field"], ctx.params["prompt_key"], **options)

    def summary(self, report) -> str:
        miou = 100 * report.validation_miou
        words = (
            f"The reference prompt **{report.prompt_key}** ({report.parameters:,} parameters) learned from "
            f"{len(report.classes)} classes. {len(report.validation_classes)} of them chose the best weights, those of "
            f"step {report.best_step} of {report.steps}: mIoU {miou:.1f}, of one reference each."
        )
        left_out = bullets("Left out", report.left_out)
        return paragraphs(words, *(f"**Bear in mind**: {warning}." for warning in report.warnings), left_out)

    def outcome_form(self) -> types.Property:
        form = super().outcome_form()
        layout = charts.layout(
            260,
            xaxis=charts.axis("step"),
            yaxis=charts.axis("loss", rangemode="tozero"),
            yaxis2=charts.axis("mIoU, percent", overlaying="y", side="right", showgrid=False, range=[0, 100]),
        )
        form.type.plot("curves", layout=layout, config=charts.CONFIG)
        return form

    def results(self, report) -> dict:
        steps = [entry["step"] for entry in report.log]
        miou = [100 * entry["validation_miou"] for entry in report.log]
        curves = [
            charts.line("loss", steps, [entry["loss"] for entry in report.log], charts.MASKS),
            charts.line("mIoU on validation classes", steps, miou, charts.BOXES) | {"yaxis": "y2"},
        ]
        return {**super().results(report), "curves": curves}


def _advise(inputs, counts, tested: set[str]) -> None:
    """What a user should know before hours of training."""
    from ..nts.fiftyone_adapter import FEW_CLASSES

    left = len(set(counts.classes) - tested)
    if left < FEW_CLASSES:
        inputs.view(
            "few",
            types.Notice(
                label=f"Only {left} classes to learn from",
                description=f"With fewer than {FEW_CLASSES} a prompt tends to learn the classes, and not how to follow "
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


def _settings(inputs) -> None:
    from ..nts.references import KINDS

    forms.classes(
        inputs,
        KINDS,
        name="kinds",
        label="Kinds of references",
        description="Simulated from the masks, so that it learns to follow each. Left empty: all",
    )
    inputs.int(
        "steps",
        label="Steps",
        description="Of eight episodes each. Some hundreds show whether it learns, some thousands make it good",
        min=1,
        default=4000,
    )
    inputs.int(
        "most_shots",
        label="Most references in an episode",
        description="Left empty: three, or one for the published choices",
        min=1,
        required=False,
    )
    inputs.int("seed", label="Seed", description="Of everything that is random", default=1, required=False)
