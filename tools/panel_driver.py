"""A panel without a browser: its events, its state and data, and its messages to the App."""

from __future__ import annotations

import json

PLUGIN = "@nts/reference-segmentation"


class Panel:
    """Panel of a dataset as driven by the App: holds the state, and collects the messages of each event.

    Args:
        dataset: the open dataset.
        name: of the panel.
        sample: id of the open sample that the panel stands beside.
    """

    def __init__(self, dataset, name: str, sample: str | None = None):
        self.dataset, self.name, self.state, self.data, self.layout = dataset, name, {}, {}, None
        self.sent: list[tuple[str, dict]] = []
        self.grid, self.selected = None, []
        self.sample, self.selected_labels = sample, []

    def event(self, method: str, **params):
        import fiftyone.operators as foo
        import pydash

        context = {
            "dataset": self.dataset,
            "params": {"__method__": method, "panel_id": "panel", "panel_state": self.state, **params},
            "selected": self.selected,
            "selected_labels": self.selected_labels,
            "current_sample": self.sample,
        }
        if self.grid is not None:
            context["view"] = self.grid
        result = foo.execute_operator(f"{PLUGIN}/{self.name}", context)
        assert result.error is None, result.error
        self.sent = [
            (request["operator_uri"].rpartition("/")[2], request["params"])
            for request in (each.to_json() for each in result.executor._requests)
        ]
        for name, sent in self.sent:
            if name == "patch_panel_state":
                for path, value in sent["state"].items():
                    pydash.set_(self.state, path, value)
            elif name == "patch_panel_data":
                for path, value in sent["data"].items():
                    pydash.set_(self.data, path, value)
            elif name == "show_panel_output":
                self.layout = sent["output"]
            elif name == "set_view":
                self.grid = self._view(sent["view"])
            elif name == "clear_view":
                self.grid = None
            elif name == "clear_selected_samples":
                self.selected = []
            elif name == "clear_selected_labels":
                self.selected_labels = []
        json.dumps(self.sent, allow_nan=False)  # the App parses JSON, which has no NaN
        return self

    def choose(self, path: str, value):
        return self.event("on_choice", path=path, value=value)

    @property
    def words(self) -> str:
        return json.dumps(self.layout, ensure_ascii=False)

    @property
    def notices(self) -> list[str]:
        """Notifications of the last event."""
        return [sent["message"] for name, sent in self.sent if name == "notify"]

    def select(self, *samples: str):
        """Select samples or patches in the grid."""
        self.selected = list(samples)
        return self.event("on_change_selected")

    def select_labels(self, field: str, *label_ids: str):
        """Select labels in the open sample."""
        self.selected_labels = [
            {"label_id": label_id, "sample_id": self.sample, "field": field} for label_id in label_ids
        ]
        return self.event("on_change_selected_labels")

    def shown(self):
        """View shown in the grid by the last event."""
        (stages,) = [sent["view"] for name, sent in self.sent if name == "set_view"]
        return self._view(stages)

    def _view(self, stages: list):
        import fiftyone as fo
        from bson import json_util

        return fo.DatasetView._build(self.dataset, json_util.loads(json.dumps(stages)))

    def prompted(self) -> dict:
        (prompt,) = [sent for name, sent in self.sent if name == "prompt_user_for_operation"]
        return prompt
