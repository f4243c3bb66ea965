"""The documentation refers only to existing links, pictures, commands, files and functions."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from paths import ROOT

PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "nts" / "small" / "README.md",
    ROOT / "training" / "README.md",
]
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]  # the changelog also mentions removed names
PACKAGES = (
    "nts",
    "synthetic",
    "reference_implementation",
    "operators",
    "benchmarks",
    "training",
    "demo",
    "tests",
    "tools",
    "docs",
)

LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
DOTTED = re.compile(r"(?<![\w./-])(?:nts|synthetic|reference_implementation)(?:\.\w+)+")
PATH = re.compile(rf"(?:{'|'.join(PACKAGES)})/[\w./-]*")
GENERATED = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line.startswith("/")]


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=page_id)
examples = pytest.mark.parametrize("page", [page for page in CURRENT if page.name != "api.md"], ids=page_id)
every_current_page = pytest.mark.parametrize("page", CURRENT, ids=page_id)


def code(page: Path) -> str:
    """Contents of code spans and code blocks, one per line."""
    text = page.read_text()
    return "\n".join([*(block for _, block in FENCE.findall(text)), *CODE_SPAN.findall(FENCE.sub("", text))])


@cache
def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub forms them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_and_pictures_exist(page):
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page_id(page)} links to {target}"
        assert not anchor or anchor in anchors(path), f"{page_id(page)} links to {target}, which has no such heading"


@every_current_page
def test_commands_exist(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"\bmake ([a-z][a-z-]*)", code(page)):
        assert target in targets, f"there is no `make {target}`"
    for module in re.findall(r"\bpython -m ([\w.]+)", code(page)):
        path = ROOT.joinpath(*module.split("."))
        assert (path / "__main__.py").is_file() or path.with_suffix(".py").is_file(), f"there is no module {module}"
    for script in re.findall(r"\bpython (\S+\.py)", code(page)):
        assert (ROOT / script).is_file(), f"there is no {script}"


def evaluation_commands() -> Iterator[str]:
    for page in CURRENT:
        lines = code(page).replace("\\\n", " ").splitlines()
        yield from (line.partition("#")[0].strip() for line in lines if line.startswith("python -m nts.evaluation "))


@pytest.mark.parametrize("command", sorted(set(evaluation_commands())))
def test_the_evaluation_takes_these_arguments(command, capsys):
    from nts.evaluation.__main__ import main

    arguments = command.split()[3:]
    # The parser refuses unknown commands and protocols before it reaches the last argument.
    with pytest.raises(SystemExit) as exit:
        main([*arguments, "--help"])
    assert exit.value.code == 0, capsys.readouterr().err
    options = capsys.readouterr().out
    for option in (argument for argument in arguments if argument.startswith("--")):
        assert option in options, f"there is no option {option}"


@every_current_page
def test_files_exist(page):
    for name in CODE_SPAN.findall(FENCE.sub("", page.read_text())):
        if PATH.fullmatch(name) and name not in GENERATED:
            assert (ROOT / name).exists(), f"there is no {name}"


@every_current_page
def test_names_of_functions_resolve(page):
    for name in DOTTED.findall("\n".join(CODE_SPAN.findall(FENCE.sub("", page.read_text())))):
        resolve(name)


@examples
def test_python_examples_parse_and_import_what_exists(page):
    for language, block in FENCE.findall(page.read_text()):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("nts", "synthetic"):
                for alias in node.names:
                    resolve(f"{node.module}.{alias.name}")


def resolve(name: str) -> object:
    """Resolve a dotted name. The adapter is searched for the name rather than imported, to avoid importing FiftyOne."""
    if name.startswith("nts.fiftyone_adapter"):
        *folders, attribute = name.split(".")
        path = ROOT.joinpath(*folders)
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        is_module = (path / attribute).is_dir() or (path / f"{attribute}.py").exists()
        assert is_module or re.search(rf"\b{attribute}\b", source.read_text()), name
        return None
    words = name.split(".")
    found = importlib.import_module(words[0])
    for k, word in enumerate(words[1:], start=1):
        if not hasattr(found, word):
            found = importlib.import_module(".".join(words[: k + 1]))
        else:
            found = getattr(found, word)
    return found


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


def test_every_page_is_reachable_from_the_readme():
    linked = {(ROOT / name.partition("#")[0]).resolve() for name in LINK.findall((ROOT / "README.md").read_text())}
    unlinked = {page for page in (ROOT / "docs").glob("*.md") if page.name != "README.md"} - linked
    assert not unlinked


# Versions


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_citation_and_changelog_have_the_version_of_the_project():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == project()["version"]
    latest = re.search(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert latest[1] == project()["version"]


def test_continuous_integration_runs_the_python_versions_that_set_up_supports():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    oldest, newest = re.search(
        r"\((3, \d+)\) <= .* <= \((3, \d+)\)", (ROOT / "tools" / "setup.sh").read_text()
    ).groups()
    assert (tested[0], tested[-1]) == (oldest.replace(", ", "."), newest.replace(", ", "."))
    assert SpecifierSet(project()["requires-python"]).contains(tested[0])
    assert SpecifierSet(project()["requires-python"]).contains(tested[-1])
