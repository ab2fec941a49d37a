"""The end of a server, seen from outside: signals to a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[3]
SLOW_SERVER = """
import sys, time
from easynlp.deployment import service
from easynlp.deployment.server import serve
from easynlp.deployment.settings import ServeOptions

compute = service.Service._compute
def slowly(self, examples):
    time.sleep(1.0 if self.state != "loading" else 0)
    return compute(self, examples)
service.Service._compute = slowly
serve(ServeOptions(run=sys.argv[1], port=int(sys.argv[2]), drain_delay=float(sys.argv[3])))
"""


def start(run, delay=0.0):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_SERVER, str(run), str(port), str(delay)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE,
    )  # fmt: skip
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if client.get("/readyz").status_code == 200:
                return process, client
        except httpx.TransportError:
            pass
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.02)
    raise AssertionError("not ready")


def ask(client, text, replies):
    replies.append(client.post("/predict", json={"text": text}))


def test_sigterm_lets_requests_finish_and_exits_0(run):
    process, client = start(run)
    replies: list[httpx.Response] = []
    asking = [
        threading.Thread(target=ask, args=(client, t, replies)) for t in ("房间很好", "态度差")
    ]
    for thread in asking:
        thread.start()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    with pytest.raises(httpx.TransportError), httpx.Client(base_url=client.base_url) as late:
        late.get("/healthz")
    for thread in asking:
        thread.join(20)
    assert [r.status_code for r in replies] == [200, 200]
    assert process.wait(20) == 0
    process.stderr.close()


def test_with_a_delay_new_requests_are_served_while_readyz_says_no(run):
    process, client = start(run, delay=1.5)
    assert "connection" not in client.get("/readyz").headers
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    reply = client.get("/readyz")
    assert reply.headers["connection"] == "close"  # the next request finds another server
    assert (reply.status_code, reply.json()["status"]) == (503, "draining")
    assert client.post("/predict", json={"text": "房间很好"}).status_code == 200
    assert process.wait(20) == 0
    process.stderr.close()


def test_a_client_that_never_finishes_its_request_does_not_stop_the_end(run):
    process, client = start(run)
    with socket.create_connection((client.base_url.host, client.base_url.port)) as hanging:
        hanging.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-")
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert time.monotonic() - started < 5
    process.stderr.close()


def test_results_of_a_load_test(run):
    from easynlp.deployment.loadtest import loadtest

    found = loadtest(run, clients=(1, 4), seconds=0.5)
    assert [r.clients for r in found] == [1, 4]
    for result in found:
        assert result.lost == result.errors == result.refused == 0
        assert result.requests > 5
        assert 0 < result.p50_ms <= result.p99_ms
        assert result.texts_per_second == pytest.approx(result.requests / result.seconds, rel=0.1)
    assert json.dumps([vars(r) for r in found])
