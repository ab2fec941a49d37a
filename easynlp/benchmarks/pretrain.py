"""``easynlp bench pretrain``: our pre-training beside the transformers Trainer, in turns.

Both sides get the same random weights, paragraphs, tokenizer, row length, mask rate, steps and
threads, and take turns within every round; ratios are taken round by round and come with a
bootstrap interval. The machine's matmul peak is measured in every round too, and the share of
it counts the FLOPs masked language modeling needs for real tokens, for both sides alike. With
one thread all times are the processor's, so that other programs on the machine do not count.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from easynlp.benchmarks.machine import machine
from easynlp.benchmarks.pretrain_sides import PretrainSetup
from easynlp.benchmarks.settings import PretrainOptions
from easynlp.benchmarks.speed import DEMO, Arm
from easynlp.benchmarks.speed_sides import ALLOCATOR, Worker
from easynlp.benchmarks.statistics import ratio_interval
from easynlp.errors import ConfigError, DataError, MissingExtra

__all__ = ["bench_pretrain", "pretrain_table"]

log = logging.getLogger("easynlp")
MODULE = "easynlp.benchmarks.pretrain_sides"
PEERS = (
    Arm("Trainer, a text a row, padded", "transformers", "lines"),
    Arm("Trainer, full rows", "transformers", "groups"),
    Arm("Trainer, full rows, bf16", "transformers", "groups-bf16"),
    Arm("Trainer, full rows, bf16, our allocator", "transformers+allocator", "groups-bf16"),
)


def bench_pretrain(options: PretrainOptions) -> dict[str, Any]:
    """Measure all arms; return the report, and write it to ``options.output`` if given.

    The report holds ``arms`` (speeds of all rounds in real tokens a second, ``median``,
    ``low``, ``high``, ``peak_share``), ``ratios`` (each of our arms to each peer), ``peak`` (its
    precision and the FLOPs a second of all rounds), ``flops_per_token``, ``data``, ``options``
    and ``machine``.

    Raises:
        ConfigError: If an option is wrong.
        DataError: If the corpus is, or it is too small for a step.
        MissingExtra: If accelerate is not installed, without which there is no Trainer.
        RunError: If a side fails.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise MissingExtra("timing the transformers Trainer", "bench")
    if options.hidden_size % options.heads:
        raise ConfigError(
            f"--hidden-size {options.hidden_size} is not a multiple of --heads {options.heads}"
        )
    with tempfile.TemporaryDirectory(prefix="easynlp-pretrain-") as scratch, ExitStack() as stack:
        setup, data = _prepare(options, Path(scratch))
        environments = {"easynlp": {}, "transformers": {}, "transformers+allocator": ALLOCATOR}
        workers = {
            name: stack.enter_context(Worker(name.partition("+")[0], setup, environment, MODULE))
            for name, environment in environments.items()
        }
        about = workers["easynlp"].ask("about")
        default = about["precision"]
        arms = [Arm(f"easynlp, {default} (default)", "easynlp", default)]
        if default != "fp32":
            arms.append(Arm("easynlp, fp32", "easynlp", "fp32"))
        arms += PEERS
        speeds, peaks = _rounds(arms, workers, options.rounds)
    flops = about["flops_per_token"]
    entries = [
        {
            **asdict(arm), "ours": arm.ours, "speeds": speeds[arm], "median": median(speeds[arm]),
            "low": min(speeds[arm]), "high": max(speeds[arm]),
            "peak_share": median(
                speed * flops / peak for speed, peak in zip(speeds[arm], peaks, strict=True)
            ),
        }
        for arm in arms
    ]  # fmt: skip
    report = {
        "arms": entries,
        "ratios": [
            {"ours": ours.title, "peer": peer.title,
             **asdict(ratio_interval(speeds[ours], speeds[peer]))}
            for ours in arms if ours.ours for peer in arms if not peer.ours
        ],
        "peak": {"precision": default, "flops_per_second": peaks},
        "flops_per_token": flops,
        "data": data,
        "options": asdict(options),
        "machine": machine(options.threads),
    }  # fmt: skip
    if options.output is not None:
        text = json.dumps(report, ensure_ascii=False, indent=1)
        Path(options.output).write_text(text + "\n", encoding="utf-8")
    return report


def _rounds(
    arms: list[Arm], workers: Mapping[str, Worker], rounds: int
) -> tuple[dict[Arm, list[float]], list[float]]:
    """Let all arms take turns; return tokens a second an arm and the peaks. Round 0 warms up."""
    speeds: dict[Arm, list[float]] = defaultdict(list)
    peaks: list[float] = []
    for number in range(rounds + 1):
        peak = workers["easynlp"].ask("peak")["peak"]
        for arm in arms if number % 2 == 0 else arms[::-1]:
            found = workers[arm.worker].ask("train", arm=arm.name)
            if number:
                speeds[arm].append(found["tokens"] / found["seconds"])
        if number:  # the better of before and after: what else ran can only lower it
            peaks.append(max(peak, workers["easynlp"].ask("peak")["peak"]))
        log.info("round %d of %d%s", number, rounds, "" if number else " (warm-up)")
    return speeds, peaks


def _prepare(options: PretrainOptions, scratch: Path) -> tuple[PretrainSetup, dict[str, Any]]:
    """Write weights, paragraphs and packed rows for both sides."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from easynlp.models.backbone import Backbone
    from easynlp.pretraining.rows import pack

    paragraphs, source = _paragraphs(options)
    texts = scratch / "texts.txt"
    texts.write_text("".join(f"{each}\n" for each in paragraphs), encoding="utf-8")
    backbone = Backbone.load(options.vocabulary)
    assert backbone.home is not None
    shape = BertConfig(
        vocab_size=backbone.tokenizer.vocab_size, hidden_size=options.hidden_size,
        num_hidden_layers=options.layers, num_attention_heads=options.heads,
        intermediate_size=options.ffn or 4 * options.hidden_size,
        pad_token_id=backbone.tokenizer.pad_id,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = scratch / "model"
    BertForMaskedLM(shape).save_pretrained(model)
    for file in backbone.home.iterdir():
        if file.suffix in (".json", ".txt") and not (model / file.name).exists():
            shutil.copyfile(file, model / file.name)
    stats = pack(
        [texts], Backbone.load(str(model)).tokenizer, scratch / "rows",
        row_length=options.row_length,
    )  # fmt: skip
    if stats.rows < options.batch_size:
        raise DataError(
            f"the corpus makes {stats.rows} rows of {options.row_length} tokens, a step wants "
            f"{options.batch_size}: name more text with --corpus, or lower --batch-size"
        )
    setup = PretrainSetup(
        str(model), str(scratch / "rows"), str(texts), options.steps, options.batch_size,
        options.row_length, options.mask_rate, options.threads, str(scratch / "trainer"),
    )  # fmt: skip
    data = {
        "source": source, "paragraphs": len(paragraphs), "rows": stats.rows,
        "mean_characters": round(stats.characters / len(paragraphs), 1),
        "parameters": sum(p.numel() for p in BertForMaskedLM(shape).parameters()),
    }  # fmt: skip
    return setup, data


def _paragraphs(options: PretrainOptions) -> tuple[list[str], str]:
    """Return paragraphs up to the limit of characters, and where they are from."""
    given: Iterable[str] = _reviews()
    source = "the demo's reviews"
    if options.corpus:
        from easynlp.pretraining.corpus import documents, find_files

        given = (
            paragraph
            for file in find_files(options.corpus)
            for document in documents(file)
            for paragraph in document
        )
        source = ", ".join(options.corpus)
    kept: list[str] = []
    left = options.characters
    for paragraph in given:
        left -= len(paragraph)
        if left < 0:
            break
        kept.append(paragraph)
    if not kept:
        raise DataError(f"{source}: no paragraph within --characters {options.characters}")
    return kept, source


def _reviews() -> Iterator[str]:
    for name in ("train", "dev", "test"):
        for line in (DEMO / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            yield " ".join(str(json.loads(line)["text"]).split())


def pretrain_table(report: Mapping[str, Any]) -> Table:
    """Return a report's table: speeds, shares of the peak, ratios."""
    options, data = report["options"], report["data"]
    peak = report["peak"]
    found = "; ".join(f"{name} {value}" for name, value in report["machine"].items())
    table = Table(
        title=f"Pre-training {options['layers']}x{options['hidden_size']}: real tokens a second",
        caption=f"{data['source']}; {options['rounds']} rounds, sides in turns; peak "
        f"{median(peak['flops_per_second']) / 1e9:,.0f} GFLOPS {peak['precision']}; {found}",
    )
    table.add_column("", no_wrap=True)
    peers = [entry["title"] for entry in report["arms"] if not entry["ours"]]
    letters = dict(zip(peers, "ABCD", strict=True))
    for heading in ("tokens/s", "range", "of peak", *(f"times {x}" for x in letters.values())):
        table.add_column(heading, justify="right", no_wrap=True)
    ratios = {(row["ours"], row["peer"]): row for row in report["ratios"]}
    for entry in report["arms"]:
        rows = [ratios.get((entry["title"], peer)) for peer in peers]
        times = [
            f"{row['median']:.1f} ({row['low']:.1f}-{row['high']:.1f})" if row else ""
            for row in rows
        ]
        table.add_row(
            f"{letters.get(entry['title'], ' ')}  {entry['title']}", f"{entry['median']:,.0f}",
            f"{entry['low']:,.0f}-{entry['high']:,.0f}", f"{entry['peak_share']:.0%}", *times,
        )  # fmt: skip
    return table
