"""nAP as a metric of FiftyOne's own evaluations."""

from __future__ import annotations

import fiftyone.operators as foo
import fiftyone.operators.types as types


class NAPMetric(foo.EvaluationMetric):
    """Average precision over novel classes, for ``evaluate_detections(..., custom_metrics=...)``.

    With ``{"@nts/reference-segmentation/nap": {"classes": ["heron", "stork"]}}`` as custom metrics these are the novel
    classes; by default all classes of the evaluation are.
    """

    @property
    def config(self):
        return foo.EvaluationMetricConfig(
            name="nap",
            label="nAP",
            description="Average precision over novel classes, as pycocotools computes it",
            eval_types=["detection"],
            aggregate_key="nAP",
            lower_is_better=False,
            unlisted=True,
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        inputs.list(
            "classes",
            types.String(),
            label="Novel classes",
            description="Default: all classes of the ground truth",
            default=None,
            required=False,
            view=types.AutocompleteView(multiple=True, allow_user_input=True),
        )
        return types.Property(inputs)

    def compute(self, samples, results, classes=None):
        """nAP in ``[0, 1]``, by masks or boxes as the evaluation itself; ``None`` if there is no ground truth."""
        from ..nts.fiftyone_adapter.native_evaluation import nap_of_evaluation

        return nap_of_evaluation(samples, results, classes)
