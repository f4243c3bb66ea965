"""Map and search predictions: in FiftyOne's Embeddings panel, and by similarity."""

from __future__ import annotations

import fiftyone.operators.types as types

from . import forms
from .base import SimpleOperator
from .words import paragraphs

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
            "Show predictions in the Embeddings panel, and sort them by similarity; no model runs",
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
        report = self(ctx.dataset, ctx.params["predictions_field"], ctx.params.get("projection", "pca"))
        words = f"{report.predictions} predictions are mapped. Open FiftyOne's Embeddings panel, choose "
        words += f"**{report.embeddings_key}**, and color by class or decision. In patches of the field, *Sort by "
        words += f"similarity* uses **{report.similarity_key}**."
        left_out = f"{report.left_out} labels have no feature and are left out." if report.left_out else ""
        return paragraphs(words, left_out)
