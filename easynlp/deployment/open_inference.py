"""``/v2``: the Open Inference Protocol (KServe's v2, as Triton and others speak it), REST, as JSON.

Texts are BYTES tensors ``text`` (and ``text_b``) of shape [rows] or [rows, 1]. A classifier gives
``label`` (BYTES, [rows], empty where no label is given), ``score`` (FP64, [rows]) and ``scores``
(FP64, [rows, labels], their order in its parameter ``labels``); any task gives ``prediction``
(BYTES, [rows]), each a JSON object. Binary tensors, an extension, are not taken. Errors are
``{"error": "…"}``.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from typing import Any, Literal

import pydantic
from fastapi import FastAPI, Request, Response

import easynlp
from easynlp.calibration import one_label
from easynlp.deployment.fleet import Fleet, ready
from easynlp.deployment.protocol import (
    ApiError,
    Gone,
    Question,
    TextItem,
    check_text,
    json_response,
    parse_json,
    read_body,
)
from easynlp.deployment.service import Answer, Service
from easynlp.deployment.telemetry import GONE

__all__ = ["add_open_inference"]

VERSION = "1"
MODEL = "/v2/models/{name}"
VERSIONED = MODEL + "/versions/{version}"


class _Input(pydantic.BaseModel):
    """A tensor of a request."""

    name: str
    shape: list[pydantic.StrictInt] = pydantic.Field(min_length=1, max_length=2)
    datatype: Literal["BYTES"]
    parameters: dict[str, Any] = {}
    data: list[Any]


class _Output(pydantic.BaseModel):
    """A tensor that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class _Parameters(pydantic.BaseModel):
    """What a request may set beside its tensors; what others know is passed over."""

    threshold: float | None = pydantic.Field(default=None, ge=0, le=1)
    abstain: bool = False


class _Request(pydantic.BaseModel):
    """A request for inference."""

    id: str | None = None
    parameters: _Parameters = _Parameters()
    inputs: list[_Input] = pydantic.Field(min_length=1)
    outputs: list[_Output] = []


def add_open_inference(app: FastAPI, fleet: Fleet) -> None:
    """Add the protocol's routes to a server."""

    def find(name: str, version: str | None) -> Service:
        service = fleet.find(name)
        if version not in (None, VERSION):
            raise ApiError(404, "unknown_version", f'{name} has only version "{VERSION}"')
        return service

    @app.get("/v2", summary="Open Inference Protocol: the server")
    async def server() -> Response:
        return json_response(
            200, {"name": "easynlp", "version": easynlp.__version__, "extensions": []}
        )

    @app.get("/v2/health/live", summary="Is the process alive?")
    async def live() -> Response:
        return json_response(200, {"live": True})

    @app.get("/v2/health/ready", summary="Are all models ready?")
    async def all_ready() -> Response:
        is_ready = fleet.state == "ready"
        return json_response(200 if is_ready else 503, {"ready": is_ready})

    @app.get(MODEL, summary="A model's tensors")
    @app.get(VERSIONED, summary="A model's tensors")
    async def metadata(name: str, version: str | None = None) -> Response:
        return json_response(200, _metadata(ready(find(name, version))))

    @app.get(MODEL + "/ready", summary="Is a model ready?")
    @app.get(VERSIONED + "/ready", summary="Is a model ready?")
    async def model_ready(name: str, version: str | None = None) -> Response:
        is_ready = find(name, version).state == "ready"
        return json_response(200 if is_ready else 503, {"name": name, "ready": is_ready})

    @app.post(MODEL + "/infer", summary="Tensors of text in, of labels and scores out")
    @app.post(VERSIONED + "/infer", summary="Tensors of text in, of labels and scores out")
    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        service = ready(find(name, version))
        try:
            asked = _read(parse_json(await read_body(request, fleet.options)))
            question = _question(asked, service)
            wanted = _wanted(asked, service)
            request.state.texts = len(question.examples)
            answers = await service.answer(question, request)
        except (Gone, asyncio.CancelledError):
            return Response(status_code=GONE)
        value: dict[str, Any] = {"model_name": service.name, "model_version": VERSION}
        if asked.id is not None:
            value["id"] = asked.id
        value["outputs"] = [_tensor(each, answers, service) for each in wanted]
        return json_response(200, value)


def _metadata(service: Service) -> dict[str, Any]:
    labels = _labels(service)
    shapes = {"label": [-1], "score": [-1], "scores": [-1, len(labels)], "prediction": [-1]}
    return {
        "name": service.name,
        "versions": [VERSION],
        "platform": "easynlp_" + service.pipeline.model.backend.replace(" ", "_"),
        "inputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in _inputs(service)],
        "outputs": [
            {"name": name, "datatype": _datatype(name), "shape": shapes[name]}
            for name in _outputs(service)
        ],
    }


def _read(value: Any) -> _Request:
    try:
        return _Request.model_validate(value)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise ApiError(400, "invalid_body", f"{where}: {first['msg']}") from None


def _question(asked: _Request, service: Service) -> Question:
    """Return the texts of a request's tensors.

    Raises:
        ApiError: If tensors are missing, unknown, of different lengths or not texts.
    """
    tensors = {each.name: each for each in asked.inputs}
    wanted = _inputs(service)
    if set(tensors) != set(wanted) or len(tensors) != len(asked.inputs):
        raise ApiError(400, "wrong_inputs", f"the inputs of {service.name}: {', '.join(wanted)}")
    columns = [_texts(tensors[name]) for name in wanted]
    rows = len(columns[0])
    if any(len(column) != rows for column in columns):
        raise ApiError(400, "wrong_inputs", "the inputs have different numbers of rows")
    if rows > (most := service.options.max_texts):
        raise ApiError(400, "too_many_texts", f"{rows} texts in one request; {most} are allowed")
    examples = [
        check_text(
            TextItem.model_construct(**dict(zip(wanted, texts, strict=True))), [i], service.limits
        )
        for i, texts in enumerate(zip(*columns, strict=True))
    ]
    return Question(examples, True, asked.parameters.threshold, asked.parameters.abstain)


def _texts(tensor: _Input) -> list[str]:
    if "binary_data_size" in tensor.parameters:
        raise ApiError(400, "binary", "binary tensors are not taken: send data as JSON")
    values = [item for each in tensor.data for item in (each if isinstance(each, list) else [each])]
    if tensor.shape[1:] not in ([], [1]) or math.prod(tensor.shape) != len(values) or not values:
        raise ApiError(
            400, "wrong_shape", f"{tensor.name}: shape {tensor.shape} with {len(values)} values; "
            "[rows] or [rows, 1] with a value a row is wanted",
        )  # fmt: skip
    if not all(isinstance(each, str) for each in values):
        raise ApiError(400, "wrong_data", f"{tensor.name}: values that are no text")
    return values


def _wanted(asked: _Request, service: Service) -> list[str]:
    known = _outputs(service)
    names = [each.name for each in asked.outputs] or [n for n in known if n != "prediction"]
    if unknown := [name for name in names if name not in known]:
        raise ApiError(
            400, "unknown_output", f"no output {unknown[0]}; {service.name} has {', '.join(known)}"
        )
    return names or known


def _inputs(service: Service) -> list[str]:
    return ["text", "text_b"] if service.limits.pair else ["text"]


def _outputs(service: Service) -> list[str]:
    return [*(("label", "score", "scores") if _labels(service) else ()), "prediction"]


def _labels(service: Service) -> Sequence[str]:
    """Return the labels of a model that answers with one of them; of any other none."""
    task = one_label(service.pipeline.task)
    return [] if task is None else list(task.labels)


def _datatype(name: str) -> str:
    return "FP64" if name in ("score", "scores") else "BYTES"


def _tensor(name: str, answers: Sequence[Answer], service: Service) -> dict[str, Any]:
    said = [each for each, _ in answers]
    found: dict[str, Any] = {"name": name, "datatype": _datatype(name), "shape": [len(said)]}
    if name == "label":
        found["data"] = [each["label"] or "" for each in said]
    elif name == "score":
        found["data"] = [each["score"] for each in said]
    elif name == "scores":
        labels = _labels(service)
        found["shape"].append(len(labels))
        found["parameters"] = {"labels": json.dumps(labels, ensure_ascii=False)}
        found["data"] = [each["scores"][label] for each in said for label in labels]
    else:
        found["data"] = [json.dumps(each, ensure_ascii=False) for each in said]
    return found
