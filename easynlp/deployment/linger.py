"""What happens to a body nobody wants: the answer goes out, and the client may finish sending.

A server that answers before it has read the whole body and then closes makes the client's system
throw the answer away: most clients send all they have before they listen, and find a broken
pipe in place of "413, at most so many bytes".
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["MOST", "SECONDS", "Linger"]

MOST = 256 << 20
"""Bytes of a refused body that are read and thrown away, at most."""
SECONDS = 30.0
"""Time for it, at most."""


class Linger:
    """Reads on after an answer that came before the end of the request's body, then closes.

    The answer is sent at once, for clients that listen while they send; what goes on arriving is
    read up to `MOST` bytes and `SECONDS`, and nothing of it is kept.

    Args:
        app: The application behind.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

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
            if message["type"] == "http.response.start" and arriving:
                early = True
                kept = [pair for pair in message.get("headers", []) if pair[0] != b"connection"]
                message = {**message, "headers": [*kept, (b"connection", b"close")]}
            elif early and not message.get("more_body", False):
                held, message = True, {**message, "more_body": True}
            await send(message)

        await self.app(scope, hear, say)
        if not held:
            return
        left = MOST
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SECONDS):
                while arriving and left > 0:
                    left -= len((await hear()).get("body", b""))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )
