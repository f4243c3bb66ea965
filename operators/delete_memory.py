"""Delete memory: a memory, and everything made with it."""

from __future__ import annotations

import fiftyone.operators.types as types

from . import forms
from .base import SimpleOperator, bullets


class DeleteMemory(SimpleOperator):
    """See :func:`nts.fiftyone_adapter.delete_memory`."""

    @property
    def config(self):
        return self.settings(
            "delete_memory",
            "Delete memory",
            "Delete a reference memory and everything made with it",
            risk_level="HIGH",
        )

    def __call__(self, sample_collection, memory_key):
        """Delete from Python; returns what was deleted, in words."""
        from ..nts.fiftyone_adapter import delete_memory

        return delete_memory(sample_collection, memory_key)

    def form(self, ctx, inputs) -> None:
        from ..nts.fiftyone_adapter import made_with_memory

        key = forms.memory(ctx, inputs, description="What to delete")
        if key is None:
            return
        made = made_with_memory(ctx.dataset, key)
        if made:
            inputs.view(
                "made", types.Notice(label="Everything made with it is deleted, too", description=", ".join(made))
            )

    def do(self, ctx) -> str:
        return bullets("Deleted", self(ctx.dataset, ctx.params["memory_key"]))
