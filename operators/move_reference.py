"""Move reference: give a reference of a memory another class. Reached from the panel of the memory."""

from __future__ import annotations

import fiftyone.operators.types as types

from .base import SimpleOperator


class MoveReference(SimpleOperator):
    """See :func:`nts.fiftyone_adapter.adding_references.move_references`."""

    @property
    def config(self):
        return self.settings(
            "move_reference",
            "Move reference to another class",
            "Change the class of a reference in a memory; the label in the dataset stays as it is",
            risk_level="LOW",
            icon="references",
            unlisted=True,
        )

    def __call__(self, sample_collection, memory_key, label_id, class_name):
        """Move from Python; returns the number of references."""
        from ..nts.fiftyone_adapter import load_memory
        from ..nts.fiftyone_adapter.adding_references import move_references

        entries = [each for each in load_memory(sample_collection, memory_key).entries if each.label_id == label_id]
        return move_references(sample_collection, memory_key, entries, class_name)

    def form(self, ctx, inputs) -> None:
        from ..nts.fiftyone_adapter.runs import MEMORY, config

        inputs.str("memory_key", view=types.HiddenView())
        inputs.str("label_id", view=types.HiddenView())
        dropdown = types.AutocompleteView(label="Class", description="It may be a new one")
        for name in config(ctx.dataset, ctx.params["memory_key"], MEMORY)["classes"]:
            dropdown.add_choice(name, label=name)
        inputs.str("class_name", required=True, view=dropdown)

    def do(self, ctx) -> str:
        name = ctx.params["class_name"]
        count = self(ctx.dataset, ctx.params["memory_key"], ctx.params["label_id"], name)
        return f"Moved to the class **{name}**." if count else "The reference is not in the memory any more."
