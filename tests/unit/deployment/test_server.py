from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time

import httpx
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from easynlp.deployment.server import _listen, create_app, read_api_key, serve
from easynlp.deployment.service import Service
from easynlp.deployment.settings import ServeOptions
from easynlp.errors import ConfigError, ModelError
from easynlp.pipeline import Pipeline

LIMITS = {"max_chars": 500, "max_texts": 8, "max_body": 20_000, "max_queue": 8}


class Running:
    """A server over a real socket, in a thread."""

    def __init__(self, run, key=None, load=None, **options):
        self.service = Service(ServeOptions(run=str(run), **{**LIMITS, **options}), load)
        listener = _listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            create_app(self.service, key), log_config=None, access_log=False, lifespan="on"
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)

    def __enter__(self):
        self.thread.start()
        wait(lambda: self.server.started and self.service.state != "loading")
        return self

    def __exit__(self, *_):
        self.client.close()
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()

    def ask(self, body, **headers):
        return self.client.post("/predict", json=body, headers=headers)

    def raw(self, request: bytes, wait_for: bytes = b"}") -> bytes:
        """Send bytes as they are; return what comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(request)
            found = b""
            while wait_for not in found and (part := connection.recv(65536)):
                found += part
        return found


class Slow:
    """A pipeline whose model waits for a gate."""

    def __init__(self, pipeline):
        self.pipeline, self.gate, self.seen = pipeline, threading.Event(), []
        self.gate.set()
        self.task, self.encode = pipeline.task, pipeline.encode
        self.model = pipeline.model

    def infer(self, features, examples, batch_size):
        self.seen += [example["text"] for example in examples]
        assert self.gate.wait(10)
        if any("爆" in example["text"] for example in examples):
            raise MemoryError("out of memory: secret path /etc")
        return self.pipeline.infer(features, examples, batch_size)


def wait(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def server(run):
    with Running(run) as running:
        yield running


@contextlib.contextmanager
def slow_server(run, timeout):
    pipeline = Slow(Pipeline.load(run))
    with Running(run, load=lambda: pipeline, max_batch=2, request_timeout=timeout) as running:
        running.slow = pipeline
        pipeline.seen.clear()
        yield running
        pipeline.gate.set()


@pytest.fixture
def slow(run):
    """A server whose model waits for a gate."""
    with slow_server(run, timeout=20) as running:
        yield running


@pytest.fixture
def impatient(run):
    """The same, with clients that wait 0.8 seconds."""
    with slow_server(run, timeout=0.8) as running:
        yield running


def code(reply):
    """Return status and code of an error, checking its shape."""
    error = reply.json()["error"]
    assert isinstance(error["message"], str)
    assert error["request_id"] == reply.headers["x-request-id"]
    return reply.status_code, error["code"]


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


def test_large_bodies_are_refused_whether_they_say_so_or_not(server):
    said = server.client.post(
        "/predict", content=b" " * 20_001, headers={"content-type": "application/json"}
    )
    assert code(said) == (413, "body_too_large")
    assert said.json()["error"]["allowed"] == {"max_body": 20_000}

    def chunks():
        for _ in range(30):
            yield b" " * 1000

    chunked = server.client.post(
        "/predict", content=chunks(), headers={"content-type": "application/json"}
    )
    assert code(chunked) == (413, "body_too_large")
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    # A length beyond any limit is refused before a byte of the body has come.
    assert b" 413 " in server.raw(head + b"Content-Length: 99999999999\r\n\r\n")
    endless = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" + b" " * 4096 + b"\r\n"
    assert b" 413 " in server.raw(endless + (b"1000\r\n" + b" " * 4096 + b"\r\n") * 5)
    assert server.ask({"text": "房间很好"}).status_code == 200


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


def test_a_slow_body_is_given_up_and_delays_nobody(impatient):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=10) as dripping:
        dripping.sendall(head + b'Content-Length: 50\r\n\r\n{"text"')
        started = time.perf_counter()
        assert impatient.ask({"text": "房间很好"}).status_code == 200
        assert time.perf_counter() - started < 0.7
        assert b" 408 " in dripping.recv(65536)


def in_background(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    return thread, found


def test_a_full_queue_says_when_to_come_back(slow):
    slow.slow.gate.clear()
    first = [in_background(lambda: slow.ask({"text": "房间很好"}))]
    wait(lambda: slow.slow.seen)
    first.append(in_background(lambda: slow.ask({"texts": ["好"] * 6})))
    wait(lambda: slow.service.batcher.depth == 7)
    reply = slow.ask({"texts": ["好"] * 3})
    assert code(reply) == (429, "queue_full")
    assert int(reply.headers["retry-after"]) >= 1
    assert reply.json()["error"]["allowed"]["max_queue"] == 8
    fits = in_background(lambda: slow.ask({"texts": ["好"] * 2}))
    wait(lambda: slow.service.batcher.depth == 9)
    slow.slow.gate.set()
    for thread, found in [*first, fits]:
        thread.join(10)
        assert found[0].status_code == 200


def test_who_waits_too_long_is_told(impatient):
    impatient.slow.gate.clear()
    assert code(impatient.ask({"text": "房间很好"})) == (503, "timeout")
    impatient.slow.gate.set()
    assert impatient.ask({"text": "房间很好"}).status_code == 200


def test_who_has_left_is_not_computed(slow):
    slow.slow.gate.clear()
    busy = in_background(lambda: slow.ask({"text": "第一"}))
    wait(lambda: slow.slow.seen)
    body = json.dumps({"text": "走了"}).encode()
    gone = socket.create_connection(("127.0.0.1", slow.port))
    gone.sendall(
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    wait(lambda: slow.service.batcher.depth == 2)
    gone.close()
    lines = 'easynlp_requests_total{route="/predict",status="499"} 1.0'
    wait(lambda: lines in slow.client.get("/metrics").text)
    slow.slow.gate.set()
    busy[0].join(10)
    assert slow.ask({"text": "第二"}).status_code == 200
    assert slow.slow.seen == ["第一", "第二"]


def test_a_failing_text_fails_alone_and_tells_no_secrets(slow, caplog):
    slow.slow.gate.clear()
    busy = in_background(lambda: slow.ask({"text": "第一"}))
    wait(lambda: slow.slow.seen)
    bad = in_background(lambda: slow.ask({"text": "爆"}))
    good = in_background(lambda: slow.ask({"text": "房间很好"}))
    wait(lambda: slow.service.batcher.depth == 3)
    slow.slow.gate.set()
    for thread, _ in (busy, bad, good):
        thread.join(10)
    assert code(bad[1][0]) == (500, "internal_error")
    assert "secret" not in bad[1][0].text
    assert "out of memory" in caplog.text
    assert good[1][0].status_code == 200


def test_not_ready_until_loaded(run):
    gate = threading.Event()

    def load():
        assert gate.wait(10)
        return Pipeline.load(run)

    running = Running(run, load=load)
    running.thread.start()
    wait(lambda: running.server.started)
    assert running.client.get("/healthz").status_code == 200
    ready = running.client.get("/readyz")
    assert (ready.status_code, ready.json()) == (503, {"status": "loading"})
    assert code(running.ask({"text": "好"})) == (503, "loading")
    gate.set()
    wait(lambda: running.service.state == "ready")
    assert running.client.get("/readyz").status_code == 200
    running.service.drain()
    assert running.client.get("/readyz").json() == {"status": "draining"}
    assert running.ask({"text": "好"}).status_code == 200
    running.__exit__()


def test_metrics_count_what_happened(run):
    with Running(run) as running:
        running.ask({"texts": ["好", "差", "好" * 300]})
        running.ask({"text": ""})
        running.client.get("/wp-admin/setup.php")
        wait(lambda: 'status="404"' in running.client.get("/metrics").text)
        text = running.client.get("/metrics").text
    for line in (
        'easynlp_requests_total{route="/predict",status="200"} 1.0',
        'easynlp_requests_total{route="/predict",status="422"} 1.0',
        'easynlp_requests_total{route="other",status="404"} 1.0',
        'easynlp_request_seconds_count{route="/predict"} 2.0',
        "easynlp_texts_total 3.0",
        "easynlp_texts_truncated_total 1.0",
        "easynlp_batch_size_sum 3.0",
        "easynlp_queue_depth 0.0",
        "easynlp_ready 1.0",
    ):
        assert line in text
    assert "process_resident_memory_bytes" in text


def test_the_key_is_wanted_everywhere_but_by_probes(run):
    with Running(run, key="s3cret") as running:
        refused = running.ask({"text": "房间很好"})
        assert code(refused) == (401, "unauthorized")
        assert refused.headers["www-authenticate"] == "Bearer"
        for headers in (
            {"authorization": "Bearer wrong"},
            {"x-api-key": ""},
            {"x-api-key": "s3cre"},
        ):
            assert running.ask({"text": "房间很好"}, **headers).status_code == 401
        for headers in ({"authorization": "Bearer s3cret"}, {"x-api-key": "s3cret"}):
            assert running.ask({"text": "房间很好"}, **headers).status_code == 200
        status = {
            p: running.client.get(p).status_code for p in ("/healthz", "/readyz", "/metrics", "/")
        }
        assert status == {"/healthz": 200, "/readyz": 200, "/metrics": 401, "/": 401}


def test_the_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    options = ServeOptions(run="x", api_key_env="TEST_KEY")
    monkeypatch.delenv("TEST_KEY", raising=False)
    assert read_api_key(options) is None
    monkeypatch.setenv("TEST_KEY", "from-env")
    assert read_api_key(options) == "from-env"
    file = tmp_path / "key"
    file.write_text("from-file\n")
    assert read_api_key(ServeOptions(run="x", api_key_file=str(file))) == "from-file"
    monkeypatch.setenv("TEST_KEY", " ")
    with pytest.raises(ConfigError, match="TEST_KEY holds no API key"):
        read_api_key(options)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_api_key(ServeOptions(run="x", api_key_file=str(tmp_path / "absent")))


def test_the_access_log_has_no_texts(run, caplog):
    with Running(run, access_log=True) as running, caplog.at_level(logging.INFO, "easynlp.access"):
        running.ask({"texts": ["秘密", "好"]}, **{"x-request-id": "abc-1"})
        running.ask({"text": "秘密"}, **{"x-request-id": "evil\tid" + "x" * 99})
        # A line is written once the answer is on its way.
        wait(lambda: sum(r.name == "easynlp.access" for r in caplog.records) == 2)
    lines = [json.loads(r.message) for r in caplog.records if r.name == "easynlp.access"]
    assert lines[0] | {"ms": 0, "time": 0} == {
        "time": 0, "id": "abc-1", "client": "127.0.0.1", "method": "POST", "path": "/predict",
        "status": 200, "ms": 0, "texts": 2,
    }  # fmt: skip
    assert len(lines[1]["id"]) == 16
    assert "秘密" not in caplog.text


def test_the_openapi_document_tells_bodies_and_errors(server):
    document = server.client.get("/openapi.json").json()
    predict = document["paths"]["/predict"]["post"]
    content = predict["requestBody"]["content"]["application/json"]
    names = {item["$ref"].rpartition("/")[2] for item in content["schema"]["anyOf"]}
    assert names == {"PredictOne", "PredictMany"} <= document["components"]["schemas"].keys()
    assert set(content["examples"]) == {"one", "many", "pair"}
    assert {"200", "400", "401", "413", "422", "429", "503"} <= predict["responses"].keys()
    page = server.client.get("/docs").text
    assert "https://" not in page, "the page must work without the internet"


def test_what_is_served_can_be_asked(server):
    about = server.client.get("/").json()
    assert about["name"] == "hotel"
    assert (about["task"], about["backend"]) == ("text_classify", "onnx int8")
    assert about["inputs"] == ["text"]
    assert about["limits"] == LIMITS


def test_answers_are_sent_at_once(server):
    """Nagle's algorithm would hold every answer back for 40 ms."""
    times = []
    for _ in range(20):
        started = time.perf_counter()
        server.client.get("/healthz")
        times.append(time.perf_counter() - started)
    assert min(times) < 0.03


def test_a_pair_model_wants_pairs(tmp_path):
    from tests.unit.deployment import tiny

    run = tiny.classify_run(tmp_path / "pairs", pair=True, train=False)
    with Running(run) as running:
        assert running.client.get("/").json()["inputs"] == ["text", "text_b"]
        assert running.ask({"text": "好", "text_b": "很好"}).status_code == 200
        assert running.ask({"texts": [{"text": "好", "text_b": "很好"}]}).status_code == 200
        assert code(running.ask({"text": "好"})) == (422, "wrong_number_of_texts")
        assert code(running.ask({"texts": ["好"]})) == (422, "wrong_number_of_texts")


def test_a_run_that_cannot_be_served(run, tmp_path):
    with pytest.raises(ModelError, match="no folder"):
        serve(ServeOptions(run=str(tmp_path / "absent"), port=0))
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in (run / "onnx").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.int8.onnx").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"model\.int8\.onnx is not an ONNX model"):
        serve(ServeOptions(run=str(broken), port=0))


def test_a_port_in_use_is_an_error(run, server):
    with pytest.raises(ConfigError, match=f"{server.port}.*--port"):
        serve(ServeOptions(run=str(run), port=server.port))


def test_options_must_fit_each_other():
    with pytest.raises(ConfigError, match="max_queue"):
        ServeOptions(run="x", max_queue=10, max_texts=11)
