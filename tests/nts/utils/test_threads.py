"""Chunks in threads: results, errors, torch settings, concurrent callers, forks and process exit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from paths import ROOT

from nts.pipeline import encode_target, prepare_image
from nts.utils.threads import in_one_thread, is_small, map_chunks
from synthetic.scenes import draw_scene

BARRIER_SECONDS = 60
"""Timeout of waiting tests, reached only on failure."""
two_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="with a single core nothing runs side by side")


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def default_threads() -> int:
    """Intra-op threads of a thread that runs its first operation."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def flushes_denormals() -> bool:
    return bool(torch.tensor([1e-40]) * 1 == 0)


@two_cores
def test_results_are_in_the_order_of_the_chunks():
    # The first chunk ends after all others, which the second thread processes one by one.
    others_done = threading.Event()

    def function(chunk: int) -> int:
        if chunk == 0:
            assert others_done.wait(BARRIER_SECONDS)
        elif chunk == 6:
            others_done.set()
        return chunk * chunk

    assert map_chunks(function, range(7)) == [chunk * chunk for chunk in range(7)]
    assert map_chunks(function, []) == []


@two_cores
def test_chunks_run_side_by_side_in_as_many_threads_as_torch_has_with_one_intra_op_thread_each():
    together = threading.Barrier(2)

    def function(chunk: int) -> tuple[str, int]:
        together.wait(BARRIER_SECONDS)
        return threading.current_thread().name, torch.get_num_threads()

    found = map_chunks(function, range(8))
    assert len({name for name, _ in found}) == 2
    assert {threads for _, threads in found} == {1}


def test_with_one_intra_op_thread_chunks_run_one_after_another():
    torch.set_num_threads(1)
    running: list[int] = []

    def function(chunk: int) -> int:
        running.append(chunk)
        torch.rand(1000).sort()
        now = len(running)
        running.remove(chunk)
        return now

    assert map_chunks(function, range(50)) == [1] * 50


def test_threads_of_the_caller_and_of_new_threads_are_left_as_they_are():
    map_chunks(lambda chunk: chunk, range(4))
    assert (torch.get_num_threads(), default_threads()) == (2, 2)
    with pytest.raises(ZeroDivisionError):
        map_chunks(lambda chunk: 1 // chunk, range(4))
    assert (torch.get_num_threads(), default_threads()) == (2, 2)


def test_the_first_call_of_a_process_limits_its_own_threads_alone():
    code = """
import torch
from concurrent.futures import ThreadPoolExecutor
from nts.utils.threads import in_one_thread, is_small, map_chunks

def threads(_=None):
    torch.rand(100_000).exp()
    return torch.get_num_threads()

torch.set_num_threads(3)
assert set(map_chunks(threads, range(12))) == {1}
with ThreadPoolExecutor(1) as pool:
    print(threads(), pool.submit(threads).result())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["3", "3"]), done.stderr


def test_denormal_numbers_are_flushed_within_chunks_alone():
    before = flushes_denormals()
    within = map_chunks(lambda chunk: flushes_denormals(), range(4))
    assert len(set(within)) == 1
    if torch.set_flush_denormal(before):  # if the processor supports it
        assert within[0]
    assert flushes_denormals() == before


class Broken(Exception):
    """Error raised by a chunk."""


@pytest.mark.parametrize("error", [Broken("no chunk 3"), torch.OutOfMemoryError("no memory")])
def test_errors_of_a_chunk_are_raised_and_later_chunks_are_not_run(error):
    begun: list[int] = []

    def function(chunk: int) -> None:
        begun.append(chunk)
        if chunk == 3:
            raise error

    with pytest.raises(type(error)) as raised:
        map_chunks(function, range(10_000))
    assert raised.value is error
    assert len(begun) < 10_000
    assert map_chunks(lambda chunk: chunk, range(3)) == [0, 1, 2]  # the threads remain usable


@two_cores
def test_no_chunk_runs_after_an_error_was_raised():
    one_runs, raised = threading.Event(), threading.Event()
    ran_on: list[bool] = []

    def function(chunk: int) -> None:
        if chunk == 0:
            one_runs.set()
            torch.rand(200_000).sort()
            ran_on.append(raised.is_set())
        else:
            assert one_runs.wait(BARRIER_SECONDS)
            raise Broken

    with pytest.raises(Broken):
        map_chunks(function, range(2))
    raised.set()
    assert ran_on == [False]


def test_a_call_from_within_a_chunk_runs_in_its_thread():
    def function(chunk: int) -> set[str]:
        return {threading.current_thread().name, *map_chunks(lambda _: threading.current_thread().name, range(3))}

    assert all(len(names) == 1 for names in map_chunks(function, range(100)))


def test_concurrent_callers_get_their_own_results():
    begin = threading.Barrier(4)

    def call(caller: int) -> list[tuple[int, int]]:
        begin.wait(BARRIER_SECONDS)
        return map_chunks(lambda chunk: (caller, chunk), range(500))

    with ThreadPoolExecutor(4) as callers:
        found = list(callers.map(call, range(4)))
    assert found == [[(caller, chunk) for chunk in range(500)] for caller in range(4)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_has_threads_of_its_own():
    code = """
import os, torch
from nts.utils.threads import in_one_thread, is_small, map_chunks

torch.set_num_threads(2)
squares = [chunk * chunk for chunk in range(20)]
function = lambda chunk: int(torch.tensor(chunk) ** 2)
assert map_chunks(function, range(20)) == squares
child = os.fork()
if child == 0:
    assert map_chunks(function, range(20)) == squares
    print("child", flush=True)
    raise SystemExit
_, status = os.waitpid(child, 0)
assert map_chunks(function, range(20)) == squares
print("parent", os.waitstatus_to_exitcode(status))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["child", "parent", "0"]), done.stderr


def test_the_threads_do_not_keep_the_process_from_ending():
    code = "from nts.utils.threads import map_chunks; print(map_chunks(lambda chunk: chunk, range(3)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[0, 1, 2]"), done.stderr


# ---- one thread ------------------------------------------------------------------------------------------------------


def test_small_operations_run_in_one_thread_with_the_callers_inference_mode():
    def facts() -> tuple[int, bool, bool]:
        return torch.get_num_threads(), torch.is_inference_mode_enabled(), threading.current_thread() is here

    here, before = threading.current_thread(), torch.get_num_threads()
    assert in_one_thread(facts, torch.device("cpu")) == (1, False, False)
    with torch.inference_mode():
        assert in_one_thread(facts, torch.device("cpu")) == (1, True, False)
        assert in_one_thread(facts, torch.device("meta")) == (before, True, True)
    assert torch.get_num_threads() == before


def test_errors_of_one_thread_reach_the_caller():
    with pytest.raises(KeyError, match="missing"):
        in_one_thread(lambda: {}["missing"], torch.device("cpu"))


def test_only_small_models_run_in_one_thread(small_encoder, small_segmenter):
    assert small_encoder.is_small
    assert small_segmenter.is_small
    assert is_small(torch.nn.Linear(3000, 3000))
    assert not is_small(torch.nn.Linear(4000, 4000))


def test_a_small_encoder_gives_the_same_in_one_thread_as_in_torchs(small_encoder, small_segmenter):
    pixels = torch.randn(2, 3, 1, 1).expand(2, 3, small_encoder.info.input_size, small_encoder.info.input_size)
    with torch.inference_mode():
        expected = small_encoder._model(pixel_values=pixels).last_hidden_state[:, 1:].unflatten(1, small_encoder.grid)
    assert torch.allclose(small_encoder.encode(pixels), expected, atol=1e-5)


def test_both_encoders_give_the_same_side_by_side(small_encoder, small_segmenter):
    image = draw_scene([3, 0], [100, 102]).image
    encoded = encode_target(image, small_encoder, small_segmenter, keep_embedding=True)
    prepared = prepare_image(image, small_encoder, small_segmenter)
    assert torch.equal(encoded.tokens, small_encoder.encode(prepared.encoder_input[None])[0])
    assert torch.equal(encoded.embedding.features, small_segmenter.embed(prepared.segmenter_input).features)
