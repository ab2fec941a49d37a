"""The two sides of ``easynlp bench speed``, each in a process of its own with its own defaults.

A side is a worker (``python -m easynlp.benchmarks.speed_sides SIDE``) that reads one JSON
command a line and answers one JSON line: first a setup, then trainings and predictions, each
timed inside the worker. Own processes, because allocator settings and thread pools are of a
process: ours tunes the allocator as the command line does, transformers keeps what it has.
`Worker` and `serve` are those of every benchmark with sides.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Protocol

from easynlp.errors import RunError

__all__ = ["ALLOCATOR", "SIDES", "Setup", "Side", "Worker", "serve"]

ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "-1",
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""What `easynlp.training.precision.tune_allocator` sets, as environment of another program."""


@dataclass(frozen=True)
class Setup:
    """What both sides are given.

    Attributes:
        run: Run folder: weights and tokenizer both sides start from, and exported models.
        exports: Backend names to exported folders.
        data: Training rows, jsonl with ``text`` and ``label``.
        steps: Training steps of a round.
        batch_size: Rows of a training step.
        max_length: Most tokens of a text.
        threads: CPU threads.
        scratch: A folder to write to.
    """

    run: str
    exports: Mapping[str, str]
    data: str
    steps: int
    batch_size: int
    max_length: int
    threads: int
    scratch: str


class Side(Protocol):
    """One side; arms are its ways of doing the same work."""

    def train(self, arm: str) -> dict[str, float]:
        """Train ``setup.steps`` steps; return real ``tokens`` (no padding) and ``seconds``."""

    def predict(self, arm: str, texts: Sequence[str], batch_size: int) -> dict[str, Any]:
        """Label texts in calls of `batch_size`; return ``labels`` and ``seconds``."""


class EasyNLPSide:
    """This library: arms ``bf16``, ``fp32`` to train; ``torch``, ``onnx``, ``int8`` to predict."""

    def __init__(self, setup: Setup) -> None:
        import torch

        from easynlp.data.sampling import EncodedRows
        from easynlp.models.runtime import TorchModel
        from easynlp.pipeline import Pipeline
        from easynlp.training.plan import Plan, task_term
        from easynlp.training.precision import tune_allocator

        tune_allocator()
        torch.set_num_threads(setup.threads)
        self.setup = setup
        loaded = Pipeline.load(setup.run, backend="torch")
        assert isinstance(loaded.model, TorchModel)
        rows = [loaded.task.encode(row) for row in read_lines(setup.data)]
        self._source = EncodedRows.of(rows)
        self._plan = Plan(loaded.task, loaded.model.model, (task_term(loaded.task),))
        self._pipelines = {
            "torch": Pipeline.load(setup.run, backend="torch"),
            **{
                name: Pipeline.load(folder, threads=setup.threads)
                for name, folder in setup.exports.items()
            },
        }

    def default_precision(self) -> dict[str, str]:
        """Return the precision training takes by itself on this machine."""
        import torch

        from easynlp.training.precision import resolve_precision

        return {"precision": resolve_precision("auto", torch.device("cpu"))}

    def train(self, arm: str) -> dict[str, float]:
        """Run the one loop; the arm is the precision."""
        import torch

        from easynlp.training.loop import FitOptions, State, fit

        options = FitOptions(
            steps=self.setup.steps, batch_size=self.setup.batch_size, precision=arm
        )
        state = State()
        started = time.perf_counter()
        for _ in fit(self._plan, self._source, options, state=state, device=torch.device("cpu")):
            pass
        return {"tokens": state.tokens, "seconds": time.perf_counter() - started}

    def predict(self, arm: str, texts: Sequence[str], batch_size: int) -> dict[str, Any]:
        """Label texts with `easynlp.Pipeline`; the arm is the backend."""
        pipeline = self._pipelines[arm]
        started = time.perf_counter()
        found = [
            prediction
            for start in range(0, len(texts), batch_size)
            for prediction in pipeline.predict(texts[start : start + batch_size], batch_size)
        ]
        seconds = time.perf_counter() - started
        return {"labels": [str(each["label"]) for each in found], "seconds": seconds}


class TransformersSide:
    """transformers with its defaults: arms ``max_length`` and ``longest`` to train (padding).

    The Trainer gets the step's size and count, CPU, and neither saving nor reporting, all of
    which would only slow it down; every other training argument is its default.
    """

    def __init__(self, setup: Setup) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]
        torch.set_num_threads(setup.threads)
        self.setup = setup
        import easynlp.models.ngram_bert  # noqa: F401 - else transformers asks to run its code

        self._tokenizer = AutoTokenizer.from_pretrained(setup.run)
        self._model = AutoModelForSequenceClassification.from_pretrained(setup.run)
        number = self._model.config.label2id
        rows = read_lines(setup.data)
        self._rows = {
            arm: [
                {**self._encode(row["text"], padding), "labels": number[str(row["label"])]}
                for row in rows
            ]
            for arm, padding in (("max_length", "max_length"), ("longest", False))
        }
        self._pipe: Callable[..., Any] = pipeline(
            "text-classification", model=setup.run, tokenizer=setup.run, device=-1
        )

    def _encode(self, text: str, padding: str | bool) -> dict[str, Any]:
        return dict(
            self._tokenizer(
                text, truncation=True, max_length=self.setup.max_length, padding=padding
            )
        )

    def train(self, arm: str) -> dict[str, float]:
        """Run the Trainer; the arm says how rows were padded."""
        from transformers import (
            DataCollatorWithPadding,
            PrinterCallback,
            Trainer,
            TrainingArguments,
            default_data_collator,
        )

        tokens: list[int] = []
        collate = (
            DataCollatorWithPadding(self._tokenizer) if arm == "longest" else default_data_collator
        )

        def counting(features: list[dict[str, Any]]) -> Any:
            batch = collate(features)
            tokens.append(int(batch["attention_mask"].sum()))
            return batch

        arguments = TrainingArguments(
            self.setup.scratch, max_steps=self.setup.steps, use_cpu=True, save_strategy="no",
            per_device_train_batch_size=self.setup.batch_size, report_to="none",
            disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(
            self._model, arguments, train_dataset=self._rows[arm], data_collator=counting
        )
        trainer.remove_callback(PrinterCallback)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        # One batch more is collated, ahead, than trained on.
        return {"tokens": sum(tokens[: self.setup.steps]), "seconds": seconds}

    def predict(self, arm: str, texts: Sequence[str], batch_size: int) -> dict[str, Any]:
        """Label texts with ``transformers.pipeline``."""
        options = {"truncation": True, "max_length": self.setup.max_length}
        started = time.perf_counter()
        if batch_size == 1:
            found = [self._pipe(text, **options)[0] for text in texts]
        else:
            found = self._pipe(list(texts), batch_size=batch_size, **options)
        seconds = time.perf_counter() - started
        return {"labels": [str(each["label"]) for each in found], "seconds": seconds}


SIDES: dict[str, Callable[[Setup], Side]] = {
    "easynlp": EasyNLPSide,
    "transformers": TransformersSide,
}


def read_lines(path: str) -> list[dict[str, Any]]:
    """Read a jsonl file of our own making."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


class Worker:
    """A side running in its own process; a context manager.

    Args:
        side: Key of the sides the module serves.
        setup: What to work on: a dataclass of plain values, ``threads`` among them.
        environment: Variables to set for the process, beside the numbers of threads.
        module: Whose sides; run as a program it must call `serve`.
    """

    def __init__(
        self,
        side: str,
        setup: Any,
        environment: Mapping[str, str] | None = None,
        module: str = "easynlp.benchmarks.speed_sides",
    ) -> None:
        self.side = side
        threads = str(setup.threads)
        own = {name: value for name, value in os.environ.items() if name not in ALLOCATOR}
        own |= {
            "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "true" if setup.threads > 1 else "false",
            "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, side],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**own, **(environment or {})},
            text=True, encoding="utf-8",
        )  # fmt: skip
        self.ask("setup", setup=asdict(setup))

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a command, wait for its answer.

        Raises:
            RunError: If the process died or the command failed there.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise RunError(f"the {self.side} side ended during {command} (code {process.wait()})")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RunError(f"the {self.side} side failed during {command}: {answer['error']}")
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def answer(
    side: Any,
    name: str,
    request: dict[str, Any],
    sides: Mapping[str, Callable[[Any], Any]] = SIDES,
    setup: Callable[..., Any] = Setup,
) -> tuple[Any, Any]:
    """Do one command; return the side (made by ``setup``) and what to answer."""
    command = request.pop("command")
    if command == "setup":
        return sides[name](setup(**request["setup"])), {}
    assert side is not None, "setup comes first"
    return side, getattr(side, command)(**request)


def serve(sides: Mapping[str, Callable[[Any], Any]], setup: Callable[..., Any]) -> None:
    """Serve commands from standard input until it ends.

    Args:
        sides: Names to what makes a side of a setup.
        setup: The class of setups.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    logging.disable(logging.WARNING)
    side: Any = None
    for line in sys.stdin:
        found: Any
        try:
            side, found = answer(side, sys.argv[1], json.loads(line), sides, setup)
        except Exception as error:  # the other process decides what to do about it
            found = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(found) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(SIDES, Setup)
