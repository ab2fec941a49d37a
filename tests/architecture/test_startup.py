"""What starting costs: the help of every command, and the import, load nothing heavy."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from easynlp.cli.main import COMMANDS

HEAVY = {"torch", "transformers", "onnxruntime", "fastapi", "uvicorn", "sklearn", "pyarrow"}
CODE = """
import sys
from easynlp.cli import main
for line in sys.stdin:
    code = main([*line.split(), "--help"])
    loaded = {name.partition(".")[0] for name in sys.modules}
    sys.stderr.write(f"{line.strip()}: {code} {' '.join(sorted(loaded & set(sys.argv[1:])))}\\n")
"""


def start(*arguments, stdin=""):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *arguments], input=stdin, capture_output=True, text=True, check=False,
        env=environment,
    )  # fmt: skip


def test_help_loads_nothing_heavy():
    commands = ["", "train text_classify", "train sequence_labeling", *COMMANDS]
    done = start("-c", CODE, "easynlp", *HEAVY, stdin="\n".join(commands))
    assert done.stderr.splitlines() == [f"{command}: 0 easynlp" for command in commands]
    assert done.stdout.count("Usage: easynlp") == len(commands)


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
