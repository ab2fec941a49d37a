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


def saved_step(run: Path) -> int:
    """Return the step of the checkpoint in force; 0 if there is none."""
    try:
        name = json.loads((run / "checkpoints" / "last.json").read_text())["checkpoint"]
    except FileNotFoundError:
        return 0
    return int(name.removeprefix("step-"))


@pytest.mark.slow
def test_killed_at_random_and_resumed(tiny_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    rows = [{"text": text * n, "label": label} for n in (1, 2, 3) for text, label in REVIEWS]
    data.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    straight = tmp_path / "straight"
    subprocess.run(command(tiny_folder, data, straight), check=True, env=environment, cwd=tmp_path)

    killed, draw = tmp_path / "killed", random.Random(0)
    for step in (0, 6, 63, 150, 291):
        more = ("--resume",) if (killed / "train.yaml").is_file() else ("--overwrite",)
        process = subprocess.Popen(
            command(tiny_folder, data, killed, *more), env=environment, cwd=tmp_path,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while saved_step(killed) < step and process.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.random() * (3.0 if step == 0 else 0.05))
        assert process.poll() is None, "the run was too short to be killed"
        process.kill()
        process.wait()
    more = ("--resume",) if (killed / "train.yaml").is_file() else ("--overwrite",)
    subprocess.run(
        command(tiny_folder, data, killed, *more), check=True, env=environment, cwd=tmp_path
    )
    assert last_scores(killed) == last_scores(straight)
    one, other = ((run / "model.safetensors").read_bytes() for run in (straight, killed))
    assert one == other
