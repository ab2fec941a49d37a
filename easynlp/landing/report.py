"""What a road's report says, as plain JSON values: every figure of the page is one of these."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from easynlp.benchmarks.machine import served_bytes
from easynlp.calibration import BINS
from easynlp.compression.settings import parse_size
from easynlp.extras import versions
from easynlp.landing.learning import RUN, read_rows
from easynlp.landing.measuring import FLOORS
from easynlp.landing.parts import text_of
from easynlp.landing.settings import LandOptions
from easynlp.landing.shipping import ROW_OF, ROWS, served_folder
from easynlp.landing.stages import Road
from easynlp.options import flag, option_fields

__all__ = ["calibration", "command", "commands", "make_report"]

FORMAT = 1
WORST = 20
LONGEST = 300
"""Characters of a text that are shown."""
CURVES = {"finetune": "fine-tuned on the labels", "distill": "distilled from the teacher",
          "augment": "distilled, with copies"}  # fmt: skip


def make_report(options: LandOptions, gone: Road) -> dict[str, Any]:
    """Gather a road's figures.

    Args:
        options: Of the road.
        gone: Its stages; those left out are left out of the report.

    Returns:
        Plain JSON values: ``table`` and ``floors`` (a contender each), ``verdicts`` (what became
        of each stage), ``candidates`` (what was measured for its size), ``confusion``,
        ``calibration``, ``worst``, ``curves``, ``diagnosis``, ``commands`` and what it was made
        with.
    """
    done = gone.done
    scored = done.get("score")
    found: dict[str, Any] = {
        "format": FORMAT,
        "student": options.student,
        "teacher": options.teacher,
        "target": _target(options, served_bytes(served_folder(done))),
        "kept": asdict(gone.kept) | {"folder": None} if gone.kept else None,
        "verdicts": [asdict(each) for each in gone.verdicts],
        "diagnosis": done["diagnose"].facts,
        "teaching": {key: done["teacher"].facts.get(key) for key in ("way", "why", "dev", "tries")}
        if "teacher" in done else None,
        "copies": done["augment"].facts["copies"] if "augment" in done else None,
        "labelled": done["label"].facts if "label" in done else None,
        "compressed": done["compress"].facts if "compress" in done else None,
        "calibrated": done["calibrate"].facts if "calibrate" in done else None,
        "candidates": _candidates(gone),
        "curves": {
            "steps": _curves(gone),
            "labels": done["curve"].facts["points"] if "curve" in done else {},
        },
        "commands": commands(options, pair=_is_of_pairs(gone)),
        "machine": done["latency"].facts["machine"] if "latency" in done else None,
        "timed": done["latency"].facts["texts"] if "latency" in done else None,
        "versions": versions(),
        "seconds": round(sum(each.seconds for each in gone.verdicts), 1),
    }  # fmt: skip
    if scored is None:
        return found
    times = done["latency"].facts["times"] if "latency" in done else {}
    table = scored.facts["table"]
    split = scored.facts["split"]
    final = _final(gone)
    found |= {
        "split": split,
        "rows": scored.facts["rows"],
        "table": [_row(key, name, table[key], times, key == final)
                  for key, name in ROWS.items() if key in table],
        "floors": [_row(key, name, table[key], times, False)
                   for key, name in FLOORS.items() if key in table],
        **_judged(gone, split),
    }  # fmt: skip
    return found


def calibration(
    chances: Sequence[float], right: Sequence[bool], bins: int = BINS
) -> dict[str, Any]:
    """Compare how sure answers were with how often they were right.

    The expected calibration error is the mean gap between the two over bins of equal width,
    weighted by rows (Guo et al. 2017, arXiv 1706.04599).

    Args:
        chances: Probability of each answer, 0 to 1.
        right: Whether it was right.
        bins: How many.

    Example:
        >>> found = calibration([0.9, 0.9, 0.6], [True, False, True], bins=2)
        >>> round(found["ece"], 3), found["bins"][1]["rows"]
        (0.133, 3)
    """
    groups: list[list[int]] = [[] for _ in range(bins)]
    for number, chance in enumerate(chances):
        groups[min(bins - 1, int(chance * bins))].append(number)
    rows: list[dict[str, Any]] = []
    for i, group in enumerate(groups):
        size = len(group)
        rows.append({
            "low": i / bins, "high": (i + 1) / bins, "rows": size,
            "confidence": math.fsum(chances[n] for n in group) / size if size else None,
            "accuracy": sum(right[n] for n in group) / size if size else None,
        })  # fmt: skip
    total = max(1, len(chances))
    gaps = (row["rows"] * abs(row["confidence"] - row["accuracy"]) for row in rows if row["rows"])
    ece = math.fsum(gaps) / total
    mean = math.fsum(chances) / total
    return {"ece": ece, "mean_confidence": mean, "accuracy": sum(right) / total, "bins": rows}


def command(options: LandOptions) -> str:
    """Return what to type for a road: the options that differ from their defaults.

    Example:
        >>> command(LandOptions(train="my few.jsonl", output="runs/l", skip=("curve", "latency")))
        "easynlp land --train 'my few.jsonl' --output runs/l --skip curve --skip latency"
    """
    words = ["easynlp", "land"]
    for each in option_fields(type(options)):
        value = getattr(options, each.name)
        if value == each.default or value is None or each.metadata.get("once"):
            continue
        if isinstance(value, bool):
            words.append(flag(each.name) if value else flag(each.name).replace("--", "--no-", 1))
            continue
        for item in value if isinstance(value, tuple) else (value,):
            shown = f"{item:g}" if isinstance(item, float) else str(item)
            words += [flag(each.name), shown]
    order = {"--train": 0}
    pairs = _pairs(words[2:])
    pairs.sort(key=lambda pair: order.get(pair[0], 1))
    return " ".join([*words[:2], *(shlex.quote(word) for pair in pairs for word in pair)])


def _pairs(words: Sequence[str]) -> list[list[str]]:
    """Return flags with their values."""
    found: list[list[str]] = []
    for word in words:
        if word.startswith("--") and (not found or len(found[-1]) == 2 or _is_switch(found[-1])):
            found.append([word])
        else:
            found[-1].append(word)
    return found


def _is_switch(pair: Sequence[str]) -> bool:
    switches = {f.name for f in dataclasses.fields(LandOptions) if isinstance(f.default, bool)}
    return pair[0].removeprefix("--").removeprefix("no-").replace("-", "_") in switches


def commands(options: LandOptions, *, pair: bool) -> dict[str, str]:
    """Return what to type to repeat a road, and to serve, ask and use its model.

    Args:
        options: Of the road.
        pair: Whether the model takes two texts.
    """
    folder = Path(options.output) / "model"
    asked: Any = {"text": "怎么退款", "text_b": "如何退钱"} if pair else "房间很干净，下次还来"
    body = json.dumps({"texts": [asked]}, ensure_ascii=False)
    return {
        "repeat": f"{command(options)} --overwrite",  # the folder is there by then
        "serve": f"easynlp serve {shlex.quote(str(folder))} --port 8000",
        "ask": "curl -s http://127.0.0.1:8000/predict -H 'Content-Type: application/json' "
        f"-d '{body}'",
        "predict": f"easynlp predict {shlex.quote(str(folder))} --input new.jsonl "
        "--output answers.jsonl",
    }


def _is_of_pairs(gone: Road) -> bool:
    rows = read_rows(gone.done["diagnose"].folder / "train.jsonl")
    return any(each.get("text_b") for each in rows)


def _target(options: LandOptions, size: int) -> dict[str, Any]:
    wanted = parse_size(options.target_size) if options.target_size else None
    return {"wanted": wanted, "bytes": size, "reached": None if wanted is None else size <= wanted}


def _final(gone: Road) -> str:
    """Return the row of the table that is served."""
    return ROW_OF[gone.kept.stage] if gone.kept else ""


def _row(
    key: str, name: str, scored: Mapping[str, Any], times: Mapping[str, Any], served: bool
) -> dict[str, Any]:
    timed = times.get(key, {})
    return {
        "key": key, "name": name, "served": served, **scored,
        "one": timed.get("1"), "batch": timed.get("32"),
    }  # fmt: skip


def _judged(gone: Road, split: str) -> dict[str, Any]:
    """Return what the served model's answers look like, row by row."""
    rows = read_rows(gone.done["diagnose"].folder / f"{split}.jsonl")
    path = gone.done["score"].folder / "scores.json"
    answers = json.loads(path.read_text(encoding="utf-8"))["answers"]
    gold, said = [str(each["label"]) for each in rows], [str(each["label"]) for each in answers]
    chances = [float(each["scores"][each["label"]]) for each in answers]
    right = [g == s for g, s in zip(gold, said, strict=True)]
    fitted = gone.done["calibrate"].facts if "calibrate" in gone.done else {}
    before = [_at(each["scores"], each["label"], fitted.get("temperature", 1.0))
              for each in answers]  # fmt: skip
    wrong = sorted((i for i, ok in enumerate(right) if not ok), key=lambda i: (-chances[i], i))
    pairs = Counter((gold[i], said[i]) for i in wrong)
    labels = sorted(set(gold) | set(said))
    counts = Counter(zip(gold, said, strict=True))
    return {
        "confusion": {
            "labels": labels,
            "counts": [[counts[g, s] for s in labels] for g in labels],
            "pairs": [{"gold": g, "said": s, "rows": n} for (g, s), n in pairs.most_common(12)],
        },
        "calibration": calibration(chances, right)
        | {"ece_before": calibration(before, right)["ece"],
           "abstention": _abstained(chances, right, fitted.get("abstention"))},
        "worst": [
            {"text": text_of(rows[i])[:LONGEST], "gold": gold[i], "said": said[i],
             "confidence": chances[i]} for i in wrong[:WORST]
        ],
        "wrong": len(wrong),
    }  # fmt: skip


def _at(scores: Mapping[str, float], label: str, temperature: float) -> float:
    """Return how probable a label was before a temperature was fitted."""
    powers = {name: math.pow(value, temperature) for name, value in scores.items()}
    return powers[label] / math.fsum(powers.values())


def _abstained(
    chances: Sequence[float], right: Sequence[bool], found: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Return what the threshold found on dev does on these rows."""
    if found is None:
        return None
    given = [ok for chance, ok in zip(chances, right, strict=True) if chance >= found["threshold"]]
    return {"threshold": found["threshold"], "wanted": found["precision"],
            "rows": len(chances), "given": len(given), "right": sum(given)}  # fmt: skip


def _candidates(gone: Road) -> list[dict[str, Any]]:
    """Return what was measured on dev for its size: fp32, int8 and, if there are, pruned shapes."""
    found: list[dict[str, Any]] = []
    squeezed = gone.done.get("compress")
    if squeezed is not None:
        facts = squeezed.facts
        others = facts["served_bytes"] - facts["bytes"]
        tried = facts["tried"] or [{"kind": facts["kind"], "bytes": facts["bytes"]}]
        found = [{"name": f"{facts['of']}, fp32", "bytes": facts["fp32_bytes"] + others,
                  "dev": facts["fp32_dev"]}]  # fmt: skip
        for each in tried:
            score = squeezed.dev if each["kind"] == facts["kind"] else each["score"]
            found.append(
                {
                    "name": each["kind"],
                    "bytes": each["bytes"] + others,
                    "dev": score,
                    "chosen": each["kind"] == facts["kind"] and _is_kept(gone, "compress"),
                }
            )
    if "prune" in gone.done:
        rows = gone.done["prune"].facts["candidates"]
        kept = _is_kept(gone, "prune")
        found += [{**row, "chosen": row["chosen"] and kept}
                  for row in rows if row["name"] != "run" or not found]  # fmt: skip
    for row in found:
        beaten = any(
            other["bytes"] <= row["bytes"] and other["dev"] >= row["dev"]
            and (other["bytes"], other["dev"]) != (row["bytes"], row["dev"]) for other in found
        )  # fmt: skip
        row |= {"front": not beaten, "chosen": row.get("chosen", False)}
    return found


def _is_kept(gone: Road, stage: str) -> bool:
    return gone.kept is not None and gone.kept.stage == stage


def _curves(gone: Road) -> dict[str, list[dict[str, float]]]:
    """Return dev accuracy by steps of the students, from their metrics."""
    found = {}
    for stage, name in CURVES.items():
        path = gone.done[stage].folder / RUN / "metrics.jsonl" if stage in gone.done else None
        if path is None or not path.is_file():
            continue
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        points = [
            {"steps": line["step"], "dev": line["scores"]["accuracy"]}
            for line in lines if "accuracy" in line.get("scores", {})
        ]  # fmt: skip
        if points:
            found[name] = points
    return found
