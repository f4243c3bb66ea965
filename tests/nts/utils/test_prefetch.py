"""Prefetching and background writing: order, bounds, errors, and no leftover threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from nts.utils.prefetch import BackgroundWriter, prefetch, prefetch_together


def test_results_come_in_the_order_of_the_items_and_off_the_callers_thread():
    threads = set()

    def square(x: int) -> int:
        threads.add(threading.current_thread().name)
        return x * x

    found = [(item, future.result()) for item, future in prefetch(square, range(50), depth=3, workers=2)]
    assert found == [(x, x * x) for x in range(50)]
    assert threading.current_thread().name not in threads


def test_prefetching_is_bounded():
    asked = []

    def items():
        for x in range(20):
            asked.append(x)
            yield x

    for done, (_, future) in enumerate(prefetch(lambda x: x, items(), depth=4), start=1):
        future.result()
        assert len(asked) <= done + 4 - 1


def test_an_error_belongs_to_its_item_alone():
    def read(x: int) -> int:
        if x == 2:
            raise ValueError("damaged")
        return x

    futures = [future for _, future in prefetch(read, range(5))]
    assert isinstance(futures[2].exception(), ValueError)
    assert [future.result() for k, future in enumerate(futures) if k != 2] == [0, 1, 3, 4]


def test_stopping_early_leaves_no_thread():
    before = threading.active_count()
    reading = prefetch(lambda x: x, range(1000))
    next(reading)
    reading.close()
    assert threading.active_count() == before


def test_tasks_are_done_in_order_and_all_of_them():
    done: list[int] = []
    with BackgroundWriter(depth=2) as writer:
        for x in range(50):
            writer.do(lambda x=x: done.append(x))
    assert done == list(range(50))


def test_a_full_queue_blocks_the_caller():
    gate, given = threading.Event(), []

    def produce(writer: BackgroundWriter) -> None:
        for x in range(6):
            writer.do(gate.wait)
            given.append(x)

    with BackgroundWriter(depth=2) as writer:
        producer = threading.Thread(target=produce, args=(writer,))
        producer.start()
        producer.join(0.3)
        assert producer.is_alive()
        assert len(given) == 2
        gate.set()
        producer.join()
    assert given == list(range(6))


def test_an_error_reaches_the_caller():
    def fail() -> None:
        raise RuntimeError("the database is gone")

    with pytest.raises(RuntimeError, match="the database is gone"), BackgroundWriter() as writer:
        writer.do(fail)


def test_an_error_stops_later_tasks():
    def fail() -> None:
        raise RuntimeError("the database is gone")

    def produce() -> None:
        with BackgroundWriter(depth=1) as writer:
            for _ in range(5):
                writer.do(fail)
                given.append(1)

    given: list[int] = []
    with pytest.raises(RuntimeError, match="the database is gone"):
        produce()
    assert len(given) == 1


def test_another_error_is_not_hidden_and_pending_tasks_finish():
    def produce() -> None:
        with BackgroundWriter() as writer:
            writer.do(lambda: done.append(1))
            raise KeyError("mine")

    done: list[int] = []
    with pytest.raises(KeyError, match="mine"):
        produce()
    assert done == [1]


def read(number: int) -> str:
    if number in (2, 6, 7):
        raise ValueError(f"{number} is damaged")
    return f"image {number}"


def outcome(result: Callable[[], str]) -> str:
    try:
        return result()
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_items_are_worked_on_together_and_fail_alone(batch):
    groups = []

    def together(results: list[str]) -> list[str]:
        groups.append(results)
        return [f"encoded {result}" for result in results]

    found = [(item, outcome(result)) for item, result in prefetch_together(read, range(8), together, batch)]
    prefix = "" if batch == 1 else "encoded "
    assert found == [(k, f"{k} is damaged" if k in (2, 6, 7) else f"{prefix}image {k}") for k in range(8)]
    assert len(groups) == {1: 0, 2: 3, 3: 2, 100: 1}[batch]


def test_results_that_are_not_computed_ahead_are_computed_when_asked_for_and_without_threads():
    computed = []

    def read(number: int) -> threading.Thread:
        computed.append(number)
        return threading.current_thread()

    reading = prefetch_together(read, range(3), ahead=False)
    for number, result in reading:
        assert computed == list(range(number))
        assert result() is threading.current_thread()
    assert computed == [0, 1, 2]


def test_where_work_together_fails_the_results_are_passed_on(caplog):
    def together(results: list[str]) -> list[str]:
        raise RuntimeError("no memory")

    found = [outcome(result) for _, result in prefetch_together(read, range(4), together, 4)]
    assert found == ["image 0", "image 1", "2 is damaged", "image 3"]
    assert "3 items are processed one by one: RuntimeError: no memory" in caplog.text
