"""Build reference memory: labels of a view become the memory that other images are segmented by."""

from __future__ import annotations

import fiftyone.operators.types as types

from . import forms
from .base import JobOperator, bullets, paragraphs


class BuildReferenceMemory(JobOperator):
    """See :func:`nts.fiftyone_adapter.build_reference_memory`."""

    columns = (("class", "Class"), ("references", "References"))
    in_grid = True

    @property
    def config(self):
        return self.settings(
            "build_reference_memory",
            "Build reference memory",
            "Learn classes from a few labelled objects, without training",
            risk_level="MEDIUM",
            icon="memory",
            execute_as_generator=True,
            allow_delegated_execution=True,
        )

    def __call__(self, sample_collection, label_field, memory_key, *, delegate=False, **options):
        """Build a memory from Python; returns a report, or, with ``delegate``, the scheduled operation.

        ``options`` are those of :func:`nts.fiftyone_adapter.build_reference_memory`.
        """
        from ..nts.fiftyone_adapter import build_reference_memory

        if delegate:
            return self.schedule(sample_collection, label_field=label_field, memory_key=memory_key, **options)
        return build_reference_memory(sample_collection, label_field, memory_key, **options)

    def form(self, ctx, inputs) -> None:
        view = forms.target_view(ctx, inputs, "Take the references from")
        if view is None:
            return
        chosen = forms.reference_field(
            ctx,
            inputs,
            view,
            "label_field",
            label="Label field",
            description="The field with the labelled objects; masks make the best references",
        )
        if chosen is None:
            return
        _, counts = chosen
        if counts.classes:  # of segmentations whose values have no names, they are known when those are read
            forms.classes(inputs, counts.classes, description="Left empty: all classes of the label field")
        if counts.weak:
            _weak_labels(inputs, counts.weak_words)
        _name(ctx, inputs)
        forms.encoder(inputs)
        if counts.weak and ctx.params.get("weak_labels", "promoted") == "promoted":
            forms.segmenter(inputs, "Segmenter that draws the masks")
        inputs.bool(
            "keep_images",
            label="Keep whole images",
            description="For the scorers 'vrp' and 'both', and for maps of classes: a reference prompt looks at whole "
            "images. About 0.2 MB a reference image with the encoder 'small', 2.8 MB with dinov2-large",
            default=False,
            view=types.SwitchView(),
        )
        forms.preset(inputs)
        forms.device(inputs)

    def job(self, ctx):
        from ..nts.fiftyone_adapter import memory_job

        options = forms.given(
            ctx.params,
            "classes",
            "weak_labels",
            "encoder",
            "segmenter",
            "preset",
            "keep_images",
            "overwrite",
            "device",
            "precision",
        )
        return memory_job(ctx.target_view(), ctx.params["label_field"], ctx.params["memory_key"], **options)

    def summary(self, report) -> str:
        from ..nts.fiftyone_adapter.checks import count_kinds

        count = sum(report.shots.values())
        words = f"The memory **{report.memory_key}** holds {count} references of {len(report.shots)} classes"
        if set(report.kinds) != {"mask"}:
            words += f" ({count_kinds(report.kinds)})"
        if report.promoted:
            words += f"; for {report.promoted} of them SAM2 drew the mask"
        if report.unpromoted:
            words += f"; SAM2 drew nothing for {report.unpromoted}, which are taken as they are"
        if report.whole_images:
            words += "; their whole images are kept, for a reference prompt"
        missing = bullets("Classes left out, for want of a usable reference", report.missing_classes)
        skipped = bullets(f"{len(report.skipped)} labels left out", [item.reason for item in report.skipped])
        return paragraphs(f"{words}.", missing, skipped)

    def rows(self, report):
        return [{"class": name, "references": count} for name, count in report.shots.items()]


def _weak_labels(inputs, which: str) -> None:
    radio = types.RadioGroup(
        label=f"{which} without a mask",
        description="A reference needs to know which pixels are the object",
    )
    radio.add_choice(
        "promoted", label="Have SAM2 draw the masks", description="On the same image, of what each label means"
    )
    radio.add_choice(
        "raw",
        label="Take them as they are",
        description="Of a box the background in its corners becomes part of the class, of a point little of the object",
    )
    radio.add_choice("skip", label="Leave them out")
    inputs.enum("weak_labels", radio.values(), default="promoted", required=False, view=radio)


def _name(ctx, inputs) -> None:
    from ..nts.fiftyone_adapter import InputError
    from ..nts.fiftyone_adapter.checks import check_key
    from ..nts.fiftyone_adapter.runs import MEMORY, list_runs

    name = inputs.str("memory_key", label="Memory name", description="Under this name it is kept", required=True)
    key = ctx.params.get("memory_key")
    if not key:
        return
    if key in list_runs(ctx.dataset, MEMORY):
        forms.overwrite(inputs, f"There is a memory {key!r} already: replace it")
    try:
        check_key(ctx.dataset, key, MEMORY, overwrite=bool(ctx.params.get("overwrite")))
    except InputError as error:
        forms.mark_invalid(name, error)
