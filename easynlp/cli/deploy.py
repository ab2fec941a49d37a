"""``easynlp calibrate``, ``easynlp export`` and ``easynlp serve``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from easynlp.cli.command import Command
from easynlp.cli.output import say_facts
from easynlp.deployment.settings import CalibrateOptions, ExportOptions, ServeOptions

__all__ = ["JsonOption", "calibrate", "export", "serve"]


@dataclass(frozen=True)
class JsonOption:
    """How results are printed."""

    json: bool = False
    """Print the result as one line of JSON."""


def calibrate(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "calibrate",
        "Make a run's scores mean what they say, and find below which to give no label.",
        (CalibrateOptions, JsonOption), _calibrate, positional=("run",),
        after="Example: easynlp calibrate runs/x --dev dev.jsonl --abstain-precision 0.95",
    )  # fmt: skip


def export(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "export",
        "Turn a run into ONNX that needs no torch, and check that it agrees with the run.",
        (ExportOptions, JsonOption), _export, positional=("run",),
        after="Example: easynlp export runs/x --int8",
    )  # fmt: skip


def serve(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "serve", "Serve runs over HTTP: /predict, /v2, /healthz, /readyz, /metrics, /docs.",
        (ServeOptions,), _serve, positional=("run",), recipe=True,
        after="Examples: easynlp serve runs/x --port 8000; easynlp serve a=runs/a b=runs/b",
    )  # fmt: skip


def _calibrate(options: CalibrateOptions, output: JsonOption) -> None:
    from easynlp.deployment.calibrate import calibrate as run_calibration

    found = run_calibration(
        options.run, options.dev, abstain_precision=options.abstain_precision,
        columns=options.columns, encoding=options.encoding, schema=options.schema,
        header=options.header, format=options.format,
    )  # fmt: skip
    say_facts({name: each.as_dict() for name, each in found.items()}, as_json=output.json)


def _export(options: ExportOptions, output: JsonOption) -> None:
    from easynlp.deployment.export import export as run_export

    report = run_export(
        options.run, int8=options.int8, format=options.format, output=options.output,
        texts=options.texts, max_drop=options.max_drop,
        abstain_precision=options.abstain_precision, force=options.force,
    )  # fmt: skip
    say_facts(asdict(report), as_json=output.json)


def _serve(options: ServeOptions) -> None:
    from easynlp.deployment.server import serve as run_server

    run_server(options)
