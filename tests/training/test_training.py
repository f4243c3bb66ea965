"""The training scripts: the loss decreases, and resumption is identical to an uninterrupted training."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nts.datasets.coco_records import mask_of_annotation
from nts.encoder.files import read_encoder
from nts.models import load_encoder, load_segmenter
from nts.utils import training_loop as loop
from synthetic.scenes import NOVEL_SPECIES, TRAIN_SPECIES
from training import train_encoder, train_segmenter
from training.examples import Example, Examples, drawn
from training.labelled_objects import read_objects
from training.pool import read_pool
from training.train_reference_prompt import LARGE, NOT_LEARNED, add_photographs

pytestmark = pytest.mark.usefixtures("one_thread")

STAGE = train_encoder.Stage(side=112, share=1.0, crops=3, scenes=4, classes=3)
ENCODER = train_encoder.EncoderTraining(
    width=48, layers=1, heads=2, image_size=112, stages=(STAGE,), group_pool=2, group_uses=20
)
SEGMENTER = train_segmenter.SegmenterTraining(images=2, clicks=4, background_clicks=1)


def build(kind: str) -> loop.Training:
    torch.manual_seed(3)
    return loop.start(train_encoder.build_model(ENCODER) if kind == "encoder" else train_segmenter.build_model())


@pytest.fixture(scope="module")
def step_loss(photographs: Path):
    """`step_loss(kind, step)`: the loss of a step, on drawn scenes and on photographs."""
    pool = read_pool(photographs / "pool", "train")
    objects = read_objects(pool, photographs / "classes")
    examples = Examples(pool, seed=4)

    def make(kind: str, step: int):
        if kind == "encoder":
            options = {"config": ENCODER, "stage": STAGE, "seed": 4, "step": step, "objects": objects}
            return partial(train_encoder.step_loss, dtype=torch.float32, **options)

        def of_segmenter(model, rng):
            return train_segmenter.step_loss(
                model, rng, SEGMENTER, examples, step, encode=model.forward_image, dtype=torch.float32
            )

        return of_segmenter

    return make


@pytest.fixture(scope="module")
def losses(step_loss):
    """`losses(kind, training, steps)`: advance a training; returns the loss of every step."""

    def advance(kind: str, training: loop.Training, steps: int, rate: float = 1e-3) -> list[float]:
        return [loop.advance(training, step_loss(kind, training.step), seed=4, rate=rate)["loss"] for _ in range(steps)]

    return advance


@pytest.mark.parametrize("kind", ["encoder", "segmenter"])
def test_steps_lower_the_loss(kind: str, step_loss, losses):
    training = build(kind)
    loss_of = step_loss(kind, 0)

    def held_out() -> float:
        rngs = [np.random.default_rng([99, i]) for i in range(2)]
        with torch.no_grad():
            return float(np.mean([loss_of(training.model, rng)[0] for rng in rngs]))

    before = held_out()
    losses(kind, training, {"encoder": 40, "segmenter": 10}[kind], rate=2e-3)
    assert held_out() < 0.9 * before


@pytest.mark.parametrize("kind", ["encoder", "segmenter"])
def test_a_resumed_training_repeats_the_uninterrupted_one(kind: str, losses, tmp_path: Path):
    whole = build(kind)
    curve = losses(kind, whole, 4)

    first = build(kind)
    losses(kind, first, 2)
    loop.save(first, tmp_path / "checkpoint.pt")
    second = build(kind)
    loop.resume(second, tmp_path / "checkpoint.pt")
    assert second.step == 2
    assert losses(kind, second, 2) == pytest.approx(curve[2:], rel=1e-5)
    for a, b in zip(whole.average.parameters(), second.average.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_processes_train_on_the_mean_of_their_gradients(tmp_path: Path):
    """Two processes whose losses pull in different directions end with equal weights, those of the mean loss."""
    torch.multiprocessing.spawn(advance_in_group, (tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first, second)
    training = loop.start(torch.nn.Linear(3, 1).requires_grad_(True))
    with torch.no_grad():
        for parameter in training.model.parameters():
            parameter.fill_(0.5)
    loop.advance(training, lambda model, rng: ((pull(model, 0) + pull(model, 1)) / 2, {}), seed=1, rate=0.1)
    torch.testing.assert_close(first, training.model.weight.detach())


def pull(model: torch.nn.Linear, rank: int) -> torch.Tensor:
    return (model.weight * torch.tensor([[1.0, -2.0, 3.0], [-4.0, 1.0, 2.0]])[rank]).sum()


def advance_in_group(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=(folder / "group").as_uri(), rank=rank, world_size=2)
    model = torch.nn.Linear(3, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    training = loop.start(model)
    draws = []

    def loss(model, rng):
        draws.append(rng.uniform())
        return pull(model, rank), {}

    loop.advance(training, loss, seed=1, rate=0.1)
    assert training.model.bias.grad is None, "no process has a gradient of the bias"
    shared = torch.tensor(draws)
    torch.distributed.all_reduce(shared)
    assert not torch.isclose(shared, 2 * torch.tensor(draws)).any(), "both processes drew the same"
    torch.save(training.model.weight.detach(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_photographs_join_the_classes_of_a_reference_prompt(photographs: Path):
    pool = read_pool(photographs / "pool", "train")
    drawn_data = {
        "images": [{"id": 4, "file_name": "a.png", "width": 9, "height": 9, "path": "a.png"}],
        "annotations": [{"id": 1, "image_id": 4, "category_id": 7}],
        "categories": [{"id": 7, "name": "drawn"}],
    }
    dataset = add_photographs(drawn_data, pool)
    assert drawn_data["images"] == dataset["images"][:1]
    assert len(drawn_data["images"]) == 1
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    paths = {image["id"]: Path(image["path"]) for image in dataset["images"][1:]}
    assert paths
    assert all(path.is_file() for path in paths.values())
    assert not {path.parents[1].name for path in paths.values()} & set(NOT_LEARNED)
    assert len({annotation["id"] for annotation in dataset["annotations"]}) == len(dataset["annotations"])
    for annotation in dataset["annotations"][1:]:
        assert names[annotation["category_id"]].startswith("photographed ")
        (image,) = [each for each in dataset["images"] if each["id"] == annotation["image_id"]]
        mask = mask_of_annotation(annotation, image["height"], image["width"])
        assert mask.mean() >= LARGE


def test_the_learning_rate_warms_up_and_comes_down():
    rates = [loop.learning_rate(step, 1000, 1.0, warmup=100) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[99] == pytest.approx(1.0)
    assert rates == [*sorted(rates[:100]), *sorted(rates[100:], reverse=True)]
    assert rates[-1] < 0.02


def test_the_log_is_one_json_line_per_entry(tmp_path: Path):
    for step in (1, 2):
        loop.log(tmp_path / "run" / "log.jsonl", {"step": step, "loss": 0.123456789})
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1, "loss": 0.12346}, {"step": 2, "loss": 0.12346}]


def test_training_sees_training_species_only():
    rng = np.random.default_rng(0)
    scenes = train_encoder.draw_batch(rng, ENCODER, STAGE, 4, 0)
    seen = set(np.concatenate([scene.species for scene in scenes]).tolist())
    assert seen <= set(TRAIN_SPECIES)
    assert not seen & set(NOVEL_SPECIES)


def test_the_same_object_is_neither_attracted_nor_repelled():
    embeddings = torch.eye(4)
    labels, instance = torch.tensor([7, 7, 7, -1]), torch.tensor([0, 0, 1, -1])
    loss = train_encoder.contrastive_loss(embeddings, labels, instance, 0.1)
    embeddings[0] = embeddings[1]
    assert train_encoder.contrastive_loss(embeddings, labels, instance, 0.1) == pytest.approx(float(loss))


def test_a_perfect_mask_costs_nothing_and_has_iou_one():
    target = torch.zeros(1, 8, 8)
    target[:, 2:6, 2:6] = 1
    logits = (target[:, None] * 2 - 1) * 40
    assert float(train_segmenter.mask_loss(logits, target, 20.0)) == pytest.approx(0, abs=1e-4)
    assert float(train_segmenter.mask_iou(logits, target)) == 1
    assert float(train_segmenter.mask_iou(-logits, target)) == 0


def test_clicks_fall_on_their_objects_and_boxes_around_them():
    rng = np.random.default_rng(1)
    shown = [drawn(rng, None) for _ in range(2)]
    clicks = train_segmenter.draw_prompts(rng, shown, 6, 2, boxes=False)
    assert clicks.points.shape == (12, 1, 2)
    real = clicks.on_object
    assert real.sum() == 8
    whole, part = clicks.answers[:, 0], clicks.answers[:, train_segmenter.PART]
    assert (part <= whole).all()
    assert (clicks.answers[:, 2:] == 0).all()  # there is one object under each click, and no region
    # A click may be off by a pixel, so neighbouring cells count.
    near = torch.nn.functional.max_pool2d(whole, 3, 1, 1)
    x, y = (clicks.points[:, 0] / 4).long().clamp(0, 63).T
    assert (near[torch.arange(12), y, x] > 0)[real].all()
    boxes = train_segmenter.draw_prompts(rng, shown, 3, 2, boxes=True)
    assert (boxes.points[:, 1] > boxes.points[:, 0]).all()
    assert boxes.labels.tolist() == [[2, 3]] * 6


def test_every_object_under_a_click_is_right_and_unknown_background_is_not_clicked():
    inner, outer = np.zeros((2, 256, 256), bool)
    inner[100:140, 100:140] = True
    outer[60:200, 60:200] = True
    image, parts = np.zeros((256, 256, 3), np.uint8), np.zeros((256, 256), np.uint8)
    example = Example(image, np.stack([inner, outer]), parts, exhaustive=False)
    clicks = train_segmenter.draw_prompts(np.random.default_rng(0), [example], 8, 2, boxes=False)
    assert clicks.on_object.all()
    areas = (clicks.answers.sum((2, 3)) * 16).tolist()
    assert all(of_click[train_segmenter.PART] == 0 for of_click in areas)
    both = [of_click for of_click in areas if of_click[4]]
    assert [inner.sum(), 0, 0, 0, outer.sum(), 0] in both
    assert all(sorted(of_click) == [0, 0, 0, 0, inner.sum(), outer.sum()] for of_click in both)
    regions = np.where(outer, 1, 0)[None].astype(np.int32)
    clicks = train_segmenter.draw_prompts(
        np.random.default_rng(0), [replace(example, regions=regions)], 8, 2, boxes=False
    )
    assert (clicks.answers[:, train_segmenter.REGIONS[0]].sum((1, 2)) * 16 == outer.sum()).all()
    everything = Example(image, np.stack([outer]), parts, exhaustive=True)
    clicks = train_segmenter.draw_prompts(np.random.default_rng(0), [everything], 8, 2, boxes=False)
    assert (~clicks.on_object).sum() == 2


def test_an_exported_encoder_is_in_half_precision_and_loads(tmp_path: Path):
    model = build("encoder").average.encoder
    train_encoder.export(model, tmp_path)
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    loaded = read_encoder(tmp_path / "config.json", tmp_path / "model.safetensors")
    for (name, a), b in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3, msg=name)
    assert load_encoder(str(tmp_path), device="cpu").grid == (8, 8)


def test_an_exported_segmenter_loads(tmp_path: Path):
    train_segmenter.export(build("segmenter").average, tmp_path / "small_sam2.pt")
    (tmp_path / "small_sam2.yaml").write_text(train_segmenter.MODEL_FILE.read_text())
    assert load_segmenter(str(tmp_path), device="cpu").input_size == 256
