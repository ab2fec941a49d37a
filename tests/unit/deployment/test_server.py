from __future__ import annotations

import json
import logging
import threading

import pytest

from easynlp.deployment.server import read_api_key, serve
from easynlp.deployment.settings import ServeOptions
from easynlp.errors import ConfigError, ModelError
from easynlp.pipeline import Pipeline
from tests.unit.deployment.serving import LIMITS, Running, code, wait


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
        'easynlp_texts_total{model="hotel"} 3.0',
        'easynlp_texts_truncated_total{model="hotel"} 1.0',
        'easynlp_batch_size_sum{model="hotel"} 3.0',
        'easynlp_queue_depth{model="hotel"} 0.0',
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
    with pytest.raises(ConfigError, match="--max-queue 11 or more"):
        ServeOptions(run="x", max_queue=10, max_texts=11)
