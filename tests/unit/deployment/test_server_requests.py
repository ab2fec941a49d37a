from __future__ import annotations

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from easynlp.pipeline import Pipeline
from tests.unit.deployment.serving import Running, code


def test_one_text_and_several(server, run):
    one = server.ask({"text": "房间很好"})
    assert one.status_code == 200
    assert one.json()["prediction"]["label"] == "好评"
    assert one.json()["truncated"] is False
    many = server.ask({"texts": ["前台态度差", {"text": "房间很好"}]}).json()
    assert [p["label"] for p in many["predictions"]] == ["差评", "好评"]
    assert many["predictions"] == Pipeline.load(run).predict(["前台态度差", "房间很好"])


def test_cut_texts_are_told(server):
    assert server.ask({"text": "好" * 300}).json()["truncated"] is True
    assert server.ask({"texts": ["好", "好" * 300]}).json()["truncated"] == [1]


@pytest.mark.parametrize(
    ("body", "expected", "place"),
    [
        ({"text": ""}, "empty_text", ["text"]),
        ({"text": " \n　"}, "empty_text", ["text"]),
        ({"texts": ["好", "  "]}, "empty_text", ["texts", 1, "text"]),
        ({"text": "好" * 501}, "text_too_long", ["text"]),
        ({"texts": ["好"] * 9}, "too_many_texts", None),
        ({"texts": []}, "invalid_body", ["texts"]),
        ({"text": "好", "text_b": "好"}, "wrong_number_of_texts", []),
        ({"txt": "好"}, "invalid_body", ["text"]),
        ({"text": None}, "invalid_body", ["text"]),
        ({"text": 3}, "invalid_body", ["text"]),
        ({"text": "好", "colour": "red"}, "invalid_body", ["colour"]),
        ({"texts": ["好", 3]}, "invalid_body", ["texts", 1]),
        (["好"], "invalid_body", None),
        ("好", "invalid_body", None),
        (None, "invalid_body", None),
    ],
)
def test_wrong_bodies_are_told_what_is_allowed(server, body, expected, place):
    reply = server.client.post(
        "/predict", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert code(reply) == (422, expected)
    error = reply.json()["error"]
    assert error["allowed"]
    if place is not None:
        assert error["details"][0]["where"] == place


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1",
        b"{'text': 1}",
        b'{"text": NaN}',
        b'{"text": "\\ud800"}',
        b"\xff\xfe",
        b"[" * 9999,
    ],
)
def test_what_is_not_json_is_refused(server, content):
    reply = server.client.post(
        "/predict", content=content, headers={"content-type": "application/json"}
    )
    assert code(reply) == (400, "invalid_json")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=gb18030"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_other_content_is_refused(server, headers):
    reply = server.client.post("/predict", content=b'{"text": "1"}', headers=headers)
    assert reply.status_code == 415
    assert reply.json()["error"]["allowed"]["content_type"] == "application/json"


def test_errors_of_routing_look_like_all_others(server):
    assert code(server.client.get("/nowhere")) == (404, "not_found")
    reply = server.client.get("/predict")
    assert code(reply) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "POST"
    assert reply.json()["error"]["allowed"] == {"methods": ["POST"]}


@pytest.mark.parametrize("request_", [b"\0\1\2\3\r\n\r\n", b"GET\r\n\r\n"])
def test_what_is_not_http_does_no_harm(server, request_):
    assert b"400" in server.raw(request_, b"400")
    assert server.client.get("/healthz").json() == {"status": "ok"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["text", "texts", "text_b", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    body=json_values.map(json.dumps).map(str.encode)
    | st.text().map(lambda text: json.dumps({"text": text}).encode())
    | st.lists(st.text() | json_values).map(lambda t: json.dumps({"texts": t}).encode())
    | st.binary()
)
def test_no_body_makes_the_server_fail(server, body):
    reply = server.client.post(
        "/predict", content=body, headers={"content-type": "application/json"}
    )
    assert reply.status_code in (200, 400, 413, 422)
    if reply.status_code != 200:
        assert code(reply)


def test_a_pair_model_wants_pairs(tmp_path):
    from tests.unit.deployment import tiny

    run = tiny.classify_run(tmp_path / "pairs", pair=True, train=False)
    with Running(run) as running:
        assert running.client.get("/").json()["inputs"] == ["text", "text_b"]
        assert running.ask({"text": "好", "text_b": "很好"}).status_code == 200
        assert running.ask({"texts": [{"text": "好", "text_b": "很好"}]}).status_code == 200
        assert code(running.ask({"text": "好"})) == (422, "wrong_number_of_texts")
        assert code(running.ask({"texts": ["好"]})) == (422, "wrong_number_of_texts")


def test_answers_are_sent_at_once(server):
    """Nagle's algorithm would hold every answer back for 40 ms."""
    times = []
    for _ in range(20):
        started = time.perf_counter()
        server.client.get("/healthz")
        times.append(time.perf_counter() - started)
    assert min(times) < 0.03


def test_a_label_that_is_not_sure_is_withheld(server, run):
    plain = server.ask({"texts": ["房间很好", "房间"]}).json()["predictions"]
    middle = sum(each["score"] for each in plain) / 2
    said = server.ask({"texts": ["房间很好", "房间"], "threshold": middle}).json()["predictions"]
    assert [each["label"] is None for each in said] == [each["score"] < middle for each in plain]
    assert [each["scores"] for each in said] == [each["scores"] for each in plain]
    assert code(server.ask({"text": "好", "abstain": True})) == (422, "cannot_abstain")
    assert code(server.ask({"text": "好", "threshold": 1.5})) == (422, "invalid_body")
    assert code(server.ask({"texts": [{"text": "好", "threshold": 0.5}]})) == (422, "invalid_body")


def test_a_server_can_abstain_by_itself(run, tmp_path):
    import shutil

    from easynlp.deployment.calibrate import calibrate
    from easynlp.errors import ConfigError

    folder = tmp_path / "run"
    shutil.copytree(run / "onnx", folder)
    calibrate(folder, run / "dev.jsonl")
    with Running(folder, abstain=True) as running:
        assert running.fleet.state == "failed"
        assert isinstance(running.fleet.error, ConfigError)
    calibrate(folder, run / "dev.jsonl", abstain_precision=0.9)
    least = Pipeline.load(folder).calibration.abstention.threshold
    with Running(folder, abstain=True) as running:
        said = [running.ask({"text": text}).json()["prediction"] for text in ("房间很好", "房间")]
        assert [each["label"] is None for each in said] == [e["score"] < least for e in said]
        assert running.client.get("/").json()["threshold"] == least
        assert running.ask({"text": "房间", "threshold": 0}).json()["prediction"]["label"]
