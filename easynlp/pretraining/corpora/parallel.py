"""Work spread over processes: results in order, few tasks in flight, no orphans."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, TypeVar

from easynlp.errors import RunError

__all__ = ["spread"]

Item = TypeVar("Item")
Result = TypeVar("Result")
State = TypeVar("State")

_state: Any = None


def spread(
    function: Callable[[State, Item], Result], state: State, items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """Yield ``function(state, item)`` of every item, in order, computed in several processes.

    Processes are spawned, so `function` must be at the top of a module, and a script that calls
    this needs ``if __name__ == "__main__":``. At most two items a process are taken ahead, so
    items may be large and endless. With one worker all happens in this process.

    Args:
        function: What to do.
        state: Sent to every process once.
        items: Taken as results are.
        workers: Processes.

    Raises:
        RunError: If a process dies.

    Example:
        >>> list(spread(pow, 2, [1, 2, 3], 1))
        [2, 4, 8]
    """
    if workers == 1:
        for item in items:
            yield function(state, item)
        return
    waiting: deque[Future[Result]] = deque()
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(state,)
    )
    try:
        for item in items:
            waiting.append(pool.submit(_call, function, item))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process died (out of memory?). What is finished is kept: go on with "
            "--resume, perhaps with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(state: Any) -> None:
    global _state
    _state = state
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too and ends the work
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End this process when its parent has been killed: its queue would never tell."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _call(function: Callable[[Any, Any], Any], item: Any) -> Any:
    return function(_state, item)
