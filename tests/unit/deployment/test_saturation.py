from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import pytest

from easynlp.deployment.saturation import _open_loop, overload, saturate
from easynlp.deployment.wire import requests_of
from easynlp.errors import ConfigError, RunError

REQUESTS = requests_of([{"text": "房间很好"}, {"text": "态度差"}], "127.0.0.1", None)


def test_every_request_gets_exactly_one_answer_and_the_peer_is_measured(run):
    report = saturate(run / "fp32", clients=4, seconds=0.4, backend="onnx", repeats=2)
    assert len(report.batched) == len(report.single) == len(report.spread) == 2
    assert min(*report.batched, *report.single, *report.spread) > 0
    assert report.spread_ratio > 0
    assert report.lowest <= report.ratio <= report.highest
    assert report.half_rate == pytest.approx(sum(report.batched) / 4)
    assert report.half_p99_ms >= report.half_p50_ms > 0
    shed = report.overload
    assert shed.answered > 0
    assert shed.sent == shed.answered + shed.refused
    assert (report.wrong, shed.unanswered) == (0, 0)
    assert any("0 without an answer" in line for line in report.lines())


@contextlib.contextmanager
def answering(reply):
    """Listen, and give every request this answer, with its number in it; b"" hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection):
        with connection:
            while request := connection.recv(65536):
                name = request.partition(b"X-Request-Id: ")[2].partition(b"\r\n")[0]
                if not reply:
                    return
                connection.sendall(reply % name if b"%b" in reply else reply)

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\nX-Request-Id: %b\r\nContent-Length: 2\r\n\r\n{}", "answered"),
        (b"HTTP/1.1 200 OK\r\nX-Request-Id: x%b\r\nContent-Length: 2\r\n\r\n{}", "failed"),
        (b"HTTP/1.1 429 No\r\nX-Request-Id: %b\r\nContent-Length: 2\r\n\r\n{}", "failed"),
        (
            b"HTTP/1.1 429 No\r\nRetry-After: 1\r\nX-Request-Id: %b\r\nContent-Length: 2\r\n\r\n{}",
            "refused",
        ),
        (b"", "unanswered"),
        (b"HTTP/1.1 200 OK\r\nX-Request-Id: %b\r\nContent-Length: 2\r\n\r\n{}more", "surplus"),
    ],
)
def test_what_went_wrong_is_counted(reply, kind):
    with answering(reply) as port:
        found = asyncio.run(overload(port, REQUESTS, 2, 0.2))
    assert getattr(found, kind) > 0
    others = {"answered", "refused", "failed", "unanswered"} - {kind}
    if kind == "surplus":
        assert found.unanswered + found.answered > 0
    else:
        assert found.sent == getattr(found, kind)
        assert not any(getattr(found, name) for name in others)


@pytest.mark.parametrize(
    ("reply", "said"),
    [(b"HTTP/1.1 429 No\r\nContent-Length: 2\r\n\r\n{}", "with 429"), (b"", "not answered")],
)
def test_a_failure_at_half_load_is_told_in_a_line(reply, said):
    with answering(reply) as port, pytest.raises(RunError, match=said):
        asyncio.run(_open_loop(port, REQUESTS, 100.0, 0.2))


def test_a_url_has_no_peer():
    with pytest.raises(ConfigError, match="name the run folder"):
        saturate("http://127.0.0.1:1")
