"""Many small questions, few calls of the model: a micro-batcher with a bounded queue.

While the model computes, what arrives meanwhile makes the next batch, so batches grow with the load
by themselves and a lone client waits for nobody. Several workers compute batches side by side; what
waits is shared out among those that are free.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

__all__ = ["MOST_WORKERS", "Batcher", "Closed", "QueueFull"]

MOST_WORKERS = 64
"""Batches of a model computed at the same time."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class QueueFull(Exception):
    """There is no room for a request.

    Attributes:
        seconds: When to try again.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__("the queue is full")
        self.seconds = seconds


class Closed(Exception):
    """The batcher takes no more requests."""


@dataclass(eq=False)
class _Job(Generic[Result]):
    """The items of one request, until all are answered."""

    future: asyncio.Future[list[Result]]
    left: int
    results: list[Any] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    length: int
    job: _Job[Result]
    place: int


class Batcher(Generic[Item, Result]):
    """Collect items of concurrent requests and compute them together, in threads of their own.

    Args:
        compute: Called in such a thread with the items of a batch; returns a result for each, or
            the exception that item caused. With several workers it is called by several threads.
        length: Cost of an item; those of like cost are computed together.
        max_batch: Most items of a batch.
        max_wait: Most seconds to wait for a batch as large as the one before; 0 suits models
            that gain nothing from batches.
        max_queue: Most items waiting.
        workers: Batches that may be computed at the same time; `grow` raises it.
        observe: Called with the size of each batch and the seconds it took.

    Example:
        >>> async def demo():
        ...     batcher = Batcher(lambda items: [item * 2 for item in items])
        ...     batcher.start()
        ...     doubled = await batcher.submit([1, 2])
        ...     await batcher.close()
        ...     return doubled
        >>> asyncio.run(demo())
        [2, 4]
    """

    def __init__(
        self,
        compute: Callable[[list[Item]], Sequence[Result | Exception]],
        *,
        length: Callable[[Item], int] = lambda item: 0,
        max_batch: int = 32,
        max_wait: float = 0.002,
        max_queue: int = 1024,
        workers: int = 1,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._compute, self._length, self._observe = compute, length, observe
        self.max_batch, self.max_wait, self.max_queue = max_batch, max_wait, max_queue
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self.workers = workers
        self._running = self._busy = 0
        self._arrived = asyncio.Event()
        self._closed = False
        self._threads: list[ThreadPoolExecutor] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._seconds_per_item = 0.001

    @property
    def depth(self) -> int:
        """Number of items waiting or being computed."""
        return len(self._waiting) + self._running

    def start(self) -> None:
        """Begin to compute; call inside a running event loop."""
        self.grow(self.workers)

    def grow(self, workers: int) -> None:
        """Compute so many batches at the same time, at most `MOST_WORKERS`; never fewer."""
        self.workers = max(self.workers, min(workers, MOST_WORKERS))
        loop = asyncio.get_running_loop()
        for _ in range(self.workers - len(self._tasks)):
            # A thread for each worker: a pool of many starts another whenever the last one has not
            # yet come to rest, and torch keeps threads of its own for each thread that calls it.
            self._threads.append(ThreadPoolExecutor(1, thread_name_prefix="inference"))
            self._tasks.append(loop.create_task(self._work(self._threads[-1])))

    def submit(self, items: Sequence[Item]) -> asyncio.Future[list[Result]]:
        """Queue the items of one request, all or none.

        Cancelling the returned future takes those not yet begun out of the queue.

        Returns:
            A future of one result an item, in order; or of the first item's exception.

        Raises:
            QueueFull: If they do not fit.
            Closed: After `close`.
        """
        if self._closed:
            raise Closed
        if len(self._waiting) + len(items) > self.max_queue:
            self._forget_cancelled()
            if len(self._waiting) + len(items) > self.max_queue:
                raise QueueFull(len(self._waiting) * self._seconds_per_item / self.workers)
        future: asyncio.Future[list[Result]] = asyncio.get_running_loop().create_future()
        if not items:
            future.set_result([])
            return future
        job = _Job(future, len(items), [None] * len(items))
        self._waiting.extend(
            _Waiting(item, self._length(item), job, place) for place, item in enumerate(items)
        )
        self._arrived.set()
        return future

    async def close(self) -> None:
        """Take no more requests, finish those taken, and stop the threads."""
        self._closed = True
        self._arrived.set()
        await asyncio.gather(*self._tasks)
        for thread in self._threads:
            thread.shutdown(wait=False)

    async def _work(self, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        last = 1
        while True:
            if not self._waiting:
                if self._closed:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                continue
            if self.max_wait and len(self._waiting) < last:
                await self._wait_for(last)
            batch = self._take()
            if not batch:
                continue
            last = len(batch)
            self._running += last
            self._busy += 1
            started = loop.time()
            try:
                results: Sequence[Any] = await loop.run_in_executor(
                    thread, self._compute, [each.item for each in batch]
                )
            except Exception as error:  # whatever it is belongs to those who asked
                results = [error] * len(batch)
            self._running -= last
            self._busy -= 1
            seconds = loop.time() - started
            self._seconds_per_item += 0.1 * (seconds / len(batch) - self._seconds_per_item)
            self._observe(len(batch), seconds)
            for each, result in zip(batch, results, strict=True):
                _settle(each, result)

    async def _wait_for(self, number: int) -> None:
        """Wait, not for long, for as many items as the last batch had."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.max_wait):
                while len(self._waiting) < number and not self._closed:
                    self._arrived.clear()
                    await self._arrived.wait()

    def _take(self) -> list[_Waiting[Item, Result]]:
        """Take the oldest item out of the queue, with those most like it in length.

        Of what waits a free worker takes its share, so that the others that are free have theirs.
        """
        self._forget_cancelled()
        free = self.workers - self._busy
        most = min(self.max_batch, -(-len(self._waiting) // free))
        if len(self._waiting) <= most:
            batch = list(self._waiting)
            self._waiting.clear()
            return batch
        oldest = self._waiting[0]
        like = sorted(self._waiting, key=lambda each: abs(each.length - oldest.length))
        batch = like[:most]
        taken = set(map(id, batch))
        self._waiting = deque(each for each in self._waiting if id(each) not in taken)
        return batch

    def _forget_cancelled(self) -> None:
        if any(each.job.future.done() for each in self._waiting):
            self._waiting = deque(each for each in self._waiting if not each.job.future.done())


def _settle(each: _Waiting[Any, Any], result: Any) -> None:
    """Put an item's result into its request, and answer the request if it was the last."""
    job = each.job
    if job.future.done():
        return
    if isinstance(result, Exception):
        job.future.set_exception(result)
        return
    job.results[each.place] = result
    job.left -= 1
    if job.left == 0:
        job.future.set_result(job.results)
