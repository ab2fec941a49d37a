"""Compress a run: make candidates, measure every one of them, keep the best under a budget.

Read `compress` first. All that is said of a candidate was measured on the very files that would be
served: its score on dev, its bytes, and in a process of its own latency and memory.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from easynlp.atomic import write_folder, write_json, write_text
from easynlp.benchmarks.machine import machine, parameters, served_bytes
from easynlp.compression.build import build, build_rounded, first_cut, is_whole
from easynlp.compression.candidates import (
    Candidate,
    Candidates,
    Kind,
    Shape,
    choose,
    estimate_bytes,
    grid,
    pareto,
    shapes_to_try,
    why_chosen,
)
from easynlp.compression.chart import Dot, draw
from easynlp.compression.importance import encoder_layers
from easynlp.compression.material import Material, interval
from easynlp.compression.measure import measure
from easynlp.compression.settings import CompressConfig
from easynlp.compression.vocabulary import texts_of, unknown_rate
from easynlp.config import parse_method, to_yaml
from easynlp.deployment.export import export
from easynlp.deployment.fuse import fuse_attention
from easynlp.deployment.parity import largest_difference, shape_batches
from easynlp.deployment.quantize import quantize, quantize_static
from easynlp.deployment.trace import TOLERANCE, lighter
from easynlp.errors import ConfigError, DataError, Interrupted, ModelError
from easynlp.methods import find_method
from easynlp.metrics import room_for
from easynlp.models.heads import core
from easynlp.models.runtime import OnnxModel
from easynlp.pipeline import META, MODELS, Pipeline, read_meta, save_meta
from easynlp.training.folder import check_folder, claim_folder, drop_folder

__all__ = ["Result", "compress"]

log = logging.getLogger("easynlp")
REPORT, ROWS, CHART = "compress.json", "candidates.jsonl", "pareto.svg"
WORTH = (ROWS, "candidates/**/checkpoints/**/*", "candidates/**/*.safetensors")
"""Files of a compression that took work: what was measured, and what was learned for it."""


@dataclass(frozen=True)
class Result:
    """What came of a compression; saved as ``compress.json``.

    Attributes:
        output: The compressed run's folder.
        baseline: The run itself, exported in fp32.
        candidates: What was measured, in the order it was made.
        front: Names of those that no other beats in size and score.
        chosen: Name of the best under the budget; None if none keeps to it.
        why: That in words.
        test: Scores on the test data of the run and the chosen candidate, with intervals.
        machine: What was measured on.
    """

    output: str
    baseline: Candidate
    candidates: list[Candidate]
    front: list[str]
    chosen: str | None
    why: str
    test: dict[str, tuple[float, float, float]]
    machine: dict[str, str]


def compress(config: CompressConfig) -> Result:
    """Compress a run under a budget of bytes and points, or as told; return what was measured.

    The output folder is a run folder with its export: it predicts, serves, exports, trains on and
    can be compressed again. Beside it lie ``candidates/`` (a run folder and exports each),
    ``candidates.jsonl``, ``pareto.svg`` and ``compress.json``.

    Args:
        config: Options; see `CompressConfig`.

    Returns:
        All that was measured. Where no candidate keeps to the budget, `Result.chosen` is None and
        the output folder is no run.

    Raises:
        ConfigError: If options are wrong, data is missing or the output folder is taken.
        ModelError: If the run cannot be read, or is not shaped like BERT and to be pruned.
        Interrupted: After saving, on SIGINT or SIGTERM.

    Example:
        >>> compress(CompressConfig(run="runs/x", target_size="4MB")).chosen   # doctest: +SKIP
        'w1-d3-v-int8'
    """
    output = Path(config.output or f"{config.run.rstrip('/')}-small")
    claim: dict[str, Any] = {
        "overwrite": config.overwrite, "resume": config.resume, "name": "compress",
        "written": to_yaml(config),
        "inputs": (config.run, config.train, config.dev, config.test, config.unlabeled),
    }  # fmt: skip
    for spec in config.method:
        parse_method(spec, find_method)
    check_folder(output, **claim)
    material = Material.read(config)
    shapes = _shapes(material)
    claim_folder(output, **claim)
    try:
        _check_inputs(material, output)
        shop = _Shop(material, output, Candidates(output / ROWS))
        baseline = shop.measured(None, "fp32")
        for shape in shapes:
            home = build(material, shape, output / "candidates" / shape.name)
            shop.try_kinds(shape, home)
        return _finish(material, output, baseline, [*shop.done.rows.values()])
    except (ConfigError, DataError, ModelError):
        if not config.resume:
            drop_folder(output, WORTH)
        raise
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped; candidates that were measured stay in {output}. Go on with the same command "
            "and --resume"
        ) from None


def _shapes(material: Material) -> list[Shape]:
    """Return the shapes to try; options that this model cannot follow are told now."""
    config, model = material.config, material.model_config
    layers = material.layers
    if config.budget is not None or config.width or config.depth or config.vocab:
        encoder_layers(material.model)  # refuses what has no such layers
    if config.depth and max(config.depth) > layers:
        raise ConfigError(
            f"--depth {max(config.depth)}: the run has {layers} layers; valid: 1 to {layers}"
        )
    if config.vocab_size:
        _ = material.vocabulary  # a size without room
    if config.budget is None:
        return shapes_to_try(config, layers)
    found = {}
    other = sum(
        weight.numel() for name, weight in core(material.model).named_parameters()
        if weight.ndim == 2 and "embeddings" not in name and ".layer." not in name
    )  # fmt: skip
    for shape in grid(config, layers):
        tokenizer, positions = material.task.tokenizer, int(model.max_position_embeddings)
        if shape.vocab:
            tokenizer = material.vocabulary.tokenizer
            positions = min(positions, int(getattr(material.task.config, "max_length", positions)))
        found[shape] = estimate_bytes(
            model, shape, tokens=tokenizer.vocab_size, positions=positions,
            tokenizer=len(tokenizer.backend.to_str(pretty=True).encode()), other=other,
        )  # fmt: skip
    chosen = shapes_to_try(config, layers, found)
    told = ", ".join(f"{s.name} (about {found[s] / 1e6:.1f} MB)" for s in chosen)
    log.info("%d of %d shapes are tried: %s", len(chosen), len(found), told)
    return chosen


def _check_inputs(material: Material, output: Path) -> None:
    """Note what the run and its data were; refuse to go on with others."""
    path, now = output / "inputs.json", material.fingerprints
    if path.is_file() and (before := json.loads(path.read_text(encoding="utf-8"))) != now:
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        raise ConfigError(
            f"cannot resume {output}: changed since: {', '.join(changed)}. Start anew with "
            "--overwrite"
        )
    write_json(path, now)


class _Shop:
    """Exports candidates and measures them; what was measured before is not measured again."""

    def __init__(self, material: Material, output: Path, done: Candidates) -> None:
        self.material, self.output, self.done = material, output, done

    def try_kinds(self, shape: Shape, home: Path) -> None:
        """Measure a shape in the number formats that are asked for."""
        config = self.material.config
        plain = self.measured(shape, "fp32", home)
        if config.static:
            self.measured(shape, "static", home)
        if not config.int8 and config.budget is None:
            return
        found = self.measured(shape, "int8", home)
        lost = 100 * (plain.score - found.score)
        wanted = config.qat == "auto" and lost > config.max_drop / 2
        if config.qat == "always" or (wanted and self._is_bert_shaped()):
            log.info("%s: int8 loses %.2f points", shape.name, lost)
            cut = None if is_whole(self.material, shape) else first_cut(self.material, shape)
            folder = self.output / "candidates" / f"{shape.name}-qat"
            self.measured(shape, "qat", build_rounded(self.material, home, cut, folder))

    def _is_bert_shaped(self) -> bool:
        try:
            return bool(encoder_layers(self.material.model))
        except ModelError:
            return False

    def measured(self, shape: Shape | None, kind: Kind, home: Path | None = None) -> Candidate:
        """Return a candidate's measurements, made now or before; without a shape the run's."""
        name = f"{shape.name}-{kind}" if shape is not None else "run"
        if name in self.done.rows:
            return self.done.rows[name]
        material = self.material
        home = home or material.run
        folder = self.output / "candidates" / f"{name}.served"
        texts = [material.pipeline.example(row) for row in material.splits["dev"][:200]]
        plain = self._plain(home)
        if kind == "fp32" and plain is None:
            export(home, output=folder, texts=texts, force=True)
        elif kind == "fp32" and plain is not None:
            write_folder(folder, partial(_copy, plain))
        elif plain is None:
            plain = folder.with_name(f"{folder.name}.fp32")
            export(home, output=plain, texts=texts, force=True)
            self._quantized(kind, plain, folder)
            shutil.rmtree(plain)
        else:
            self._quantized(kind, plain, folder)
        served = Pipeline.load(folder)
        dev = material.splits["dev"]
        said = served.predict([material.pipeline.example(row) for row in dev])
        score, low, high = interval(served.task, said, dev)
        run = self.done.rows.get("run")
        cost = measure(folder, material.timed, Path(run.export) if run is not None else None)
        base = run.score if run is not None else score
        pool = [*texts_of(material.unlabeled)]
        found = Candidate(
            name, shape or Shape(1.0, material.layers, False), kind, score, low, high,
            drop=round(100 * (base - score), 4), bytes=served_bytes(folder),
            parameters=parameters(home), tokens=served.task.tokenizer.vocab_size,
            unknown=unknown_rate(served.task.tokenizer, [*texts_of(dev)]),
            unknown_unlabeled=unknown_rate(served.task.tokenizer, pool) if pool else None,
            p50_ms=cost.p50_ms, p99_ms=cost.p99_ms, speedup=cost.speedup, memory_mb=cost.memory_mb,
            home=str(home), export=str(folder),
        )  # fmt: skip
        log.info(
            "%s: %s %.4f (%+.2f points), %.2f MB, p50 %.2f ms", name, served.task.metric, score,
            0.0 - found.drop, found.bytes / 1e6, found.p50_ms,
        )  # fmt: skip
        return self.done.add(found)

    def _plain(self, home: Path) -> Path | None:
        """Return an fp32 export of a run folder that was measured before; None if there is none."""
        exports = [Path(row.export) for row in self.done.rows.values()
                   if row.kind == "fp32" and Path(row.home) == home]  # fmt: skip
        return next((each for each in exports if each.is_dir()), None)

    def _quantized(self, kind: Kind, plain: Path, folder: Path) -> None:
        """Write an int8 export, made from the fp32 one of the same weights.

        The export's own gate is not asked: candidates are judged on all of dev, and one that is
        repaired by leaving operators in fp32 would be another candidate.
        """
        loaded = Pipeline.load(plain, backend="onnx")
        graph, model = onnx.load(plain / MODELS["onnx"]), loaded.model
        longest = int(getattr(loaded.task.config, "max_length", 512))
        tokens = loaded.task.tokenizer.vocab_size
        shapes = [*shape_batches(model.inputs, tokens, longest)]

        def fill(target: Path) -> None:
            path = target / MODELS["int8"]
            if kind == "static":
                quantize_static(graph, path, _calibration_rows(self.material, loaded))
            else:

                def differ(file: Path) -> float:
                    return largest_difference(model, OnnxModel(file), shapes)

                fused, _ = lighter(graph, fuse_attention, target / "fused.onnx", differ, TOLERANCE)
                (target / "fused.onnx").unlink()
                quantize(fused, path)
            loaded.task.tokenizer.save(target)
            save_meta(target, loaded.meta)
            report = json.loads((plain / "export.json").read_text(encoding="utf-8"))
            report |= {"folder": str(folder), "file": path.name, "precision": "int8",
                       "kind": f"int8, {kind}", "bytes": path.stat().st_size}  # fmt: skip
            write_json(target / "export.json", report)

        write_folder(folder, fill)


def _calibration_rows(material: Material, loaded: Pipeline) -> list[dict[str, np.ndarray]]:
    """Return training rows as an exported model takes them, one a batch."""
    rows = material.splits["train"]
    picks = np.random.default_rng(material.config.seed).permutation(len(rows))
    chosen = [material.pipeline.example(rows[i]) for i in picks[: material.config.calibration]]
    batches = []
    for item in loaded.encode(chosen):
        batch = loaded.task.collate([item])
        ids = batch["input_ids"]
        standard = {"attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        batches.append({name: {**standard, **batch}[name] for name in loaded.model.inputs})
    return batches


def _finish(
    material: Material, output: Path, baseline: Candidate, rows: Sequence[Candidate]
) -> Result:
    """Choose, write the picture, the report and, if a candidate fits, the compressed run."""
    config = material.config
    tried = [row for row in rows if row is not baseline]
    allowed = room_for(config.max_drop, len(material.splits["dev"]))
    best = choose(tried, config.budget, allowed)
    front = [row.name for row in pareto(rows)]
    why = why_chosen(best, baseline, tried, config.budget, allowed)
    test: dict[str, tuple[float, float, float]] = {}
    if "test" in material.splits:
        held = material.splits["test"]
        for row in (baseline, *([best] if best else [])):
            said = Pipeline.load(row.export).predict([material.pipeline.example(r) for r in held])
            test[row.name] = interval(material.task, said, held)
    result = Result(
        str(output), baseline, tried, front, best.name if best else None, why, test, machine(1)
    )
    dots = [
        Dot(row.name, row.bytes / 1e6, 100 * row.score, 100 * row.low, 100 * row.high,
            row.name in front, row is best)
        for row in rows
    ]  # fmt: skip
    floor = 100 * baseline.score - allowed
    budget = config.budget / 1e6 if config.budget is not None else None
    picture = draw(dots, title=f"{config.run}, compressed", metric=material.task.metric,
                   budget=budget, floor=floor)  # fmt: skip
    write_text(output / CHART, picture)
    write_json(output / REPORT, dataclasses.asdict(result))
    if best is not None:
        _keep(output, best)
    return result


def _keep(output: Path, best: Candidate) -> None:
    """Copy the chosen candidate into the output folder: a run folder with its export."""
    home, served = Path(best.home), Path(best.export)
    if not (home / META).is_file():
        raise ModelError(f"{home} is gone; it is what {best.name} was made of")
    for path in sorted(home.iterdir(), key=lambda p: p.suffix == ".safetensors"):
        kept = path.suffix in (".safetensors", ".json", ".py", ".txt", ".model")
        if path.is_file() and (kept or path.name == "train.yaml"):
            if path.name in (REPORT, "inputs.json", "versions.json"):
                continue
            shutil.copyfile(path, output / path.name)
    # Written after the weights, as an export is: what was exported is what lies there.
    write_folder(output / "onnx", lambda folder: _copy(served, folder))
    save_meta(output, read_meta(home) | {"compression": dataclasses.asdict(best)})


def _copy(source: Path, target: Path) -> None:
    for path in source.iterdir():
        shutil.copyfile(path, target / path.name)
