"""Our own routes: predict, probes, what is served, and the document that tells of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pydantic
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from easynlp.deployment.docs_page import DOCS_PAGE
from easynlp.deployment.fleet import Fleet, ready
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
from easynlp.deployment.service import Service
from easynlp.deployment.telemetry import GONE, ROUTES, is_open

__all__ = ["add_routes"]

SCHEMAS = "#/components/schemas/{model}"
PREDICT = ("/predict", "/models/{name}/predict")
LIMITS = ("max_chars", "max_texts", "max_body", "max_queue")


def add_routes(app: FastAPI, fleet: Fleet, *, with_key: bool) -> None:
    """Add the routes of a server, and make its errors alike.

    Args:
        app: The application.
        fleet: The models behind.
        with_key: Whether clients must send a key, to be told in the OpenAPI document.
    """
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    _add_predict(app, fleet)
    _add_models(app, fleet)
    _add_probes(app, fleet)
    _describe(app, with_key=with_key)


def _add_predict(app: FastAPI, fleet: Fleet) -> None:
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": about}
        for status, about in (
            (400, "Not JSON"), (401, "No or wrong API key"), (408, "The body came too slowly"),
            (413, "Body too large"), (415, "Not application/json"),
            (422, "Not as it should be; allowed says what is"),
            (429, "Queue full; come back after Retry-After"), (503, "Loading or stopping"),
        )
    }  # fmt: skip

    answers: dict[str, Any] = {
        "response_model": OnePrediction | ManyPredictions, "responses": errors
    }  # fmt: skip

    @app.post("/predict", summary="Predict one text, a pair, or several of them", **answers)
    async def predict(request: Request) -> Response:
        return await respond(request, fleet.default)

    @app.post("/models/{name}/predict", summary="The same by a model of that name", **answers)
    async def predict_by(request: Request, name: str) -> Response:
        return await respond(request, fleet.find(name))

    async def respond(request: Request, service: Service) -> Response:
        ready(service)
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


def _add_probes(app: FastAPI, fleet: Fleet) -> None:
    @app.get("/healthz", summary="Is the process alive?")
    async def healthz() -> Response:
        return json_response(200, {"status": "ok"})

    @app.get("/readyz", summary="Should it be sent requests?")
    async def readyz() -> Response:
        state = fleet.state
        return json_response(200 if state == "ready" else 503, {"status": state})

    @app.get("/metrics", summary="Prometheus metrics")
    async def metrics() -> Response:
        return Response(fleet.telemetry.render(), media_type="text/plain; version=0.0.4")

    @app.get("/", summary="What is served, and its limits")
    async def about() -> Response:
        limits = {name: getattr(fleet.options, name) for name in LIMITS}
        return json_response(200, _about(fleet.default) | {"limits": limits})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(DOCS_PAGE, media_type="text/html; charset=utf-8")


def _add_models(app: FastAPI, fleet: Fleet) -> None:
    @app.get("/models", summary="The models served; the first answers /predict")
    async def models() -> Response:
        return json_response(200, {"models": [_about(service) for service in fleet]})

    @app.get("/models/{name}", summary="One of them")
    async def model(name: str) -> Response:
        return json_response(200, _about(fleet.find(name)))


def _about(service: Service) -> dict[str, Any]:
    """Return what there is to know of a model."""
    value: dict[str, Any] = {"name": service.name, "status": service.state}
    if service.state != "ready":
        return value
    pipeline = service.pipeline
    path = getattr(pipeline.model, "path", None)
    value |= {
        "task": pipeline.task.name,
        "backend": pipeline.model.backend,
        "inputs": ["text", "text_b"] if service.limits.pair else ["text"],
        "memory_bytes": service.memory,
        "file_bytes": path.stat().st_size if isinstance(path, Path) else None,
    }
    if (found := pipeline.calibration) is not None:
        least = found.abstention
        value["temperature"] = found.temperature
        value["threshold"] = None if least is None else least.threshold
    return value


def _describe(app: FastAPI, *, with_key: bool) -> None:
    """Put into the OpenAPI document what routes that read their own bodies do not tell it."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            body = pydantic.TypeAdapter(PredictOne | PredictMany).json_schema(ref_template=SCHEMAS)
            schema["components"]["schemas"] |= body.pop("$defs")
            for path in PREDICT:
                schema["paths"][path]["post"]["requestBody"] = {
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
    return error_response(error, request.state.request_id, plain=is_open(request.scope))


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Return the framework's own errors, such as 404 and 405, like all others."""
    assert isinstance(error, HTTPException)
    allowed: dict[str, Any] | None = None
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    message = str(error.detail)
    if error.status_code == 404:
        message = f"there is nothing at {request.url.path}"
        allowed = {"paths": [*ROUTES, "/models/{name}/predict", "/v2/models/{name}/infer"]}
    elif error.status_code == 405:
        message = f"{request.url.path} does not take {request.method}"
        allowed = {"methods": (error.headers or {}).get("Allow", "").split(", ")}
    return error_response(
        ApiError(error.status_code, code, message, allowed=allowed, headers=error.headers),
        request.state.request_id,
        plain=is_open(request.scope),
    )
