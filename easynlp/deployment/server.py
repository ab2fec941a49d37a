"""``easynlp serve``: runs over HTTP, from the first request to the last."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.types import Scope

import easynlp
from easynlp.deployment.fleet import Fleet, named_runs
from easynlp.deployment.linger import MOST, TIMES, Linger
from easynlp.deployment.open_inference import add_open_inference
from easynlp.deployment.routes import add_routes
from easynlp.deployment.settings import ServeOptions
from easynlp.deployment.telemetry import Front
from easynlp.errors import ConfigError
from easynlp.pipeline import read_meta

__all__ = ["create_app", "read_api_key", "serve"]

OPEN = frozenset({"/healthz", "/readyz", "/docs", "/v2/health/live", "/v2/health/ready"})
"""Routes that need no key: probes seldom can send one, and the page asks for it."""
KEEP_ALIVE = 75
"""Seconds an idle connection is kept: longer than the 60 of most proxies, so that they close
first and no request is sent into a closing connection."""

log = logging.getLogger("easynlp")


def serve(options: ServeOptions) -> None:
    """Serve runs over HTTP until SIGTERM or SIGINT; then finish what was begun and return.

    Args:
        options: See `ServeOptions`.

    Raises:
        ConfigError: If the address cannot be used or the API key cannot be read.
        ModelError: If the folder is no run or its model cannot be loaded.

    Example:
        >>> serve(ServeOptions(run=("runs/x",), port=8000))                # doctest: +SKIP
    """
    key = read_api_key(options)
    runs = named_runs(options.run)
    tasks = {name: read_meta(folder)["task"] for name, folder in runs.items()}
    listener = _listen(options.host, options.port)
    host, port = listener.getsockname()[:2]
    if options.threads == 1:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if key is None and not _is_loopback(host):
        log.warning("anyone who reaches %s:%d can use this server; set an API key", host, port)
    fleet = Fleet(options)
    config = uvicorn.Config(
        create_app(fleet, key), log_config=None, access_log=False, server_header=False,
        lifespan="on", ws="none", timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(options.drain_timeout)),
    )  # fmt: skip
    server = _Server(config, fleet, options.drain_delay)
    fleet.on_failure = server.stop
    shown = f"[{host}]" if ":" in host else host
    for name, folder in runs.items():
        log.info("serving %s (%s) as %s at http://%s:%d", folder, tasks[name], name, shown, port)
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()
    if fleet.error is not None:
        raise fleet.error
    log.info("stopped")


class _Server(uvicorn.Server):
    """uvicorn, which ends a signalled process with exit code 0 and can delay its end."""

    def __init__(self, config: uvicorn.Config, fleet: Fleet, delay: float) -> None:
        super().__init__(config)
        self.fleet, self.delay = fleet, delay
        self._end: float | None = None

    def stop(self) -> None:
        """End without delay."""
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal; at the second end at once."""
        if self._end is not None:
            self.should_exit = self.force_exit = True
            return
        self.fleet.drain()
        log.info("%s: finishing the requests begun", signal.Signals(sig).name)
        self._end = time.monotonic() + self.delay
        if not self.delay:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Tell the main loop whether to end."""
        over = self._end is not None and time.monotonic() >= self._end
        return await super().on_tick(counter) or over


def create_app(fleet: Fleet, api_key: str | None = None) -> FastAPI:
    """Return the web application of some models.

    Args:
        fleet: The models; it loads when the application starts and drains when it stops.
        api_key: What clients must send; None lets everyone in.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        fleet.start()
        yield
        await fleet.stop()

    app = FastAPI(
        title="easynlp",
        version=easynlp.__version__,
        description='Small models. Errors are {"error": {…}}, under /v2 {"error": "…"}.',
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(
        Front,
        telemetry=fleet.telemetry,
        allows=_key_check(api_key),
        access_log=fleet.options.access_log,
        closing=lambda: fleet.state == "draining",
    )
    most = fleet.options.max_body
    # What is read of a refused body grows with the bodies that are allowed, never below MOST.
    app.add_middleware(Linger, max_body=most if TIMES * most > MOST else None)
    add_routes(app, fleet, with_key=api_key is not None)
    add_open_inference(app, fleet)
    return app


def read_api_key(options: ServeOptions) -> str | None:
    """Return the key clients must send, from a file or the environment; None if there is none.

    Raises:
        ConfigError: If the file cannot be read, or the key is empty or not plain ASCII.
    """
    if options.api_key_file is not None:
        where = f"--api-key-file {options.api_key_file}"
        try:
            lines = Path(options.api_key_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where} cannot be read: {error}") from error
        key = lines[0].strip() if lines else ""
    else:
        where = f"the environment variable {options.api_key_env}"
        found = os.environ.get(options.api_key_env)
        if found is None:
            return None
        key = found.strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigError(f"{where} holds no API key: plain ASCII characters are wanted")
    return key


def _key_check(api_key: str | None) -> Callable[[Scope], bool]:
    if api_key is None:
        return lambda scope: True
    wanted = api_key.encode()

    def allows(scope: Scope) -> bool:
        if scope["path"] in OPEN:
            return True
        given = b""
        for name, value in scope["headers"]:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                given = value[7:].strip()
            elif name == b"x-api-key":
                given = value.strip()
        return hmac.compare_digest(given, wanted)

    return allows


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it every answer
    # would wait 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}. Choose another --port (0: any free "
            "one) or --host"
        ) from error
    return listener


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
