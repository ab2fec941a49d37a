"""The model behind the routes: loading, answering, draining."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import Request

from easynlp.calibration import withhold
from easynlp.deployment.batching import Batcher, Closed, QueueFull
from easynlp.deployment.protocol import ApiError, Limits, Question
from easynlp.deployment.settings import ServeOptions
from easynlp.deployment.telemetry import Telemetry
from easynlp.errors import ConfigError, DataError, ModelError
from easynlp.pipeline import Pipeline
from easynlp.tasks.base import Example, Prediction

__all__ = ["Answer", "Service", "cores", "resident_bytes", "unavailable"]

PATIENCE = 0.05
"""Seconds an answer may take before its client is watched for leaving."""

Answer = tuple[Prediction, bool]
"""A prediction, and whether the text was cut."""


class Service:
    """One model, ready or not, with its queue.

    Args:
        options: How to batch, and the limits of requests.
        name: What it is called.
        folder: Its run folder.
        telemetry: Where its texts and batches are counted.
        load: Makes the pipeline; by default from the run folder.
    """

    def __init__(
        self,
        options: ServeOptions,
        name: str,
        folder: str,
        telemetry: Telemetry,
        load: Callable[[], Pipeline] | None = None,
    ) -> None:
        self.options, self.name, self.folder = options, name, folder
        self.telemetry = telemetry.of(name)
        self.state = "loading"
        self.error: Exception | None = None
        self.memory: int | None = None
        """Bytes the process grew by while loading it; None where the system does not say."""
        self._load = load or self._load_run
        self._encoding = threading.Lock()  # tokenizers are not made for several threads
        self._pipeline: Pipeline | None = None
        self.limits = Limits(options, pair=False)
        self.batcher: Batcher[Example, Answer] = Batcher(
            self._compute,
            length=lambda example: sum(map(len, example.values())),
            max_batch=options.max_batch,
            max_wait=options.max_wait,
            max_queue=options.max_queue,
            observe=self.telemetry.batch,
        )
        self.telemetry.queue.set_function(lambda: self.batcher.depth)

    @property
    def pipeline(self) -> Pipeline:
        """Return the pipeline once it is loaded."""
        assert self._pipeline is not None
        return self._pipeline

    def drain(self) -> None:
        """Say that this server is about to stop; requests are still answered."""
        self.state = "draining"

    async def answer(self, question: Question, request: Request) -> list[Answer]:
        """Return the answers to a request's texts, computed with those of others.

        Raises:
            ApiError: If the queue is full, the server is stopping or the answer takes too long.
            asyncio.CancelledError: If the client has gone.
        """
        least = self._least(question)
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
        if least is None:
            return answers
        answers = [(withhold(said, least), cut) for said, cut in answers]
        self.telemetry.abstained.inc(sum(said["label"] is None for said, _ in answers))
        return answers

    def _least(self, question: Question) -> float | None:
        """Return the score below which no label is given.

        Raises:
            ApiError: If the model gives no single label, or was not calibrated to abstain.
        """
        threshold = question.threshold
        abstain = question.abstain or (self.options.abstain and threshold is None)
        if threshold is None and not abstain:
            return None
        try:
            return self.pipeline.least_score(threshold, abstain)
        except ConfigError as error:
            raise ApiError(422, "cannot_abstain", str(error)) from None

    def _come_back(self, seconds: float) -> ApiError:
        after = max(1, round(seconds))
        return ApiError(
            429, "queue_full", f"too many texts are waiting; try again in {after} s",
            allowed={"max_queue": self.options.max_queue, "retry_after": after},
            headers={"Retry-After": str(after)},
        )  # fmt: skip

    async def load(self) -> None:
        """Load and warm up; `state` and `error` say how that ended."""
        before = resident_bytes()
        try:
            self._pipeline = await asyncio.to_thread(self._load)
            names = {field.name for field in self.pipeline.task.fields if not field.target}
            self.limits = Limits(self.options, pair="text_b" in names)
            if self.options.abstain:  # that it cannot is told now, not at each request
                self.pipeline.least_score(abstain=True)
            if self.pipeline.model.row_wise:
                self.batcher.max_wait = 0.0
            await asyncio.to_thread(self._warm_up)
            self.batcher.grow(self.options.workers or self._cores())
        except Exception as error:
            self.error, self.state = error, "failed"
            return
        after = resident_bytes()
        self.memory = None if before is None or after is None else max(0, after - before)
        if self.state == "loading":
            self.state = "ready"

    def _load_run(self) -> Pipeline:
        options = self.options
        pipeline = Pipeline.load(self.folder, options.backend, options.threads)
        names = {field.name for field in pipeline.task.fields if not field.target}
        if not names <= {"text", "text_b"}:
            raise ModelError(f"{pipeline.task.name} takes {', '.join(names)}: not to be served")
        return pipeline

    def _cores(self) -> int:
        """Return how many calls of an exported model the cores have room for; of others one."""
        if not self.pipeline.model.backend.startswith("onnx"):
            return 1
        return max(1, cores() // self.options.threads)

    def _warm_up(self) -> None:
        """Answer made-up texts, so that the first client does not wait for what is lazy."""
        names = [field.name for field in self.pipeline.task.fields if not field.target]
        for text in ("热", "预热" * 20):
            (result,) = self._compute([dict.fromkeys(names, text)])
            if isinstance(result, Exception):
                raise result

    def _compute(self, examples: list[Example]) -> Sequence[Answer | Exception]:
        """Answer a batch; an example that fails fails alone. Runs in a thread for inference."""
        pipeline = self.pipeline
        try:
            with self._encoding:
                features = pipeline.encode(examples)
            predictions = pipeline.infer(features, examples, self.options.max_batch)
        except Exception as error:
            if len(examples) == 1:
                return [error]
            return [self._compute([example])[0] for example in examples]
        cut = (bool(item.get("truncated")) for item in features)
        return list(zip(predictions, cut, strict=True))


def cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return how many cores this process may keep busy: its affinity, and a container's quota.

    Args:
        quota: Where the system says it: microseconds a period, and the period's.
    """
    known = hasattr(os, "sched_getaffinity")  # not on every system
    found = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    try:
        share, period = quota.read_text(encoding="ascii").split()[:2]
        return max(1, min(found, int(share) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # none, "max", or not Linux
        return found


def resident_bytes() -> int | None:
    """Return the memory of this process; None where the system does not say (not Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * resource.getpagesize()


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
