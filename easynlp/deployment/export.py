"""A run to ONNX: torch's weights become a file that needs no torch, checked before it is kept."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easynlp.deployment.package import Format, check_format, pack
from easynlp.deployment.texts import (
    MOST_TEXTS,
    labelled_examples,
    labelled_rows,
    read_texts,
    recorded_examples,
    spread,
)
from easynlp.deployment.trace import TOLERANCE, input_names
from easynlp.deployment.trace import lighter as _lighter
from easynlp.deployment.trace import trace as _trace
from easynlp.errors import ConfigError, DataError, EasyNLPError, GateError, MissingExtra
from easynlp.metrics import room_for
from easynlp.models.runtime import OnnxModel, TorchModel
from easynlp.pipeline import MODELS, Pipeline, fingerprint, save_meta
from easynlp.tasks.base import Example
from easynlp.tasks.inputs import check_rows
from easynlp.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from easynlp.deployment.fallback import Attempt
    from easynlp.deployment.parity import Agreement

__all__ = ["Report", "export"]

AGREEMENT = 0.99
"""Least share of labels an int8 export must have in common with the run."""
MAX_DROP = 0.5
"""Points of the dev score an int8 export may lose: below the one point that `AGREEMENT` lets
through, and half of what a compressed model is usually granted."""

log = logging.getLogger("easynlp")


@dataclass(frozen=True)
class Report:
    """What an export is, and how it compares with the run; saved as ``export.json``.

    Attributes:
        folder: The exported folder: model, tokenizer and ``easynlp.json``, complete in itself.
        file: Name of the model file in it.
        precision: ``fp32`` or ``int8``.
        passed: Whether the check was passed; False only if kept by force.
        bytes: Size of the model file.
        fp32_bytes: Size of the same model in fp32 ONNX.
        difference: Largest difference between fp32 ONNX logits and torch's.
        int8_difference: The same for int8.
        agreement: Share of labels the int8 model has in common with the run.
        labels: Labels compared: of texts, or of the characters found to be in entities.
        texts: Texts they come from.
        seconds: Time it took.
        weights: SHA-256 of the run's weights.
        kind: What was kept: ``fp32``, ``int8``, ``int8 but N operators`` or ``int8 weights``.
        fp32_operators: Operators left in fp32 because int8 hurts there.
        metric: What labelled dev rows are scored by; None without labels.
        score: The export's score on them; `run_score` is the run's.
        drop: Points (of 100) lost; negative if won.
        max_drop: Points that were allowed.
        tried: Every way that was tried, with what it gave.
    """

    folder: str
    file: str
    precision: str
    passed: bool
    bytes: int
    fp32_bytes: int
    difference: float
    int8_difference: float | None
    agreement: float | None
    labels: int
    texts: int
    seconds: float
    weights: str
    kind: str = "fp32"
    fp32_operators: list[str] = field(default_factory=list)
    metric: str | None = None
    score: float | None = None
    run_score: float | None = None
    drop: float | None = None
    max_drop: float | None = None
    tried: list[dict[str, Any]] = field(default_factory=list)


def export(
    run: str | Path,
    *,
    int8: bool = False,
    format: Format = "onnx",
    output: str | Path | None = None,
    texts: str | Path | Sequence[Any] | None = None,
    max_drop: float = MAX_DROP,
    abstain_precision: float | None = None,
    force: bool = False,
) -> Report:
    """Export a run to ONNX and check it against the run; a failed check writes nothing.

    fp32: logits within 1e-4 on several shapes with padding. int8: labels equal on at least 99 %
    of up to 1000 real texts and, where these have labels, a score at most `max_drop` points below
    the run's. Where plain int8 (with a scale for each output channel) fails, the operators that
    int8 hurts most, measured one by one, are left in fp32, and at last only weights are stored as
    int8 and computed with in fp32; the first way that passes is kept, and said.

    Args:
        run: Run folder with torch weights.
        int8: Quantize.
        format: ``onnx``; ``triton``, a model repository; or ``docker``, an image's context; see
            `easynlp.deployment.package`.
        output: Folder to write; by default one called as the format in the run folder. An earlier
            export there is replaced.
        texts: Real texts: a file, or texts, pairs or examples. By default the dev data (else
            the training data) the run was made with, if it is still where it was.
        max_drop: Points of the dev score that int8 may cost.
        abstain_precision: Calibrate the export on these rows, which must have labels, with a
            threshold as `easynlp.deployment.calibrate.calibrate` finds it. Without it the export
            of a calibrated run is calibrated again for the same precision, if rows have labels,
            and else takes over the run's calibration.
        force: Keep an export that fails its check.

    Raises:
        GateError: If the check fails, or there are no texts for it, and not `force`; or no
            threshold gives the wanted precision.
        ConfigError: If the task does not suit the format.
        ModelError: If the run cannot be read or cannot be exported.
        MissingExtra: If torch or onnx is not installed.
        RunError: If the folder cannot be written.

    Example:
        >>> export("runs/x", int8=True).agreement                     # doctest: +SKIP
        0.998
    """
    started = time.perf_counter()
    if not all(importlib.util.find_spec(name) for name in ("torch", "onnx", "onnxscript")):
        raise MissingExtra("exporting", "train")
    from easynlp.atomic import write_folder

    folder = Path(run)
    target = Path(output) if output is not None else folder / format
    _check_target(target)
    job = _Job.of(folder, texts, int8, max_drop, abstain_precision, force)
    check_format(format, job.pipeline.task)
    found: list[Report] = []

    def fill(temporary: Path) -> None:
        home = temporary if format == "onnx" else temporary / "model"
        home.mkdir(exist_ok=True)
        report = dataclasses.replace(
            job.fill(home),
            folder=str(target),
            seconds=round(time.perf_counter() - started, 2),
            weights=fingerprint(folder / "model.safetensors"),
        )
        pack(format, temporary, folder.resolve().name)
        written = json.dumps(dataclasses.asdict(report), ensure_ascii=False, indent=1)
        (temporary / "export.json").write_text(written + "\n", encoding="utf-8")
        found.append(report)

    write_folder(target, fill)
    report = found[0]
    log.info(
        "exported %s: %s, %.1f MB, %.1f s", target, report.kind, report.bytes / 1e6, report.seconds
    )
    return report


def _examples(
    pipeline: Pipeline, run: Path, texts: str | Path | Sequence[Any] | None
) -> list[Example]:
    """Return texts to check on, with their targets where all have one."""
    task, columns = pipeline.task, pipeline.meta.get("columns")
    if texts is None:
        labelled = labelled_examples(run, task, MOST_TEXTS)
        return labelled or recorded_examples(run, task)
    found: list[Example]
    if isinstance(texts, str | Path):
        try:
            rows = labelled_rows(str(texts), task.fields, MOST_TEXTS, preferred=columns)
        except EasyNLPError:  # without labels, then
            found = read_texts(str(texts), task.fields, columns=columns)
        else:
            found = check_rows(task, rows)
    else:
        found = [
            item if isinstance(item, Mapping) else pipeline.example(item)
            for item in spread(texts, MOST_TEXTS)
        ]
    if not found:
        raise DataError("there are no texts to check on", path=str(texts))
    return found


def _check_target(target: Path) -> None:
    """Refuse to replace a folder that no export wrote."""
    if target.exists() and not target.is_dir():
        raise ConfigError(f"--output {target} is a file")
    if target.is_dir() and any(target.iterdir()) and not (target / "export.json").is_file():
        raise ConfigError(f"{target} is not empty and was not written by an export; not replaced")


@dataclass(frozen=True)
class _Job:
    """One export: what is exported, on what it is checked, and how strictly."""

    pipeline: Pipeline
    tokenizer: Tokenizer
    examples: list[Example]
    int8: bool
    max_drop: float
    abstain_precision: float | None
    force: bool

    @classmethod
    def of(
        cls, folder: Path, texts: Any, int8: bool, max_drop: float,
        abstain_precision: float | None, force: bool,
    ) -> _Job:  # fmt: skip
        pipeline = Pipeline.load(folder, backend="torch")
        examples = _examples(pipeline, folder, texts)
        if int8 and not examples and not force:
            raise GateError(
                "int8 must be checked on real texts and the run's own data is not where it was. "
                "Name some with --texts FILE (or keep it unchecked with --force)"
            )
        tokenizer = Tokenizer.load(folder)
        return cls(pipeline, tokenizer, examples, int8, max_drop, abstain_precision, force)

    def fill(self, folder: Path) -> Report:
        """Write model, tokenizer and description into a folder; return the report on it."""
        from easynlp.deployment.fuse import select_early
        from easynlp.deployment.parity import largest_difference, shape_batches

        eager, task = self.pipeline.model, self.pipeline.task
        assert isinstance(eager, TorchModel)
        inputs = input_names(self.pipeline, self.examples)
        log.info("tracing the model (%s) ...", ", ".join(inputs))
        plain = folder / MODELS["onnx"]
        longest = int(getattr(task.config, "max_length", 512))
        batches = [*shape_batches(inputs, self.tokenizer.vocab_size, longest)]

        def differ(path: Path) -> float:
            return largest_difference(eager, OnnxModel(path), batches)

        graph, difference = _lighter(_trace(eager, inputs), select_early, plain, differ, TOLERANCE)
        log.info("fp32 ONNX differs from torch by at most %.1e", difference)
        self._gate(
            difference <= TOLERANCE,
            f"the fp32 export differs from the run by {difference:.1e} (allowed: {TOLERANCE:g})",
        )
        passed, size = difference <= TOLERANCE, plain.stat().st_size
        report = Report(
            folder="", file=plain.name, precision="fp32", passed=passed, bytes=size,
            fp32_bytes=size, difference=difference, int8_difference=None, agreement=None,
            labels=0, texts=0, seconds=0.0, weights="",
        )  # fmt: skip
        if self.int8:
            report = self._quantize(report, graph, folder, differ)
        self.tokenizer.save(folder)
        save_meta(folder, self.pipeline.meta | self._calibration(folder / report.file))
        return report

    def _quantize(self, report: Report, graph: Any, folder: Path, differ: Any) -> Report:
        """Replace the fp32 file by the first int8 one that is good enough; fill the report in."""
        from easynlp.deployment.fallback import attempts, choose
        from easynlp.deployment.fuse import fuse_attention
        from easynlp.deployment.parity import Reference

        path, fused = folder / MODELS["int8"], folder / "fused.onnx"
        graph, _ = _lighter(graph, fuse_attention, fused, differ, TOLERANCE)
        fused.unlink()
        (folder / report.file).unlink()
        plain = [self.pipeline.example(each) for each in self.examples]
        reference = Reference(
            self.pipeline.task, self.pipeline.model, self.pipeline.encode(plain), plain,
            gold=self.examples,
        )  # fmt: skip
        log.info("checking int8 on %d texts ...", len(self.examples))

        def judge(file: Path) -> Any:
            return reference.compare(OnnxModel(file))

        tried = attempts(graph, folder, judge, self._reject, patient=bool(self.examples))
        kept = choose(tried, path)
        found = kept.agreement
        self._gate(kept.problem is None, f"{kept.problem}{_advice(tried)}")
        return dataclasses.replace(
            report, file=path.name, precision="int8", kind=kept.kind,
            passed=report.passed and kept.problem is None, bytes=path.stat().st_size,
            int8_difference=found.largest_difference,
            agreement=found.share if found.labels else None, labels=found.labels,
            texts=found.texts, fp32_operators=list(kept.fp32_operators), metric=found.metric,
            score=found.score, run_score=found.run_score, drop=found.drop,
            max_drop=self.max_drop, tried=[each.as_dict() for each in tried],
        )  # fmt: skip

    def _reject(self, found: Agreement) -> str | None:
        """Return what is wrong with an int8 model, or None."""
        log.info(
            "int8 agrees with the run on %d of %d labels (%.2f %%)%s",
            found.equal, found.labels, 100 * found.share, found.scored,
        )  # fmt: skip
        most = room_for(100 * (1 - AGREEMENT), found.labels)
        if 100 * (1 - found.share) > most + 1e-9:
            return (
                f"the int8 export agrees with the run on {found.equal} of {found.labels} labels "
                f"({100 * found.share:.2f} %; at least {100 * AGREEMENT:g} % is wanted)"
            )
        allowed = room_for(self.max_drop, found.texts)
        if found.drop is not None and found.drop > allowed + 1e-9:
            return (
                f"the int8 export loses {found.drop:.2f} points{found.scored}; at most "
                f"--max-drop {self.max_drop:g} is allowed"
                + (f", or one of {found.texts} texts" if allowed > self.max_drop else "")
            )
        return None

    def _calibration(self, path: Path) -> dict[str, Any]:
        """Return the export's own calibration, if one was asked for or the run has one.

        int8 moves logits, and with them the best temperature; the run's is taken over as it is
        only where there are no labelled rows to fit another.
        """
        earlier = self.pipeline.calibration
        if self.abstain_precision is None and earlier is None:
            return {}
        from easynlp.deployment.calibrate import describe, fit_calibration

        targets = {field.name for field in self.pipeline.task.fields if field.target}
        labelled = [each for each in self.examples if targets <= each.keys()]
        if not labelled and self.abstain_precision is None:
            log.warning("the run's calibration is taken over: no labelled rows to fit the export's")
            return {}
        if not labelled:
            raise GateError(
                "--abstain-precision needs labelled rows: name some with --texts FILE. Nothing was "
                "written"
            )
        exported = Pipeline(self.pipeline.task, OnnxModel(path))
        precision = self.abstain_precision
        if precision is None and earlier is not None and earlier.abstention is not None:
            precision = earlier.abstention.precision
        found = fit_calibration(exported, labelled, precision)
        log.info("%s", describe(found))
        return {"calibration": found.as_dict()}

    def _gate(self, passed: bool, message: str) -> None:
        if passed:
            return
        if not self.force:
            raise GateError(message + ". Nothing was written")
        log.warning("kept all the same: %s", message)


def _advice(tried: Sequence[Attempt]) -> str:
    others = ", ".join(each.kind for each in tried[1:])
    return (
        f"; {others} fail too" if others else ""
    ) + ". Export fp32 (without --int8), or keep it all the same with --force"
