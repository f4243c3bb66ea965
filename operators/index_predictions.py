"""Map and search predictions: in FiftyOne's Embeddings panel, with references and negatives, and by similarity."""

from __future__ import annotations

import fiftyone.operators.types as types

from . import forms, panels_beside
from .base import SimpleOperator
from .label_selection import map_patches
from .words import paragraphs

EMBEDDINGS = "Embeddings"
"""Name of FiftyOne's panel."""

PROJECTIONS = {
    "pca": ("PCA", "Needs no further package"),
    "umap": ("UMAP", "Shows clusters better; needs the package umap-learn"),
    "tsne": ("t-SNE", "Slow for more than a few thousand predictions"),
}


class IndexPredictions(SimpleOperator):
    """See :func:`nts.fiftyone_adapter.prediction_search.index_predictions`."""

    @property
    def config(self):
        return self.settings(
            "index_predictions",
            "Map and search predictions",
            "Show predictions among references and negatives in the Embeddings panel, and sort them by similarity",
            risk_level="LOW",
            icon="map",
        )

    def __call__(self, sample_collection, predictions_field, projection="pca"):
        """Map from Python; returns a report."""
        from ..nts.fiftyone_adapter.prediction_search import index_predictions

        return index_predictions(sample_collection, predictions_field, projection)

    def form(self, ctx, inputs) -> None:
        if forms.predictions(ctx, inputs, description="Those of the whole dataset") is None:
            return
        radio = types.RadioGroup(label="Projection", description="Of the map in the Embeddings panel")
        for name, (label, description) in PROJECTIONS.items():
            radio.add_choice(name, label=label, description=description)
        inputs.enum("projection", radio.values(), default="pca", required=False, view=radio)

    def do(self, ctx) -> str:
        from ..nts.fiftyone_adapter.colours import stored_scheme

        field = ctx.params["predictions_field"]
        report = self(ctx.dataset, field, ctx.params.get("projection", "pca"))
        ctx.trigger("set_color_scheme", stored_scheme(ctx.dataset))
        ctx.ops.set_view(map_patches(ctx.dataset, report.map_field))
        panels_beside.open_panel(ctx, EMBEDDINGS)
        words = (
            f"**{report.predictions} predictions**, {report.references} references and {report.negatives} negatives "
            f"are mapped. Choose **{report.embeddings_key}** in the Embeddings panel, and color by class (`label`), "
            "`role` or `decision`. *Accept or reject predictions* decides about the lassoed ones."
        )
        if report.similarity_key is not None:
            words += f" In patches of {field}, *Sort by similarity* uses **{report.similarity_key}**."
        left_out = [
            (report.left_out, "predictions have no feature of this encoder"),
            (report.elsewhere, "references and negatives are of images that are not in this dataset"),
        ]
        return paragraphs(words, *(f"Left out: {count} {why}." for count, why in left_out if count))
