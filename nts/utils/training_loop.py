"""Training utilities: learning rate schedule, averaged weights, exactly resumable checkpoints, a log of JSON lines.

Shared by the training of the small models and that of visual reference prompts.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from .files import write_file

Model = TypeVar("Model", bound=nn.Module)


@dataclass
class Training(Generic[Model]):
    """State of a training after `step` steps; `average` has the running mean of the model's weights."""

    model: Model
    average: Model
    optimizer: torch.optim.Optimizer
    step: int = 0


def start(model: Model, weight_decay: float = 0.05) -> Training[Model]:
    """Start training a new model with AdamW, without weight decay of biases, norms and other vectors."""
    decayed = [p for p in model.parameters() if p.squeeze().ndim >= 2]
    others = [p for p in model.parameters() if p.squeeze().ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    average = copy.deepcopy(model).eval().requires_grad_(False)
    return Training(model, average, optimizer)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 200) -> float:
    """Learning rate with linear warm-up and cosine decay to 1 % of the peak at the last step."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def advance(
    training: Training[Model],
    step_loss: Callable[[Model, np.random.Generator], tuple[Tensor, dict[str, float]]],
    *,
    seed: int,
    rate: float,
    clip: float = 1.0,
    decay: float = 0.999,
) -> dict[str, float]:
    """Run one optimisation step and return its loss, and the parts of it that ``step_loss`` returns.

    Random numbers depend on (seed, step) only, so a resumed run equals an uninterrupted one. In a process group of
    ``torch.distributed``, each process draws its own batch, and gradients are averaged.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    rng = np.random.default_rng([seed, training.step, *([rank] if rank else [])])
    for group in training.optimizer.param_groups:
        group["lr"] = rate
    training.model.train()
    loss, parts = step_loss(training.model, rng)
    training.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if dist.is_initialized():
        average_gradients(list(training.model.parameters()))
    torch.nn.utils.clip_grad_norm_(training.model.parameters(), clip)
    training.optimizer.step()
    training.step += 1
    with torch.no_grad():
        # A lower momentum at the start: the mean must not stay near the random initial weights.
        momentum = min(decay, (1 + training.step) / (10 + training.step))
        for mean, now in zip(training.average.parameters(), training.model.parameters(), strict=True):
            mean.lerp_(now, 1 - momentum)
    return {"loss": float(loss.detach()), **parts}


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Average gradients over all processes; a process without a gradient counts as 0, unless none has one."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    present = torch.tensor([float(p.grad is not None) for p in parameters])
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), present])
    dist.all_reduce(flat)
    *sums, present = flat.split([*(p.numel() for p in parameters), len(parameters)])
    for parameter, total, count in zip(parameters, sums, present.tolist(), strict=True):
        parameter.grad = total.view_as(parameter) / dist.get_world_size() if count else None


def save(training: Training, path: Path, **more: float) -> None:
    """Write a checkpoint atomically, with additional numbers ``more``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "model": training.model.state_dict(),
        "average": training.average.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "step": training.step,
        "more": more,
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def resume(training: Training, path: Path) -> dict[str, float]:
    """Load a checkpoint into a training of the same architecture; returns the additional numbers given to `save`."""
    state = torch.load(path, weights_only=True)
    training.model.load_state_dict(state["model"])
    training.average.load_state_dict(state["average"])
    training.optimizer.load_state_dict(state["optimizer"])
    training.step = state["step"]
    return state["more"]


def log(path: Path, entry: dict[str, float], *, show: bool = True) -> None:
    """Append a line of rounded numbers to a log, and print it if ``show``."""
    line = json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in entry.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(line + "\n")
    if show:
        print(line, flush=True)


def read_log(path: Path) -> list[dict[str, float]]:
    """Entries of a log, empty if there is no file. An incomplete last line is dropped."""
    content = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in content[: content.rfind("\n") + 1].splitlines()]


def cut_log(path: Path, step: int) -> None:
    """Remove the entries after a step from a log, as these steps will be repeated."""
    lines = [json.dumps(entry) + "\n" for entry in read_log(path) if entry["step"] <= step]
    if path.is_file():
        write_file(path, "".join(lines).encode())


def mean_of(entries: list[dict[str, float]]) -> dict[str, float]:
    """Mean per key, over entries with the same keys."""
    return {key: float(np.mean([e[key] for e in entries])) for key in entries[0]}
