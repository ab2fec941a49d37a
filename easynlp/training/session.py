"""One plan trained into one folder: resumption, signals, saving and reporting around `fit`."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

import torch

from easynlp.data.sampling import Source
from easynlp.distributed import World, all_sum
from easynlp.errors import Interrupted
from easynlp.training.checkpoint import Checkpoints
from easynlp.training.loop import FitOptions, State, fit
from easynlp.training.plan import Plan
from easynlp.training.reporting import Reporter
from easynlp.training.throughput import Throughput

__all__ = ["Habits", "train_to_folder"]

log = logging.getLogger("easynlp")


@dataclass(frozen=True)
class Habits:
    """What a session does beside training."""

    save_every: int = 0
    """Steps between checkpoints; 0 saves at evaluations only."""
    log_every: int = 10
    resume: bool = False
    show: bool = True
    throughput: Throughput | None = None
    """Reports the share of the machine's peak."""


def train_to_folder(
    plan: Plan,
    source: Source,
    options: FitOptions,
    folder: Path,
    *,
    device: torch.device,
    world: World,
    habits: Habits,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
) -> State:
    """Train a plan, leaving checkpoints and metrics in a folder; return where it ended.

    On SIGINT and SIGTERM the step under way is finished, saved, and `Interrupted` raised. The
    plan's model ends in evaluation mode, with the best checkpoint's weights if there was an
    evaluation, else with the last.

    Args:
        plan: What to train.
        source: Training rows.
        options: Sizes and rates.
        folder: Run folder.
        device: Where to compute.
        world: This process among its peers; only the main one writes.
        habits: When to save and report, and whether to go on from the last checkpoint.
        evaluate: Scores on dev.

    Raises:
        Interrupted: After saving, if a signal asked to stop.
        RunError: If the loss is not finite or the disk refuses.
    """
    checkpoints = Checkpoints(folder)
    state = (checkpoints.load(plan.model) if habits.resume else None) or State()
    if state.step:
        log.info("resuming after step %d of %d", state.step, options.steps)
    main = world.is_main
    reporter = Reporter(
        folder if main else None, first_step=state.step, every=habits.log_every,
        show=habits.show and main, throughput=habits.throughput,
    )  # fmt: skip
    with Signals() as signals, reporter:
        for event in fit(
            plan, source, options, state=state, device=device, world=world, evaluate=evaluate
        ):
            reporter.report(event)
            told = bool(all_sum(torch.tensor(int(signals.caught), device=device), world))
            due = event.scores is not None or event.step == event.steps
            if habits.save_every:
                due = due or event.step % habits.save_every == 0
            if main and (due or told):
                checkpoints.save(plan.model, state)
            if told:  # the last step is no exception: a longer road may go on from here
                raise _interrupted(state.step, event.steps, folder)
    if signals.caught:  # after the last step's question was asked, while it was being saved
        raise _interrupted(state.step, options.steps, folder)
    if state.best_step and state.best_step != state.step:
        checkpoints.load(plan.model, state.best_step)
        log.info("the best checkpoint is step %d (%.4f)", state.best_step, state.best_score)
    plan.model.eval()
    return state


def _interrupted(step: int, steps: int, folder: Path) -> Interrupted:
    return Interrupted(
        f"stopped at step {step} of {steps}; everything is saved in {folder}. Go on with the same "
        "command and --resume"
    )


class Signals:
    """Note SIGINT and SIGTERM for the duration of a block; a second SIGINT ends at once."""

    def __init__(self) -> None:
        self.caught = False
        self._old: dict[signal.Signals, object] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for name in (signal.SIGINT, signal.SIGTERM):
                self._old[name] = signal.signal(name, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name, handler in self._old.items():
            signal.signal(name, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.caught = True
        log.info("finishing the step, then saving (interrupt again to stop at once)")
