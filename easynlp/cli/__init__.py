"""The command line: ``easynlp train text_classify --train train.jsonl --output runs/x``.

Results go to standard output, progress and messages to standard error. Exit codes: 0 done,
2 usage, configuration or data, 1 a run or a gate failed, 130 interrupted.
"""

from __future__ import annotations

from easynlp.cli.main import main

__all__ = ["main"]
