"""Events to where people look: a progress line, metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from easynlp.atomic import write_text
from easynlp.errors import RunError
from easynlp.training.loop import Event
from easynlp.training.throughput import Throughput

__all__ = ["Reporter", "drop_later_lines"]

log = logging.getLogger("easynlp")
RECENT_STEPS = 20
"""Steps over which live figures are means."""
QUIET_SECONDS = 20.0
"""Where standard error is no terminal, a line of progress is written this often."""


class Reporter:
    """Write events of a run; a context manager.

    Args:
        folder: Run folder; None writes no files (a process that is not the main one).
        first_step: Steps already done; later lines of an earlier try are dropped.
        every: Steps between lines in ``metrics.jsonl``; evaluations are always written.
        show: Show progress on standard error.
        throughput: Makes a share of the machine's peak of tokens a second.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        first_step: int,
        every: int,
        show: bool,
        throughput: Throughput | None = None,
    ) -> None:
        self.folder, self.first_step, self.every, self.show = folder, first_step, every, show
        self.throughput = throughput
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT_STEPS)
        self._progress: Progress | None = None
        self._said = 0.0
        self._file: Any = None
        self._board: Any = None

    def __enter__(self) -> Reporter:
        if self.folder is not None:
            path = self.folder / "metrics.jsonl"
            drop_later_lines(path, self.first_step)
            self._file = path.open("a", encoding="utf-8")
            self._board = _board(self.folder / "tensorboard", self.first_step)
        if self.show and sys.stderr.isatty():
            self._progress = Progress(
                TextColumn("[bold]train"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.description}"), TimeRemainingColumn(),
                console=Console(stderr=True),
            )  # fmt: skip
            self._progress.start()
            self._bar = self._progress.add_task("", total=None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def report(self, event: Event) -> None:
        """Show and write one event."""
        self._recent.append((event.tokens_per_second * event.seconds, event.seconds))
        last = event.step == event.steps or event.stop
        if self._file is not None and (
            event.scores is not None or last or event.step % self.every == 0
        ):
            try:
                self._write(event)
            except OSError as error:
                raise RunError(
                    f"cannot write metrics to {self.folder}: {error.strerror}"
                ) from error
        if self.show:
            self._show(event, last)

    def _speed(self) -> dict[str, float]:
        """Return means over the last steps: a single one is at the mercy of the machine."""
        tokens, seconds = (sum(part) for part in zip(*self._recent, strict=True))
        speed = tokens / seconds
        found = {"tokens_per_second": speed, "steps_per_second": len(self._recent) / seconds}
        if self.throughput is not None:
            found["peak_share"] = self.throughput.share(speed)
        return found

    def _write(self, event: Event) -> None:
        line: dict[str, Any] = {
            "step": event.step,
            "epoch": round(event.epoch, 4),
            "losses": {name: round(value, 6) for name, value in event.losses.items()},
            "lr": event.lr,
            "grad_norm": round(event.grad_norm, 5),
            **{name: round(value, 4) for name, value in self._speed().items()},
        }
        if event.scores is not None:
            line |= {"scores": dict(event.scores), "is_best": event.is_best}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in event.losses.items():
                self._board.add_scalar(f"train/{name}", value, event.step)
            self._board.add_scalar("train/lr", event.lr, event.step)
            self._board.add_scalar("train/tokens_per_second", event.tokens_per_second, event.step)
            for name, value in (event.scores or {}).items():
                self._board.add_scalar(f"dev/{name}", value, event.step)

    def _show(self, event: Event, last: bool) -> None:
        losses = " ".join(f"{name} {value:.4f}" for name, value in event.losses.items())
        speed = self._speed()
        text = (
            f"{losses}  {speed['steps_per_second']:.2f} steps/s  "
            f"{speed['tokens_per_second']:,.0f} tokens/s"
        )
        if "peak_share" in speed:
            text += f"  {speed['peak_share']:.0%} of peak"
        if event.scores is not None:
            scores = " ".join(f"{name} {value:.4f}" for name, value in event.scores.items())
            text = f"dev {scores}{' (best)' if event.is_best else ''}  {text}"
        if self._progress is not None:
            self._progress.update(
                self._bar, completed=event.step, total=event.steps, description=text
            )
            if event.scores is not None:
                self._progress.console.log(f"step {event.step}: {text}")
            return
        now = time.monotonic()
        if last or event.scores is not None or now - self._said > QUIET_SECONDS:
            self._said = now
            log.info("step %d of %d: %s", event.step, event.steps, text)


def drop_later_lines(path: Path, step: int) -> None:
    """Remove lines of ``metrics.jsonl`` after a step, and a last line cut short by a crash."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue
    write_text(path, "".join(kept))


def _board(folder: Path, first_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first_step + 1)  # type: ignore[no-untyped-call]
