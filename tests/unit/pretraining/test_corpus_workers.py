"""The worker processes of `corpus build`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from easynlp.pretraining.corpora.parallel import spread

ORPHANS = """
import time
from easynlp.pretraining.corpora.parallel import spread
def work(state, item):
    open(f"{state}/{item}", "w").close()
    time.sleep(600)
if __name__ == "__main__":
    list(spread(work, FOLDER, range(2), 2))
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(ORPHANS.replace("FOLDER", repr(str(tmp_path))), encoding="utf-8")
    parent = subprocess.Popen([sys.executable, str(script)], cwd=Path(__file__).parents[3])
    wait(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists())
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) >= 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait(lambda: not any(child.is_running() and child.status() != "zombie" for child in children))


def wait(happened) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_results_come_in_order_and_items_are_taken_as_needed() -> None:
    taken = []

    def items():
        for number in range(30):
            taken.append(number)
            yield number

    results = spread(pow, 2, items(), 2)
    assert next(results) == 1
    assert len(taken) <= 4
    assert list(results) == [2**number for number in range(1, 30)]
