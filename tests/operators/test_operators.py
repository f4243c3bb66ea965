"""The operators: from Python, in the App, delegated, and their forms."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from app_requests import decide_in_the_app, form, in_the_app, outcome, request, values
from drawn_dataset import CLASSES, PLUGIN, TARGETS, truncate
from paths import ROOT

import nts

MANIFEST = yaml.safe_load((ROOT / "fiftyone.yml").read_text())
OPERATORS = [*MANIFEST["operators"], *MANIFEST["panels"]]


@pytest.fixture
def memory(operator, references):
    """Name of a memory of the drawn dataset."""
    operator("build_reference_memory")(references, "ground_truth", "shapes")
    return "shapes"


# ---- the plugin ------------------------------------------------------------------------------------------------------


def test_plugin_offers_the_operators_that_its_file_names(fo):
    import fiftyone.operators as foo
    import fiftyone.plugins as fop

    registered = {o.name for o in foo.list_operators() if o.plugin_name == PLUGIN}
    assert registered == set(OPERATORS)
    plugin = fop.get_plugin(PLUGIN)
    assert plugin.version == MANIFEST["version"] == nts.__version__


def test_icons_are_there(operator):
    for name in OPERATORS:
        config = operator(name).config
        for icon in filter(None, (config.light_icon, config.dark_icon)):
            assert (ROOT / icon.lstrip("/")).read_text().startswith("<svg")


def test_registering_the_plugin_does_not_import_torch():
    code = "import sys, operators; assert operators.OPERATORS; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, timeout=120)


# ---- the whole job ---------------------------------------------------------------------------------------------------


def test_whole_job_from_python(operator, drawn, references, targets):
    runs_before, fields_before = drawn.list_runs(), set(drawn.get_field_schema(flat=True))
    built = operator("build_reference_memory")(references, "ground_truth", "shapes")
    assert built.shots == dict.fromkeys(CLASSES, 2)
    segmented = operator("auto_segment_view")(targets, "shapes")
    assert segmented.segmented == TARGETS
    assert operator("auto_segment_view")(targets, "shapes").resumed == TARGETS
    evaluated = operator("evaluate_nap")(drawn, "nts_shapes", "ground_truth")
    assert evaluated.result.images == TARGETS
    assert evaluated.result.masks.novel.ap50 > 0
    operator("delete_segmentation")(drawn, "nts_shapes")
    assert drawn.list_runs() == ["shapes"]
    operator("delete_memory")(drawn, "shapes")
    assert drawn.list_runs() == runs_before
    assert set(drawn.get_field_schema(flat=True)) == fields_before


def test_whole_job_in_the_app(fo, drawn, references, targets, tmp_path):
    told = in_the_app(
        "build_reference_memory", references, label_field="ground_truth", memory_key="shapes", encoder="small"
    )
    # The classes have colours now, and the App goes on with the scheme from before.
    assert [call for call, _ in told] == ["reload_dataset", "set_color_scheme", "notify"]
    assert [entry["path"] for entry in told[1][1]["fields"]] == ["ground_truth"]
    output = outcome(drawn)
    assert re.fullmatch(
        r"The memory \*\*shapes\*\* holds 4 references of 2 classes; (\d+) negatives \(\1 of reference images\)\.",
        output["summary"],
    )
    assert output["rows"] == [{"class": name, "references": 2} for name in CLASSES]
    assert [key for key, _ in output["columns"]] == ["class", "references"]
    assert [step["label"] for step in output["next_steps"]] == ["Segment the rest", "See the references"]

    told = in_the_app("auto_segment_view", targets, memory_key="shapes")
    drawn.reload()
    summary = outcome(drawn)["summary"]
    assert summary.startswith("**nts_shapes**: ")
    words = drawn.get_run_info("nts_shapes").config.recommendation["words"]
    assert f"{words} The saved view **nts_shapes · confident** shows them." in summary
    # The App reloads, and then shows the saved view.
    calls = [call for call, _ in told]
    assert calls == ["reload_dataset", "set_color_scheme", "set_active_fields", "set_view", "notify"]
    assert told[2][1]["fields"] == ["nts_shapes"]
    shown = fo.DatasetView._build(drawn, told[3][1]["view"])
    confident = drawn.load_saved_view("nts_shapes · confident")
    assert shown.values("nts_shapes.detections.id") == confident.values("nts_shapes.detections.id")
    assert drawn.exists("nts_shapes").count() == TARGETS

    fields = {"predictions_field": "nts_shapes", "ground_truth_field": "ground_truth"}
    told = in_the_app("evaluate_nap", drawn, **fields)
    assert [call for call, _ in told] == ["reload_dataset", "notify"]
    results = outcome(drawn)
    assert results["summary"].startswith("**nAP of masks ")
    assert "4 reference samples were left out. Stored as **nap_nts_shapes**: see" in results["summary"]
    assert [row["class"] for row in results["rows"]] == ["all", *CLASSES]

    told = in_the_app("export_memory", drawn, memory_key="shapes", path=str(tmp_path))
    assert told == [
        ("reload_dataset", {}),
        ("show_output", {"results": {"summary": f"Written to {tmp_path / 'shapes.safetensors'}"}}),
    ]
    told = in_the_app("import_memory", drawn, path=str(tmp_path / "shapes.safetensors"), memory_key="again")
    assert told[-1][1]["results"]["summary"] == "The memory **again** holds 4 references of 2 classes."

    told = in_the_app("delete_segmentation", drawn, output_field="nts_shapes")
    assert told[-1][1]["results"]["summary"].startswith("**Deleted**\n\n- field 'nts_shapes'\n")
    in_the_app("delete_memory", drawn, memory_key="shapes")
    drawn.reload()
    assert drawn.list_runs() == ["again"]


def test_whole_job_delegated(fo, operator, drawn, references, targets):
    import fiftyone.operators.delegated as food

    service = food.DelegatedOperationService()

    def run_queued():
        service.execute_queued_operations()
        (operation,) = service.list_operations()
        service.delete_operation(operation.id)
        drawn.reload()
        return operation

    assert operator("build_reference_memory")(references, "ground_truth", "shapes", delegate=True).delegated
    operation = run_queued()
    assert operation.run_state == "completed"
    assert operation.result.result["rows"] == [{"class": name, "references": 2} for name in CLASSES]
    assert operation.metadata["outputs_schema"]["type"]["properties"].keys() == {"summary", "rows"}
    assert (operation.status.progress, operation.status.label) == (1, "4 references encoded, 0 left out")

    path = targets.first().filepath
    content = truncate(path)
    operator("auto_segment_view")(targets, "shapes", delegate=True)
    operation = run_queued()
    assert operation.run_state == "completed"
    assert "1 images could not be segmented (see the field nts_shapes_error)" in operation.result.result["summary"]
    assert drawn.exists("nts_shapes").count() == TARGETS - 1
    Path(path).write_bytes(content)

    operator("evaluate_nap")(drawn, "nts_shapes", "ground_truth", delegate=True)
    assert run_queued().run_state == "completed"
    assert drawn.list_runs(method="nts_nap") == ["nap_nts_shapes"]

    operator("auto_segment_view")(targets, "shapes", delegate=True, segmenter="nowhere")
    operation = run_queued()
    assert operation.run_state == "failed"
    assert "there is no segmenter 'nowhere'" in operation.result.error


# ---- in the App ------------------------------------------------------------------------------------------------------


def test_error_is_shown_in_the_app(targets, memory):
    told = []
    with pytest.raises(RuntimeError, match="there is no segmenter 'nowhere'"):
        in_the_app("auto_segment_view", targets, told, memory_key=memory, segmenter="nowhere")
    ((call, said),) = told
    assert (call, said["variant"]) == ("notify", "error")
    failed = "There is no segmenter 'nowhere': it is neither one of small, "
    assert said["message"].startswith(f"Auto-segment view failed: {failed}")
    ended = outcome(targets)
    assert ended["status"] == "failed"
    assert ended["summary"].startswith(failed)


def test_error_reaches_a_caller_in_python(targets, memory):
    import fiftyone.operators as foo
    from fiftyone.operators.executor import ExecutionError

    context = {"view": targets, "params": {"memory_key": memory, "segmenter": "nowhere"}}
    with pytest.raises(ExecutionError, match="there is no segmenter 'nowhere'"):
        foo.execute_operator(f"{PLUGIN}/auto_segment_view", context)


def test_run_stops_when_the_tab_is_closed_and_keeps_what_it_has(operator, drawn, targets, memory, every_step):
    from fiftyone.operators.executor import execute_or_delegate_operator

    from nts.fiftyone_adapter import running
    from nts.fiftyone_adapter.runs import SEGMENTATION, list_runs

    async def watch_one_image_and_close_the_tab() -> None:
        asked = execute_or_delegate_operator(f"{PLUGIN}/auto_segment_view", request(targets, memory_key=memory))
        messages = (await asked).result

        async def watch() -> None:
            async for _ in messages:
                pass

        tab = asyncio.create_task(watch())
        deadline = asyncio.get_running_loop().time() + 60
        while not any(job.fraction > 0 for job in running.running_jobs(drawn)):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)
        tab.cancel()  # `messages` is neither closed nor released, as in FiftyOne's server
        while status() == "running":
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)

    def status() -> str:
        drawn.reload()
        return list_runs(drawn, SEGMENTATION)["nts_shapes"]["status"]

    asyncio.run(watch_one_image_and_close_the_tab())
    assert status() == "incomplete"
    done = drawn.exists("nts_shapes").count()
    assert 1 <= done < TARGETS
    assert operator("auto_segment_view")(targets, memory).resumed == done


def test_failures_are_listed_in_the_summary(targets, memory):
    path = targets.first().filepath
    truncate(path)
    in_the_app("auto_segment_view", targets, memory_key=memory)
    summary = outcome(targets)["summary"]
    assert "**1 images could not be segmented (see the field nts_shapes_error)**" in summary
    assert f"- the image {path} cannot be decoded" in summary


# ---- forms -----------------------------------------------------------------------------------------------------------


def test_form_offers_only_fields_that_fit(fo, operator, drawn, references):
    sample = drawn.first()
    box = fo.Detection(label="a", bounding_box=[0, 0, 1, 1])
    sample["boxes"] = fo.Detections(detections=[box])
    sample["caption"] = "a"
    sample["empty"] = fo.Detections()
    sample["kind"] = fo.Classification(label="a")
    sample.save()
    build = operator("build_reference_memory")

    shown = form(build, references, advanced=True)
    assert values(shown["label_field"]) == ["ground_truth", "boxes"]
    described = [choice["description"] for choice in shown["label_field"]["view"]["choices"]]
    assert described == ["4 masks", "1 box"]
    assert values(shown["classes"]) == list(CLASSES)
    assert "weak_labels" not in shown
    assert "segmenter" in shown, "it looks for negatives"
    assert "segmenter" not in form(build, references, preset="paper")
    shown = form(build, references, label_field="boxes", preset="paper")
    assert values(shown["weak_labels"]) == ["promoted", "raw", "skip"]
    assert shown["weak_labels"]["view"]["label"] == "1 box without a mask"
    assert "segmenter" in shown
    assert "segmenter" not in form(build, references, label_field="boxes", weak_labels="raw", preset="paper")


def test_form_offers_labels_of_every_type_with_their_kinds_in_words(fo, operator, drawn, references):
    sample = references.first()
    stroke, click = [[(0.1, 0.1), (0.5, 0.5)]], [(0.5, 0.5)]
    polylines = [fo.Polyline(label="a", points=stroke), fo.Polyline(label="b", points=stroke, closed=True)]
    sample["strokes"] = fo.Polylines(polylines=polylines)
    sample["click"] = fo.Keypoint(label="a", points=click)
    sample["regions"] = fo.Segmentation(mask=np.eye(4, dtype=np.uint8))
    sample.save()
    build = operator("build_reference_memory")
    shown = form(build, references)
    assert shown["content"]["view"]["label"] == "4 masks become references"
    assert shown["content"]["view"]["description"] == ", ".join(f"{name} 2" for name in CLASSES)
    assert not shown.keys() & {"classes", "encoder", "preset"}, "they are advanced"
    words = {choice["value"]: choice["description"] for choice in shown["label_field"]["view"]["choices"]}
    assert words == {
        "ground_truth": "4 masks",
        "strokes": "1 mask, 1 scribble",
        "click": "1 point",
        "regions": "1 segmentation",
    }
    assert form(build, references, label_field="strokes")["weak_labels"]["view"]["label"] == "1 scribble without a mask"
    # The values of this segmentation have no names, so its classes are unknown until it is read.
    shown = form(build, references, label_field="regions", advanced=True)
    assert not shown.keys() & {"classes", "weak_labels"}
    drawn.default_mask_targets = {1: "leaf"}
    drawn.save()
    assert values(form(build, references, label_field="regions", advanced=True)["classes"]) == ["leaf"]


def test_labels_are_counted_once_while_a_form_is_open(operator, references, monkeypatch):
    from fiftyone.operators.executor import ExecutionContext

    build, aggregations = operator("build_reference_memory"), []
    aggregate = type(references).aggregate
    monkeypatch.setattr(type(references), "aggregate", lambda *args: aggregations.append(args) or aggregate(*args))
    for typed in ("", "s", "sh"):
        asked = request(references, memory_key=typed) | {"prompt_id": "test_labels_are_counted_once"}
        build.resolve_input(ExecutionContext(asked, operator_uri=build.uri))
    assert len([what for _, what in aggregations if isinstance(what, list)]) == 1


def test_form_asks_for_complete_labels_and_background_images(operator, nts_fo, drawn, references, targets):
    build = operator("build_reference_memory")
    shown = form(build, references, advanced=True)
    assert shown["complete_labels"]["view"]["label"].startswith("Is every object of the classes labelled")
    assert "would teach the memory to reject its own class" in shown["complete_labels"]["view"]["description"]
    assert "background" not in shown, "there is no saved view"
    drawn.save_view("the rest", targets)
    assert values(form(build, references, advanced=True)["background"]) == ["the rest"]
    assert not form(build, references, background="the rest")["background"]["invalid"]
    assert form(build, references, preset="fast").keys() >= {"complete_labels", "background"}
    assert not form(build, references, preset="paper").keys() & {"complete_labels", "background"}

    asked = {"label_field": "ground_truth", "complete_labels": True, "background": "the rest"}
    in_the_app("build_reference_memory", references, memory_key="plain", preset="paper", **asked)
    assert "negatives" not in outcome(drawn)["summary"], "they were asked for another preset"
    targets.set_values("ground_truth", [None] * TARGETS)
    truncate(targets.last().filepath)
    in_the_app("build_reference_memory", references, memory_key="shapes", **asked)
    summary = outcome(drawn)["summary"]
    assert f"; {TARGETS - 1} background images were used." in summary
    assert "**1 background images left out**" in summary
    assert all(negative.sure for negative in nts_fo.load_memory(drawn, "shapes").negatives)

    drawn.delete_saved_view("the rest")
    shown = form(build, references, background="the rest")
    assert shown["background"]["error_message"].startswith("The dataset has no saved view 'the rest'")


def test_form_says_why_nothing_fits(operator, drawn, targets):
    from fiftyone import ViewField as F

    for name, view, reason in [
        ("build_reference_memory", drawn.match(F("filepath") == ""), "The view has no samples"),
        ("build_reference_memory", drawn.exclude_fields("ground_truth"), "These samples have no labels of type Detec"),
        ("auto_segment_view", targets, "This dataset has no reference memory yet: run 'Build reference memory' first"),
        ("delete_memory", drawn, "This dataset has no reference memory yet"),
        ("delete_segmentation", drawn, "This dataset has no segmentation made by auto-segment view"),
        ("export_memory", drawn, "This dataset has no reference memory yet"),
    ]:
        problem = form(operator(name), view)["problem"]
        assert problem["invalid"]
        assert problem["view"]["name"] == "Warning"
        assert problem["view"]["description"].startswith(reason)


def test_form_refuses_a_name_that_is_taken_or_no_name(operator, references, memory):
    build = operator("build_reference_memory")
    shown = form(build, references, memory_key=memory)
    assert shown["memory_key"]["error_message"].startswith("The memory 'shapes' exists already")
    assert not form(build, references, memory_key=memory, overwrite=True)["memory_key"]["invalid"]
    assert form(build, references)["memory_key"]["default"] == "references"
    shown = form(build, references, memory_key="my birds")
    assert shown["memory_key"]["error_message"].startswith("'my birds' cannot be the name of a memory: use letters")
    assert "overwrite" not in shown


def test_form_suggests_an_output_field_and_guards_the_others(operator, targets, memory):
    segment = operator("auto_segment_view")
    shown = form(segment, targets)
    assert shown["memory_key"]["default"] == memory
    assert shown["output_field"]["view"]["placeholder"] == "nts_shapes"
    assert "overwrite" not in shown
    shown = form(segment, targets, output_field="ground_truth", overwrite=True)
    assert "it is never overwritten" in shown["output_field"]["error_message"]

    segment(targets, memory, limit=1)
    shown = form(segment, targets)
    assert shown["earlier"]["view"]["label"] == "nts_shapes holds results of 1 images, from the memory 'shapes'"
    assert "The settings are the same" in shown["earlier"]["view"]["description"]
    assert "overwrite" in shown


def test_form_refuses_what_its_run_would_refuse(operator, targets, memory):
    segment = operator("auto_segment_view")
    segment(targets, memory, limit=1)
    refusal = "he field 'nts_shapes' holds results with other settings (score_threshold 0.0, now 0.5): choose another"
    shown = form(segment, targets, score_threshold=0.5)
    assert shown["output_field"]["invalid"]
    assert refusal in shown["output_field"]["error_message"]
    with pytest.raises(ValueError, match=re.escape(refusal)):
        segment(targets, memory, score_threshold=0.5)
    shown = form(segment, targets, score_threshold=0.5, overwrite=True)
    assert not shown["output_field"]["invalid"]
    assert "these results are replaced, but for those" in shown["earlier"]["view"]["description"]
    assert form(segment, targets, max_instances=0)["max_instances"]["error_message"].startswith("Max_instances must be")


@pytest.mark.parametrize("name", ["build_reference_memory", "auto_segment_view", "similarity_heatmaps"])
def test_form_refuses_a_device_that_this_machine_lacks(operator, targets, memory, name):
    shown = form(operator(name), targets, device="cuda:77")
    assert shown["device"]["error_message"].startswith("The device 'cuda:77' is not available on this machine")
    assert not form(operator(name), targets, device="cpu")["device"]["invalid"]


def test_form_offers_tiles_and_refuses_what_they_cannot_be(operator, targets, memory):
    segment = operator("auto_segment_view")
    assert not form(segment, targets, tiles="3x4")["tiles"]["invalid"]
    shown = form(segment, targets, tiles="many")
    assert shown["tiles"]["error_message"] == "Tiles are 'auto', 'off', or rows and columns, got 'many'"


def test_form_offers_a_cluster_where_there_is_one(operator, targets, memory, monkeypatch):
    segment = operator("auto_segment_view")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert "executor" not in form(segment, targets)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    shown = form(segment, targets, executor="ray")
    assert values(shown["executor"]) == ["local", "ray"]
    assert {"actors", "gpus_per_actor"} <= shown.keys()
    assert "actors" not in form(segment, targets)


def test_form_asks_for_the_number_of_the_chosen_instances_to_show(operator, targets, memory):
    segment = operator("auto_segment_view")
    shown = form(segment, targets)
    assert values(shown["show"]) == ["recommended", "all", "confidence", "precision"]
    assert shown["show"]["default"] == "recommended"
    assert not shown.keys() & {"shown", "min_precision"}
    for chosen in ("recommended", "all"):
        assert not form(segment, targets, show=chosen, shown=0.3, min_precision=0.9).keys() & {"shown", "min_precision"}
    shown = form(segment, targets, show="confidence", min_precision=0.9)
    assert (shown["shown"]["default"], shown["shown"]["invalid"]) == (0.5, False)
    assert "min_precision" not in shown
    shown = form(segment, targets, show="precision", shown=0.3)
    assert shown["min_precision"]["default"] == 0.9
    assert "shown" not in shown
    shown = form(segment, targets, show="precision", min_precision=1.5)
    assert shown["min_precision"]["error_message"].startswith("Min_precision must lie in [0, 1]")


@pytest.mark.parametrize(
    ("params", "threshold"),
    [
        ({"show": "confidence", "shown": 0.25, "min_precision": 0.9}, 0.25),
        ({"show": "recommended", "shown": 0.25, "min_precision": 0.9}, 0.5),
        ({"show": "all", "shown": 0.25}, None),
        ({"shown": 0.75}, 0.75),
    ],
)
def test_app_shows_what_the_form_asks_for(fo, drawn, targets, memory, params, threshold):
    told = in_the_app("auto_segment_view", targets, memory_key=memory, limit=1, **params)
    views = [params["view"] for call, params in told if call == "set_view"]
    drawn.reload()
    if threshold is None:
        assert views == drawn.list_saved_views() == []
    else:
        (stages,) = views
        assert f"at least {threshold:.2g}." in outcome(drawn)["summary"]
        confidences = drawn.values("nts_shapes.detections.confidence", unwind=True)
        shown = fo.DatasetView._build(drawn, stages)
        assert shown.count("nts_shapes.detections") == sum(each >= threshold for each in confidences)


def test_form_of_heat_maps_refuses_what_its_run_would_refuse(operator, references, targets, memory):
    heatmaps = operator("similarity_heatmaps")
    shown = form(heatmaps, targets, classes=["unicorn"])
    refusal = "he memory 'shapes' has no class unicorn; it has: "
    assert refusal in shown["classes"]["error_message"]
    with pytest.raises(ValueError, match=refusal):
        heatmaps(targets, memory, classes=["unicorn"])
    assert "fields" not in shown

    heatmaps(targets.limit(1), memory)
    assert "overwrite" not in form(heatmaps, targets)
    operator("build_reference_memory")(references.limit(2), "ground_truth", memory, overwrite=True)
    shown = form(heatmaps, targets)
    refusal = "he set of heat maps 'shapes_similarity' holds results with other settings (another memory): switch on"
    assert refusal in shown["overwrite"]["error_message"]
    with pytest.raises(ValueError, match=re.escape(refusal)):
        heatmaps(targets, memory)
    shown = form(heatmaps, targets, overwrite=True)
    assert not shown["overwrite"]["invalid"]
    assert "(another memory)" in shown["overwrite"]["view"]["description"]


def test_form_of_the_evaluation_puts_predictions_and_truth_in_their_places(operator, drawn, targets, memory):
    operator("auto_segment_view")(targets, memory)
    evaluate = operator("evaluate_nap")
    shown = form(evaluate, drawn)
    assert shown["predictions_field"]["default"] == "nts_shapes"
    assert shown["ground_truth_field"]["default"] == "ground_truth"
    assert "memory_key" not in shown
    evaluate(drawn, "nts_shapes", "ground_truth")
    shown = form(evaluate, drawn)
    assert shown["eval_key"]["error_message"].startswith("The evaluation 'nap_nts_shapes' exists already")
    assert "overwrite" in shown
    # The memory of predictions from another source is unknown.
    assert values(form(evaluate, drawn, predictions_field="ground_truth")["memory_key"]) == [memory]


def test_form_of_a_deletion_lists_what_goes(operator, drawn, targets, memory):
    operator("auto_segment_view")(targets, memory, limit=1)
    made = (
        "field 'nts_shapes', field 'nts_shapes_error', saved view 'nts_shapes · confident', segmentation 'nts_shapes'"
    )
    assert form(operator("delete_memory"), drawn)["made"]["view"]["description"] == made
    assert form(operator("delete_segmentation"), drawn)["made"]["view"]["description"] == made


def test_selected_samples_can_be_the_target(fo, operator, drawn, memory):
    from fiftyone.operators.executor import execute_or_delegate_operator

    asked = request(drawn, memory_key=memory, view_target="SELECTED_SAMPLES")
    asked["selected"] = [drawn.last().id]

    async def run() -> int:
        result = await execute_or_delegate_operator(f"{PLUGIN}/auto_segment_view", asked)
        return len([message async for message in result.result])

    assert asyncio.run(run())
    drawn.reload()
    assert drawn.exists("nts_shapes").values("id") == [drawn.last().id]


def test_boxes_become_references_as_asked_for(fo, operator, drawn, references):
    for sample in references.iter_samples(autosave=True):
        for label in sample.ground_truth.detections:
            label.mask = None
    build = operator("build_reference_memory")
    with pytest.raises(ValueError, match="it has a box but no mask; add masks to the labels"):
        build(references, "ground_truth", "boxes", weak_labels="skip")
    assert build(references, "ground_truth", "boxes", weak_labels="raw").promoted == 0
    in_the_app("build_reference_memory", references, label_field="ground_truth", memory_key="b2")
    assert "references of 2 classes (4 boxes); SAM2 drew the masks of 4 of them; " in outcome(drawn)["summary"]


# ---- decisions about predictions -------------------------------------------------------------------------------------


def test_selected_labels_patches_or_the_view_are_decided(operator, drawn, targets, memory):
    operator("auto_segment_view")(targets, memory)
    ids = targets.values("nts_shapes.detections.id", unwind=True)
    owner = {label.id: sample.id for sample in targets for label in sample.nts_shapes.detections}

    labels = [{"label_id": each, "sample_id": owner[each], "field": "nts_shapes"} for each in ids[:2]]
    said = decide_in_the_app(targets, labels=labels, predictions_field="nts_shapes", action="accepted")
    assert said == "**2 labels** of nts_shapes are accepted."

    patches = targets.to_patches("nts_shapes")
    chosen = [patch.id for patch in patches if patch.nts_shapes.id in ids[2:5]]
    said = decide_in_the_app(patches, chosen, predictions_field="nts_shapes", action="corrected", class_name="other")
    assert said == "**3 labels** of nts_shapes are corrected."

    found = targets.values("nts_shapes.detections", unwind=True)
    assert {label.id for label in found if label.has_field("decision") and label.decision == "accepted"} == set(ids[:2])
    assert {label.id for label in found if label.label == "other"} == set(ids[2:5])

    said = decide_in_the_app(targets, predictions_field="nts_shapes", action="clear")
    assert said == f"**{len(ids)} labels** of nts_shapes are undecided again."
    assert drawn.count_label_tags(label_fields="nts_shapes") == {}


def test_form_of_decisions_says_what_it_will_decide_about(operator, drawn, targets, memory):
    operation = operator("decide_predictions")
    assert form(operation, targets)["problem"]["view"]["label"] == "No predictions"
    operator("auto_segment_view")(targets, memory)
    count = targets.count("nts_shapes.detections")
    shown = form(operation, targets)
    assert shown["count"]["view"]["label"] == f"{count} labels in view"
    assert values(shown["action"]) == ["accepted", "rejected", "wrong outline", "corrected", "clear"]
    assert "class_name" not in shown
    assert set(values(form(operation, targets, action="corrected")["class_name"])) == set(CLASSES)
    assert form(operation, targets.limit(0))["problem"]["view"]["label"] == "No labels"
