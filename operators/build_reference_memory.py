"""Build reference memory: turn the labels of a view into a memory to segment other images with."""

from __future__ import annotations

from collections.abc import Sequence

import fiftyone.operators.types as types

from . import forms
from .base import JobOperator
from .label_selection import target
from .outcomes import NextStep
from .words import bullets, paragraphs


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
        from ..nts.fiftyone_adapter.config import MemoryConfig
        from ..nts.fiftyone_adapter.runs import MEMORY, list_runs

        view = forms.target_view(ctx, inputs, "Take the references from", labels=True)
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
        field, counts = chosen
        _content(inputs, counts, ctx.params.get("classes"))
        if counts.weak:
            _weak_labels(inputs, counts.weak_words)
        forms.run_name(ctx, inputs, "memory_key", MEMORY, label="Memory name", suggested="references")
        key = ctx.params.get("memory_key")
        if (existing := list_runs(ctx.dataset, MEMORY).get(key)) is not None:
            forms.overwrite(inputs, f"Replace the memory {key!r}{_lost(existing, field)}")
        if not forms.advanced(ctx, inputs, _ADVANCED):
            return
        if counts.classes:  # of segmentations whose values have no names, they are known when those are read
            forms.classes(inputs, counts.classes, description="Default: all classes of the label field")
        forms.option(inputs, MemoryConfig, "encoder")
        if ctx.params.get("encoder", "small") == "small":
            inputs.view("small", types.Notice(label="The small models come with the plugin", description=_SMALL))
        draws_masks = counts.weak and ctx.params.get("weak_labels", "promoted") == "promoted"
        if draws_masks:
            forms.option(inputs, MemoryConfig, "segmenter", label="Segmenter that draws the masks")
        elif _uses_negatives(ctx.params):
            forms.option(inputs, MemoryConfig, "segmenter")
        if _uses_negatives(ctx.params):
            forms.option(inputs, MemoryConfig, "complete_labels")
            _background(ctx, inputs, MemoryConfig)
        for name in ("keep_images", "preset"):
            forms.option(inputs, MemoryConfig, name)
        forms.device(ctx, inputs, MemoryConfig)
        forms.option(inputs, MemoryConfig, "precision")

    def makes(self, ctx) -> str | None:
        return ctx.params.get("memory_key")

    def next_steps(self, ctx, report) -> list[NextStep]:
        key = report.memory_key
        return [
            NextStep("Segment the rest", "auto_segment_view", params={"memory_key": key}, rest_of=key),
            NextStep("See the references", panel="memory_panel", params={"header": {"memory": key}}),
        ]

    def job(self, ctx):
        from ..nts.fiftyone_adapter import memory_job
        from ..nts.fiftyone_adapter.config import MemoryConfig

        # A preset that was chosen afterwards may have no use for them.
        params = forms.without_advanced(ctx.params, _ADVANCED)
        unused = () if _uses_negatives(params) else ("complete_labels", "background")
        config = MemoryConfig.from_params({name: params[name] for name in params if name not in unused})
        return memory_job(target(ctx), ctx.params["label_field"], ctx.params["memory_key"], config=config)

    def summary(self, report) -> str:
        from ..nts.fiftyone_adapter.checks import count_kinds
        from ..nts.fiftyone_adapter.inspecting import count_negatives

        count = sum(report.shots.values())
        words = f"The memory **{report.memory_key}** holds {count} references of {len(report.shots)} classes"
        if set(report.kinds) != {"mask"}:
            words += f" ({count_kinds(report.kinds)})"
        if report.promoted:
            words += f"; SAM2 drew the masks of {report.promoted} of them"
        if report.unpromoted:
            words += f"; SAM2 found no mask for {report.unpromoted}, which are used without one"
        if report.whole_images:
            words += "; with whole images, for a reference prompt"
        if report.negatives:
            words += f"; {count_negatives(report.negatives)}"
        if report.background_images:
            words += f"; {report.background_images} background images were used"
        missing = bullets("Classes left out because they have no usable reference", report.missing_classes)
        skipped = bullets(f"{len(report.skipped)} labels left out", [item.reason for item in report.skipped])
        background = bullets(
            f"{len(report.skipped_background)} background images left out",
            [item.reason for item in report.skipped_background],
        )
        return paragraphs(f"{words}.", missing, skipped, background)

    def rows(self, report):
        return [{"class": name, "references": count} for name, count in report.shots.items()]


_ADVANCED = (
    "classes",
    "encoder",
    "segmenter",
    "complete_labels",
    "background",
    "keep_images",
    "preset",
    "device",
    "precision",
)

_SMALL = (
    "They know clear objects: parts, fruit, animals, cells. For crowded photographs and fine differences between "
    "classes, choose released models, such as dinov2-large here and sam2.1_hiera_large in Auto-segment view"
)


def _lost(existing, label_field: str) -> str:
    """Which references of the existing memory a new one from this field will not have, in words."""
    from ..nts.fiftyone_adapter.runs import label_fields

    others = [field for field in label_fields(existing) if field != label_field]
    if not others:
        return ""
    return (
        f". References added from {' and '.join(others)} are lost; add them again with Add references, or with Update "
        "in the Review panel"
    )


def _content(inputs, counts, chosen: Sequence[str] | None) -> None:
    """Notice of the references that the memory will hold, and of the classes with a single one."""
    shots = {name: count for name, count in counts.shots.items() if not chosen or name in chosen}
    if not shots:  # segmentations: their objects are known when their pixels are read
        return
    listed = [f"{name} {count}" for name, count in sorted(shots.items(), key=lambda item: (-item[1], item[0]))]
    words = ", ".join(listed[:12]) + (f" and {len(listed) - 12} more classes" if len(listed) > 12 else "")
    single = [name for name, count in shots.items() if count == 1]
    if single:
        which = ", ".join(single) if len(single) < 5 else f"{len(single)} classes"
        words += f". One reference only: {which}. With two or more, confidences become probabilities"
    inputs.view("content", types.Notice(label=f"{counts.words} become references", description=words))


def _uses_negatives(params) -> bool:
    """Whether the chosen preset uses negatives."""
    from ..nts.presets import PRESETS

    chosen = PRESETS.get(params.get("preset") or "default")
    return chosen is not None and chosen.method.negatives


def _background(ctx, inputs, config) -> None:
    """A drop-down of the saved views, for the background images."""
    from ..nts.fiftyone_adapter import InputError
    from ..nts.fiftyone_adapter.background import background_view

    facts = config.__dataclass_fields__["background"].metadata
    saved = ctx.dataset.list_saved_views()
    chosen = ctx.params.get("background")
    if not saved and not chosen:
        return
    prop = forms.choice(
        inputs,
        "background",
        saved,
        label=facts["label"],
        description=facts["help"],
        default=None,
        required=False,
    )
    if chosen:
        try:
            background_view(ctx.dataset, chosen)
        except InputError as error:
            forms.mark_invalid(prop, error)


def _weak_labels(inputs, which: str) -> None:
    radio = types.RadioGroup(
        label=f"{which} without a mask",
        description="A reference needs the pixels of its object",
    )
    radio.add_choice(
        "promoted", label="Have SAM2 draw the masks", description="From the box, points or scribble of each label"
    )
    radio.add_choice(
        "raw",
        label="Use them without masks",
        description="A box adds the background in its corners to the class, a point covers little of the object",
    )
    radio.add_choice("skip", label="Leave them out")
    inputs.enum("weak_labels", radio.values(), default="promoted", required=False, view=radio)
