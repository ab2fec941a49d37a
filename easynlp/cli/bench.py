"""``easynlp bench speed|pretrain|tokenize|models|…`` and ``easynlp demo``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from easynlp.benchmarks.distill_settings import MetaKdOptions, OnlineOptions
from easynlp.benchmarks.landing_settings import LandingBenchOptions
from easynlp.benchmarks.settings import (
    FewclueOptions,
    MaskedOptions,
    ModelsOptions,
    PretrainOptions,
    SpeedOptions,
    TokenizeOptions,
)
from easynlp.cli.command import Command
from easynlp.cli.deploy import JsonOption
from easynlp.cli.output import say, say_json, say_rows, say_table
from easynlp.cli.train import prepare_process
from easynlp.demo.settings import DemoOptions
from easynlp.deployment.settings import LoadTestOptions
from easynlp.errors import GateError

__all__ = ["demo", "fewclue", "landing", "masked", "metakd", "models", "online", "pretrain",
           "serve", "speed", "tokenize"]  # fmt: skip


def demo(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "demo",
        "Train, evaluate, export and time a small model on real Chinese reviews, in minutes.",
        (DemoOptions,), _demo,
    )  # fmt: skip


def speed(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "bench speed",
        "Time training and prediction beside transformers: same weights, same texts, in turns.",
        (SpeedOptions,), _speed, recipe=True,
    )  # fmt: skip


def pretrain(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "bench pretrain",
        "Time pre-training beside the transformers Trainer: same model, same text, in turns.",
        (PretrainOptions,), _pretrain, recipe=True,
        after="Example: easynlp bench pretrain --layers 6 --hidden-size 384 --heads 6",
    )  # fmt: skip


def tokenize(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "bench tokenize", "Compare the fast tokenizer with Hugging Face's, and time both.",
        (TokenizeOptions,), _tokenize, recipe=True,
        after="Example: easynlp bench tokenize --fuzz 1000000",
    )  # fmt: skip


def models(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "bench models", "Score models and floors on the official splits of FewCLUE tasks.",
        (ModelsOptions,), _models, recipe=True,
        after="Example: easynlp bench models --models tfidf-svm --models tiny-zh --tasks eprstmt",
    )  # fmt: skip


def fewclue(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "bench fewclue", "Score few-shot methods on FewCLUE's nine tasks, by rules that hold.",
        (FewclueOptions,), _fewclue, recipe=True,
        after="Example: easynlp bench fewclue --contenders floor,finetune --tasks eprstmt,tnews",
    )  # fmt: skip


def masked(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "bench masked", "Score masked-LM heads on held-out text: characters guessed, by genre.",
        (MaskedOptions,), _masked, recipe=True,
        after="Example: easynlp bench masked --models random:tiny-zh,tiny-zh --data heldout/",
    )  # fmt: skip


def metakd(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "bench metakd", "Score MetaKD on several domains beside plain distillation and placebos.",
        (MetaKdOptions,), _metakd, recipe=True,
        after="Example: easynlp bench metakd --data shopping --domains 4 --output runs/metakd",
    )  # fmt: skip


def online(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "bench online", "Score online distillation beside its parts and placebos.",
        (OnlineOptions,), _online, recipe=True,
        after="Example: easynlp bench online --data chnsenticorp --output runs/bench-online",
    )  # fmt: skip


def landing(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "bench landing", "Measure the road from few labels to a small served model, by targets.",
        (LandingBenchOptions,), _landing, recipe=True,
        after="Example: easynlp bench landing --parts latency,eprstmt --pool-rows 3000",
    )  # fmt: skip


def serve(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "bench serve", "Load-test a server: latency, texts a second, and no request lost.",
        (LoadTestOptions, JsonOption), _serve, positional=("target",),
        after="Example: easynlp bench serve runs/x --clients 1,8,64",
    )  # fmt: skip


def _demo(options: DemoOptions) -> None:
    prepare_process()
    from easynlp.demo.run import demo_table, next_steps, run_demo

    report = run_demo(options)
    if options.json:
        say_json(report)
    else:
        say_table(demo_table(report))
        say(next_steps(report))


def _speed(options: SpeedOptions) -> None:
    prepare_process(options.threads)
    from easynlp.benchmarks.speed import bench_speed, speed_tables

    report = bench_speed(options)
    if options.json:
        say_json(report)
    else:
        for table in speed_tables(report):
            say_table(table)


def _pretrain(options: PretrainOptions) -> None:
    prepare_process(options.threads)
    from easynlp.benchmarks.pretrain import bench_pretrain, pretrain_table

    report = bench_pretrain(options)
    if options.json:
        say_json(report)
    else:
        say_table(pretrain_table(report))


def _tokenize(options: TokenizeOptions) -> None:
    prepare_process(1)
    from easynlp.benchmarks.tokenize import bench_tokenize, tokenize_tables

    report = bench_tokenize(options)
    if options.json:
        say_json(report)
    else:
        for table in tokenize_tables(report):
            say_table(table)


def _models(options: ModelsOptions) -> None:
    prepare_process(options.threads)
    from easynlp.benchmarks.models import bench_models, models_table, probe_table

    report = bench_models(options)
    if options.json:
        say_json(report)
        return
    say_table(models_table(report))
    if (probes := probe_table(report)) is not None:
        say_table(probes)


def _fewclue(options: FewclueOptions) -> None:
    prepare_process(options.threads)
    from easynlp.benchmarks.fewclue_page import fewclue_table, fuzzy_table, write_page
    from easynlp.benchmarks.harness import bench_fewclue

    report = bench_fewclue(options)
    if options.write:
        write_page(report, Path(options.write), options.command())
    if options.json:
        say_json(report)
    else:
        say_table(fewclue_table(report))
        if (fuzzy := fuzzy_table(report)) is not None:
            say_table(fuzzy)


def _show(report: Mapping[str, Any], as_json: bool, tables: Callable[[], Iterable[Any]]) -> None:
    if as_json:
        say_json(report)
    else:
        for table in tables():
            say_table(table)


def _masked(options: MaskedOptions) -> None:
    prepare_process(options.threads)
    from easynlp.benchmarks.masked import bench_masked, masked_table

    report = bench_masked(options)
    _show(report, options.json, lambda: [masked_table(report)])


def _metakd(options: MetaKdOptions) -> None:
    prepare_process(options.threads)
    from easynlp.benchmarks.metakd import bench_metakd, metakd_table

    report = bench_metakd(options)
    _show(report, options.json, lambda: [metakd_table(report)])


def _online(options: OnlineOptions) -> None:
    prepare_process(options.threads)
    from easynlp.benchmarks.online import bench_online, online_table

    report = bench_online(options)
    _show(report, options.json, lambda: [online_table(report)])


def _landing(options: LandingBenchOptions) -> None:
    prepare_process(options.threads)
    from easynlp.benchmarks.landing import bench_landing
    from easynlp.benchmarks.landing_page import landing_tables, write_landing_page

    report = bench_landing(options, partial(_smaller, options))
    if options.write:
        write_landing_page(report, Path(options.write))
    _show(report, options.json, lambda: landing_tables(report))


def _smaller(
    options: LandingBenchOptions, run: Path, output: Path, files: Mapping[str, str], budget: int
) -> Path | None:
    """Compress a run to so many bytes; return what is served, None if nothing was kept."""
    from easynlp.compression.compress import compress
    from easynlp.compression.settings import CompressConfig

    found = compress(CompressConfig(
        run=str(run), output=str(output), train=files["train"], dev=files["dev"],
        unlabeled=files["pool"] if Path(files["pool"]).stat().st_size else None,
        target_size=str(budget), max_drop=options.compress_drop, epochs=options.compress_epochs,
        candidates=options.compress_candidates, threads=options.threads, seed=options.seed,
        resume=(output / "compress.yaml").is_file(),
    ))  # fmt: skip
    kept = (each.export for each in found.candidates if each.name == found.chosen)
    return next((Path(each) for each in kept), None)


def _serve(options: LoadTestOptions, output: JsonOption) -> None:
    given = vars(options).copy()
    given.pop("backend")
    if given.pop("peer"):
        _compare(options, output)
        return
    from easynlp.deployment.loadtest import loadtest

    rounds = [asdict(each) for each in loadtest(**given)]
    if output.json:
        say_json(rounds)
    else:
        say_rows(rounds)
    lost = sum(each["lost"] + each["errors"] for each in rounds)
    if lost:
        raise GateError(f"{lost} requests were lost or failed")


def _compare(options: LoadTestOptions, output: JsonOption) -> None:
    from easynlp.deployment.saturation import saturate

    report = saturate(
        options.target, clients=max(options.clients), seconds=options.seconds,
        texts=options.texts, backend=options.backend,
    )  # fmt: skip
    if output.json:
        say_json(asdict(report))
    else:
        for line in report.lines():
            say(line)
    if report.wrong:
        raise GateError(f"{report.wrong} requests did not get exactly one answer of their own")
