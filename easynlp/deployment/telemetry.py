"""What the server tells its operators: Prometheus metrics and an access log."""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from easynlp.deployment.protocol import ApiError, error_response

__all__ = ["GONE", "Front", "ModelTelemetry", "Telemetry", "route_of"]

GONE = 499
"""Status logged for a request whose client did not wait for the answer."""
ROUTES = (
    "/", "/predict", "/models", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/v2",
    "/v2/health/live", "/v2/health/ready",
)  # fmt: skip
NAMED_ROUTES = [
    (re.compile(f"{re.escape(start)}[^/]+{version}{re.escape(end)}"), f"{start}{{name}}{end}")
    for start, version, ends in (
        ("/models/", "", ("", "/predict")),
        ("/v2/models/", "(?:/versions/[^/]+)?", ("", "/ready", "/infer")),
    )
    for end in ends
]
"""Patterns of paths that name a model, and how their requests are counted together."""
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = logging.getLogger("easynlp")
access = logging.getLogger("easynlp.access")


class Telemetry:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "easynlp_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "easynlp_request_seconds", "Time from request to answer.", ["route"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        own: dict[str, Any] = {"labelnames": ["model"], "registry": self.registry}
        self.texts = Counter("easynlp_texts", "Texts answered.", **own)
        self.truncated = Counter("easynlp_texts_truncated", "Texts whose end was not read.", **own)
        self.abstained = Counter("easynlp_texts_abstained", "Texts given no label.", **own)
        self.batch_size = Histogram(
            "easynlp_batch_size", "Texts computed together.", buckets=SIZES, **own
        )
        self.batch_seconds = Histogram(
            "easynlp_batch_seconds", "Time to compute a batch.", buckets=SECONDS, **own
        )
        self.queue = Gauge("easynlp_queue_depth", "Texts waiting or being computed.", **own)
        self.ready = Gauge("easynlp_ready", "Whether requests are taken.", registry=self.registry)

    def of(self, model: str) -> ModelTelemetry:
        """Return the metrics of one model."""
        return ModelTelemetry(self, model)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class ModelTelemetry:
    """What is counted of one model."""

    def __init__(self, whole: Telemetry, model: str) -> None:
        self.texts, self.truncated = whole.texts.labels(model), whole.truncated.labels(model)
        self.abstained, self.queue = whole.abstained.labels(model), whole.queue.labels(model)
        self.batch_size = whole.batch_size.labels(model)
        self.batch_seconds = whole.batch_seconds.labels(model)

    def batch(self, size: int, seconds: float) -> None:
        """Note a batch."""
        self.batch_size.observe(size)
        self.batch_seconds.observe(seconds)


class Front:
    """What every request passes first and last: key, request id, clock, log, errors.

    Args:
        app: The application behind.
        telemetry: Where requests are counted.
        allows: Tells from a request's scope whether its API key is right.
        access_log: Log a line a request.
        closing: Tells whether the server is about to stop; clients are then told to open another
            connection, elsewhere, for their next request.
    """

    def __init__(
        self,
        app: ASGIApp,
        telemetry: Telemetry,
        allows: Callable[[Scope], bool],
        access_log: bool = False,
        closing: Callable[[], bool] = lambda: False,
    ) -> None:
        self.app, self.telemetry, self.allows = app, telemetry, allows
        self.access_log, self.closing = access_log, closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status, plain = 0, is_open(scope)

        async def reply(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []), (b"x-request-id", request_id.encode()),
                ]  # fmt: skip
                if self.closing():
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            if self.allows(scope):
                await self.app(scope, receive, reply)
            else:
                refusal = ApiError(
                    401, "unauthorized", "send the API key: Authorization: Bearer KEY",
                    headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
                await error_response(refusal, request_id, plain=plain)(scope, receive, reply)
        except Exception:
            log.exception("request %s failed", request_id)
            if not status:
                failure = ApiError(500, "internal_error", "the server failed; its log says why")
                await error_response(failure, request_id, plain=plain)(scope, receive, reply)
        finally:
            self._note(scope, status or GONE, time.perf_counter() - started, request_id)

    def _note(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = route_of(scope["path"])
        self.telemetry.requests.labels(route, str(status)).inc()
        self.telemetry.seconds.labels(route).observe(seconds)
        if self.access_log:
            client = scope.get("client")
            line = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "id": request_id,
                "client": client[0] if client else None,
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "ms": round(1000 * seconds, 2),
                "texts": scope["state"].get("texts"),
            }
            access.info(json.dumps(line, ensure_ascii=False))


def is_open(scope: Scope) -> bool:
    """Tell whether a request speaks the Open Inference Protocol, whose errors look otherwise."""
    return str(scope["path"]).startswith("/v2")


def route_of(path: str) -> str:
    """Return a path's route, names of models left out; ``other`` for what there is not.

    Example:
        >>> route_of("/models/hotel/predict"), route_of("/wp-admin")
        ('/models/{name}/predict', 'other')
    """
    if path in ROUTES:
        return path
    for pattern, route in NAMED_ROUTES:
        if pattern.fullmatch(path):
            return route
    return "other"


def _request_id(scope: Scope) -> str:
    """Return the client's own X-Request-Id if it is harmless, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if SAFE_ID.fullmatch(given):
                return str(given)
    return f"{random.getrandbits(64):016x}"
