"""Kill -9 at random instants: the next start must finish the work with the result of an undisturbed run.

    python tools/crash_test.py --instants 30 --seed 1
    python tools/crash_test.py --instants 5 --jobs segment evaluate

For each job a process begins the work and is killed at a random instant of it. The next process finishes it, prints its
result, deletes all that was made and checks that nothing is left, and is the next to be killed. Exit code 1 if a result
differed or something was left.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import private_mongod

ROOT = Path(__file__).resolve().parents[1]
JOBS = ("build", "segment", "evaluate", "train")
DATASET = "crash-test"
MEMORY, FIELD, EVALUATION, PROMPT = "shapes", "found", "check", "learned"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--instants", type=int, default=30, help="kills for each job (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", choices=JOBS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        _work(args.work)
        return
    os.environ |= {"FIFTYONE_DO_NOT_TRACK": "true", "FIFTYONE_DATABASE_VALIDATION": "false"}
    if "FIFTYONE_DATABASE_URI" not in os.environ:
        private_mongod.start()
    folder = Path(tempfile.mkdtemp(prefix="crash-test-"))
    try:
        failures = [failure for job in args.jobs for failure in _kill_again_and_again(job, args, folder)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for failure in failures:
        print(failure)
    print(f"{args.instants * len(args.jobs)} kills, {len(failures)} failures")
    sys.exit(bool(failures))


def _kill_again_and_again(job: str, args: argparse.Namespace, folder: Path) -> list[str]:
    """Kill a job at some instants; returns what went wrong."""
    rng = random.Random(f"{args.seed} {job}")
    expected, seconds, duration = "", 0.0, 0.0
    failures = []
    for instant in range(args.instants + 2):
        # The first process is not disturbed, and tells the result and how long it takes; the last one only finishes.
        worker = _Worker(job, folder)
        try:
            result = worker.expect("RESULT")
            expected = expected or result
            if result != expected:
                failures.append(f"{job}: killed at {seconds:.3f} s, another result: {result} instead of {expected}")
            if left := json.loads(worker.expect("LEFT")):
                failures.append(f"{job}: killed at {seconds:.3f} s, left behind: {left}")
            worker.expect("START")
            begun = time.monotonic()
            if instant == 0:
                worker.expect("END")
                duration = time.monotonic() - begun
                print(f"{job}: takes {duration:.2f} s, with its deletion, undisturbed", flush=True)
            elif instant <= args.instants:
                seconds = rng.uniform(0, duration)
                time.sleep(seconds)
        except EOFError as error:
            failures.append(f"{job}: killed at {seconds:.3f} s, then {error}")
            break
        finally:
            worker.kill()
    print(f"{job}: {args.instants} kills, {len(failures)} failures", flush=True)
    return failures


class _Worker:
    """A process that does a job; it prints ``NAME value`` when something has been done."""

    def __init__(self, job: str, folder: Path) -> None:
        self._errors = (folder / "errors.txt").open("w+")
        folders = {"NTS_CACHE_DIR": folder / "cache", "FIFTYONE_DEFAULT_DATASET_DIR": folder / "datasets"}
        environment = os.environ | {name: str(path) for name, path in folders.items()}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work", job],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def expect(self, name: str) -> str:
        """Wait for a line of this name; returns its value."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(f"{name} "):
                return line[len(name) + 1 :].strip()
        self._errors.seek(0)
        raise EOFError(f"the next process ended without {name}: {self._errors.read()[-2000:]}")

    def kill(self) -> None:
        """As a machine that runs out of memory does it."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._errors.close()


def _work(job: str) -> None:
    """In a process of its own: finish the job, delete what it made, and begin it again."""
    import fiftyone as fo

    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    dataset = fo.load_dataset(DATASET) if fo.dataset_exists(DATASET) else _make_dataset()
    do, result, clean = _JOBS[job]
    do(dataset)
    print("RESULT", json.dumps(result(dataset)), flush=True)
    clean(dataset)
    print("LEFT", json.dumps(_left(dataset)), flush=True)
    # What is known already is done in an instant, which leaves no time to be killed in.
    shutil.rmtree(os.environ["NTS_CACHE_DIR"], ignore_errors=True)
    print("START now", flush=True)
    do(dataset)
    clean(dataset)
    print("END now", flush=True)
    sys.stdin.read()  # until the end comes


def _make_dataset() -> Any:
    import fiftyone as fo
    from drawn_dataset import drawn_samples

    from nts.fiftyone_adapter import build_reference_memory

    dataset = fo.Dataset(DATASET, persistent=True)
    images = Path(os.environ["FIFTYONE_DEFAULT_DATASET_DIR"]) / "images"
    images.mkdir(parents=True)
    dataset.add_samples(drawn_samples(images))
    dataset.clone_sample_field("ground_truth", "predictions")
    for number, sample in enumerate(dataset.iter_samples(autosave=True)):
        for rank, detection in enumerate(sample.predictions.detections):
            detection.confidence = 0.9 - 0.1 * ((number + rank) % 7)
    build_reference_memory(dataset.match_tags("reference"), "ground_truth", "base")
    dataset.info["fields"] = sorted(dataset.get_field_schema(flat=True))
    dataset.save()
    return dataset


def _left(dataset: Any) -> list[str]:
    """Fields and runs that were not there at the beginning, as another process would see them."""
    dataset.reload()
    fields = set(dataset.get_field_schema(flat=True)) ^ set(dataset.info["fields"])
    runs = set(dataset.list_runs()) ^ {"base"}
    folders = Path(os.environ["FIFTYONE_DEFAULT_DATASET_DIR"]) / "reference-prompts" / dataset.slug
    checkpoints = [str(path.name) for path in folders.glob("*")]
    return sorted([*fields, *runs, *dataset.list_evaluations(), *dataset.list_saved_views(), *checkpoints])


def _digest(*values: Any) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()


def _build(dataset: Any) -> None:
    from nts.fiftyone_adapter import build_reference_memory

    references = dataset.match_tags("reference")
    build_reference_memory(references, "ground_truth", MEMORY, keep_images=True, overwrite=True)


def _built(dataset: Any) -> Any:
    from nts.fiftyone_adapter import load_memory

    bank = load_memory(dataset, MEMORY)
    return bank.shots, _digest(bank.prototypes().tolist())


def _segment(dataset: Any) -> None:
    from nts.fiftyone_adapter import auto_segment_view

    auto_segment_view(dataset.match_tags("target"), "base", FIELD)


def _segmented(dataset: Any) -> Any:
    labels = dataset.match_tags("target").values(f"{FIELD}.detections")
    plain = [[(d.label, d.confidence, d.bounding_box, d.mask.tolist()) for d in of_sample] for of_sample in labels]
    return dataset.get_run_info(FIELD).config.status, [len(of_sample) for of_sample in plain], _digest(plain)


def _evaluate(dataset: Any) -> None:
    from nts.fiftyone_adapter import evaluate_nap

    evaluate_nap(dataset, "predictions", "ground_truth", eval_key=EVALUATION, overwrite=True)


def _evaluated(dataset: Any) -> Any:
    from nts.fiftyone_adapter import load_evaluation

    stored = load_evaluation(dataset, EVALUATION)
    outcomes = [dataset.values(f"{field}.detections.{EVALUATION}") for field in ("predictions", "ground_truth")]
    panel = dataset.load_evaluation_results(EVALUATION, cache=False).mAP()
    return stored["result"]["masks"]["novel"]["ap"], panel, _digest(stored, outcomes)


def _train(dataset: Any) -> None:
    from nts.fiftyone_adapter import list_prompts, train_reference_prompt

    if PROMPT not in list_prompts(dataset):
        train_reference_prompt(dataset, "ground_truth", PROMPT, steps=20, batch=2)


def _trained(dataset: Any) -> Any:
    from nts.fiftyone_adapter import load_prompt

    stored = dataset.load_run_results(PROMPT, cache=False)
    return load_prompt(dataset, PROMPT).fingerprint, _digest(stored.log)


def _clean(name: str, kind: str) -> Callable[[Any], None]:
    def clean(dataset: Any) -> None:
        from nts import fiftyone_adapter

        getattr(fiftyone_adapter, f"delete_{kind}")(dataset, name)

    return clean


_JOBS = {
    "build": (_build, _built, _clean(MEMORY, "memory")),
    "segment": (_segment, _segmented, _clean(FIELD, "segmentation")),
    "evaluate": (_evaluate, _evaluated, _clean(EVALUATION, "evaluation")),
    "train": (_train, _trained, _clean(PROMPT, "prompt")),
}


if __name__ == "__main__":
    main()
