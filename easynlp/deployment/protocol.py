"""What clients say and hear: request bodies, their limits, and errors, all as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic
import pydantic_core
from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from easynlp.deployment.settings import ServeOptions
from easynlp.tasks.base import Example

__all__ = [
    "ApiError",
    "ErrorBody",
    "Limits",
    "ManyPredictions",
    "OnePrediction",
    "PredictMany",
    "PredictOne",
    "Question",
    "TextItem",
    "check_text",
    "error_response",
    "json_response",
    "parse_json",
    "read_body",
    "read_question",
]

MOST_ERRORS = 5
"""Mistakes of a body told at once."""


class TextItem(pydantic.BaseModel):
    """One text, or one pair of texts."""

    model_config = pydantic.ConfigDict(
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
        json_schema_extra={"examples": [{"text": "房间很干净，下次还来"}]},
    )
    text: str
    """The text."""
    text_b: str | None = None
    """The second text, for a model of pairs."""


class PredictOne(TextItem):
    """One text, or one pair of texts, to be predicted."""

    threshold: float | None = pydantic.Field(default=None, ge=0, le=1)
    """Least score of a label that is given; below it `label` is null."""
    abstain: bool = False
    """Take the threshold the model was calibrated with."""


class PredictMany(pydantic.BaseModel):
    """Several texts or pairs, answered together."""

    model_config = pydantic.ConfigDict(
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
        json_schema_extra={"examples": [{"texts": ["房间很干净", {"text": "前台态度差"}]}]},
    )
    texts: list[str | TextItem] = pydantic.Field(min_length=1)
    """Texts; a pair is written {"text": …, "text_b": …}."""
    threshold: float | None = pydantic.Field(default=None, ge=0, le=1)
    """Least score of a label that is given; below it `label` is null."""
    abstain: bool = False
    """Take the threshold the model was calibrated with."""


class OnePrediction(pydantic.BaseModel):
    """The answer to one text."""

    model_config = pydantic.ConfigDict(use_attribute_docstrings=True)
    prediction: dict[str, Any]
    """What the model says; its keys depend on the task."""
    truncated: bool
    """Whether the text was longer than the model reads, so that its end was not seen."""


class ManyPredictions(pydantic.BaseModel):
    """The answers to several texts."""

    model_config = pydantic.ConfigDict(use_attribute_docstrings=True)
    predictions: list[dict[str, Any]]
    """One a text, in order."""
    truncated: list[int]
    """Numbers, from 0, of the texts whose end was not seen."""


class ErrorDetail(pydantic.BaseModel):
    """What went wrong."""

    model_config = pydantic.ConfigDict(use_attribute_docstrings=True)
    code: str
    """A fixed word a program can test: text_too_long, queue_full …"""
    message: str
    """The same for people."""
    allowed: dict[str, Any] | None = None
    """What would have been valid."""
    details: list[dict[str, Any]] | None = None
    """Mistakes in the body, each with its place."""
    request_id: str | None = None
    """The request, as in the X-Request-Id header and the access log."""


class ErrorBody(pydantic.BaseModel):
    """Every answer that is not a success."""

    error: ErrorDetail


class ApiError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        code: A fixed word.
        message: For people.
        allowed: What would have been valid.
        details: Mistakes, each with its place.
        headers: More headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        allowed: Mapping[str, Any] | None = None,
        details: Sequence[Mapping[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.allowed, self.details, self.headers = allowed, details, dict(headers or {})


@dataclass(frozen=True)
class Question:
    """What a request asks.

    Attributes:
        examples: Its texts as the task takes them.
        many: Whether they came as a list.
        threshold: Least score of a label that is given.
        abstain: Whether the calibrated threshold is to be taken.
    """

    examples: list[Example]
    many: bool
    threshold: float | None = None
    abstain: bool = False


@dataclass(frozen=True)
class Limits:
    """What a request may hold.

    Attributes:
        options: The server's options.
        pair: Whether the task takes two texts.
    """

    options: ServeOptions
    pair: bool


def json_response(status: int, value: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Return a value as JSON, Chinese as it is."""
    body = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(body.encode(), status, headers, "application/json")


def error_response(
    error: ApiError, request_id: str | None = None, *, plain: bool = False
) -> Response:
    """Return an error as JSON; `plain` as the Open Inference Protocol has it."""
    if plain:
        return json_response(error.status, {"error": error.message}, error.headers)
    detail: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.allowed is not None:
        detail["allowed"] = dict(error.allowed)
    if error.details is not None:
        detail["details"] = [dict(item) for item in error.details]
    if request_id is not None:
        detail["request_id"] = request_id
    return json_response(error.status, {"error": detail}, error.headers)


async def read_question(request: Request, limits: Limits) -> Question:
    """Read and check the body of a request.

    Raises:
        ApiError: If it is not JSON, too large, too slow or not as it should be.
        ClientDisconnect: If the client has gone.
    """
    return _parse(await read_body(request, limits.options), limits)


async def read_body(request: Request, options: ServeOptions) -> bytes:
    """Read the JSON body of a request, not yet parsed.

    Raises:
        ApiError: If it says to be anything else, is too large or too slow.
        ClientDisconnect: If the client has gone.
    """
    _check_headers(request, options)
    try:
        async with asyncio.timeout(options.request_timeout):
            return await _read_body(request, options.max_body)
    except TimeoutError:
        seconds = options.request_timeout
        raise ApiError(
            408, "too_slow", f"the request did not arrive within {seconds:g} seconds",
            allowed={"request_timeout": seconds}, headers={"Connection": "close"},
        ) from None  # fmt: skip


def _check_headers(request: Request, options: ServeOptions) -> None:
    kind, _, rest = request.headers.get("content-type", "").lower().partition(";")
    charset = rest.partition("charset=")[2].strip(' "')
    allowed = {"content_type": "application/json", "charset": "utf-8"}
    if kind.strip() != "application/json" or charset not in ("", "utf-8", "utf8"):
        raise ApiError(
            415, "unsupported_media_type", "send JSON, with Content-Type: application/json",
            allowed=allowed,
        )  # fmt: skip
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "unsupported_encoding", "send the body uncompressed", allowed=allowed)
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > options.max_body:
        raise _too_large(options.max_body)


async def _read_body(request: Request, most: int) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:  # a chunked body says no length beforehand
            raise _too_large(most)
    return bytes(body)


def _too_large(most: int) -> ApiError:
    return ApiError(
        413, "body_too_large", f"the body is larger than {most} bytes", allowed={"max_body": most}
    )


def parse_json(body: bytes) -> Any:
    """Return a body's value.

    Raises:
        ApiError: If it is not JSON.
    """
    try:
        return pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, "invalid_json", f"the body is not JSON: {error}") from None


def _parse(body: bytes, limits: Limits) -> Question:
    value = parse_json(body)
    if not isinstance(value, dict):
        raise ApiError(
            422, "invalid_body", "the body must be an object",
            allowed={"bodies": _bodies(limits.pair)},
        )  # fmt: skip
    many = "texts" in value
    texts = value.get("texts")
    options = limits.options
    if isinstance(texts, list) and len(texts) > options.max_texts:
        raise ApiError(
            422, "too_many_texts", f"{len(texts)} texts in one request",
            allowed={"max_texts": options.max_texts},
        )  # fmt: skip
    try:
        kind = PredictMany if many else PredictOne
        asked: Any = kind.model_validate(value)
    except pydantic.ValidationError as error:
        raise ApiError(
            422, "invalid_body", "the body is not as it should be",
            allowed={"bodies": _bodies(limits.pair)}, details=_details(error),
        ) from None  # fmt: skip
    found = asked.texts if many else [asked]
    examples = [
        check_text(item, ["texts", i] if many else [], limits) for i, item in enumerate(found)
    ]
    return Question(examples, many, asked.threshold, asked.abstain)


def check_text(item: str | TextItem, place: list[Any], limits: Limits) -> Example:
    """Return a text or pair as the task takes it.

    Raises:
        ApiError: If it is empty, too long, or a pair where one text is wanted, or the reverse.
    """
    one = TextItem.model_construct(text=item) if isinstance(item, str) else item
    texts = {"text": one.text}
    if one.text_b is not None:
        texts["text_b"] = one.text_b
    if limits.pair != ("text_b" in texts):
        raise ApiError(
            422, "wrong_number_of_texts",
            "this model compares two texts" if limits.pair else "this model takes one text",
            allowed={"bodies": _bodies(limits.pair)}, details=[{"where": place}],
        )  # fmt: skip
    for name, text in texts.items():
        where = [{"where": [*place, name]}]
        if not text.strip():
            raise ApiError(
                422, "empty_text", "the text is empty", allowed={"min_chars": 1}, details=where
            )
        if len(text) > limits.options.max_chars:
            raise ApiError(
                422, "text_too_long", f"the text has {len(text)} characters",
                allowed={"max_chars": limits.options.max_chars}, details=where,
            )  # fmt: skip
    return texts


def _bodies(pair: bool) -> list[dict[str, Any]]:
    one: dict[str, Any] = {"text": "…", "text_b": "…"} if pair else {"text": "…"}
    return [one, {"texts": [one] if pair else ["…"]}]


def _details(error: pydantic.ValidationError) -> list[dict[str, Any]]:
    """Return a body's mistakes, each once, without the names of our classes."""
    found: dict[str, dict[str, Any]] = {}
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        where = [part for part in item["loc"] if part not in ("str", "TextItem")]
        found.setdefault(json.dumps(where), {"where": where, "message": item["msg"]})
    return list(found.values())[:MOST_ERRORS]


Gone = ClientDisconnect
"""Raised while reading from a client that has gone."""
