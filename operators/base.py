"""Base classes of the operators: running a job in the App, delegated and from Python, and showing its result."""

from __future__ import annotations

import asyncio
from typing import Any

import fiftyone.operators as foo
import fiftyone.operators.types as types

from . import outcomes, panels_beside
from .forms import busy
from .outcomes import NextStep, Outcome
from .words import sentence


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
        if ctx.spaces is not None and ctx.dataset is not None:  # only the App has spaces
            _work_on_own_dataset(ctx)
        # The App acts on triggers after this has returned, in their order: it reloads, and then sets a view.
        ctx.trigger("reload_dataset")
        return {"summary": self.do(ctx)}

    def resolve_output(self, ctx):
        return output_form(self.config.label)


class JobOperator(PluginOperator):
    """An operator whose work is a job of the engine: a generator that yields its progress and returns a report.

    A subclass has a form, builds its job from the form's values (:meth:`job`), and presents the report as words, one
    table, and perhaps a plot (:meth:`summary`, :meth:`rows`, :meth:`plot`). In the App, the Runs panel shows the
    progress and the outcome: a form would block the App until its operator ends.
    """

    columns: tuple[tuple[str, str], ...] = ()
    """Key and heading of every column of the result table."""

    def job(self, ctx):
        """The engine's generator for the values in ``ctx.params``."""
        raise NotImplementedError

    def makes(self, ctx) -> str | None:
        """Name of the field or run that the job makes; ``None`` as long as the form does not tell."""
        raise NotImplementedError

    def summary(self, report) -> str:
        """Summary of a report (Markdown)."""
        raise NotImplementedError

    def rows(self, report) -> list[dict[str, Any]]:
        """A report as rows of a table with :attr:`columns`."""
        return []

    def plot(self, report) -> tuple[list[dict[str, Any]], dict[str, Any]] | None:
        """Traces and layout of a plot of the report, if there is one."""

    def next_steps(self, ctx, report) -> list[NextStep]:
        """Buttons of the outcome, for what usually comes next."""
        return []

    def new_fields(self, report) -> list[str]:
        """Fields that the App should show from now on."""
        return []

    def view_to_show(self, ctx, report):
        """The view that the App shows at the end; ``None`` to stay where it is."""

    def resolve_input(self, ctx):
        prop = super().resolve_input(ctx)
        if ctx.dataset is not None and (makes := self.makes(ctx)) is not None:
            busy(prop.type, ctx.dataset, makes)
        return prop

    def execute(self, ctx):
        """A generator of messages to the App; in a delegated run, the result."""
        if ctx.delegated:
            return self._delegated(ctx)
        if ctx.spaces is not None and not ctx.params.get(STARTED):  # only the App has spaces
            return self._start(ctx)
        return self._immediate(ctx)

    def results(self, report) -> dict[str, Any]:
        """The result as plain values."""
        return {"summary": self.summary(report), "rows": self.rows(report)}

    def resolve_output(self, ctx):
        """Layout of the result of a delegated run."""
        return output_form(self.config.label, self.columns)

    def schedule(self, sample_collection, **params: Any):
        """Schedule a delegated run; returns FiftyOne's record of the operation."""
        context = {"view": sample_collection.view(), "params": params, "request_delegation": True}
        return foo.execute_operator(self.uri, context)

    def _announced(self, ctx):
        """The job, which other tabs see and can stop."""
        from ..nts.fiftyone_adapter.running import announced

        if ctx.params.get(STARTED):  # in the App
            _work_on_own_dataset(ctx)
        return announced(ctx.dataset, self.config.label, self.makes(ctx) or "", self.job(ctx))

    def _outcome(self, ctx, report) -> Outcome:
        return Outcome(
            label=self.config.label,
            status="done",
            summary=self.summary(report),
            columns=self.columns,
            rows=self.rows(report),
            plot=self.plot(report),
            next_steps=self.next_steps(ctx, report),
        )

    def _ended(self, status: str, message: str) -> Outcome:
        return Outcome(label=self.config.label, status=status, summary=message)

    def _delegated(self, ctx) -> dict[str, Any]:
        from ..nts.fiftyone_adapter import run
        from ..nts.fiftyone_adapter.errors import JobStopped

        try:
            report = run(self._announced(ctx), lambda step: ctx.set_progress(progress=step.fraction, label=step.label))
        except JobStopped as stopped:
            outcomes.keep(ctx, self._ended("stopped", sentence(stopped)))
            return {"summary": sentence(stopped), "rows": []}
        except Exception as error:
            outcomes.keep(ctx, self._ended("failed", _words(error)))
            raise
        outcomes.keep(ctx, self._outcome(ctx, report))
        return self.results(report)

    async def _start(self, ctx):
        """Start the operator once more, without its form, which closes."""
        if ctx.current_sample is None:
            yield panels_beside.open_panel(ctx, outcomes.PANEL)
        else:
            yield ctx.ops.notify(f"{self.config.label} has started: see the Runs panel beside the grid", variant="info")
        yield ctx.trigger(self.uri, {**ctx.params, STARTED: True})

    async def _immediate(self, ctx):
        from ..nts.fiftyone_adapter.colours import stored_scheme
        from ..nts.fiftyone_adapter.errors import JobStopped

        label = self.config.label
        colours = stored_scheme(ctx.dataset)
        try:
            job = self._announced(ctx)
            step, report = await _advance(job)
            while step is not None:
                step, report = await _advance(job)
        except JobStopped as stopped:
            outcomes.keep(ctx, self._ended("stopped", sentence(stopped)))
            yield ctx.trigger("reload_dataset")
            yield ctx.ops.notify(f"{label}: {stopped}", variant="info")
            return
        except Exception as error:
            # The App shows no exception of a generator. A caller from Python gets the exception itself.
            outcomes.keep(ctx, self._ended("failed", _words(error)))
            yield ctx.ops.notify(f"{label} failed: {_words(error)}", variant="error")
            raise
        outcomes.keep(ctx, self._outcome(ctx, report))
        yield ctx.trigger("reload_dataset")
        if (scheme := stored_scheme(ctx.dataset)) != colours:
            # The App goes on with the scheme that it has read, in which the new classes are all of one colour.
            yield ctx.trigger("set_color_scheme", scheme)
        if new := [name for name in self.new_fields(report) if name not in ctx.active_fields]:
            yield ctx.ops.set_active_fields([*ctx.active_fields, *new])
        if (view := self.view_to_show(ctx, report)) is not None:
            yield ctx.ops.set_view(view)
        yield ctx.ops.notify(f"{label}: done", variant="success")


STARTED = "started"
"""Parameter of an operator that does its job. Without it, the App is told to start it, and the form closes."""


def _work_on_own_dataset(ctx) -> None:
    """Let an operator work on an object of the dataset that no other request of the App reloads."""
    from ..nts.fiftyone_adapter.running import own_dataset

    ctx._dataset, ctx._view = own_dataset(ctx.dataset), None


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


def _words(error: Exception) -> str:
    """An error as the App shows it, with its type unless it is one of ours or a ValueError."""
    foreign = type(error).__module__ == "builtins" and not isinstance(error, ValueError)
    return f"{type(error).__name__}: {error}" if foreign else sentence(error)
