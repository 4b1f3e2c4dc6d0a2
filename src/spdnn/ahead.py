"""Work done ahead on other threads, its results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Of = TypeVar("_Of")
_Made = TypeVar("_Made")


def map_ahead(make: Callable[[_Of], _Made], items: Iterable[_Of], threads: int) -> Iterator[_Made]:
    """`make(item)` for each item, in order, the next `threads` of them being made meanwhile.

    Items are taken on the calling thread. What isn't asked for any more is not waited for.
    """
    pool = ThreadPoolExecutor(threads)
    pending: deque[Future[_Made]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(make, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
