"""What happens to a body that is too large: the answer goes out, and the client may finish sending.

A server that answers before it has read the whole body and then closes makes the client's system
throw the answer away: most clients send all they have before they listen, and find a broken
pipe in place of "413, at most so many bytes".
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import ClassVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["AT_ONCE", "MOST", "SECONDS", "STATUSES", "TIMES", "Linger"]

STATUSES = frozenset({413, 415})
"""Answers that are waited with: the body is what they refuse, so it is on its way. Any other goes
out as it is; who has no key, or asks a server that is stopping, shall not hold it up."""
TIMES = 8
"""Bytes of a refused body that are read and thrown away, in bodies of the largest allowed size."""
MOST = 64 << 20
"""The same in bytes, where no largest size is known."""
SECONDS = 5.0
"""Time for it, at most."""
AT_ONCE = 16
"""Connections of this process that are read on at the same time; those beyond close at once."""


class Linger:
    """Reads on after an answer that came before the end of the request's body, then closes.

    The answer is sent at once, for clients that listen while they send; what goes on arriving is
    read for `SECONDS` and up to `TIMES` the largest body, and nothing of it is kept.

    Args:
        app: The application behind.
        max_body: Bytes of the largest body it takes; None if that is not known.
    """

    lingering: ClassVar[int] = 0
    """How many connections of this process are being read on."""

    def __init__(self, app: ASGIApp, max_body: int | None = None) -> None:
        self.app, self.max_body = app, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or not _has_body(scope):
            await self.app(scope, receive, send)
            return
        arriving, early, held = True, False, False

        async def hear() -> Message:
            nonlocal arriving
            message = await receive()
            arriving = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def say(message: Message) -> None:
            nonlocal early, held
            if message["type"] == "http.response.start":
                if arriving and message["status"] in STATUSES:
                    early = True
                    kept = [pair for pair in message.get("headers", []) if pair[0] != b"connection"]
                    message = {**message, "headers": [*kept, (b"connection", b"close")]}
            elif early and not message.get("more_body", False) and Linger.lingering < AT_ONCE:
                Linger.lingering += 1
                held, message = True, {**message, "more_body": True}
            await send(message)

        try:
            await self.app(scope, hear, say)
            if not held:
                return
            left = MOST if self.max_body is None else TIMES * self.max_body
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SECONDS):
                    while arriving and left > 0:
                        left -= len((await hear()).get("body", b""))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            Linger.lingering -= held


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )
