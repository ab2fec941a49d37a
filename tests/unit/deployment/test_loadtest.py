from __future__ import annotations

import socket
import threading

import pytest

from easynlp.deployment.loadtest import loadtest
from easynlp.errors import ConfigError, ModelError, RunError


class Fake:
    """A server that answers each request by the next of its plans."""

    def __init__(self, plans):
        self.plans, self.count = plans, 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        with connection:
            while request := connection.recv(65536):
                if request.startswith(b"GET / "):
                    body = b'{"inputs": ["text"]}'
                    plan = 200
                else:
                    plan, body = self.plans[self.count % len(self.plans)], b"{}"
                    self.count += 1
                if plan is None:
                    return
                head = b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n" % (plan, len(body))
                connection.sendall(head + body)


def test_every_request_is_accounted_for():
    fake = Fake([200, 429, 500, None])
    (result,) = loadtest(fake.url, clients=(2,), seconds=0.6)
    fake.socket.close()
    assert result.refused > 0
    assert result.errors > 0
    assert result.lost > 0
    answered = result.requests - result.refused - result.errors - result.lost
    assert answered > 0
    assert result.texts_per_second == pytest.approx(answered / result.seconds, rel=0.1)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("http://192.0.2.1:80", "--remote"),
        ("https://127.0.0.1", "is not like"),
        ("http://127.0.0.1:99999", "cannot be used"),
        ("http://127.0.0.1/predict", "is not like"),
    ],
)
def test_other_targets_are_refused(target, said):
    with pytest.raises(ConfigError, match=said):
        loadtest(target)


def test_nobody_there(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        with pytest.raises(RunError, match="no easynlp server"):
            loadtest(f"http://127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(ModelError, match="no folder"):
        loadtest(tmp_path / "absent")
