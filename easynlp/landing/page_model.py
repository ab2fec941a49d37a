"""The parts of the report's page that are about the served model: size and confidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from easynlp.landing.charts import pareto_chart, reliability_chart
from easynlp.landing.markup import Markup, table, tag
from easynlp.landing.page_parts import percent, section, size

__all__ = ["calibration_section", "candidates_section"]


def candidates_section(report: Mapping[str, Any]) -> Markup:
    """Return what was measured for its size: a chart, and a table with the same numbers."""
    rows = report["candidates"]
    if len(rows) < 2:
        return Markup("")
    wanted = report["target"]["wanted"]
    chart = pareto_chart(rows, wanted, "Size against accuracy on dev; the figures are in the table")
    timed = any(row.get("p50_ms") for row in rows)
    cells = [
        (f"{number}  {row['name']}{' (served)' if row['chosen'] else ''}", percent(row["dev"]),
         size(row["bytes"]), *([_time(row)] if timed else ()))
        for number, row in enumerate(rows, 1)
    ]  # fmt: skip
    said = "Accuracy on dev, on which the choice was made, and all files served."
    if wanted is not None:
        said += f" The dashed line is the target, {size(wanted)}."
    return section(
        "candidates", "Size against accuracy",
        tag("div", tag("figure", chart, tag("figcaption", said, " Joined: none is both smaller and "
                                            "better. Filled: served.")),
            table("Candidates", ("", "dev", "served", *(["1 text, ms"] if timed else [])), cells,
                  numbers=3 if timed else 2,
                  marked=[i for i, row in enumerate(rows) if row["chosen"]]), class_="pair"),
    )  # fmt: skip


def _time(row: Mapping[str, Any]) -> str:
    return f"{row['p50_ms']:.2f}" if row.get("p50_ms") else "-"


def calibration_section(report: Mapping[str, Any]) -> Markup:
    """Return how sure answers are, how often they are right, and when to give none."""
    found = report["calibration"]
    gap = found["mean_confidence"] - found["accuracy"]
    lean = "about as sure as it may be"
    if abs(gap) > 0.02:
        lean = "too sure" if gap > 0 else "not sure enough"
    about = (
        f"The expected calibration error on {report['split']} is {percent(found['ece'])}: answers "
        f"are {percent(found['mean_confidence'])} sure on average and "
        f"{percent(found['accuracy'])} right, so the model is {lean}."
    )
    rows = [
        (f"{100 * b['low']:.0f}–{100 * b['high']:.0f} %", f"{b['rows']:,}",
         percent(b["confidence"]), percent(b["accuracy"])) for b in found["bins"] if b["rows"]
    ]  # fmt: skip
    chart = reliability_chart(found["bins"], "Reliability diagram; the figures are in the table")
    return section(
        "calibration", "Calibration", tag("p", about), *_fitted(report),
        tag("div", tag("figure", chart, tag("figcaption",
            "Bars: share right of the answers of that confidence, with the number of rows. On the "
            "dashed line confidence means what it says.")),
            table("Confidence and accuracy", ("confidence", "rows", "mean", "right"),
                  rows, numbers=3), class_="pair"),
    )  # fmt: skip


def _fitted(report: Mapping[str, Any]) -> list[Markup]:
    """Return what was fitted on dev, and what it does on the rows of the report."""
    fitted, found = report["calibrated"], report["calibration"]
    if not fitted:
        return []
    said = (
        f"Logits are divided by a temperature of {fitted['temperature']:.3f}, fitted on "
        f"{fitted['rows']:,} dev rows. There the expected calibration error (15 bins) went from "
        f"{percent(fitted['ece'])} to {percent(fitted['ece_after'])}; on {report['split']} "
        f"from {percent(found['ece_before'])} to {percent(found['ece'])}. No answer "
        "changes by it."
    )
    if fitted["accuracy"] == 1:
        said = (
            f"All {fitted['rows']:,} dev rows are right, so nothing can be said of errors and no "
            "temperature was fitted."
        )
    if fitted["refused"]:
        told = f"{fitted['refused']} The model is served without one."
    else:
        rest, here = fitted["abstention"], found["abstention"]
        told = (
            f"From a score of {rest['threshold']:.3f} on, at least {percent(rest['precision'])} of "
            f"the answers are right with 99 % confidence, judged on dev, which flatters, for the "
            f"model was chosen on it too. On {report['split']}, "
            f"{here['given']:,} of {here['rows']:,} rows have such a score"
        )
        if here["given"]:
            told += f", and {percent(here['right'] / here['given'])} of them are right"
        told += '. The served model withholds the others if asked with "abstain": true.'
    return [tag("p", tag("b", "Temperature. "), said), tag("p", tag("b", "Abstaining. "), told)]
