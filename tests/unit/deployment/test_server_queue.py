from __future__ import annotations

import json
import os
import socket
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from easynlp.deployment.service import cores
from easynlp.pipeline import Pipeline
from tests.unit.deployment.serving import code, in_background, slow_server, wait


def test_a_slow_body_is_given_up_and_delays_nobody(impatient):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=10) as dripping:
        dripping.sendall(head + b'Content-Length: 50\r\n\r\n{"text"')
        started = time.perf_counter()
        assert impatient.ask({"text": "房间很好"}).status_code == 200
        assert time.perf_counter() - started < 0.7
        assert b" 408 " in dripping.recv(65536)


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


def test_workers_compute_side_by_side_and_encode_in_turn(run):
    texts = ["房间很好", "前台态度差", "早餐不错"]
    wanted = [each["label"] for each in Pipeline.load(run).predict(texts)]
    one, together = threading.Lock(), []
    with slow_server(run, workers=3) as running:
        encode = running.slow.encode

        def watched(examples):
            free = one.acquire(blocking=False)
            together.append(not free)
            time.sleep(0.05)
            if free:
                one.release()
            return encode(examples)

        running.slow.encode = watched
        running.slow.gate.clear()
        asked = [in_background(lambda text=text: running.ask({"text": text})) for text in texts]
        wait(lambda: len(running.slow.seen) == 3)  # none is answered yet
        running.slow.gate.set()
        for thread, _ in asked:
            thread.join(10)
    assert [found[0].json()["prediction"]["label"] for _, found in asked] == wanted
    assert together == [False] * 3


def test_an_exported_model_has_a_worker_for_each_core(slow, monkeypatch):
    service = slow.service
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert service._cores() == 8
    service.options = replace(service.options, threads=3)
    assert service._cores() == 2
    monkeypatch.setattr(slow.slow, "model", SimpleNamespace(backend="torch"))
    assert service._cores() == 1


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


@pytest.mark.parametrize(
    ("said", "found"), [("max 100000", 64), ("250000 100000", 2), ("50000 100000", 1), ("", 64)]
)
def test_a_containers_share_of_the_cores_counts(tmp_path, monkeypatch, said, found):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    path = tmp_path / "cpu.max"
    path.write_text(said, "utf-8")
    assert cores(path) == found
    assert cores(tmp_path / "none") == 64
