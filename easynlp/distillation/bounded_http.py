"""HTTP requests whose timeout is of the whole request, from connecting to the last byte.

The standard library's timeout is of each read: who sends a byte now and then is never late. Only
the look-up of the host's name is not bounded.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
import urllib.request
from typing import Any

__all__ = ["opener"]


def opener() -> urllib.request.OpenerDirector:
    """Return what opens addresses in bounded time and follows no redirect.

    Example:
        >>> opener().open("http://127.0.0.1:8000", timeout=5).status     # doctest: +SKIP
        200
    """
    return urllib.request.build_opener(_NoRedirect, _HTTP, _HTTPS)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another place."""

    def redirect_request(self, *args: Any) -> None:
        return None


class _Timed(io.RawIOBase):
    """Reads a socket until a deadline.

    A socket's own timeout is of each read: who sends a byte now and then is never late.
    """

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self._sock, self._ends = sock, time.monotonic() + seconds
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("the reply took too long")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """A response whose status, headers and body together come before the socket's timeout."""

    def __init__(self, sock: socket.socket, *args: Any, **named: Any) -> None:
        super().__init__(sock, *args, **named)
        self.fp.close()
        self.fp = io.BufferedReader(_Timed(sock, sock.gettimeout() or 0.0))


class _Bounded(http.client.HTTPConnection):
    """A connection whose timeout is of the whole request, from connecting to the last byte."""

    response_class = _Response

    def connect(self) -> None:
        self._ends = time.monotonic() + (self.timeout or 0.0)
        super().connect()

    def getresponse(self) -> http.client.HTTPResponse:
        self.sock.settimeout(max(1e-3, self._ends - time.monotonic()))
        return super().getresponse()


class _BoundedTLS(_Bounded, http.client.HTTPSConnection):
    """The same, encrypted."""


class _HTTP(urllib.request.HTTPHandler):
    def do_open(self, http_class: Any, req: urllib.request.Request, **named: Any) -> Any:
        return super().do_open(_Bounded, req, **named)


class _HTTPS(urllib.request.HTTPSHandler):
    def do_open(self, http_class: Any, req: urllib.request.Request, **named: Any) -> Any:
        return super().do_open(_BoundedTLS, req, **named)
