"""Base classes of the operators: running a job in the App, delegated and from Python, and showing its result."""

from __future__ import annotations

import asyncio
from typing import Any

import fiftyone.operators as foo
import fiftyone.operators.types as types


def sentence(message: object) -> str:
    """Capitalise a message for the App."""
    text = str(message)
    return text[:1].upper() + text[1:]


class PluginOperator(foo.Operator):
    """An operator of this plugin."""

    in_grid = False
    """True for a button above the grid."""

    @staticmethod
    def settings(
        name: str, label: str, description: str, risk_level: str, icon: str = "icon", **more: Any
    ) -> foo.OperatorConfig:
        """Configuration of an operator; ``icon`` is the common prefix of two files in ``assets``."""
        return foo.OperatorConfig(
            name=name,
            label=label,
            description=description,
            dynamic=True,
            risk_level=risk_level,
            light_icon=f"/assets/{icon}-light.svg",
            dark_icon=f"/assets/{icon}-dark.svg",
            **more,
        )

    def resolve_placement(self, ctx):
        """The button above the grid, if it has one."""
        return grid_button(self.config) if self.in_grid else None

    def form(self, ctx, inputs: types.Object) -> None:
        """Add the inputs of the operator."""
        raise NotImplementedError

    def resolve_input(self, ctx):
        inputs = types.Object()
        self.form(ctx, inputs)
        return types.Property(inputs, view=types.View(label=self.config.label, description=self.config.description))


class SimpleOperator(PluginOperator):
    """An operator that finishes at once and returns a short summary."""

    def do(self, ctx) -> str:
        """Run it, and return a summary (Markdown)."""
        raise NotImplementedError

    def execute(self, ctx):
        # The App acts on triggers after this has returned, in their order: it reloads, and then sets a view.
        ctx.trigger("reload_dataset")
        return {"summary": self.do(ctx)}

    def resolve_output(self, ctx):
        return output_form(self.config.label)


class JobOperator(PluginOperator):
    """An operator whose work is a job of the engine: a generator that yields its progress and returns a report.

    A subclass has a form, builds its job from the form's values (:meth:`job`), and presents the report as words and one
    table (:meth:`summary`, :meth:`rows`).
    """

    columns: tuple[tuple[str, str], ...] = ()
    """Key and heading of every column of the result table."""

    def job(self, ctx):
        """The engine's generator for the values in ``ctx.params``."""
        raise NotImplementedError

    def summary(self, report) -> str:
        """Summary of a report (Markdown)."""
        raise NotImplementedError

    def rows(self, report) -> list[dict[str, Any]]:
        """A report as rows of a table with :attr:`columns`."""
        return []

    def view_to_show(self, ctx, report):
        """The view that the App shows at the end; ``None`` to stay where it is."""

    def execute(self, ctx):
        """A generator of messages to the App; in a delegated run, the result."""
        return self._delegated(ctx) if ctx.delegated else self._immediate(ctx)

    def outcome_form(self) -> types.Property:
        """Layout of the result."""
        return output_form(self.config.label, self.columns)

    def results(self, report) -> dict[str, Any]:
        """The result as plain values."""
        return {"summary": self.summary(report), "rows": self.rows(report)}

    def resolve_output(self, ctx):
        """Layout of the result of a delegated run."""
        return self.outcome_form()

    def schedule(self, sample_collection, **params: Any):
        """Schedule a delegated run; returns FiftyOne's record of the operation."""
        context = {"view": sample_collection.view(), "params": params, "request_delegation": True}
        return foo.execute_operator(self.uri, context)

    def _delegated(self, ctx) -> dict[str, Any]:
        from ..nts.fiftyone_adapter import run

        report = run(self.job(ctx), lambda step: ctx.set_progress(progress=step.fraction, label=step.label))
        return self.results(report)

    async def _immediate(self, ctx):
        try:
            job = self.job(ctx)
            step, report = await _advance(job)
            while step is not None:
                yield ctx.ops.set_progress(progress=step.fraction, label=step.label)
                step, report = await _advance(job)
        except GeneratorExit:
            job.close()
            raise
        except Exception as error:
            # The App shows no exception, and does not remove the progress bar: the message goes first. A caller from
            # Python gets the exception itself.
            message = _words(error)
            yield ctx.ops.notify(f"{self.config.label} failed", variant="error")
            yield ctx.ops.show_output(_error_form(self.config.label, message).to_json(), {})
            raise
        yield ctx.trigger("reload_dataset")
        if (view := self.view_to_show(ctx, report)) is not None:
            yield ctx.ops.set_view(view)
        yield ctx.ops.show_output(self.outcome_form().to_json(), self.results(report))
        yield ctx.ops.notify(f"{self.config.label}: done", variant="success")


async def _advance(job):
    """Run the next step of a job in a thread; returns the step and ``None``, or, at the end, ``None`` and the report.

    When its tab is closed, FiftyOne cancels the task that waits here. A plain generator would not notice: it would wait
    for Python's garbage collector, with everything that the job has not written yet.
    """
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(asyncio.to_thread(_next, job))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        work.add_done_callback(lambda _: loop.run_in_executor(None, job.close))
        raise


def _next(job):
    try:
        return next(job), None
    except StopIteration as end:  # a thread cannot pass it on
        return None, end.value


def grid_button(config: foo.OperatorConfig, prompt: bool = True) -> types.Placement:
    """A button above the grid, with the operator's icon; ``prompt`` opens its form, otherwise it runs at once."""
    # The App reads the icons of a placement in camel case, unlike those of an operator.
    button = types.Button(label=config.label, lightIcon=config.light_icon, darkIcon=config.dark_icon, prompt=prompt)
    return types.Placement(types.Places.SAMPLES_GRID_SECONDARY_ACTIONS, button)


def output_form(label: str, columns: tuple[tuple[str, str], ...] = ()) -> types.Property:
    """Layout of a result: words, and a table if it has columns."""
    outputs = types.Object()
    outputs.str("summary", view=types.MarkdownView())
    if columns:
        table = types.TableView()
        for key, heading in columns:
            table.add_column(key, label=heading)
        outputs.list("rows", types.Object(), view=table)
    return types.Property(outputs, view=types.View(label=label))


def _error_form(label: str, message: str) -> types.Property:
    outputs = types.Object()
    outputs.view("error", types.Error(label=f"{label} failed", description=message))
    return types.Property(outputs, view=types.View(label=label))


def _words(error: Exception) -> str:
    """An error as the App shows it, with its type unless it is one of ours or a ValueError."""
    foreign = type(error).__module__ == "builtins" and not isinstance(error, ValueError)
    return f"{type(error).__name__}: {error}" if foreign else sentence(error)


def bullets(title: str, items: list[str], most: int = 10) -> str:
    """Markdown list under a title; empty for no items."""
    if not items:
        return ""
    shown = [f"- {item}" for item in items[:most]]
    if len(items) > most:
        shown.append(f"- and {len(items) - most} more")
    return "\n".join([f"**{title}**", "", *shown])


def paragraphs(*texts: str) -> str:
    """Join the texts that are not empty as paragraphs of Markdown."""
    return "\n\n".join(text for text in texts if text)
