"""The base install: no torch, small, quick to start, and it predicts with and serves an export."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from easynlp.deployment.export import export
from tests.unit.deployment import tiny

ROOT = Path(__file__).parents[1]
MOST_MB = 350
MOST_SECONDS = 2.0
ABSENT = ("torch", "transformers", "sklearn", "pyarrow", "onnx", "safetensors")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment with the project, without extras."""
    folder = tmp_path_factory.mktemp("base") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    constraints = ROOT / "constraints.txt"
    install = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", str(ROOT)]
    subprocess.run([*install, "-c", str(constraints)], check=True, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    run = tiny.classify_run(tmp_path_factory.mktemp("runs") / "hotel")
    target = tmp_path_factory.mktemp("deployed") / "hotel"
    export(run, int8=True, output=target)
    return target


def clean_env(**more):
    """Return an environment in which only what is installed can be imported."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "EASYNLP"))}
    return {**kept, **more}


def python(environment, code, *arguments):
    done = subprocess.run(
        [environment / "bin" / "python", "-c", code, *map(str, arguments)],
        capture_output=True, text=True, env=clean_env(), cwd=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_small_and_has_no_torch(environment):
    code = f"import importlib.util as u; print([n for n in {ABSENT} if u.find_spec(n)])"
    assert python(environment, code).strip() == "[]"
    site = next(environment.glob("lib/python*/site-packages"))
    own = {"pip", "setuptools"}
    files = (f for f in site.rglob("*") if f.is_file() and f.relative_to(site).parts[0] not in own)
    size = sum(f.stat().st_size for f in files) / 1e6
    assert size <= MOST_MB, f"{size:.0f} MB"


def test_it_predicts(environment, exported, tmp_path):
    code = (
        "import json, sys, easynlp; "
        "print(json.dumps(easynlp.load(sys.argv[1]).predict(['房间很好', '态度差'])))"
    )
    said = json.loads(python(environment, code, exported))
    assert [p["label"] for p in said] == ["好评", "差评"]
    source, target = tmp_path / "new.csv", tmp_path / "out.jsonl"
    source.write_text("id,text\n7,房间很好\n8,态度差\n", encoding="utf-8")
    command = [environment / "bin" / "easynlp", "predict", exported, "--input", source]
    subprocess.run([*command, "--output", target], check=True, env=clean_env(), cwd=environment)
    rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [str(row["id"]) for row in rows] == ["7", "8"]
    assert len(rows) == 2


def test_what_needs_torch_says_so(environment, exported, tmp_path):
    command = [environment / "bin" / "easynlp", "export", exported]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_env(), cwd=tmp_path)
    assert done.returncode == 2
    assert 'pip install "easynlp[train]"' in done.stderr


def test_it_is_ready_to_answer_in_two_seconds(environment, exported):
    start_server(environment, exported)  # the first start compiles and reads from disk
    times = [start_server(environment, exported) for _ in range(3)]
    assert min(times) <= MOST_SECONDS, times


def start_server(environment, exported) -> float:
    """Start a server, ask it, stop it; return the seconds until it was ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [environment / "bin" / "easynlp", "serve", exported, "--port", str(port)]
    started = time.perf_counter()
    server = subprocess.Popen(command, env=clean_env(), cwd=environment, stderr=subprocess.PIPE)
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz"):
                    break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None, server.stderr.read().decode()
                assert time.perf_counter() - started < 30
                time.sleep(0.01)
        seconds = time.perf_counter() - started
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/predict", json.dumps({"text": "房间很好"}).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request) as reply:
            assert json.load(reply)["prediction"]["label"] == "好评"
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.stderr.close()
    return seconds
