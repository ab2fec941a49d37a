from __future__ import annotations

import asyncio
import threading
import time

import pytest

from easynlp.deployment.batching import Batcher, Closed, QueueFull


class Model:
    """Doubles numbers in batches, slowly if told so; a negative number fails."""

    def __init__(self, seconds=0.0):
        self.batches, self.seconds, self.gate = [], seconds, threading.Event()
        self.gate.set()

    def __call__(self, items):
        self.batches.append(list(items))
        assert self.gate.wait(5)
        time.sleep(self.seconds)
        return [ValueError(f"{i} is negative") if i < 0 else 2 * i for i in items]


def batched(test, model, **options):
    """Run a coroutine with a batcher over a model."""

    async def main():
        batcher = Batcher(model, **options)
        batcher.start()
        try:
            async with asyncio.timeout(10):
                return await test(batcher)
        finally:
            model.gate.set()
            await batcher.close()

    return asyncio.run(main())


async def begun(model, number=1):
    while len(model.batches) < number:
        await asyncio.sleep(0.001)


def test_answers_go_to_those_who_asked():
    async def test(batcher):
        asked = [[i, i + 100] for i in range(50)]
        return await asyncio.gather(*(batcher.submit(items) for items in asked))

    model = Model()
    assert batched(test, model, max_batch=8) == [[2 * i, 2 * i + 200] for i in range(50)]
    assert max(map(len, model.batches)) == 8


def test_what_arrives_during_a_batch_makes_the_next():
    async def test(batcher):
        model.gate.clear()
        first = batcher.submit([1])
        await begun(model)
        rest = [batcher.submit([i]) for i in (2, 3, 4)]
        assert batcher.depth == 4
        model.gate.set()
        await asyncio.gather(first, *rest)
        assert batcher.depth == 0

    model = Model()
    batched(test, model)
    assert model.batches == [[1], [2, 3, 4]]


def test_a_lone_client_does_not_wait():
    async def test(batcher):
        started = time.perf_counter()
        for i in range(20):
            await batcher.submit([i])
        return time.perf_counter() - started

    assert batched(test, Model(), max_wait=1.0) < 1.0


def test_after_a_batch_of_three_three_are_waited_for():
    async def test(batcher):
        await batcher.submit([1, 2, 3])
        one = batcher.submit([4])
        await asyncio.sleep(0.05)
        await asyncio.gather(one, batcher.submit([5, 6]))

    model = Model()
    batched(test, model, max_wait=5.0)
    assert model.batches == [[1, 2, 3], [4, 5, 6]]


def test_the_oldest_is_computed_with_those_like_it():
    async def test(batcher):
        model.gate.clear()
        first = batcher.submit([0])
        await begun(model)
        rest = [batcher.submit([i]) for i in (50, 1, 2, 49, 51, 3)]
        model.gate.set()
        await asyncio.gather(first, *rest)

    model = Model()
    batched(test, model, max_batch=3, length=lambda i: i, max_wait=0)
    assert [sorted(batch) for batch in model.batches] == [[0], [49, 50, 51], [1, 2, 3]]


def test_free_workers_share_what_waits():
    async def test(batcher):
        model.gate.clear()
        asked = [batcher.submit([i]) for i in range(6)]
        await begun(model, 2)
        assert batcher.depth == 6
        late = batcher.submit([6, 7])  # both are busy: it waits
        await asyncio.sleep(0.02)
        assert len(model.batches) == 2
        batcher.grow(3)
        await begun(model, 3)
        model.gate.set()
        return await asyncio.gather(*asked, late)

    model = Model()
    found = batched(test, model, workers=2)
    assert found == [[2 * i] for i in range(6)] + [[12, 14]]
    assert sorted(model.batches) == [[0, 1, 2], [3, 4, 5], [6, 7]]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_keeps_its_thread(workers):
    """Torch starts threads of its own for every thread that calls it, and never ends them."""
    threads = set()

    def compute(items):
        threads.add(threading.get_ident())
        return items

    async def test(batcher):
        async def client():
            for i in range(300):
                await batcher.submit([i])

        await asyncio.gather(*(client() for _ in range(16)))

    compute.gate = threading.Event()
    batched(test, compute, workers=workers, max_batch=4, max_wait=0)
    assert 1 <= len(threads) <= workers


def test_closing_waits_for_all_workers():
    async def test():
        batcher = Batcher(Model(seconds=0.05), workers=3)
        batcher.start()
        asked = [batcher.submit([i]) for i in range(5)]
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await batcher.close()
        with pytest.raises(Closed):
            batcher.submit([1])
        return [each.result() for each in asked]

    assert asyncio.run(test()) == [[2 * i] for i in range(5)]


def test_a_full_queue_takes_all_of_a_request_or_none():
    async def test(batcher):
        model.gate.clear()
        first = batcher.submit([0])
        await begun(model)
        second = batcher.submit([1, 2, 3])
        with pytest.raises(QueueFull) as full:
            batcher.submit([4, 5])
        assert full.value.seconds >= 0
        third = batcher.submit([6])
        model.gate.set()
        return await asyncio.gather(first, second, third)

    model = Model()
    assert batched(test, model, max_queue=4) == [[0], [2, 4, 6], [12]]


def test_the_cancelled_are_not_computed_and_make_room():
    async def test(batcher):
        model.gate.clear()
        first = batcher.submit([0])
        await begun(model)
        dead = batcher.submit([1, 2, 3])
        dead.cancel()
        alive = batcher.submit([4, 5])
        model.gate.set()
        return await asyncio.gather(first, alive)

    model = Model()
    assert batched(test, model, max_queue=4) == [[0], [8, 10]]
    assert model.batches == [[0], [4, 5]]


def test_an_item_that_fails_fails_alone():
    async def test(batcher):
        model.gate.clear()
        first = batcher.submit([0])
        await begun(model)
        good, bad = batcher.submit([1]), batcher.submit([2, -3])
        model.gate.set()
        with pytest.raises(ValueError, match="-3 is negative"):
            await bad
        return await asyncio.gather(first, good)

    model = Model()
    assert batched(test, model) == [[0], [2]]
    assert model.batches == [[0], [1, 2, -3]]


def test_a_failing_model_answers_everyone_and_goes_on():
    def explode(items):
        if 13 in items:
            raise RuntimeError("out of memory")
        return items

    explode.gate = threading.Event()

    async def test(batcher):
        with pytest.raises(RuntimeError, match="out of memory"):
            await batcher.submit([13])
        return await batcher.submit([1])

    assert batched(test, explode) == [1]


def test_close_finishes_what_was_taken():
    async def main():
        model = Model(seconds=0.01)
        batcher = Batcher(model, max_batch=2)
        batcher.start()
        asked = [batcher.submit([i]) for i in range(7)]
        await batcher.close()
        assert all(future.done() for future in asked)
        with pytest.raises(Closed):
            batcher.submit([1])
        return [future.result() for future in asked]

    assert asyncio.run(main()) == [[2 * i] for i in range(7)]


def test_nothing_asked():
    async def test(batcher):
        return await batcher.submit([])

    assert batched(test, Model()) == []


def test_the_event_loop_is_not_blocked():
    async def test(batcher):
        asked = batcher.submit([1])
        ticks = 0
        while not asked.done():
            await asyncio.sleep(0.005)
            ticks += 1
        return ticks

    assert batched(test, Model(seconds=0.2)) >= 5
