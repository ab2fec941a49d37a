"""How many texts a second a server answers, how fast, and whether it loses any.

Clients talk plain HTTP over kept connections, one request at a time each; every request sent
is accounted for: answered, refused (429), failed, or lost.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import json
import logging
import os
import random
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from easynlp.deployment.texts import read_texts, recorded_examples
from easynlp.deployment.wire import PATIENCE, ask, request_bytes, requests_of, served
from easynlp.errors import ConfigError, RunError
from easynlp.pipeline import Pipeline
from easynlp.tasks.base import Example, Field

__all__ = ["Round", "ask_for_a_while", "loadtest", "questions_for"]

WARM_UP = 0.3
"""Seconds of asking that are not counted."""

log = logging.getLogger("easynlp")


@dataclass(frozen=True)
class Round:
    """What so many clients saw.

    Attributes:
        clients: Clients asking at the same time.
        requests: Requests sent.
        refused: Answered with 429, to come back later.
        errors: Answered with any other status than 200.
        lost: Never answered.
        p50_ms: Median time from question to answer, of those answered with 200.
        p99_ms: Of a hundred such answers the slowest took this long.
        texts_per_second: Texts answered in a second.
        seconds: Length of the round.
    """

    clients: int
    requests: int
    refused: int
    errors: int
    lost: int
    p50_ms: float
    p99_ms: float
    texts_per_second: float
    seconds: float


@dataclass
class _Tally:
    times: list[float] = field(default_factory=list)
    refused: int = 0
    errors: int = 0
    lost: int = 0


def loadtest(
    target: str | Path,
    *,
    clients: Sequence[int] = (1, 8, 64),
    seconds: float = 5.0,
    texts: str | Path | None = None,
    remote: bool = False,
    api_key_env: str = "EASYNLP_API_KEY",
) -> list[Round]:
    """Ask a server as fast as it answers, with ever more clients.

    Args:
        target: A run folder, which is served for the test by a process of its own, or the URL
            of a server.
        clients: Clients asking at the same time, one round after another.
        seconds: Length of a round.
        texts: File of texts; by default those of the run's data, or made-up ones.
        remote: Allow a server that is not on this machine.
        api_key_env: Environment variable that holds the API key to send.

    Returns:
        One round for each number of clients.

    Raises:
        ConfigError: If the target is no run and no URL of a server on this machine.
        RunError: If the server does not get ready.

    Example:
        >>> [r.p99_ms for r in loadtest("runs/x", seconds=2)]           # doctest: +SKIP
        [1.9, 6.4, 49.0]
    """
    key = os.environ.get(api_key_env)
    url = str(target)
    if url.startswith(("http://", "https://")):
        host, port = _address(url, remote=remote)
        pair = "text_b" in asyncio.run(_inputs(host, port, key))
        questions = _made_up(pair=pair) if texts is None else _from_file(str(texts), pair=pair)
        return _rounds(host, port, requests_of(questions, host, key), clients, seconds)
    questions = questions_for(target, texts)
    with served(Path(target)) as port:
        requests = requests_of(questions, "127.0.0.1", key)
        return _rounds("127.0.0.1", port, requests, clients, seconds)


def questions_for(run: str | Path, texts: str | Path | None = None) -> list[Example]:
    """Return what to ask a run: texts of a file, of its own data, or made-up ones."""
    pipeline = Pipeline.load(run)
    names = [each.name for each in pipeline.task.fields if not each.target]
    if texts is not None:
        return read_texts(str(texts), pipeline.task.fields)
    return recorded_examples(run, pipeline.task) or _made_up(pair="text_b" in names)


def _rounds(
    host: str, port: int, requests: Sequence[bytes], clients: Sequence[int], seconds: float
) -> list[Round]:
    found = []
    asyncio.run(ask_for_a_while(host, port, requests, 1, WARM_UP))
    for number in clients:
        result = asyncio.run(ask_for_a_while(host, port, requests, number, seconds))
        log.info(
            "%d clients: %.0f texts/s, p50 %.1f ms, p99 %.1f ms, %d refused, %d errors, %d lost",
            number, result.texts_per_second, result.p50_ms, result.p99_ms, result.refused,
            result.errors, result.lost,
        )  # fmt: skip
        found.append(result)
    return found


async def ask_for_a_while(
    host: str, port: int, requests: Sequence[bytes], clients: int, seconds: float
) -> Round:
    """Let clients ask a server, one request at a time each; return what they saw."""
    tally = _Tally()
    started = time.perf_counter()
    await asyncio.gather(
        *(
            _client(host, port, requests[i % len(requests) :], started + seconds, tally)
            for i in range(clients)
        )
    )
    took = time.perf_counter() - started
    times = np.asarray(tally.times or [0.0]) * 1000
    answered = len(tally.times)
    return Round(
        clients=clients,
        requests=answered + tally.refused + tally.errors + tally.lost,
        refused=tally.refused,
        errors=tally.errors,
        lost=tally.lost,
        p50_ms=round(float(np.percentile(times, 50)), 2),
        p99_ms=round(float(np.percentile(times, 99)), 2),
        texts_per_second=round(answered / took, 1),
        seconds=round(took, 2),
    )


async def _client(
    host: str, port: int, requests: Sequence[bytes], end: float, tally: _Tally
) -> None:
    """Ask one question after another until `end`; the last one begun is waited for."""
    source = itertools.cycle(requests)
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while (started := time.perf_counter()) < end:
        try:
            async with asyncio.timeout(PATIENCE):
                if streams is None:
                    streams = await asyncio.open_connection(host, port)
                status, _ = await ask(*streams, next(source))
        except (OSError, EOFError, ValueError, TimeoutError):
            tally.lost += 1
            if streams is not None:
                streams[1].close()
                streams = None
            await asyncio.sleep(0.05)
            continue
        if status == 200:
            tally.times.append(time.perf_counter() - started)
        elif status == 429:
            tally.refused += 1
            await asyncio.sleep(0.05)
        else:
            tally.errors += 1
    if streams is not None:
        streams[1].close()


def _address(url: str, *, remote: bool) -> tuple[str, int]:
    """Return host and port of a URL.

    Raises:
        ConfigError: If it cannot be used, or is not on this machine and `remote` is not set.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
        raise ConfigError(f"{url} is not like http://127.0.0.1:8000")
    try:
        port = parts.port or 80
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{url} cannot be used: {error}") from error
    here = all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)
    if not here and not remote:
        raise ConfigError(
            f"{url} is not on this machine. A load test of somebody else's server is an attack; "
            "if it is yours, type --remote"
        )
    return parts.hostname, port


async def _inputs(host: str, port: int, key: str | None) -> list[str]:
    """Return the names of the texts a server takes.

    Raises:
        RunError: If nobody answers as an easynlp server does.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(host, port)
            status, body = await ask(reader, writer, request_bytes("GET /", host, key))
            writer.close()
        if status != 200:
            raise RunError(f"http://{host}:{port}/ answers {status}: {body[:200].decode()}")
        return list(json.loads(body)["inputs"])
    except (OSError, EOFError, ValueError, KeyError, TimeoutError) as error:
        raise RunError(f"no easynlp server is ready at http://{host}:{port}: {error}") from error


def _from_file(path: str, *, pair: bool) -> list[Example]:
    text = Field("text", ("text", "sentence", "content", "review", "sentence1", "文本"))
    other = Field("text_b", ("text_b", "sentence2", "text2"))
    return read_texts(path, (text, other) if pair else (text,))


def _made_up(*, pair: bool) -> list[Example]:
    """Return texts of common characters, most of them short."""
    log.info("asking about made-up texts; name real ones with --texts")
    draw = random.Random(0)
    common = (
        "的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学"
    )

    def text() -> str:
        return "".join(draw.choices(common, k=min(120, 5 + int(draw.expovariate(1 / 20)))))

    return [{"text": text(), "text_b": text()} if pair else {"text": text()} for _ in range(200)]
