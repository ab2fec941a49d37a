"""Plain HTTP over kept connections, and a server in a process of its own: what load tests need."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from easynlp.errors import RunError
from easynlp.tasks.base import Example

__all__ = ["PATIENCE", "ask", "ask_whole", "request_bytes", "requests_of", "served"]

PATIENCE = 30.0
"""Seconds until a server must be ready, a request counts as lost, or a server must have ended."""


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bytes]:
    """Send a request over a kept connection; return status and body of the answer."""
    status, _, body = await ask_whole(reader, writer, request)
    return status, body


async def ask_whole(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Do as `ask`; return also the headers, their names in lower case."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    pairs = (line.partition(b":") for line in lines[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers[b"content-length"]))
    return int(lines[0].split(b" ")[1]), headers, body


def requests_of(questions: Sequence[Example], host: str, key: str | None) -> list[bytes]:
    """Return the requests to ``/predict`` that ask some questions, one each."""
    return [request_bytes("POST /predict", host, key, dict(example)) for example in questions]


def request_bytes(what: str, host: str, key: str | None, body: Any = None) -> bytes:
    """Return a request as it goes over the wire."""
    content = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
    head = [f"{what} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(content)}"]
    if content:
        head.append("Content-Type: application/json")
    if key is not None:
        head.append(f"Authorization: Bearer {key}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


@contextlib.contextmanager
def served(run: Path, *flags: str) -> Iterator[int]:
    """Serve a run in a process of its own; give its port, and end it well.

    Args:
        run: The run folder.
        *flags: More of what ``easynlp serve`` takes.

    Raises:
        RunError: If it does not get ready, or does not end with exit code 0.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "easynlp", "serve", str(run), "--port", str(port), *flags]
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
        status, _ = await ask(reader, writer, request_bytes("GET /readyz", "127.0.0.1", None))
        writer.close()
    except (OSError, EOFError, ValueError) as error:
        raise RunError(str(error)) from error
    if status != 200:
        raise RunError(f"not ready: {status}")


def _tail(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read().decode(errors="replace")[-2000:]
