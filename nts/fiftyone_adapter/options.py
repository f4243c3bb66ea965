"""Options of a job, each stated once: name, default, range, help, and whether a stored run depends on it.

The keyword arguments of a job, their checks, the form of its operator, the stored settings and the table in the docs
all come from the fields of one config, see :mod:`.config`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, ClassVar, TypeVar

import numpy as np

from ..utils.names import as_names
from .errors import InputError

Function = TypeVar("Function", bound=Callable[..., Any])
Config = TypeVar("Config", bound="Options")


def option(
    default: Any,
    help: str,
    *,
    label: str | None = None,
    type: type = str,
    also: tuple[type, ...] = (),
    min: float | None = None,
    max: float | None = None,
    choices: Sequence[str] | None = None,
    suggestions: Sequence[str] = (),
    scorers: Sequence[str] = (),
    stored: bool = False,
) -> Any:
    """Field of a config.

    Args:
        default: its value where none is given.
        help: sentence for forms and docs, without the final full stop, which forms omit.
        label: of its input in forms.
        type: ``bool``, ``int``, ``float``, ``str`` (or a path) or ``list`` (of texts, or a single one). ``None`` is
            allowed where it is the default.
        also: other types of values, which are not checked further.
        min: smallest value.
        max: largest value.
        choices: the only values; of a number, values beside the numbers.
        suggestions: values that a form offers beside free text.
        scorers: the scorers that use it; all if empty.
        stored: whether it decides results, so that a run stores it and is resumed only with the same value.
    """
    metadata = {
        "help": help,
        "label": label,
        "type": type,
        "also": also,
        "min": min,
        "max": max,
        "choices": choices,
        "suggestions": suggestions,
        "scorers": scorers,
        "stored": stored,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Options:
    """Base of the configs: checks its values on creation.

    Numbers of numpy and paths become what the database can store: Python's numbers and texts. Lists become tuples.

    Raises:
        InputError: if a value is of the wrong type, out of range or none of the choices; its ``option`` is the name.
    """

    job: ClassVar[str]
    """Name of the job in messages."""

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, _checked(each, getattr(self, each.name)))

    @classmethod
    def of(cls: type[Config], config: Config | None, options: Mapping[str, Any]) -> Config:
        """Return the given config, or one built from the given options.

        Raises:
            TypeError: if there are both, or an option is unknown.
        """
        names = [each.name for each in fields(cls)]
        if unknown := [name for name in options if name not in names]:
            raise TypeError(f"{cls.job}() has no option {unknown[0]!r}; it has: {', '.join(names)}")
        if config is None:
            return cls(**options)
        if options:
            raise TypeError(f"{cls.job}() takes a config or options, not both")
        return config

    @classmethod
    def from_params(cls: type[Config], params: Mapping[str, Any]) -> Config:
        """Build a config from a form's values, ignoring empty ones and those that the chosen scorer does not use."""
        scorer = params.get("scorer") or "prototype"
        used = [each.name for each in fields(cls) if scorer in (each.metadata["scorers"] or (scorer,))]
        return cls(**{name: params[name] for name in used if params.get(name) not in (None, "", [])})

    def stored(self) -> dict[str, Any]:
        """Return the options that a run stores because they decide its results."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.metadata["stored"]}


def _checked(each: Field, value: Any) -> Any:
    """Return a value that the option can have, as an object of its type.

    Raises:
        InputError: if the option cannot have it.
    """
    facts = each.metadata
    low, high, choices = facts["min"], facts["max"], facts["choices"]
    if (value is None and each.default is None) or isinstance(value, facts["also"]):
        return value
    converted: Any = value
    if choices is not None and isinstance(value, str) and value in choices:
        return value
    try:
        if choices is not None and (facts["type"] is str or isinstance(value, str)):
            also = "" if facts["type"] is str else ", or a number"
            raise ValueError(f"be one of {', '.join(choices)}{also}")
        converted = _CONVERTERS[facts["type"]](value)
        if low is not None and high is not None and not low <= converted <= high:
            raise ValueError(f"lie in [{low}, {high}]")
        if low is not None and high is None and not converted >= low:
            raise ValueError(f"be at least {low}")
    except ValueError as problem:
        raise InputError(f"{each.name} must {problem}, got {value!r}", option=each.name) from None
    return converted


def _bool(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise ValueError("be True or False")
    return bool(value)


def _int(value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError("be a whole number")
    return int(value)


def _float(value: Any) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError("be a number")
    return int(value) if isinstance(value, Integral) else float(value)


def _str(value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise ValueError("be a text")
    return os.fspath(value)


def _list(value: Any) -> tuple[str, ...]:
    try:
        return tuple(as_names(value) or ())
    except ValueError as error:
        raise ValueError("be texts") from error


_CONVERTERS: dict[type, Callable[[Any], Any]] = {bool: _bool, int: _int, float: _float, str: _str, list: _list}
"""Conversions of a value by the type of its option; each raises the requirement that the value does not meet."""


def takes(cls: type[Options]) -> Callable[[Function], Function]:
    """Decorator that lists the options of a config in the signature and the docstring of a function."""

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        added = [
            inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
            for each in fields(cls)
        ]
        function.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        lines = [f"    {each.name}: {each.metadata['help']}. Default: ``{each.default!r}``." for each in fields(cls)]
        function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Options:", *lines])
        return function

    return decorate


def table(cls: type[Options]) -> str:
    """Markdown table of the options of a config."""
    rows = ["| Option | Default | Values | Meaning |", "|---|---|---|---|"]
    for each in fields(cls):
        facts = each.metadata
        values = facts["type"].__name__
        if facts["max"] is not None:
            values = f"{values} in [{facts['min']}, {facts['max']}]"
        elif facts["min"] is not None:
            values = f"{values}, at least {facts['min']}"
        if facts["choices"]:
            numbers = [] if facts["type"] is str else [values]
            values = ", ".join([*(f"`{choice}`" for choice in facts["choices"]), *numbers])
        meaning = f"{facts['help']}."
        if facts["scorers"]:
            meaning += f" Only with the scorer {' or '.join(f'`{name}`' for name in facts['scorers'])}."
        rows.append(f"| `{each.name}` | `{each.default!r}` | {values} | {meaning} |")
    return "\n".join(rows)
