"""``easynlp serve``: a run over HTTP, from the first request to the last."""

from __future__ import annotations

import asyncio
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
from typing import Any

import pydantic
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import Scope

import easynlp
from easynlp.deployment.docs_page import DOCS_PAGE
from easynlp.deployment.linger import Linger
from easynlp.deployment.protocol import (
    ApiError,
    ErrorBody,
    Gone,
    ManyPredictions,
    OnePrediction,
    PredictMany,
    PredictOne,
    error_response,
    json_response,
    read_question,
)
from easynlp.deployment.service import Service, unavailable
from easynlp.deployment.settings import ServeOptions
from easynlp.deployment.telemetry import GONE, Front
from easynlp.errors import ConfigError
from easynlp.pipeline import read_meta

__all__ = ["create_app", "read_api_key", "serve"]

OPEN = frozenset({"/healthz", "/readyz", "/docs"})
"""Routes that need no key: probes seldom can send one, and the page asks for it."""
KEEP_ALIVE = 75
"""Seconds an idle connection is kept: longer than the 60 of most proxies, so that they close
first and no request is sent into a closing connection."""
SCHEMAS = "#/components/schemas/{model}"

log = logging.getLogger("easynlp")


def serve(options: ServeOptions) -> None:
    """Serve a run over HTTP until SIGTERM or SIGINT; then finish what was begun and return.

    Args:
        options: See `ServeOptions`.

    Raises:
        ConfigError: If the address cannot be used or the API key cannot be read.
        ModelError: If the folder is no run or its model cannot be loaded.

    Example:
        >>> serve(ServeOptions(run="runs/x", port=8000))                # doctest: +SKIP
    """
    key = read_api_key(options)
    meta = read_meta(options.run)
    listener = _listen(options.host, options.port)
    host, port = listener.getsockname()[:2]
    if options.threads == 1:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if key is None and not _is_loopback(host):
        log.warning("anyone who reaches %s:%d can use this server; set an API key", host, port)
    service = Service(options)
    config = uvicorn.Config(
        create_app(service, key), log_config=None, access_log=False, server_header=False,
        lifespan="on", ws="none", timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(options.drain_timeout)),
    )  # fmt: skip
    server = _Server(config, service, options.drain_delay)
    service.on_failure = server.stop
    shown = f"[{host}]" if ":" in host else host
    log.info("serving %s (%s) at http://%s:%d", options.run, meta["task"], shown, port)
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()
    if service.error is not None:
        raise service.error
    log.info("stopped")


class _Server(uvicorn.Server):
    """uvicorn, which ends a signalled process with exit code 0 and can delay its end."""

    def __init__(self, config: uvicorn.Config, service: Service, delay: float) -> None:
        super().__init__(config)
        self.service, self.delay = service, delay
        self._end: float | None = None

    def stop(self) -> None:
        """End without delay."""
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal; at the second end at once."""
        if self._end is not None:
            self.should_exit = self.force_exit = True
            return
        self.service.drain()
        log.info("%s: finishing the requests begun", signal.Signals(sig).name)
        self._end = time.monotonic() + self.delay
        if not self.delay:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Tell the main loop whether to end."""
        over = self._end is not None and time.monotonic() >= self._end
        return await super().on_tick(counter) or over


def create_app(service: Service, api_key: str | None = None) -> FastAPI:
    """Return the web application of a service.

    Args:
        service: Loads when the application starts and drains when it stops.
        api_key: What clients must send; None lets everyone in.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="easynlp",
        version=easynlp.__version__,
        description='Predictions of one model. Errors are always {"error": {…}}.',
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(
        Front,
        telemetry=service.telemetry,
        allows=_key_check(api_key),
        access_log=service.options.access_log,
    )
    app.add_middleware(Linger)
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    _add_predict(app, service)
    _add_probes(app, service)
    _describe(app, with_key=api_key is not None)
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


def _add_predict(app: FastAPI, service: Service) -> None:
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": about}
        for status, about in (
            (400, "Not JSON"), (401, "No or wrong API key"), (408, "The body came too slowly"),
            (413, "Body too large"), (415, "Not application/json"),
            (422, "Not as it should be; allowed says what is"),
            (429, "Queue full; come back after Retry-After"), (503, "Loading or stopping"),
        )
    }  # fmt: skip

    @app.post(
        "/predict",
        response_model=OnePrediction | ManyPredictions,
        responses=errors,
        summary="Predict one text, a pair, or several of them",
    )
    async def predict(request: Request) -> Response:
        if service.state in ("loading", "failed"):
            raise unavailable("loading", "the model is being loaded")
        try:
            question = await read_question(request, service.limits)
            request.state.texts = len(question.examples)
            answers = await service.answer(question, request)
        except (Gone, asyncio.CancelledError):
            return Response(status_code=GONE)
        if question.many:
            cut = [number for number, (_, was_cut) in enumerate(answers) if was_cut]
            value: Any = {"predictions": [said for said, _ in answers], "truncated": cut}
        else:
            ((said, was_cut),) = answers
            value = {"prediction": said, "truncated": was_cut}
        return json_response(200, value)


def _add_probes(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", summary="Is the process alive?")
    async def healthz() -> Response:
        return json_response(200, {"status": "ok"})

    @app.get("/readyz", summary="Should it be sent requests?")
    async def readyz() -> Response:
        ready = service.state == "ready"
        return json_response(200 if ready else 503, {"status": service.state})

    @app.get("/metrics", summary="Prometheus metrics")
    async def metrics() -> Response:
        return Response(service.telemetry.render(), media_type="text/plain; version=0.0.4")

    @app.get("/", summary="What is served, and its limits")
    async def about() -> Response:
        options = service.options
        home = Path(options.run).resolve()
        name = home.parent.name if home.name == "onnx" else home.name
        value: dict[str, Any] = {"name": name, "status": service.state}
        if service.state == "ready":
            value |= {
                "task": service.pipeline.task.name,
                "backend": service.pipeline.model.backend,
                "inputs": ["text", "text_b"] if service.limits.pair else ["text"],
            }
        names = ("max_chars", "max_texts", "max_body", "max_queue")
        value["limits"] = {name: getattr(options, name) for name in names}
        return json_response(200, value)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(DOCS_PAGE, media_type="text/html; charset=utf-8")


def _describe(app: FastAPI, *, with_key: bool) -> None:
    """Put into the OpenAPI document what routes that read their own bodies do not tell it."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            body = pydantic.TypeAdapter(PredictOne | PredictMany).json_schema(ref_template=SCHEMAS)
            schema["components"]["schemas"] |= body.pop("$defs")
            schema["paths"]["/predict"]["post"]["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": body, "examples": _EXAMPLES}},
            }
            if with_key:
                scheme = {"type": "http", "scheme": "bearer"}
                schema["components"]["securitySchemes"] = {"key": scheme}
                schema["security"] = [{"key": []}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


_EXAMPLES = {
    "one": {"summary": "One text", "value": {"text": "房间很干净，下次还来"}},
    "many": {"summary": "Several texts", "value": {"texts": ["房间很干净", "前台态度差"]}},
    "pair": {"summary": "A pair", "value": {"text": "怎么退款", "text_b": "如何退钱"}},
}


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error, request.state.request_id)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Return the framework's own errors, such as 404 and 405, like all others."""
    assert isinstance(error, HTTPException)
    allowed: dict[str, Any] | None = None
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    message = str(error.detail)
    if error.status_code == 404:
        message = f"there is nothing at {request.url.path}"
        allowed = {"paths": ["/", "/predict", "/healthz", "/readyz", "/metrics", "/docs"]}
    elif error.status_code == 405:
        message = f"{request.url.path} does not take {request.method}"
        allowed = {"methods": (error.headers or {}).get("Allow", "").split(", ")}
    return error_response(
        ApiError(error.status_code, code, message, allowed=allowed, headers=error.headers),
        request.state.request_id,
    )


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
