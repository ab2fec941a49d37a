"""kill -9 at any moment of training, then --resume: the metrics of the run nobody killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REVIEWS

ROOT = Path(__file__).parents[2]


def command(tiny: Path, data: Path, output: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "easynlp", "train", "text_classify", "--train", str(data),
        "--dev", str(data), "--model", str(tiny), "--output", str(output), "--epochs", "60",
        "--batch-size", "4", "--lr", "1e-3", "--save-every", "3", "--precision", "fp32", *more,
    ]  # fmt: skip


def last_scores(run: Path) -> dict:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["scores"] for line in lines if "scores" in line}


@pytest.mark.slow
def test_killed_at_random_and_resumed(tiny_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    rows = [{"text": text * n, "label": label} for n in (1, 2, 3) for text, label in REVIEWS]
    data.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    straight = tmp_path / "straight"
    subprocess.run(command(tiny_folder, data, straight), check=True, env=environment, cwd=tmp_path)

    killed, draw, kills = tmp_path / "killed", random.Random(0), 0
    for attempt in range(40):
        more = ("--resume",) if (killed / "train.yaml").is_file() else ("--overwrite",)
        process = subprocess.Popen(
            command(tiny_folder, data, killed, *more), env=environment, cwd=tmp_path,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 4 + 6 * draw.random() * (1 + attempt / 4)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if process.poll() is None:
            process.kill()
            kills += 1
            process.communicate()
            continue
        assert process.returncode == 0, process.communicate()[1]
        break
    assert kills >= 2, "the run was too short to be killed"
    assert last_scores(killed) == last_scores(straight)
    one, other = ((run / "model.safetensors").read_bytes() for run in (straight, killed))
    assert one == other
    assert not list(killed.rglob("*.tmp"))
