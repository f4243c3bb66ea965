"""The public names, and the locations they can be imported from."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from checkout_copy import copy_checkout
from drawn_dataset import PLUGIN
from packaging.specifiers import SpecifierSet
from paths import ROOT

import api_reference
import nts


def run_python(program: str, **environment: str) -> str:
    """Run a program in a subprocess in another folder, and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT.anchor,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", nts.__all__)
def test_every_public_name_is_the_object_of_its_module(name):
    value = getattr(nts, name)
    assert value.__name__ == name
    assert value.__module__.startswith("nts.")
    assert value.__doc__


def test_type_checkers_see_the_same_names_as_python():
    tree = ast.parse((ROOT / "nts" / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == nts._MODULES
    assert sorted(seen) == sorted(nts.__all__)
    assert set(nts.__all__) <= set(dir(nts))
    with pytest.raises(AttributeError, match="has no attribute 'segment_everything'"):
        _ = nts.segment_everything


def test_importing_the_package_imports_no_torch():
    program = "import sys, nts; nts.__version__; print('torch' in sys.modules)"
    assert run_python(program, PYTHONPATH=str(ROOT)) == "False"


def test_version_is_stated_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert nts.__version__ == project["version"] == yaml.safe_load((ROOT / "fiftyone.yml").read_text())["version"]


def test_the_package_asks_for_the_python_versions_that_set_up_takes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (line,) = re.findall(r"for candidate in \$\{PYTHON:-python3 (.*)\}", (ROOT / "tools" / "setup.sh").read_text())
    versions = [name.removeprefix("python") for name in line.split()]
    every = [f"3.{minor}" for minor in range(8, 20)]
    assert list(SpecifierSet(project["requires-python"]).filter(every)) == versions
    classifiers = [name.rpartition(" ")[2] for name in project["classifiers"] if "Python :: 3." in name]
    assert classifiers == versions


# ---- an installed plugin ---------------------------------------------------------------------------------------------

IN_A_NOTEBOOK = """
import json, sys
import fiftyone.operators as foo
import fiftyone.plugins as fop
sys.path.append(fop.find_plugin("@nts/reference-segmentation"))

import nts
from nts.fiftyone_adapter import auto_segment_view

encoder = nts.load_encoder("small", "cpu")
foo.get_operator("@nts/reference-segmentation/build_reference_memory")
print(json.dumps([nts.__file__, auto_segment_view.__module__, encoder.grid]))
"""


def test_an_installed_plugin_is_imported_from_its_folder(fo, tmp_path):
    plugin = tmp_path / "plugins" / "@nts" / "reference-segmentation"  # as installed by `fiftyone plugins download`
    copy_checkout(plugin)
    assert PLUGIN in IN_A_NOTEBOOK
    printed = run_python(IN_A_NOTEBOOK, FIFTYONE_PLUGINS_DIR=str(tmp_path / "plugins"), PYTHONPATH="")
    file, module, grid = json.loads(printed.splitlines()[-1])
    assert Path(file) == plugin / "nts" / "__init__.py"
    assert module == "nts.fiftyone_adapter.segmenting"
    assert grid == [24, 24]


# ---- an installed package --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of the project, unpacked."""
    source = copy_checkout(tmp_path_factory.mktemp("source"))
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", source, "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--wheel-dir", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_holds_the_engine_and_the_small_models_only(wheel):
    metadata = f"reference_segmentation-{nts.__version__}.dist-info"
    assert sorted(path.name for path in wheel.iterdir()) == ["nts", metadata]
    packed = {path.relative_to(wheel) for path in (wheel / "nts").rglob("*") if path.is_file()}
    code = {path.relative_to(ROOT) for path in (ROOT / "nts").rglob("*.py")}
    weights = {path.relative_to(ROOT) for path in (ROOT / "nts" / "small").rglob("*.*") if path.suffix != ".md"}
    assert packed == code | weights | {Path("nts/py.typed")}
    assert "Requires-Python: <3.14,>=3.11" in (wheel / metadata / "METADATA").read_text()


def test_the_engine_runs_from_the_wheel(wheel):
    program = "import nts\nprint(nts.__file__, nts.load_encoder().grid, nts.load_segmenter().points_per_side > 0)"
    assert run_python(program, PYTHONPATH=str(wheel)) == f"{wheel / 'nts' / '__init__.py'} (24, 24) True"


# ---- the reference of these names ------------------------------------------------------------------------------------


def test_the_api_reference_is_up_to_date():
    assert api_reference.PATH.read_text() == api_reference.render(), "run `make docs`"
