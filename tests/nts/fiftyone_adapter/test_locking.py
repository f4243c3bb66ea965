"""The lock of a dataset: one process at a time changes its schema and runs, and sees the changes of others."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import threading

import pytest
from paths import ROOT


@pytest.fixture(scope="session")
def locking(fo):
    from nts.fiftyone_adapter import locking

    return locking


@pytest.fixture
def sampled(fo, make_dataset, tmp_path):
    """Dataset of one sample."""
    return make_dataset([fo.Sample(tmp_path / "a.png", number=1)])


def test_one_thread_at_a_time_holds_it_and_may_take_it_again(locking, sampled):
    inside, most = 0, 0

    def work():
        nonlocal inside, most
        for _ in range(5):
            with locking.locked(sampled), locking.locked(sampled.view()):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert locking._collection().count_documents({}) == 0


def test_it_is_released_after_an_error(locking, sampled):
    with pytest.raises(KeyError), locking.locked(sampled):
        raise KeyError
    with locking.locked(sampled, patience=0):
        pass


def test_a_schema_that_is_being_changed_is_not_read_by_another_thread(locking, sampled):
    reading = threading.Thread(target=locking.refresh, args=[sampled])
    with locking.locked(sampled):
        number = next(field for field in sampled._doc.sample_fields if field.name == "number")
        sampled._doc.sample_fields.remove(number)  # as FiftyOne begins to delete a field, before it saves
        reading.start()
        reading.join(0.3)
        assert "number" not in [field.name for field in sampled._doc.sample_fields]
        sampled._doc.sample_fields.append(number)
    reading.join()


def _hold(locking, dataset, *, machine: str, process: int, seconds: float) -> None:
    """Insert the lease of another process into the database."""
    until = {"$add": ["$$NOW", int(1000 * seconds)]}
    values = {"owner": "another", "machine": machine, "process": process, "until": until}
    locking._collection().update_one({"_id": str(dataset._doc.id)}, [{"$set": values}], upsert=True)


def _dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_that_of_a_process_that_is_gone_is_taken_over(locking, sampled):
    _hold(locking, sampled, machine=locking.machine_name(), process=_dead_process(), seconds=3600)
    with locking.locked(sampled, patience=0):
        pass


def test_that_of_another_machine_is_taken_over_when_it_has_run_out(locking, sampled):
    _hold(locking, sampled, machine="another", process=1, seconds=-1)
    with locking.locked(sampled, patience=0):
        pass


@pytest.mark.parametrize("machine", ["another", "this one"])
def test_that_of_a_process_at_work_is_waited_for_and_then_told_of(locking, sampled, machine):
    from nts.fiftyone_adapter import InputError

    name = locking.machine_name() if machine == "this one" else machine
    _hold(locking, sampled, machine=name, process=os.getppid(), seconds=3600)
    with pytest.raises(InputError, match="has been locked by another process"), locking.locked(sampled, patience=0):
        pass
    locking._collection().delete_many({})


@pytest.mark.parametrize("locked_before", [False, True])
def test_a_refresh_reads_the_database_once(locking, sampled, monkeypatch, locked_before):
    read, reload = [], locking._reload
    monkeypatch.setattr(locking, "_reload", lambda dataset: (read.append(dataset), reload(dataset)))
    with locking.locked(sampled) if locked_before else contextlib.nullcontext():
        read.clear()
        locking.refresh(sampled)
        assert read == [sampled]


def test_a_dataset_that_is_gone_is_told_of(locking, sampled):
    from nts.fiftyone_adapter.errors import RunEnded

    sampled.delete()
    with pytest.raises(RunEnded, match="was deleted meanwhile"), locking.locked(sampled):
        pass


def _in_another_process(dataset, code: str) -> None:
    prelude = f"import fiftyone as fo\ndataset = fo.load_dataset({dataset.name!r})\n"
    subprocess.run([sys.executable, "-c", prelude + textwrap.dedent(code)], cwd=ROOT, check=True)


def test_changes_of_other_processes_are_seen_and_unsaved_samples_survive(fo, locking, sampled):
    sample = sampled.first()
    sample["number"] = 2
    labels = "dataset.add_sample_field('labels', fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)"
    _in_another_process(
        sampled,
        f"""
        {labels}
        dataset.add_sample_field('labels.detections.score', fo.FloatField)
        dataset.add_sample_field('text', fo.StringField)
        dataset.register_run('theirs', dataset.init_run(method='test'))
        """,
    )
    with locking.locked(sampled):
        assert sampled.list_runs() == ["theirs"]
        sampled.add_sample_field("labels.detections.score", fo.FloatField)
        sampled.add_sample_field("labels.detections.mine", fo.StringField)
        sampled.add_sample_field("mine", fo.StringField)
    assert sample.number == 2
    sample.text = "here"
    sample.save()
    _in_another_process(
        sampled,
        """
        names = [field.name for field in dataset._doc.sample_fields]
        assert len(names) == len(set(names))
        assert dataset.has_field('labels.detections.mine') and dataset.has_field('mine')
        assert dataset.first().text == 'here' and dataset.first().number == 2
        dataset.delete_sample_fields(['text', 'labels.detections.score'])
        """,
    )
    with locking.locked(sampled):
        assert not sampled.has_field("text")
        assert not sampled.has_field("labels.detections.score")
        assert sampled.has_field("labels.detections.mine")
    sampled.add_sample_field("text", fo.IntField)
    assert sampled.first().text is None
