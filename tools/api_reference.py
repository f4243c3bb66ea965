"""Write docs/api.md from the docstrings of the public names: python tools/api_reference.py

The sources are parsed, not imported: no model, database or FiftyOne is needed.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "docs" / "api.md"
PACKAGES = {"nts": "The engine", "nts.fiftyone_adapter": "FiftyOne"}
HEAD = """# API reference

Generated from the docstrings by `make docs`. For an introduction see the [tutorial](tutorial.ipynb) and
[In Python](python.md).
"""

Definition = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
_SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):$")
_ROLE = re.compile(r":\w+:`~?([^`]+)`")
_ITEM = re.compile(r"^(\S[^:]*): (.*)$")


@dataclass(frozen=True)
class PublicName:
    """A public name and where it is defined.

    Attributes:
        name: as it is imported.
        file: its source, relative to the root.
        node: its definition.
        docstring: of the definition; of a constant, the string after it.
    """

    name: str
    file: str
    node: Definition
    docstring: str


def main() -> None:
    """Write the page."""
    PATH.write_text(render())


def render() -> str:
    """Return the page as Markdown."""
    parts = [HEAD]
    for package, title in PACKAGES.items():
        names = public_names(package)
        links = ", ".join(f"[`{public.name}`](#{public.name.lower()})" for public in names)
        parts.append(f"## {title}: `{package}`\n\n{links}\n")
        parts += [_render_name(public) for public in names]
    return "\n".join(parts)


def public_names(package: str) -> list[PublicName]:
    """Return the names in a package's ``__all__``, in its order."""
    path = ROOT.joinpath(*package.split("."), "__init__.py")
    return [_find(name, path) for name in _all_of(ast.parse(path.read_text()))]


def _all_of(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise ValueError("the package has no __all__")


def _find(name: str, path: Path) -> PublicName:
    """Find the definition of a name, through the relative imports that lead to it."""
    body = ast.parse(path.read_text()).body
    statements = [*body, *(inner for node in body if isinstance(node, ast.If) for inner in node.body)]
    for node, following in zip(statements, [*statements[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return PublicName(name, str(path.relative_to(ROOT)), node, ast.get_docstring(node) or "")
        if isinstance(node, ast.Assign | ast.AnnAssign) and name in _targets(node):
            text = following.value if isinstance(following, ast.Expr) else None
            is_docstring = isinstance(text, ast.Constant) and isinstance(text.value, str)
            return PublicName(name, str(path.relative_to(ROOT)), node, text.value if is_docstring else "")
        if isinstance(node, ast.ImportFrom) and node.level and name in {alias.name for alias in node.names}:
            return _find(name, _file_of(node, path))
    raise ValueError(f"{path.relative_to(ROOT)} does not define {name}")


def _targets(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}


def _file_of(node: ast.ImportFrom, path: Path) -> Path:
    """Return the file that a relative import names."""
    folder = path.parents[node.level - 1]
    target = folder.joinpath(*(node.module or "").split("."))
    return target / "__init__.py" if target.is_dir() else target.with_suffix(".py")


# ---- Markdown --------------------------------------------------------------------------------------------------------


def _render_name(public: PublicName) -> str:
    parts = [
        f"### `{public.name}`\n",
        f"```python\n{_signature(public.node)}\n```\n",
        _markdown(public.docstring),
        f"[Source](../{public.file})\n",
    ]
    if isinstance(public.node, ast.ClassDef):
        for node in public.node.body:
            docstring = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            if docstring and not node.name.startswith("_"):
                parts.append(f"#### `{public.name}.{node.name}`\n\n```python\n{_signature(node)}\n```\n")
                parts.append(_markdown(docstring))
    return "\n".join(parts)


def _signature(node: Definition) -> str:
    if isinstance(node, ast.FunctionDef):
        decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
        result = f" -> {_source(node.returns)}" if node.returns else ""
        if "property" in decorators or "cached_property" in decorators:
            return node.name + result.replace(" -> ", ": ")
        return _call(node.name, node.args) + result
    if isinstance(node, ast.ClassDef):
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
                return f"class {_call(node.name, statement.args)}"
        fields = [_source(each) for each in node.body if isinstance(each, ast.AnnAssign)]
        if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
            return f"class {_joined(node.name, fields)}"
        return f"class {node.name}({', '.join(map(_source, node.bases))})"
    return _source(node)


def _call(name: str, arguments: ast.arguments) -> str:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    parts = [
        _argument(each, value)
        for each, value in zip(positional, defaults, strict=True)
        if each.arg not in ("self", "cls")
    ]
    if arguments.vararg:
        parts.append(f"*{_argument(arguments.vararg, None)}")
    elif arguments.kwonlyargs:
        parts.append("*")
    parts += [_argument(*each) for each in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    if arguments.kwarg:
        parts.append(f"**{_argument(arguments.kwarg, None)}")
    return _joined(name, parts)


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    annotation = f": {_source(argument.annotation)}" if argument.annotation else ""
    value = f" = {_source(default)}" if default and annotation else f"={_source(default)}" if default else ""
    return argument.arg + annotation + value


def _source(node: ast.AST) -> str:
    return ast.unparse(node).replace("'", '"')  # as ruff formats strings


def _joined(name: str, parts: list[str], width: int = 100) -> str:
    """Return a call on one line, or with one argument on each where that is too long."""
    line = f"{name}({', '.join(parts)})"
    return line if len(line) <= width else name + "(\n" + "".join(f"    {part},\n" for part in parts) + ")"


def _markdown(docstring: str) -> str:
    """Turn a docstring, with Sphinx roles and Google's sections, into Markdown."""
    lines: list[str] = []
    section, in_example = "", False
    for line in [*docstring.splitlines(), ""]:
        if in_example:
            in_example = bool(line.strip())
            lines += [line.strip()] if in_example else ["```", ""]
        elif line.lstrip().startswith(">>> "):
            in_example = True
            lines += ["```python", line.strip()]
        elif match := _SECTION.match(line):
            section = match[1]
            lines += [f"**{section}**", ""]
        elif line.startswith("    ") and section in ("Args", "Attributes", "Raises"):
            item = _ITEM.match(line[4:])
            lines.append(f"- `{item[1]}`: {_inline(item[2])}" if item else _inline(line[4:]))
        else:
            lines.append(_inline(line.strip()))
    return "\n".join(lines)


def _inline(text: str) -> str:
    return _ROLE.sub(lambda match: f"`{match[1].rpartition('.')[2]}`", text).replace("``", "`")


if __name__ == "__main__":
    main()
