from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request

import httpx
import pytest

from easynlp.deployment import linger
from tests.unit.deployment.serving import code


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


JSON = {"content-type": "application/json"}
FAR = 40 << 20
"""Two thousand times the limit, and more than a connection buffers."""


def pieces(size=FAR):
    """Yield a body far over the limit; an iterator is sent in chunks, without a length."""
    for _ in range(size >> 16):
        yield b" " * (1 << 16)


def send_chunked(port, more=b"", size=FAR):
    """Send everything before listening, as most clients do; return what then can be read."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + more
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        for piece in pieces(size):
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")
        found = b""
        while part := connection.recv(65536):
            found += part
    return found


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"], ids=["kept", "to be closed"])
def test_who_sends_all_before_listening_is_answered(server, more):
    found = send_chunked(server.port, more)
    head, _, body = found.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in head.lower()
    assert json.loads(body)["error"]["allowed"] == {"max_body": 20_000}


def test_ordinary_clients_read_the_refusal(server):
    url = f"http://127.0.0.1:{server.port}/predict"
    for content in (pieces(), b" " * FAR):
        assert code(httpx.post(url, content=content, headers=JSON, timeout=20)) == (
            413, "body_too_large",
        )  # fmt: skip
    with pytest.raises(urllib.error.HTTPError) as refused:  # sends Connection: close
        urllib.request.urlopen(urllib.request.Request(url, b" " * FAR, JSON), timeout=20)
    assert refused.value.code == 413
    assert json.loads(refused.value.read())["error"]["code"] == "body_too_large"
    # A refusal that has nothing to do with the size is read as well.
    wrong = httpx.post(url, content=pieces(), headers={"content-type": "text/plain"}, timeout=20)
    assert code(wrong) == (415, "unsupported_media_type")
    assert server.ask({"text": "房间很好"}).status_code == 200


def test_who_listens_while_sending_need_not_finish(server):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n8000\r\n" + b" " * 0x8000)
        assert b" 413 " in connection.recv(65536)


def test_reading_on_has_an_end(server, monkeypatch):
    monkeypatch.setattr(linger, "MOST", 1 << 20)
    with pytest.raises(OSError):  # noqa: PT011 - a reset or a broken pipe, as the system likes
        send_chunked(server.port)
    monkeypatch.setattr(linger, "MOST", FAR * 2)
    monkeypatch.setattr(linger, "SECONDS", 0.2)
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head + b"Content-Length: 1000\r\n\r\n")
        found = b""
        while part := connection.recv(65536):  # ends when the server closes
            found += part
    assert b" 415 " in found
    assert server.ask({"text": "房间很好"}).status_code == 200


CHUNK = {"type": "http.request", "body": b" " * 1000, "more_body": True}


def linger_over(status, max_body=None, chunks=10**9, receive=None):
    """Answer a request before its body; return what was said and how many chunks were read."""
    read, said = [], []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    async def hear():
        read.append(CHUNK)
        await asyncio.sleep(0)
        return {**CHUNK, "more_body": len(read) < chunks}

    async def say(message):
        said.append(message)

    scope = {"type": "http", "headers": [(b"transfer-encoding", b"chunked")]}
    asyncio.run(linger.Linger(app, max_body)(scope, receive or hear, say))
    assert linger.Linger.lingering == 0
    assert said[-1].get("more_body", False) is False
    return said, len(read)


def test_at_most_eight_bodies_are_thrown_away(monkeypatch):
    assert linger_over(413, chunks=5)[1] == 5
    assert linger_over(413, max_body=2000)[1] == 16
    monkeypatch.setattr(linger, "MOST", 30_000)
    assert linger_over(415)[1] == 30
    assert linger.SECONDS <= 5


@pytest.mark.parametrize("status", [401, 404, 408, 503, 200])
def test_other_answers_go_out_as_they_are(status):
    said, read = linger_over(status)
    assert read == 0
    assert said == [
        {"type": "http.response.start", "status": status, "headers": []},
        {"type": "http.response.body", "body": b"no"},
    ]


def test_few_connections_linger_at_once():
    """All are refused; those beyond the sixteenth end with the refusal."""
    most = 0

    async def many():
        gate, ended = asyncio.Event(), []

        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 413, "headers": []})
            await send({"type": "http.response.body", "body": b"no"})

        async def hear():
            nonlocal most
            most = max(most, linger.Linger.lingering)
            await gate.wait()
            return {**CHUNK, "more_body": False}

        async def one(number):
            said = []

            async def say(message):
                said.append(message)

            scope = {"type": "http", "headers": [(b"content-length", b"9000")]}
            await linger.Linger(app)(scope, hear, say)
            assert (b"connection", b"close") in said[0]["headers"]
            ended.append(number)

        tasks = [asyncio.create_task(one(number)) for number in range(20)]
        while len(ended) < 4:
            await asyncio.sleep(0)
        early = list(ended)
        gate.set()
        await asyncio.gather(*tasks)
        return early

    assert asyncio.run(asyncio.wait_for(many(), 5)) == [16, 17, 18, 19]
    assert most == 16
    assert linger.Linger.lingering == 0


def test_a_client_that_breaks_off_frees_its_place():
    async def broken():
        raise RuntimeError("the connection is gone")

    with pytest.raises(RuntimeError, match="is gone"):
        linger_over(413, receive=broken)
    assert linger.Linger.lingering == 0


def test_a_body_that_was_read_keeps_the_connection(server):
    for body, status in (({"text": "房间很好"}, 200), ({"text": ""}, 422)):
        reply = server.ask(body)
        assert reply.status_code == status
        assert "connection" not in reply.headers
