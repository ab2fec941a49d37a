"""What starting costs: the help of every command, and the import, load nothing heavy."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from easynlp.cli.main import COMMANDS

HEAVY = {"torch", "transformers", "onnxruntime", "fastapi", "uvicorn", "sklearn", "pyarrow"}
CODE = """
import sys
from easynlp.cli import main
code = main(sys.argv[1:])
sys.stderr.write("LOADED " + " ".join({name.partition(".")[0] for name in sys.modules}))
sys.exit(code)
"""


def start(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize("words", ["", "train text_classify", "train sequence_labeling", *COMMANDS])
def test_help_loads_nothing_heavy(words):
    done = start("-c", CODE, *words.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: easynlp" in done.stdout
    loaded = set(done.stderr.partition("LOADED ")[2].split())
    assert "easynlp" in loaded
    assert not loaded & HEAVY


def best_time(*arguments):
    """Return the least processor time of a few starts: it hardly depends on what else runs."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert start(*arguments).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_help_takes_less_than_0_4_seconds():
    assert best_time("-m", "easynlp", "--help") < 0.4


def test_import_takes_less_than_0_1_seconds():
    bare = best_time("-c", "pass")
    assert best_time("-c", "import easynlp") - bare < 0.1
