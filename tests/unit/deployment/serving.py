"""A server in a thread, with what tests ask of it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import httpx
import uvicorn

from easynlp.deployment.fleet import Fleet, named_runs
from easynlp.deployment.server import _listen, create_app
from easynlp.deployment.settings import ServeOptions
from easynlp.pipeline import Pipeline

LIMITS = {"max_chars": 500, "max_texts": 8, "max_body": 20_000, "max_queue": 8}


class Running:
    """A server over a real socket, in a thread."""

    def __init__(self, run, key=None, load=None, **options):
        runs = run if isinstance(run, tuple) else (str(run),)
        loads = None if load is None else {next(iter(named_runs(runs))): load}
        self.fleet = Fleet(ServeOptions(run=runs, **{**LIMITS, **options}), loads)
        self.service = self.fleet.default
        listener = _listen("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            create_app(self.fleet, key), log_config=None, access_log=False, lifespan="on"
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)

    def __enter__(self):
        self.thread.start()
        wait(lambda: self.server.started and self.fleet.state != "loading")
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


@contextlib.contextmanager
def slow_server(run, timeout=20, workers=1):
    pipeline = Slow(Pipeline.load(run))
    options = {"max_batch": 2, "request_timeout": timeout, "workers": workers}
    with Running(run, load=lambda: pipeline, **options) as running:
        running.slow = pipeline
        pipeline.seen.clear()
        yield running
        pipeline.gate.set()


def code(reply):
    """Return status and code of an error, checking its shape."""
    error = reply.json()["error"]
    assert isinstance(error["message"], str)
    assert error["request_id"] == reply.headers["x-request-id"]
    return reply.status_code, error["code"]


def in_background(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    return thread, found
