"""What processes do to each other and to themselves: kill -9 at random instants, and starts in one instant.

    python tools/stress.py kill --instants 30 --jobs build segment evaluate train
    python tools/stress.py pairs --pairs 50

``kill``: a process begins a job and is killed at a random instant of it, or of the deletion after it. The next process
finishes the job, prints its result, deletes all that was made and checks that nothing is left, and is the next to be
killed. Every result must be that of an undisturbed process.

``pairs``: two processes that have the same dataset open begin a job each in one instant, and then delete what they made
in one instant. After each, the dataset must load, with every field declared once, and both results must be right.

Exit code 1 if anything went wrong.
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
DATASET = "stress"
KEY = "made"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    kill = commands.add_parser("kill", help="kill -9 at random instants")
    kill.add_argument("--jobs", nargs="+", choices=list(_JOBS), default=list(_JOBS))
    kill.add_argument("--instants", type=int, default=30, help="kills of each job (%(default)s)")
    kill.add_argument("--seed", type=int, default=0, help="of the instants")
    pairs = commands.add_parser("pairs", help="two starts in one instant")
    pairs.add_argument("--pairs", type=int, default=50, help="number of pairs (%(default)s)")
    for name, work in (("finish-and-start", _finish_and_start), ("on-command", _on_command)):
        worker = commands.add_parser(name)
        worker.add_argument("job", nargs="?")
        worker.set_defaults(work=work)
    args = parser.parse_args()
    if hasattr(args, "work"):
        args.work(args.job)
        return
    os.environ |= {"FIFTYONE_DO_NOT_TRACK": "true", "FIFTYONE_DATABASE_VALIDATION": "false"}
    private_mongod.start()  # never the user's datasets
    folder = Path(tempfile.mkdtemp(prefix="stress-"))
    try:
        failures = _pairs(args.pairs, folder) if args.command == "pairs" else _kills(args, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(*failures, f"{len(failures)} failures", sep="\n")
    sys.exit(bool(failures))


def _kills(args: argparse.Namespace, folder: Path) -> list[str]:
    return [failure for job in args.jobs for failure in _kill_again_and_again(job, args, folder)]


def _pairs(pairs: int, folder: Path) -> list[str]:
    """Have two processes begin in one instant, again and again; returns what went wrong."""
    failures = []
    workers = [_Worker(["on-command"], folder)]
    workers[0].expect("READY")
    workers.append(_Worker(["on-command"], folder))  # the first one makes the dataset
    workers[1].expect("READY")
    expected: dict[str, str] = {}
    try:
        for number in range(pairs):
            jobs = _PAIRS[number % len(_PAIRS)]
            keys = [f"pair{number}a", f"pair{number}b"]
            for command in ("do", "delete"):
                for worker, job, key in zip(workers, jobs, keys, strict=True):
                    worker.tell(command, job, key)
                results = [worker.expect("RESULT") for worker in workers]
                for job, result in zip(jobs, results, strict=True):
                    if result != expected.setdefault(f"{command} {job}", result):
                        failures.append(f"pair {number} of {jobs}: {command} gave {result}")
                workers[0].tell("check", "", "" if command == "do" else "clean")
                if problem := json.loads(workers[0].expect("RESULT")):
                    failures.append(f"pair {number} of {jobs}, after {command}: {problem}")
    except EOFError as error:
        failures.append(f"pair {number}: {error}")
    finally:
        for worker in workers:
            worker.kill()
    print(f"{pairs} pairs of simultaneous starts, and of simultaneous deletions", flush=True)
    return failures


def _kill_again_and_again(job: str, args: argparse.Namespace, folder: Path) -> list[str]:
    """Kill a job at some instants; returns what went wrong."""
    rng = random.Random(f"{args.seed} {job}")
    expected, seconds, duration = "", 0.0, 0.0
    failures = []
    for instant in range(args.instants + 2):
        # The first process is not disturbed, and tells the result and how long it takes; the last one only finishes.
        worker = _Worker(["finish-and-start", job], folder)
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

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self._errors = (folder / f"errors-{time.monotonic_ns()}.txt").open("w+")
        folders = {"NTS_CACHE_DIR": folder / "cache", "FIFTYONE_DEFAULT_DATASET_DIR": folder / "datasets"}
        environment = os.environ | {name: str(path) for name, path in folders.items()}
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
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

    def tell(self, *words: str) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """As a machine that runs out of memory does it."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._errors.close()


def _finish_and_start(job: str) -> None:
    """In a process of its own: finish the job, delete what it made, and begin it again."""
    dataset = _dataset()
    do, result, delete = _JOBS[job]
    do(dataset, KEY)
    print("RESULT", json.dumps(result(dataset, KEY)), flush=True)
    delete(dataset, KEY)
    print("LEFT", json.dumps(_left(dataset)), flush=True)
    # What is known already is done in an instant, which leaves no time to be killed in.
    shutil.rmtree(os.environ["NTS_CACHE_DIR"], ignore_errors=True)
    print("START now", flush=True)
    do(dataset, KEY)
    delete(dataset, KEY)
    print("END now", flush=True)
    sys.stdin.read()  # until the end comes


def _on_command(_: None) -> None:
    """In a process of its own: do, delete and check what the lines of standard input say."""
    dataset = _dataset()
    print("READY now", flush=True)
    for line in sys.stdin:
        command, job, key = json.loads(line)
        answer: Any = "deleted"
        if command == "check":
            answer = _damage(dataset) + (_left(dataset) if key == "clean" else [])
        elif command == "do":
            _JOBS[job][0](dataset, key)
            answer = _JOBS[job][1](dataset, key)
        else:
            _JOBS[job][2](dataset, key)
        print("RESULT", json.dumps(answer), flush=True)


def _dataset() -> Any:
    import fiftyone as fo

    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    return fo.load_dataset(DATASET) if fo.dataset_exists(DATASET) else _make_dataset()


def _damage(dataset: Any) -> list[str]:
    """What is wrong with the stored schema."""
    import fiftyone.core.odm as foo

    stored = foo.get_db_conn().datasets.find_one({"name": DATASET})
    problems = []

    def check(fields: list[dict[str, Any]], path: str) -> None:
        names = [field["name"] for field in fields]
        problems.extend(f"{path}{name} is declared twice" for name in set(names) if names.count(name) > 1)
        for field in fields:
            check(field.get("fields") or [], f"{path}{field['name']}.")

    check(stored["sample_fields"], "")
    dataset.reload()  # raises if it cannot be loaded
    for sample in dataset:
        sample.to_dict()
    return problems


def _make_dataset() -> Any:
    import fiftyone as fo
    from drawn_dataset import drawn_samples

    from nts.fiftyone_adapter import build_reference_memory

    dataset = fo.Dataset(DATASET, persistent=True)
    images = Path(os.environ["FIFTYONE_DEFAULT_DATASET_DIR"]) / "images"
    images.mkdir(parents=True)
    dataset.add_samples([*drawn_samples(images), *_training_samples(images)])
    dataset.clone_sample_field("ground_truth", "predictions")
    for number, sample in enumerate(dataset.exists("predictions").iter_samples(autosave=True)):
        for rank, detection in enumerate(sample.predictions.detections):
            detection.confidence = 0.9 - 0.1 * ((number + rank) % 7)
    build_reference_memory(dataset.match_tags("reference"), "ground_truth", "base")
    dataset.info["fields"] = sorted(dataset.get_field_schema(flat=True))
    dataset.save()
    return dataset


def _training_samples(folder: Path) -> list[Any]:
    """Scenes of five species, with masks in `objects`."""
    import fiftyone as fo
    from PIL import Image

    from synthetic.scenes import draw_scene, species_name

    species, samples = (100, 102, 104, 106, 108), []
    for k in range(12):
        scene = draw_scene([91, k], [species[k % 5], species[(k + 1 + k // 5) % 5]])
        Image.fromarray(scene.image).save(folder / f"training{k}.png")
        labels = [
            fo.Detection.from_mask(mask, label=species_name(number))
            for mask, number in zip(scene.masks, scene.species.tolist(), strict=True)
        ]
        samples.append(
            fo.Sample(folder / f"training{k}.png", tags=["training"], objects=fo.Detections(detections=labels))
        )
    return samples


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


def _build(dataset: Any, key: str) -> None:
    from nts.fiftyone_adapter import build_reference_memory

    references = dataset.match_tags("reference")
    build_reference_memory(references, "ground_truth", key, keep_images=True, overwrite=True)


def _built(dataset: Any, key: str) -> Any:
    from nts.fiftyone_adapter import load_memory

    bank = load_memory(dataset, key)
    return bank.shots, _digest(bank.prototypes().tolist())


def _segment(dataset: Any, key: str) -> None:
    from nts.fiftyone_adapter import auto_segment_view

    auto_segment_view(dataset.match_tags("target"), "base", key)


def _segmented(dataset: Any, key: str) -> Any:
    labels = dataset.match_tags("target").values(f"{key}.detections")
    plain = [[(d.label, d.confidence, d.bounding_box, d.mask.tolist()) for d in of_sample] for of_sample in labels]
    return dataset.get_run_info(key).config.status, [len(of_sample) for of_sample in plain], _digest(plain)


def _evaluate(dataset: Any, key: str) -> None:
    from nts.fiftyone_adapter import evaluate_nap

    evaluate_nap(dataset.exists("ground_truth"), "predictions", "ground_truth", eval_key=key, overwrite=True)


def _evaluated(dataset: Any, key: str) -> Any:
    from nts.fiftyone_adapter.evaluation_results import load_evaluation

    stored = {name: value for name, value in load_evaluation(dataset, key).items() if name != "eval_key"}
    outcomes = [dataset.values(f"{field}.detections.{key}") for field in ("predictions", "ground_truth")]
    panel = dataset.load_evaluation_results(key, cache=False).mAP()
    return stored["result"]["masks"]["novel"]["ap"], panel, _digest(stored, outcomes)


def _train(dataset: Any, key: str) -> None:
    from nts.fiftyone_adapter import train_reference_prompt
    from nts.fiftyone_adapter.runs import PROMPT, list_runs

    if key not in list_runs(dataset, PROMPT):
        train_reference_prompt(dataset.match_tags("training"), "objects", key, steps=12, batch=1)


def _trained(dataset: Any, key: str) -> Any:
    from nts.fiftyone_adapter.prompts import load_prompt

    stored = dataset.load_run_results(key, cache=False)
    return load_prompt(dataset, key).fingerprint, _digest(stored.log)


def _heat(dataset: Any, key: str) -> None:
    from nts.fiftyone_adapter import similarity_heatmaps

    similarity_heatmaps(dataset.match_tags("target"), "base")


def _heated(dataset: Any, key: str) -> Any:
    from nts.fiftyone_adapter.runs import HEATMAPS, list_runs

    fields = list_runs(dataset, HEATMAPS)["base_similarity"]["fields"]
    return [_digest([m.map.tolist() for m in dataset.match_tags("target").values(field)]) for field in fields]


def _unheat(dataset: Any, key: str) -> None:
    _deleting("HEATMAPS")(dataset, "base_similarity")


def _deleting(kind: str) -> Callable[[Any, str], None]:
    def delete(dataset: Any, key: str) -> None:
        from nts.fiftyone_adapter import runs

        runs.delete_run(dataset, key, getattr(runs, kind))

    return delete


_JOBS: dict[str, tuple[Callable[[Any, str], None], Callable[[Any, str], Any], Callable[[Any, str], None]]] = {
    "build": (_build, _built, _deleting("MEMORY")),
    "segment": (_segment, _segmented, _deleting("SEGMENTATION")),
    "evaluate": (_evaluate, _evaluated, _deleting("EVALUATION")),
    "train": (_train, _trained, _deleting("PROMPT")),
    "heat maps": (_heat, _heated, _unheat),
}
"""For each job: do it under a name, tell its result, delete it."""

_PAIRS = (("evaluate", "evaluate"), ("segment", "evaluate"), ("segment", "segment"), ("heat maps", "evaluate"))


if __name__ == "__main__":
    main()
