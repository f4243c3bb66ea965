"""Requests to operators and panels as the App sends them, and the responses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from drawn_dataset import PLUGIN


def request(view, selected_labels: Sequence[dict] = (), **params) -> dict:
    """Request to run an operator, or to resolve its form, on a view."""
    dataset = view._root_dataset
    stages = view._serialize() if view is not dataset else []
    return {"dataset_name": dataset.name, "view": stages, "params": params, "selected_labels": list(selected_labels)}


def in_the_app(
    name: str, view, told: list | None = None, selected_labels: Sequence[dict] = (), **params
) -> list[tuple[str, dict]]:
    """Run an operator as the App does, and return the messages to the App: operators to trigger, with their parameters.

    They are also appended to `told` as they arrive, including those before a failure.
    """
    from fiftyone.operators.executor import execute_or_delegate_operator

    told = [] if told is None else told
    result = asyncio.run(execute_or_delegate_operator(f"{PLUGIN}/{name}", request(view, selected_labels, **params)))
    result.raise_exceptions()
    if not result.is_generator:
        calls = result.executor.to_json()["requests"]
        return [*((c["operator_uri"], c["params"]) for c in calls), ("show_output", {"results": result.result})]

    async def listen() -> None:
        async for message in result.result:
            told.append((message.body.operator_uri, message.body.params))

    asyncio.run(listen())
    return told


def decide_in_the_app(view, selected=(), labels=(), **params) -> str:
    """Run *Accept or reject predictions* with a selection as the App does; returns its summary."""
    from fiftyone.operators.executor import execute_or_delegate_operator

    asked = request(view, **params) | {"selected": list(selected), "selected_labels": list(labels)}
    result = asyncio.run(execute_or_delegate_operator(f"{PLUGIN}/decide_predictions", asked))
    result.raise_exceptions()
    return result.result["summary"]


def outcome(view) -> dict:
    """Outcome of the last job of a dataset, as kept for the Runs panel."""
    from fiftyone.operators.store import ExecutionStore

    return ExecutionStore.create("nts_outcomes", view._root_dataset._doc.id).get("last")


def form(operator, view, **params) -> dict:
    """Inputs of an operator's form as the App receives them: `{name: property}`."""
    from fiftyone.operators.executor import ExecutionContext

    context = ExecutionContext(request(view, **params), operator_uri=operator.uri)
    return operator.resolve_input(context).to_json()["type"]["properties"]


def values(prop: dict) -> list[str]:
    return [choice["value"] for choice in prop["view"]["choices"]]
