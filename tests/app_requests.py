"""Requests to operators as the App sends them, and what it gets back."""

from __future__ import annotations

import asyncio

from drawn_dataset import PLUGIN


def request(view, **params) -> dict:
    """What the App sends to run an operator, or to show its form, on a view."""
    dataset = view._root_dataset
    stages = view._serialize() if view is not dataset else []
    return {"dataset_name": dataset.name, "view": stages, "params": params}


def in_the_app(name: str, view, told: list | None = None, **params) -> list[tuple[str, dict]]:
    """Run an operator as the App does; returns what it tells the App: operators to call, with their parameters.

    They are put into `told` as they come, so that they are known of an operator that fails, too.
    """
    from fiftyone.operators.executor import execute_or_delegate_operator

    told = [] if told is None else told
    result = asyncio.run(execute_or_delegate_operator(f"{PLUGIN}/{name}", request(view, **params)))
    result.raise_exceptions()
    if not result.is_generator:
        calls = result.executor.to_json()["requests"]
        return [*((c["operator_uri"], c["params"]) for c in calls), ("show_output", {"results": result.result})]

    async def listen() -> None:
        async for message in result.result:
            told.append((message.body.operator_uri, message.body.params))

    asyncio.run(listen())
    return told


def form(operator, view, **params) -> dict:
    """The inputs that an operator's form shows, as the App gets them: `{name: property}`."""
    from fiftyone.operators.executor import ExecutionContext

    context = ExecutionContext(request(view, **params), operator_uri=operator.uri)
    return operator.resolve_input(context).to_json()["type"]["properties"]


def values(prop: dict) -> list[str]:
    return [choice["value"] for choice in prop["view"]["choices"]]
