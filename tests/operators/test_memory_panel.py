"""The memory panel and the operators around it, as called by the App."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import pytest
from drawn_dataset import CLASSES, PLUGIN, REFERENCES, TARGETS

from nts.presets import DEFAULT

URI = f"{PLUGIN}/memory_panel"
PANELS = ("memory_panel", "nap_panel")


@pytest.fixture
def memory(nts_fo, references):
    """Name of a memory of the drawn dataset."""
    nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    return "shapes"


class App:
    """Panel as held by the App: its state, its data, and its last layout."""

    def __init__(self, dataset) -> None:
        self.dataset, self.state, self.data, self.told, self.layout = dataset, {}, {}, [], {}

    def call(self, method: str, **params) -> None:
        """Send an event, and apply the response."""
        from fiftyone.operators.executor import execute_or_delegate_operator
        from pydash import set_

        asked = {"panel_id": "p", "panel_state": self.state, "__method__": method, **params}
        request = {"dataset_name": self.dataset.name, "view": [], "params": asked}
        result = asyncio.run(execute_or_delegate_operator(URI, request))
        result.raise_exceptions()
        self.told = []
        for message in result.executor.to_json()["requests"]:
            name, values = message["operator_uri"], message["params"]
            if name == "patch_panel_state":
                for path, value in values["state"].items():
                    set_(self.state, path, value)
            elif name == "patch_panel_data":
                for path, value in values["data"].items():
                    set_(self.data, path, value)
            elif name == "show_panel_output":
                self.layout = values["output"]["type"]["properties"]
            else:
                self.told.append((name, values))

    def part(self, path: str) -> dict:
        """Part of the layout."""
        names = path.split(".")
        part = self.layout[names[0]]
        for name in names[1:]:
            part = part["type"]["properties"][name]
        return part

    def shown(self) -> tuple[list[str], str]:
        """Ids shown in the grid, and the message with them."""
        (view, said) = self.told
        assert (view[0], said[0]) == ("set_view", "notify")
        return view[1]["view"][0]["kwargs"][0][1], said[1]["message"]


@pytest.fixture
def panel(drawn, memory):
    app = App(drawn)
    app.call("on_load")
    return app


def words(layout: dict) -> list[str]:
    """All titles and labels in a layout."""
    found = []
    for part in layout.values():
        found += [part["view"][key] for key in ("title", "label") if part["view"].get(key)]
        found += words(part["type"].get("properties", {}))
    return found


def test_empty_panel_says_what_to_do_and_opens_the_form(drawn):
    app = App(drawn)
    app.call("on_load")
    assert words(app.layout)[0] == "No reference memory yet"
    assert app.part("empty.button")["view"]["operator"] == f"{URI}#on_build"
    app.call("on_build")
    ((_, asked),) = app.told
    assert asked["operator_uri"] == f"{PLUGIN}/build_reference_memory"


def test_panel_opens_on_the_newest_memory_with_its_pictures(panel):
    assert panel.state["header"]["memory"] == "shapes"
    said = words(panel.layout)
    assert any(text.startswith(f"{REFERENCES} references of 2 classes, 2 each · encoder small") for text in said)
    assert [f"{name} · 2 references" in said for name in CLASSES] == [True, True]
    pictures = [entry["image"] for group in panel.data["references"].values() for entry in group.values()]
    assert len(pictures) == REFERENCES
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in pictures)
    # Every view has its data at its own path.
    for group, entries in panel.data["references"].items():
        for entry in entries:
            assert panel.part(f"references.{group}.{entry}.image")["view"]["name"] == "ImageView"


def test_panel_tells_of_negatives_or_what_their_absence_means(panel, drawn, references, nts_fo):
    count = len(nts_fo.load_memory(drawn, "shapes").negatives)
    assert f"{count} negatives ({count} of reference images)." in words(panel.layout)
    nts_fo.build_reference_memory(references, "ground_truth", "plain", preset="paper")
    panel.call("on_memory", value="plain")
    (told,) = (text for text in words(panel.layout) if "no negatives" in text)
    assert told.startswith("This memory has no negatives, so confidences of the preset 'default' are not calibrated:")


def test_picture_and_row_show_their_sample(panel, drawn, nts_fo):
    entries = nts_fo.inspecting.inspect_memory(drawn, "shapes").entries
    panel.call("on_reference", entry=2)
    assert panel.shown() == ([entries[2].sample_id], f"1 sample with references of {entries[2].class_name}")
    panel.call("on_tab", value="checks")
    rows = panel.data["checks"]["table"]
    assert len(rows) == REFERENCES
    assert [row["margin"] for row in rows] == sorted(row["margin"] for row in rows)
    panel.call("on_row", row=0)
    assert panel.shown()[0] == [entries[int(rows[0]["id"])].sample_id]
    panel.call("on_row", row=-1)  # the heading
    assert panel.told == []


def test_cell_of_the_heat_map_shows_the_references_of_its_classes(panel, drawn, nts_fo):
    panel.call("on_tab", value="classes")
    (trace,) = panel.data["classes"]["plot"]
    assert trace["x"] == trace["y"] == list(CLASSES)
    assert trace["z"][0][0] == pytest.approx(1, abs=1e-3)
    assert panel.part("classes.plot")["view"]["layout"]["paper_bgcolor"] == "rgba(0,0,0,0)"
    panel.call("on_cell", x=CLASSES[0], y=CLASSES[1])
    assert len(panel.shown()[0]) == REFERENCES
    panel.call("on_cell", x=CLASSES[0], y=CLASSES[0])
    assert len(panel.shown()[0]) == 2
    panel.call("on_all")
    assert len(panel.shown()[0]) == REFERENCES


def test_references_that_disagree_are_marked_and_explained(nts_fo, drawn, references):
    # An object of one class labelled as the other, which its neighbours reveal.
    sample = references.first()
    label = sample.ground_truth.detections[0]
    right = label.label
    label.label = next(name for name in CLASSES if name != right)
    sample.save()
    nts_fo.build_reference_memory(references, "ground_truth", "mixed")
    (worst, *_) = nts_fo.inspecting.inspect_memory(drawn, "mixed").disagreeing
    assert nts_fo.inspecting.inspect_memory(drawn, "mixed").entries[worst.entry].label_id == label.id
    app = App(drawn)
    app.call("on_load")
    said = words(app.layout)
    assert any("references are more like another class than like their own" in text for text in said)
    assert any(f"more like {right!r} (" in text for text in said)
    app.call("on_disagreeing")
    assert sample.id in app.shown()[0]
    app.call("on_class", value="references that disagree")
    assert f"e{worst.entry}" in {entry for group in app.data["references"].values() for entry in group}


def test_many_references_are_shown_page_by_page(nts_fo, fo, make_dataset, tmp_path):
    import torch

    from nts.memory import EncoderInfo, MemoryBank, MemoryEntry

    bank = MemoryBank(EncoderInfo("some", "f", 28, 8))
    for number in range(60):
        bank.add(MemoryEntry(f"class {number // 2:02}", torch.randn(8), "", f"label {number}"))
    bank.save(tmp_path / "large.safetensors")
    dataset = make_dataset([fo.Sample("x.png")])
    nts_fo.import_memory(dataset, tmp_path / "large.safetensors")
    app = App(dataset)
    app.call("on_load")
    said = words(app.layout)
    assert "60 of 60 references have no sample in this dataset" in said
    assert "1–24 of 60" in said
    assert "No picture: its sample is not in this dataset" in said
    for _ in range(2):
        app.call("on_page", step=1)
    assert "49–60 of 60" in words(app.layout)
    assert app.part("references.choices.on")["view"]["disabled"]
    app.call("on_class", value="class 07")
    assert "class 07 · 2 references" in words(app.layout)
    assert "choices.pages" not in app.layout
    app.call("on_reference", entry=0)
    ((_, said),) = app.told
    assert said["message"] == "No samples with references of class 00 in this dataset"


def test_damaged_memory_is_named_instead_of_breaking_the_panel(panel, drawn):
    run = drawn.get_run_info("shapes").config
    run.fingerprint = "another"
    drawn.update_run_config("shapes", run)
    drawn.save_run_results("shapes", drawn.init_run_results("shapes", bank="none"), overwrite=True, cache=False)
    panel.call("on_refresh")
    assert "This memory cannot be read" in words(panel.layout)
    assert any("is damaged" in text for text in words(panel.layout))


def test_memory_that_is_gone_is_not_asked_for_again(panel, drawn, nts_fo):
    nts_fo.runs.delete_run(drawn, "shapes", nts_fo.runs.MEMORY)
    drawn.reload()
    panel.call("on_refresh")
    assert words(panel.layout)[0] == "No reference memory yet"


# ---- operators around it ---------------------------------------------------------------------------------------------


def placement(fo, name: str):
    import fiftyone.operators as foo
    from fiftyone.operators.executor import ExecutionContext

    operator = foo.get_operator(f"{PLUGIN}/{name}")
    return operator.resolve_placement(ExecutionContext({}, operator_uri=operator.uri))


def test_grid_has_buttons_with_icons_for_both_themes(fo):
    forms = ("build_reference_memory", "auto_segment_view", "evaluate_nap")
    for name, prompt in [*((name, True) for name in forms), *((f"open_{name}", False) for name in PANELS)]:
        told = placement(fo, name).to_json()
        assert told["place"] == "samples-grid-secondary-actions"
        assert told["view"]["prompt"] is prompt
        assert told["view"]["lightIcon"].endswith("-light.svg")
        assert told["view"]["darkIcon"].endswith("-dark.svg")
    assert placement(fo, "delete_memory") is None


@pytest.mark.parametrize("panel", PANELS)
def test_button_opens_the_panel(drawn, panel):
    from fiftyone.operators.executor import execute_or_delegate_operator

    request = {"dataset_name": drawn.name, "view": [], "params": {}}
    result = asyncio.run(execute_or_delegate_operator(f"{PLUGIN}/open_{panel}", request))
    result.raise_exceptions()
    (opened,) = result.executor.to_json()["requests"]
    assert (opened["operator_uri"], opened["params"]["name"]) == ("open_panel", panel)


def form(fo, name: str, view, **params) -> dict:
    import fiftyone.operators as foo
    from fiftyone.operators.executor import ExecutionContext

    operator = foo.get_operator(f"{PLUGIN}/{name}")
    stages = view._serialize() if view is not view._root_dataset else []
    asked = {"dataset_name": view._root_dataset.name, "view": stages, "params": params}
    context = ExecutionContext(asked, operator_uri=operator.uri)
    return operator.resolve_input(context).to_json()["type"]["properties"]


def test_heat_maps_and_review_from_their_forms(nts_fo, fo, drawn, targets, memory):
    import fiftyone.operators as foo

    shown = form(fo, "similarity_heatmaps", targets)
    fields = [f"shapes_{name}_similarity" for name in CLASSES]
    assert shown["fields"]["view"]["label"] == f"{TARGETS} images, written to"
    assert shown["fields"]["view"]["description"] == ", ".join(fields)
    report = foo.get_operator(f"{PLUGIN}/similarity_heatmaps")(targets, memory, classes=CLASSES[:1])
    assert (report.mapped, list(report.fields.values())) == (TARGETS, fields[:1])
    assert "overwrite" not in form(fo, "similarity_heatmaps", targets)
    assert form(fo, "delete_similarity_heatmaps", drawn)["made"]["view"]["description"].startswith(
        f"field '{fields[0]}'"
    )
    assert len(foo.get_operator(f"{PLUGIN}/delete_similarity_heatmaps")(drawn, "shapes_similarity")) == 2
    assert form(fo, "delete_similarity_heatmaps", drawn)["problem"]["invalid"]

    coarse = replace(DEFAULT, proposals=replace(DEFAULT.proposals, points_per_side=6))
    nts_fo.auto_segment_view(targets, memory, preset=coarse)
    shown = form(fo, "tag_for_review", targets, predictions_field="nts_shapes")
    labels = drawn.count("nts_shapes.detections")
    count = int(shown["counts"]["view"]["label"].split()[0])
    assert 0 < count < labels
    words = shown["counts"]["view"]["description"]
    assert re.fullmatch(r"\d+ torn between two classes, \d+ with a low score", words)
    assert shown["margin_below"]["view"]["description"].endswith("the lowest 10%; 0 tags none")
    everything = form(fo, "tag_for_review", targets, predictions_field="nts_shapes", score_below=1)
    assert everything["counts"]["view"]["label"] == f"{labels} labels will be tagged"
    assert "counts" not in form(fo, "tag_for_review", targets, predictions_field="nts_shapes", action="clear")

    told = run_in_the_app("tag_for_review", targets, predictions_field="nts_shapes")
    assert [call for call, _ in told] == ["reload_dataset", "set_view"]
    saved = drawn.load_saved_view("review_nts_shapes")._serialize()
    assert [stage["kwargs"] for stage in told[1][1]["view"]] == [stage["kwargs"] for stage in saved]
    assert drawn.count_label_tags()["nts_review"] == count
    run_in_the_app("tag_for_review", targets, predictions_field="nts_shapes", action="clear")
    assert drawn.count_label_tags() == {}
    nts_fo.tag_for_review(targets, "nts_shapes")
    assert "saved view 'review_nts_shapes'" in nts_fo.runs.delete_run(drawn, "nts_shapes", nts_fo.runs.SEGMENTATION)
    assert drawn.list_saved_views() == []


def run_in_the_app(name: str, view, **params) -> list[tuple[str, dict]]:
    from fiftyone.operators.executor import execute_or_delegate_operator

    asked = {"dataset_name": view._root_dataset.name, "view": view._serialize(), "params": params}
    result = asyncio.run(execute_or_delegate_operator(f"{PLUGIN}/{name}", asked))
    result.raise_exceptions()
    return [(call["operator_uri"], call["params"]) for call in result.executor.to_json()["requests"]]


# ---- single references -----------------------------------------------------------------------------------------------


def test_a_picture_offers_to_remove_its_reference(panel, drawn, nts_fo):
    entry = nts_fo.load_memory(drawn, "shapes").entries[1]
    panel.call("on_reference", entry=1)
    assert f"Chosen: a reference of {entry.class_name}" in words(panel.layout)
    panel.call("on_remove")
    left = nts_fo.load_memory(drawn, "shapes").entries
    assert entry.label_id not in {each.label_id for each in left}
    assert len(left) == REFERENCES - 1
    assert not any(text.startswith("Chosen") for text in words(panel.layout))


def test_a_reference_is_moved_by_a_form(panel, drawn, nts_fo):
    import fiftyone.operators as foo

    entry = nts_fo.load_memory(drawn, "shapes").entries[0]
    panel.call("on_reference", entry=0)
    panel.call("on_move")
    ((_, asked),) = panel.told
    assert asked["operator_uri"] == f"{PLUGIN}/move_reference"
    assert asked["params"] == {"memory_key": "shapes", "label_id": entry.label_id}
    run_in_the_app("move_reference", drawn.view(), class_name="unicorn", **asked["params"])
    assert nts_fo.load_memory(drawn, "shapes").shots["unicorn"] == 1
    assert foo.get_operator(f"{PLUGIN}/move_reference").config.unlisted


def test_a_reference_that_is_gone_is_told(panel, drawn, nts_fo):
    panel.call("on_reference", entry=0)
    nts_fo.runs.delete_run(drawn, "shapes", nts_fo.runs.MEMORY)
    nts_fo.build_reference_memory(drawn.match_tags("reference").skip(2), "ground_truth", "shapes")
    panel.call("on_remove")
    said = [values["message"] for name, values in panel.told if name == "notify"]
    assert said == ["This reference is not in the memory any more"]


def test_rebuild_opens_the_form_with_name_and_field(panel):
    panel.call("on_rebuild")
    ((_, asked),) = panel.told
    assert asked["params"] == {"memory_key": "shapes", "overwrite": True, "label_field": "ground_truth"}
