"""A server that speaks as a language model's does, and fails, stalls and lies when told to."""

import json
import os
import signal
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ALWAYS = {
    "总坏": (503, b"down"),
    "禁词": (400, b"content filter"),
    "过长": (422, b"too long"),
    "等着": (429, b"slow down", {"Retry-After": "200"}),
    "不是json": (200, b"<html>"),
    "无穷": (200, '{"choices": [{"message": {"content": "标签：好评"}}], "usage":'
             ' {"prompt_tokens": Infinity, "completion_tokens": -9}}'.encode()),
    "半字": (200, b'{"choices": [{"message": {"content": "\\ud800"}}]}'),
    "括号": (200, b"[" * 200_000),
    "深处": (200, json.dumps({"choices": [{"message": {"content": '{"a":' * 100_000}}]}).encode()),
    "列表": (200, b"[1, 2]"),
}  # fmt: skip
"""What is said to a text with such a word in it, every time."""


class Server:
    """Labels texts with 好 in them 好评; misbehaves on words in the text."""

    def __init__(self):
        self.seen: Counter[str] = Counter()
        self.times: dict[str, list[float]] = {}
        self.keys, self.bodies = set(), []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.bodies.append(body)
                server.keys.add(self.headers.get("Authorization"))
                text = body["messages"][-1]["content"].removeprefix("文本：")
                server.seen[text] += 1
                server.times.setdefault(text, []).append(time.monotonic())
                if "打断" in text:
                    os.kill(os.getpid(), signal.SIGTERM if "二" in text else signal.SIGINT)
                    time.sleep(0.1)
                server.answer(self, text, server.seen[text])

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, handler, text, turn):
        if "五百" in text and turn == 1:
            return self.send(handler, 500, b"oops")
        if "太多" in text and turn == 1:
            return self.send(handler, 429, b"slow down", {"Retry-After": "0.3"})
        for name, said in ALWAYS.items():
            if name in text:
                return self.send(handler, *said)
        if "密钥" in text:
            said = f"bad key {handler.headers.get('Authorization')}".encode()
            return self.send(handler, 401, said)
        if "断开" in text and turn == 1:
            handler.close_connection = True
            return handler.wfile.flush()
        if "停住" in text and turn == 1:
            return self.drip(handler, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        if "慢头" in text and turn == 1:
            return self.drip(handler, b"HTTP/1.1 200 OK\r\nX-Slow: ")
        if "转走" in text:
            return self.send(handler, 302, b"", {"Location": self.url + "/elsewhere"})
        label = "好评" if "好" in text else "差评"
        reply = f"理由：看起来是好评或差评。\n标签：{label}"
        if "胡说" in text:
            reply = "这个嘛，可能是好评，也可能是差评"
        if "中评" in text:
            reply = "标签：中评"
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        choices = [{"message": {"content": reply}}] * ("没有回答" not in text)
        body = {"choices": choices, "usage": usage}
        return self.send(handler, 200, json.dumps(body).encode())

    def drip(self, handler, begun):
        handler.wfile.write(begun)
        for _ in range(40):  # a byte now and then: no single read ever times out
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
        handler.close_connection = True

    def send(self, handler, code, body, headers=None):
        handler.send_response(code)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
