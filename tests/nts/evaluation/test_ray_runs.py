"""`python -m nts.evaluation run --ray` on a real cluster: numbers of a local run, dying workers, a killed process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from own_data import write_own_data
from paths import ROOT
from tiny_layouts import tiny

from nts.cluster import ray_executor
from nts.cluster.ray_executor import ClusterError, Pool
from nts.evaluation.__main__ import main
from nts.evaluation.cluster import PartsSetup
from nts.evaluation.instance_run import InstanceRun
from nts.evaluation.protocol_run import environment
from nts.evaluation.runner import run as run_protocol
from nts.models import SMALL
from nts.utils.run_folder import RunError

pytestmark = pytest.mark.xdist_group("ray")

QUICK = ("--points", "4", "--device", "cpu")
RAY = ("--ray", "--actors", "1")


def run(*arguments: object) -> None:
    main([str(argument) for argument in ("run", *arguments, *QUICK)])


def numbers_of(folder: Path) -> dict:
    """Report without its times."""
    return {key: value for key, value in json.loads((folder / "report.json").read_text()).items() if key != "time"}


def parts_of(folder: Path) -> dict[str, int]:
    """Times of the changes of the parts, by name."""
    return {path.stem: path.stat().st_mtime_ns for path in sorted((folder / "parts").glob("*.npz"))}


def predictions_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "predictions").glob("*.json")}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> tuple[str, ...]:
    """Arguments for two draws and four parts of one target each; the file of one target is missing."""
    folder = tmp_path_factory.mktemp("own")
    data = write_own_data(folder)
    sorted((folder / "targets" / "data").iterdir())[1].unlink()
    return ("custom", *data, "--shots", "1", "--seeds", "2", "--images-per-part", "1", "--save-predictions")


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory) -> Path:
    """Folder of an uninterrupted local run without a cache."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(*arguments, "--no-cache", "--out", folder)
    return folder


class Deadly(int):
    """Id of an image that ends every process that is told to evaluate it."""

    def __reduce__(self):
        return os._exit, (7,)


def test_a_cluster_goes_on_with_a_local_run_but_for_a_part_that_kills_workers_which_a_local_run_then_does(
    cluster, arguments, whole, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "report.json").unlink()
    for name in ("00001", "00002", "00003"):
        for file in (folder / "parts" / f"{name}.npz", *(folder / "predictions").glob(f"*/{name}.json")):
            file.unlink()
    before = parts_of(folder)
    with monkeypatch.context() as patch:
        units = [1, 2, Deadly(3), 4]
        patch.setattr(InstanceRun, "units", property(lambda self: units))
        words = r"RunError: 1 of 3 parts could not be evaluated:\n  00002 \(data/.+\): its worker died every time"
        with pytest.raises(SystemExit, match=words):
            run(*arguments, *RAY, "--out", folder)
    assert parts_of(folder).keys() == {"00000", "00001", "00003"}
    assert not (folder / "report.json").exists()
    run(*arguments, "--out", folder)
    assert parts_of(folder).items() >= before.items()
    assert numbers_of(folder) == numbers_of(whole)
    assert len(numbers_of(folder)["skipped"]) == 1
    assert predictions_of(folder) == predictions_of(whole)


def test_a_process_that_is_killed_loses_no_part_and_the_next_one_repeats_none(cluster, arguments, whole, tmp_path):
    folder = tmp_path / "run"
    command = ["run", *arguments, *QUICK, *RAY, "--out", str(folder)]
    program = f"""
        import os, signal
        from nts.evaluation import runner
        from nts.evaluation.__main__ import main

        write_part = runner.write_part

        def die_after_two(path, arrays):
            if len(list(path.parent.glob("*.npz"))) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            write_part(path, arrays)

        runner.write_part = die_after_two
        main({command})
    """
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    before = parts_of(folder)
    assert len(before) == 2
    assert not (folder / "report.json").exists()
    # The cluster has one CPU, which a worker of the killed process would still hold.
    main(command)
    assert parts_of(folder).items() >= before.items()
    assert numbers_of(folder) == numbers_of(whole)
    assert predictions_of(folder) == predictions_of(whole)


def test_episodes_by_a_trained_prompt_have_the_numbers_of_a_local_run(cluster, tmp_path, monkeypatch):
    shutil.copytree(SMALL / "encoder", tmp_path / "encoder")
    monkeypatch.chdir(tmp_path)  # workers have another folder, but find the encoder
    options = ("coco-20i-0", "--data", tiny("coco"), "--shots", 1, "--seed", 5, "--limit", 2, "--images-per-part", 1)
    options += ("--predictor", "both-scorers", "--prompt", "small", "--kind", "box", "--promoted")
    options += ("--encoder", "encoder")
    run(*options, "--no-cache", "--out", "local")
    run(*options, *RAY, "--out", "remote")
    assert numbers_of(tmp_path / "remote") == numbers_of(tmp_path / "local")


def test_a_machine_that_would_give_other_numbers_is_refused(small_encoder, small_segmenter, one_thread):
    here = environment(small_encoder, small_segmenter)
    models = ("small", "small", "cpu", "float32", False)
    other = PartsSetup(InstanceRun, None, None, None, *models, here | {"torch": "1.0", "code": "0" * 64})
    with pytest.raises(RunError, match=r"differs from that of the run in torch: 1.0 there, .* here, code: 0+ there"):
        other.worker(threads=1)


def test_ray_that_is_missing_is_told_before_anything_is_encoded(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_executor, "is_installed", lambda: False)
    settings, data = None, None
    with pytest.raises(ClusterError, match=r"pip install 'ray\[data\]'"):
        run_protocol(settings, data, None, None, tmp_path, pool=Pool())
