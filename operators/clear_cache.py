"""Clear cache: delete the stored encodings of images and references."""

from __future__ import annotations

import fiftyone.operators.types as types

from .base import SimpleOperator


class ClearCache(SimpleOperator):
    """See :meth:`nts.cache.TensorCache.clear`."""

    @property
    def config(self):
        return self.settings(
            "clear_cache",
            "Clear cache of encoded images",
            "Delete the stored encodings of images and references; datasets are not changed",
            risk_level="LOW",
            unlisted=True,
        )

    def __call__(self):
        """Clear from Python; returns the numbers of deleted files and bytes."""
        from ..nts.cache import default_cache

        return default_cache().clear()

    def form(self, ctx, inputs) -> None:
        from ..nts.cache import default_cache
        from ..nts.cache.references import REFERENCE
        from ..nts.cache.targets import TARGET

        cache = default_cache()
        inputs.view(
            "contents",
            types.Notice(
                label=f"{cache.count(TARGET)} images and {cache.count(REFERENCE)} references are stored, "
                f"{cache.size() / 1e6:.1f} MB of at most {cache.budget / 1e9:g} GB",
                description=f"In {cache.folder}. They are encoded again when needed",
            ),
        )

    def do(self, ctx) -> str:
        files, size = self()
        return f"{files} files deleted, {size / 1e6:.1f} MB."
