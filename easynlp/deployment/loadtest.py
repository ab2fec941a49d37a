"""How many texts a second a server answers, how fast, and whether it loses any.

Clients talk plain HTTP over kept connections, one request at a time each; every request sent
is accounted for: answered, refused (429), failed, or lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import numpy as np

from easynlp.deployment.texts import read_texts, recorded_examples
from easynlp.errors import ConfigError, RunError
from easynlp.pipeline import Pipeline
from easynlp.tasks.base import Example, Field

__all__ = ["Round", "loadtest"]

PATIENCE = 30.0
"""Seconds until a server must be ready, a request counts as lost, or a server must have ended."""
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
        return _rounds(host, port, _requests(questions, host, key), clients, seconds)
    pipeline = Pipeline.load(target)
    names = [each.name for each in pipeline.task.fields if not each.target]
    if texts is not None:
        questions = read_texts(str(texts), pipeline.task.fields)
    else:
        questions = recorded_examples(target, pipeline.task) or _made_up(pair="text_b" in names)
    with _served(Path(target)) as port:
        requests = _requests(questions, "127.0.0.1", key)
        return _rounds("127.0.0.1", port, requests, clients, seconds)


def _rounds(
    host: str, port: int, requests: Sequence[bytes], clients: Sequence[int], seconds: float
) -> list[Round]:
    found = []
    asyncio.run(_round(host, port, requests, 1, WARM_UP))
    for number in clients:
        result = asyncio.run(_round(host, port, requests, number, seconds))
        log.info(
            "%d clients: %.0f texts/s, p50 %.1f ms, p99 %.1f ms, %d refused, %d errors, %d lost",
            number, result.texts_per_second, result.p50_ms, result.p99_ms, result.refused,
            result.errors, result.lost,
        )  # fmt: skip
        found.append(result)
    return found


async def _round(
    host: str, port: int, requests: Sequence[bytes], clients: int, seconds: float
) -> Round:
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
                status, _ = await _ask(*streams, next(source))
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


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bytes]:
    """Send a request over a kept connection; return status and body of the answer."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    length = next(
        int(line.partition(b":")[2]) for line in lines if line.lower().startswith(b"content-length")
    )
    return int(lines[0].split(b" ")[1]), await reader.readexactly(length)


def _requests(questions: Sequence[Example], host: str, key: str | None) -> list[bytes]:
    return [_request("POST /predict", host, key, dict(example)) for example in questions]


def _request(what: str, host: str, key: str | None, body: Any = None) -> bytes:
    content = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
    head = [f"{what} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(content)}"]
    if content:
        head.append("Content-Type: application/json")
    if key is not None:
        head.append(f"Authorization: Bearer {key}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


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
            status, body = await _ask(reader, writer, _request("GET /", host, key))
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


@contextlib.contextmanager
def _served(run: Path) -> Iterator[int]:
    """Serve a run in a process of its own; give its port, and end it well.

    Raises:
        RunError: If it does not get ready, or does not end with exit code 0.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "easynlp", "serve", str(run), "--port", str(port)]
    with tempfile.TemporaryFile() as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            _wait_until_ready(port, server, output)
            yield port
            server.send_signal(signal.SIGTERM)
            code = server.wait(PATIENCE)
            if code:
                raise RunError(f"the server ended with exit code {code}:\n{_tail(output)}")
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()


def _wait_until_ready(port: int, server: subprocess.Popen[bytes], output: IO[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        with contextlib.suppress(RunError):
            asyncio.run(_ready(port))
            return
        time.sleep(0.05)
    raise RunError(f"the server did not get ready:\n{_tail(output)}")


async def _ready(port: int) -> None:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        status, _ = await _ask(reader, writer, _request("GET /readyz", "127.0.0.1", None))
        writer.close()
    except (OSError, EOFError, ValueError) as error:
        raise RunError(str(error)) from error
    if status != 200:
        raise RunError(f"not ready: {status}")


def _tail(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read().decode(errors="replace")[-2000:]
