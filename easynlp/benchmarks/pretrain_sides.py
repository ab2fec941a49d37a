"""The two sides of ``easynlp bench pretrain``; see `easynlp.benchmarks.speed_sides`.

Both start from the same weights and read the same paragraphs. Tokens counted are real ones:
what a side pads is not work done. With one thread, seconds are the processor's, so that other
programs on the machine do not count; with more, they are those on the wall.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easynlp.benchmarks.speed_sides import serve

__all__ = ["SIDES", "EasyNLPSide", "PretrainSetup", "TransformersSide"]


@dataclass(frozen=True)
class PretrainSetup:
    """What both sides are given.

    Attributes:
        model: Model folder: configuration, weights and tokenizer.
        rows: Folder of our packed rows.
        texts: The paragraphs, one a line.
        steps: Training steps of a round.
        batch_size: Rows of a training step.
        row_length: Tokens of a row.
        mask_rate: Share of tokens to predict.
        threads: CPU threads.
        scratch: A folder to write to.
    """

    model: str
    rows: str
    texts: str
    steps: int
    batch_size: int
    row_length: int
    mask_rate: float
    threads: int
    scratch: str


class EasyNLPSide:
    """This library's loop on packed rows; arms are precisions."""

    def __init__(self, setup: PretrainSetup) -> None:
        import torch

        from easynlp.models.backbone import Backbone
        from easynlp.pretraining.rows import MaskedRows
        from easynlp.tasks.language_modeling import Config, LanguageModeling
        from easynlp.training.plan import Plan, task_term
        from easynlp.training.precision import resolve_precision, tune_allocator

        tune_allocator()
        torch.set_num_threads(setup.threads)
        self.setup, self._device = setup, torch.device("cpu")
        backbone = Backbone.load(setup.model)
        task = LanguageModeling(
            Config(max_length=setup.row_length, mask_rate=setup.mask_rate), backbone.tokenizer
        )
        self._plan = Plan(task, task.build(backbone), (task_term(task),))
        self._source = MaskedRows(
            Path(setup.rows), task, row_length=setup.row_length,
            max_positions=backbone.config.max_position_embeddings, seed=0,
        )  # fmt: skip
        self._precision = resolve_precision("auto", self._device)

    def about(self) -> dict[str, Any]:
        """Return the default precision here and the FLOPs a token of the model."""
        from easynlp.training.throughput import flops_per_token

        counted = flops_per_token(
            self._plan.model, self._source.lengths, predicted=self.setup.mask_rate
        )
        return {"precision": self._precision, "flops_per_token": counted}

    def peak(self) -> dict[str, float]:
        """Measure the machine's peak in the default precision, FLOPs a second."""
        from easynlp.training.throughput import measure_peak

        return {"peak": measure_peak(self._device, self._precision, seconds=0.5)}

    def train(self, arm: str) -> dict[str, float]:
        """Run the one loop."""
        import torch

        from easynlp.training.loop import FitOptions, State, fit
        from easynlp.training.throughput import pick_clock

        setup = self.setup
        options = FitOptions(
            steps=setup.steps, batch_size=setup.batch_size, precision=arm,
            batch_tokens=setup.batch_size * setup.row_length,
        )  # fmt: skip
        state = State()
        clock = pick_clock(torch.device("cpu"))
        started = clock()
        for _ in fit(self._plan, self._source, options, state=state, device=self._device):
            pass
        return {"tokens": state.tokens, "seconds": clock() - started}


class TransformersSide:
    """The Trainer with ``DataCollatorForLanguageModeling``, as transformers' run_mlm sets it up.

    Arms: ``lines`` pads every paragraph to the row length (run_mlm ``--line_by_line
    --pad_to_max_length``); ``groups`` joins all and cuts full rows (run_mlm's default);
    ``groups-bf16`` adds ``TrainingArguments(bf16=True)``. All else is default, without saving
    and reporting, which would only slow it down.
    """

    def __init__(self, setup: PretrainSetup) -> None:
        import torch
        from transformers import AutoModelForMaskedLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]
        torch.set_num_threads(setup.threads)
        self.setup = setup
        import easynlp.models.ngram_bert  # noqa: F401 - else transformers asks to run its code

        self._tokenizer = AutoTokenizer.from_pretrained(setup.model)
        self._model = AutoModelForMaskedLM.from_pretrained(setup.model)
        texts = Path(setup.texts).read_text(encoding="utf-8").splitlines()
        self._rows = {"lines": self._lines(texts), "groups": self._groups(texts)}

    def _lines(self, texts: list[str]) -> list[dict[str, list[int]]]:
        found = self._tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.setup.row_length,
            return_special_tokens_mask=True,
        )  # fmt: skip
        return _rows(found, len(texts))

    def _groups(self, texts: list[str]) -> list[dict[str, list[int]]]:
        found = self._tokenizer(texts, return_special_tokens_mask=True, verbose=False)
        length = self.setup.row_length
        joined = {name: [i for each in found[name] for i in each] for name in found}
        count = len(joined["input_ids"]) // length
        return [
            {name: all_[i * length : (i + 1) * length] for name, all_ in joined.items()}
            for i in range(count)
        ]

    def train(self, arm: str) -> dict[str, float]:
        """Run the Trainer; see the class for the arms."""
        import torch
        from transformers import (
            DataCollatorForLanguageModeling,
            PrinterCallback,
            Trainer,
            TrainingArguments,
        )

        from easynlp.training.throughput import pick_clock

        setup = self.setup
        kind, _, precision = arm.partition("-")
        collate = DataCollatorForLanguageModeling(self._tokenizer, mlm_probability=setup.mask_rate)
        tokens: list[int] = []

        def counting(features: list[dict[str, Any]]) -> Any:
            batch = collate(features)
            tokens.append(int(batch["attention_mask"].sum()))
            return batch

        arguments = TrainingArguments(
            setup.scratch, max_steps=setup.steps, use_cpu=True, save_strategy="no",
            per_device_train_batch_size=setup.batch_size, report_to="none", disable_tqdm=True,
            bf16=precision == "bf16",
        )  # fmt: skip
        trainer = Trainer(
            self._model, arguments, train_dataset=self._rows[kind], data_collator=counting
        )
        trainer.remove_callback(PrinterCallback)
        clock = pick_clock(torch.device("cpu"))
        started = clock()
        trainer.train()
        seconds = clock() - started
        # One batch more is collated, ahead, than trained on.
        return {"tokens": sum(tokens[: setup.steps]), "seconds": seconds}


def _rows(columns: Any, count: int) -> list[dict[str, list[int]]]:
    return [{name: columns[name][i] for name in columns} for i in range(count)]


SIDES: dict[str, Callable[[PretrainSetup], Any]] = {
    "easynlp": EasyNLPSide,
    "transformers": TransformersSide,
}

if __name__ == "__main__":
    serve(SIDES, PretrainSetup)
