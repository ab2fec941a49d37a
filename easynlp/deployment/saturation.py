"""What the server's batches are worth at saturation, what overload does, how slow half the load is.

The peer is this very server with a request, a run of the model, one after another. A second peer
does the same on all cores, a request each: what is left of the gain over it is what batching alone
is worth. All are served at the same time by a process each and asked in turns, so that what
disturbs the machine disturbs all. Clients share the machine with the servers, which costs the
fastest most.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from easynlp.deployment.loadtest import WARM_UP, ask_for_a_while, questions_for
from easynlp.deployment.wire import PATIENCE, ask, ask_whole, requests_of, served
from easynlp.errors import ConfigError, RunError
from easynlp.pipeline import Backend

__all__ = ["Overload", "Saturation", "overload", "saturate"]

HOST = "127.0.0.1"
REPEATS = 3
QUEUE = 64
"""Texts that may wait at the server that is overloaded."""


@dataclass(frozen=True)
class Overload:
    """What became of every request sent to a server with a short queue and far too many clients.

    Attributes:
        clients: How many asked at the same time.
        sent: Requests sent, each with a number of its own.
        answered: Answered with 200.
        refused: Answered with 429 and told when to come back.
        failed: Answered with anything else, or with another request's number.
        unanswered: Not answered.
        surplus: Connections that held more than was asked for.
    """

    clients: int
    sent: int
    answered: int
    refused: int
    failed: int
    unanswered: int
    surplus: int


@dataclass(frozen=True)
class Saturation:
    """How a server does when it is asked as much as it can answer.

    Attributes:
        backend: What computes.
        clients: Clients asking at the same time, one request of one text at a time each.
        batched: Texts a second of each round, with micro-batching.
        single: The same of a request, a run, one after another.
        spread: The same of a request, a run, as many at a time as `batched` has batches.
        ratio: Median over rounds of `batched` by `single`; `lowest` and `highest` of the rounds.
        spread_ratio: Median over rounds of `batched` by `spread`.
        lost: Requests of these rounds that were not answered with 200.
        idle_p50_ms: Median time of a lone client's requests.
        idle_p99_ms: The slowest of a hundred of them; texts differ in length.
        half_rate: Requests a second sent at half load, at times drawn by chance.
        half_p50_ms: Median time at half load, from when a request was due.
        half_p99_ms: The slowest of a hundred.
        overload: See `Overload`.
    """

    backend: str
    clients: int
    batched: list[float]
    single: list[float]
    spread: list[float]
    ratio: float
    lowest: float
    highest: float
    spread_ratio: float
    lost: int
    idle_p50_ms: float
    idle_p99_ms: float
    half_rate: float
    half_p50_ms: float
    half_p99_ms: float
    overload: Overload

    @property
    def wrong(self) -> int:
        """Return how many requests did not get exactly one answer of their own."""
        shed = self.overload
        return self.lost + shed.failed + shed.unanswered + shed.surplus

    def lines(self) -> list[str]:
        """Return the findings for people."""
        shed = self.overload
        return [
            f"{self.clients} clients, one text a request, {self.backend}:",
            f"  micro-batching       {statistics.median(self.batched):8,.0f} texts/s",
            f"  one request, one run {statistics.median(self.single):8,.0f} texts/s",
            f"  ratio                {self.ratio:8.2f} ({self.lowest:.2f}-{self.highest:.2f})",
            f"  the same, all cores  {statistics.median(self.spread):8,.0f} texts/s",
            f"  ratio                {self.spread_ratio:8.2f}",
            f"half load ({self.half_rate:,.0f} requests/s): p50 {self.half_p50_ms:.2f} ms, "
            f"p99 {self.half_p99_ms:.2f} ms = {self.half_p99_ms / self.idle_p50_ms:.1f} x the idle "
            f"p50 of {self.idle_p50_ms:.2f} ms (idle p99 {self.idle_p99_ms:.2f} ms)",
            f"overload ({shed.clients} clients, {QUEUE} may wait): {shed.sent} sent, "
            f"{shed.answered} answered, {shed.refused} refused with 429, {shed.failed} failed, "
            f"{shed.unanswered} without an answer, {shed.surplus} with more than one",
        ]


def saturate(
    run: str | Path,
    *,
    clients: int = 64,
    seconds: float = 5.0,
    texts: str | Path | None = None,
    backend: Backend = "auto",
    repeats: int = REPEATS,
) -> Saturation:
    """Measure a run's server at saturation, at half load and under overload; see the module.

    Args:
        run: Run folder; it is served by processes of this function's own.
        clients: Clients asking at the same time.
        seconds: Length of a round.
        texts: File of texts; by default those of the run's data, or made-up ones.
        backend: What computes.
        repeats: Rounds of each side.

    Raises:
        ConfigError: If a URL is given: a server of unknown options has no peer.
        RunError: If a server does not get ready, or answers nothing.

    Example:
        >>> saturate("runs/x", backend="onnx").ratio                    # doctest: +SKIP
        2.1
    """
    if str(run).startswith(("http://", "https://")):
        raise ConfigError("--peer compares two servers of a run: name the run folder, not a URL")
    requests = requests_of(questions_for(run, texts), HOST, None)
    flags = ("--backend", backend, "--api-key-env", "EASYNLP_NO_KEY")
    alone = ("--max-batch", "1", "--max-wait", "0")
    found: dict[int, list[float]] = {}
    lost = 0
    with (
        served(Path(run), *flags) as ours,
        served(Path(run), *flags, *alone, "--workers", "1") as peer,
        served(Path(run), *flags, *alone) as wide,
    ):
        ports = (ours, peer, wide)
        for port in ports:
            asyncio.run(ask_for_a_while(HOST, port, requests, clients, WARM_UP))
        for number in range(repeats):
            for port in ports if number % 2 == 0 else ports[::-1]:
                result = asyncio.run(ask_for_a_while(HOST, port, requests, clients, seconds))
                found.setdefault(port, []).append(result.texts_per_second)
                lost += result.lost + result.errors
        batched, single, spread = (found[port] for port in ports)
        if not all((*batched, *single, *spread)):
            raise RunError("a server answered nothing")
        idle = asyncio.run(ask_for_a_while(HOST, ours, requests, 1, seconds))
        rate = statistics.median(batched) / 2
        times = np.array(asyncio.run(_open_loop(ours, requests, rate, seconds))) * 1000
    short = (*flags, "--max-queue", str(QUEUE), "--max-texts", "8")
    with served(Path(run), *short) as port:
        shed = asyncio.run(overload(port, requests, 4 * QUEUE, min(seconds, 3.0)))
    ratios = [a / b for a, b in zip(batched, single, strict=True)]
    wider = statistics.median(a / b for a, b in zip(batched, spread, strict=True))
    return Saturation(
        backend=str(backend), clients=clients, batched=batched, single=single, spread=spread,
        ratio=statistics.median(ratios), lowest=min(ratios), highest=max(ratios),
        spread_ratio=wider, lost=lost,
        idle_p50_ms=idle.p50_ms, idle_p99_ms=idle.p99_ms, half_rate=rate,
        half_p50_ms=round(float(np.percentile(times, 50)), 2),
        half_p99_ms=round(float(np.percentile(times, 99)), 2), overload=shed,
    )  # fmt: skip


async def overload(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Overload:
    """Ask from many clients without a pause, each request with its number; count what came back.

    Args:
        port: Of a server on this machine.
        requests: What to ask.
        clients: How many ask at the same time; more than the server lets wait.
        seconds: How long.
    """
    numbers = itertools.count()
    found = dict.fromkeys(("sent", "answered", "refused", "failed", "unanswered", "surplus"), 0)
    connections = [await asyncio.open_connection(HOST, port) for _ in range(clients)]
    end = time.perf_counter() + seconds

    async def client(start: int) -> None:
        source = itertools.cycle(requests[start % len(requests) :])
        reader, writer = connections[start]
        while time.perf_counter() < end:
            name = b"n-%d" % next(numbers)
            first, rest = next(source).split(b"\r\n", 1)
            found["sent"] += 1
            try:
                async with asyncio.timeout(PATIENCE):
                    status, headers, _ = await ask_whole(
                        reader, writer, b"%b\r\nX-Request-Id: %b\r\n%b" % (first, name, rest)
                    )
            except (OSError, EOFError, ValueError, KeyError, TimeoutError):
                found["unanswered"] += 1
                writer.close()
                reader, writer = await asyncio.open_connection(HOST, port)
                continue
            mine = headers.get(b"x-request-id") == name
            later = status == 429 and headers.get(b"retry-after", b"").isdigit()
            kind = "answered" if status == 200 else "refused" if later else "failed"
            found[kind if mine else "failed"] += 1
        try:
            async with asyncio.timeout(0.2):  # nothing more may come
                found["surplus"] += bool(await reader.read(1))
        except TimeoutError:
            pass
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return Overload(clients=clients, **found)


async def _open_loop(
    port: int, requests: Sequence[bytes], rate: float, seconds: float
) -> list[float]:
    """Send requests at times drawn by chance, whether or not others are answered; return seconds.

    Time counts from when a request was due, so that a stall is seen by all that it delays.

    Raises:
        RunError: If a request is not answered, or with anything but 200.
    """
    draw, source = random.Random(0), itertools.cycle(requests)
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    times: list[float] = []

    async def one(due: float, request: bytes) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                streams = idle.pop() if idle else await asyncio.open_connection(HOST, port)
                status, _ = await ask(*streams, request)
        except (OSError, EOFError, ValueError, KeyError, TimeoutError) as error:
            raise RunError(f"at half load a request was not answered: {error!r}") from error
        if status != 200:
            raise RunError(f"at half load a request was answered with {status}")
        times.append(time.perf_counter() - due)
        idle.append(streams)

    arrivals: asyncio.Queue[float | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def pace() -> None:
        """Say when a request is due; the event loop's own timers are late by up to 1 ms."""
        due = time.perf_counter()
        end = due + seconds
        while (due := due + draw.expovariate(rate)) < end:
            time.sleep(max(0.0, due - time.perf_counter()))
            loop.call_soon_threadsafe(arrivals.put_nowait, due)
        loop.call_soon_threadsafe(arrivals.put_nowait, None)

    pacing = asyncio.create_task(asyncio.to_thread(pace))
    try:
        async with asyncio.TaskGroup() as group:
            while (due := await arrivals.get()) is not None:
                group.create_task(one(due, next(source)))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    await pacing
    for _, writer in idle:
        writer.close()
    return times or [0.0]
