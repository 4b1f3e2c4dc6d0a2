"""Results come in order, few are made ahead, and what is given up isn't waited for."""

from __future__ import annotations

import threading

import pytest

from spdnn.ahead import map_ahead


def test_results_come_in_order_and_few_items_are_taken_ahead() -> None:
    taken = []

    def items():
        for k in range(20):
            taken.append(k)
            yield k

    made = map_ahead(lambda k: k * k, items(), 3)
    assert next(made) == 0
    assert len(taken) == 4
    assert list(made) == [k * k for k in range(1, 20)]
    assert list(map_ahead(str, [], 2)) == []


def test_an_error_arrives_where_its_result_would() -> None:
    made = map_ahead(lambda k: 6 // (3 - k), range(9), 2)
    assert [next(made) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(made)


def test_giving_up_leaves_no_thread_at_work() -> None:
    before = threading.active_count()
    made = map_ahead(lambda k: k, range(1000), 4)
    next(made)
    made.close()
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(5)
    assert threading.active_count() <= before
