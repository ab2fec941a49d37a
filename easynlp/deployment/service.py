"""The model behind the routes: loading, answering, draining."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import Request

from easynlp.deployment.batching import Batcher, Closed, QueueFull
from easynlp.deployment.protocol import ApiError, Limits, Question
from easynlp.deployment.settings import ServeOptions
from easynlp.deployment.telemetry import Telemetry
from easynlp.errors import DataError, ModelError
from easynlp.pipeline import Pipeline
from easynlp.tasks.base import Example, Prediction

__all__ = ["Answer", "Service"]

PATIENCE = 0.05
"""Seconds an answer may take before its client is watched for leaving."""

Answer = tuple[Prediction, bool]
"""A prediction, and whether the text was cut."""


class Service:
    """One model, ready or not, with its queue.

    Args:
        options: What to load and how to batch.
        load: Makes the pipeline; by default from the run folder of the options.
    """

    def __init__(self, options: ServeOptions, load: Callable[[], Pipeline] | None = None) -> None:
        self.options = options
        self.telemetry = Telemetry()
        self.state = "loading"
        self.error: Exception | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self._load = load or self._load_run
        self._pipeline: Pipeline | None = None
        self.limits = Limits(options, pair=False)
        self._loading: asyncio.Task[None] | None = None
        self.batcher: Batcher[Example, Answer] = Batcher(
            self._compute,
            length=lambda example: sum(map(len, example.values())),
            max_batch=options.max_batch,
            max_wait=options.max_wait,
            max_queue=options.max_queue,
            observe=self.telemetry.batch,
        )
        self.telemetry.queue.set_function(lambda: self.batcher.depth)
        self.telemetry.ready.set_function(lambda: self.state == "ready")

    @property
    def pipeline(self) -> Pipeline:
        """Return the pipeline once it is loaded."""
        assert self._pipeline is not None
        return self._pipeline

    def start(self) -> None:
        """Begin to load and to take work; call inside the event loop."""
        self.batcher.start()
        self._loading = asyncio.get_running_loop().create_task(self._get_ready())

    def drain(self) -> None:
        """Say that this server is about to stop; requests are still answered."""
        self.state = "draining"

    async def stop(self) -> None:
        """Answer what was asked, then stop."""
        self.drain()
        if self._loading is not None:
            self._loading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loading
        await self.batcher.close()

    async def answer(self, question: Question, request: Request) -> list[Answer]:
        """Return the answers to a request's texts, computed with those of others.

        Raises:
            ApiError: If the queue is full, the server is stopping or the answer takes too long.
            asyncio.CancelledError: If the client has gone.
        """
        try:
            future = self.batcher.submit(question.examples)
        except QueueFull as error:
            raise self._come_back(error.seconds) from None
        except Closed:
            raise unavailable("draining", "the server is stopping") from None
        deadline = time.monotonic() + self.options.request_timeout
        try:
            done, _ = await asyncio.wait({future}, timeout=PATIENCE)
            if not done:
                await _wait_or_leave(future, request, deadline - time.monotonic())
            answers = future.result()
        except TimeoutError:
            seconds = self.options.request_timeout
            raise unavailable("timeout", f"no answer within {seconds:g} seconds") from None
        except DataError as error:
            raise ApiError(422, "invalid_text", error.message) from error
        finally:
            future.cancel()
        self.telemetry.texts.inc(len(answers))
        self.telemetry.truncated.inc(sum(cut for _, cut in answers))
        return answers

    def _come_back(self, seconds: float) -> ApiError:
        after = max(1, round(seconds))
        return ApiError(
            429, "queue_full", f"too many texts are waiting; try again in {after} s",
            allowed={"max_queue": self.options.max_queue, "retry_after": after},
            headers={"Retry-After": str(after)},
        )  # fmt: skip

    async def _get_ready(self) -> None:
        try:
            self._pipeline = await asyncio.to_thread(self._load)
            names = {field.name for field in self.pipeline.task.fields if not field.target}
            self.limits = Limits(self.options, pair="text_b" in names)
            if self.pipeline.model.row_wise:
                self.batcher.max_wait = 0.0
            await asyncio.to_thread(self._warm_up)
        except Exception as error:
            self.error, self.state = error, "failed"
            self.on_failure()
            return
        # What is loaded stays: the collector need not walk it in the middle of a request.
        gc.collect()
        gc.freeze()
        if self.state == "loading":
            self.state = "ready"

    def _load_run(self) -> Pipeline:
        options = self.options
        pipeline = Pipeline.load(options.run, options.backend, options.threads)
        names = {field.name for field in pipeline.task.fields if not field.target}
        if not names <= {"text", "text_b"}:
            raise ModelError(f"{pipeline.task.name} takes {', '.join(names)}: not to be served")
        return pipeline

    def _warm_up(self) -> None:
        """Answer made-up texts, so that the first client does not wait for what is lazy."""
        names = [field.name for field in self.pipeline.task.fields if not field.target]
        for text in ("热", "预热" * 20):
            (result,) = self._compute([dict.fromkeys(names, text)])
            if isinstance(result, Exception):
                raise result

    def _compute(self, examples: list[Example]) -> Sequence[Answer | Exception]:
        """Answer a batch; an example that fails fails alone. Runs in the inference thread."""
        pipeline = self.pipeline
        try:
            features = pipeline.encode(examples)
            predictions = pipeline.infer(features, examples, self.options.max_batch)
        except Exception as error:
            if len(examples) == 1:
                return [error]
            return [self._compute([example])[0] for example in examples]
        cut = (bool(item.get("truncated")) for item in features)
        return list(zip(predictions, cut, strict=True))


def unavailable(code: str, message: str) -> ApiError:
    """Return the error of a server that cannot answer now."""
    return ApiError(503, code, message, headers={"Retry-After": "1"})


async def _wait_or_leave(future: asyncio.Future[Any], request: Request, seconds: float) -> None:
    """Wait for an answer, no longer than its client does.

    Raises:
        TimeoutError: After `seconds`.
        asyncio.CancelledError: If the client leaves first.
    """
    leaving = asyncio.ensure_future(_left(request))
    try:
        async with asyncio.timeout(seconds):
            await asyncio.wait({future, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
    if not future.done():
        future.cancel()


async def _left(request: Request) -> None:
    """Return when the client of a request whose body is read has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
