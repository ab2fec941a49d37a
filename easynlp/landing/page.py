"""The report as one HTML page: no network, no script, legible on a phone and on paper.

Every value comes from the report's JSON through `easynlp.landing.markup`, which escapes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from easynlp.landing.charts import interval_chart, line_chart
from easynlp.landing.markup import Markup, join, table, tag
from easynlp.landing.page_data import data_section
from easynlp.landing.page_model import calibration_section, candidates_section
from easynlp.landing.page_parts import percent, section, size
from easynlp.landing.page_style import STYLE

__all__ = ["page"]

MOST_CONFUSED = 12
"""Labels up to which the whole confusion matrix is shown."""


def page(report: Mapping[str, Any]) -> str:
    """Return the page of a report, see `easynlp.landing.report.make_report`."""
    title = f"Landing report: {report['student']}"
    sections = [_summary(report), _table(report), candidates_section(report), _stages(report)]
    if "table" in report:
        sections += [_confusion(report), calibration_section(report), _worst(report)]
    sections += [_curves(report), data_section(report["diagnosis"]), _commands(report)]
    head = tag(
        "head", tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title), tag("style", Markup(STYLE)),
    )  # fmt: skip
    body = tag(
        "body",
        tag("a", "Skip to the results", href="#results", class_="skip"),
        tag("header", tag("h1", title), _lead(report)),
        tag("main", *sections),
        tag("footer", tag("p", f"All stages took {report['seconds']:,.0f} s. Every figure is in "
                               "report.json beside this page.")),
    )  # fmt: skip
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _lead(report: Mapping[str, Any]) -> Markup:
    served = _served(report)
    if served is None:
        return tag("p", "A model was made; it was not scored, as asked.", class_="lead")
    text = (
        f"The model to serve is the row “{served['name']}”: {percent(served['accuracy'])} right on "
        f"{report['rows']:,} {report['split']} rows (95 % interval {percent(served['low'])} to "
        f"{percent(served['high'])}), {size(served['bytes'])}"
    )
    if served.get("one"):
        text += f", {served['one']['p50_ms']:.2f} ms for a text on one thread"
    return tag("p", text + ".", class_="lead")


def _served(report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((row for row in report.get("table", ()) if row["served"]), None)


def _ran(report: Mapping[str, Any], stage: str) -> bool:
    ended = {each["stage"]: each["status"] for each in report["verdicts"]}
    return ended.get(stage) in ("done", "reused", "dropped")


def _summary(report: Mapping[str, Any]) -> Markup:
    """Return what a reader must know before believing a figure."""
    notes: list[str] = []
    if report.get("split") == "dev":
        notes.append(
            "There was no test file: figures are on the dev rows, on which models were chosen, so "
            "they flatter."
        )
    if not report["teacher"]:
        notes.append(
            "There was no teacher: the student, trained the best way found, taught itself."
            if _ran(report, "distill")
            else "There was no teacher, and nothing was distilled."
        )
    if report["diagnosis"]["split_off"]:
        text = report["diagnosis"]["split_off"]
        notes.append(text[0].upper() + text[1:] + ".")
    target = report["target"]
    if target["wanted"] is not None:
        met = "reached" if target["reached"] else "missed"
        notes.append(f"Target of {size(target['wanted'])}: {met}, all files served have "
                     f"{size(target['bytes'])}.")  # fmt: skip
    gains = _gains(report)
    items = [tag("li", each) for each in (*gains, *notes)]
    return section("summary", "In short", tag("ul", *items)) if items else Markup("")


def _gains(report: Mapping[str, Any]) -> list[str]:
    """Return how the served model compares with the large one and with plain fine-tuning."""
    rows = {row["key"]: row for row in report.get("table", ())}
    served = _served(report)
    if served is None:
        return []
    found = []
    large = rows.get("large_fewshot")
    if large:
        text = f"It keeps {percent(served['accuracy'] / max(1e-9, large['accuracy']))} of the "
        text += f"accuracy of the teacher ({percent(large['accuracy'])})"
        if served["parameters"] and large["parameters"]:
            text += f", with 1/{large['parameters'] / served['parameters']:.0f} of its parameters"
        if served.get("one") and large.get("one"):
            ratio = large["one"]["p50_ms"] / served["one"]["p50_ms"]
            text += f", and answers {ratio:.1f} times as fast"
        found.append(text + ".")
    plain = rows.get("small_finetuned")
    if plain and plain is not served:
        gain = 100 * (served["accuracy"] - plain["accuracy"])
        same = " with the same steps and search" if _searched_alike(report) else ""
        found.append(f"Against plain fine-tuning{same}: {gain:+.1f} points.")
    floor = max(report["floors"], key=lambda row: row["accuracy"], default=None)
    if floor:
        gain = 100 * (served["accuracy"] - floor["accuracy"])
        found.append(f"Against the best floor ({floor['name']}, {percent(floor['accuracy'])}): "
                     f"{gain:+.1f} points.")  # fmt: skip
    return found


def _searched_alike(report: Mapping[str, Any]) -> bool:
    """Return whether the served model had the steps, learning rates and looks of the control.

    Copies had one look more, a pruned model recovered, and a student without a teacher was looked
    for in all the ways of few-shot learning.
    """
    stage = (report["kept"] or {}).get("stage")
    if stage == "compress":
        stage = report["compressed"]["of"]
    return stage in ("finetune", "distill")


def _table(report: Mapping[str, Any]) -> Markup:
    if "table" not in report:
        return Markup("")
    rows = [*report["table"], *report["floors"]]
    split = report["split"]

    def cells(row: Mapping[str, Any]) -> list[object]:
        return [
            tag("span", row["name"], tag("b", " (served)") if row["served"] else None),
            join((tag("span", percent(row["accuracy"]), class_="strong"), " ",
                  tag("span", f"{100 * row['low']:.1f}–{100 * row['high']:.1f}", class_="soft"))),
            size(row["bytes"]), *(_times(row.get(batch)) for batch in ("one", "batch")),
            _count(row["parameters"]),
        ]  # fmt: skip

    notes = [tag("li", f"{row['name']}: {row['note']}") for row in rows if row.get("note")]
    timed = ""
    if report["machine"]:
        timed = (
            f" Times: milliseconds a call, median (p99), {report['timed']} real texts, one "
            f"thread, all in turns; {report['machine']['cpu']}, load {report['machine']['load']}."
        )
    chart = interval_chart(
        [*report["table"], *({**row, "floor": True} for row in report["floors"])],
        f"Accuracy on {split} with 95 % intervals; the figures are in the table above",
    )
    return section(
        "results", "Results",
        table(
            f"{split.capitalize()} rows: {report['rows']:,}",
            ("", "accuracy, 95 %", "model file", "1 text, ms", "32 texts, ms", "parameters"),
            [cells(row) for row in rows], numbers=5,
            marked=[i for i, row in enumerate(rows) if row["served"]],
        ),
        tag("p", f"Accuracy on {report['rows']:,} {split} rows with its 95 % Wilson interval."
                 f"{timed}", class_="soft"),
        tag("ul", *notes) if notes else None,
        tag("figure", chart, tag("figcaption", "Accuracy and its 95 % interval. Where intervals "
                                 "overlap much, a difference may well be chance.")),
    )  # fmt: skip


def _count(number: int | None) -> str:
    if number is None:
        return "-"
    return f"{number / 1e6:,.2f} M" if number >= 1e6 else f"{number:,}"


def _times(timed: Mapping[str, float] | None) -> Markup | str:
    if not timed:
        return "-"
    tail = tag("span", f"({_short(timed['p99_ms'])})", class_="soft")
    return join((_short(timed["p50_ms"]), " ", tail))


def _short(value: float) -> str:
    """Return milliseconds with three figures, as far as they say something."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _stages(report: Mapping[str, Any]) -> Markup:
    dropped = [each for each in report["verdicts"] if each["status"] == "dropped"]
    said: list[object] = [
        tag("p", f"{each['stage']} was dropped: {each['why']}.", class_="warning")
        for each in dropped
    ]
    shown = {"reused": "done earlier"}
    rows = [
        (each["stage"], shown.get(each["status"], each["status"]), each["why"] or "-",
         f"{each['seconds']:,.1f}") for each in report["verdicts"]
    ]  # fmt: skip
    teaching = report["teaching"]
    if teaching and teaching["why"]:
        said.append(tag("p", tag("b", "How the teacher learned. "), teaching["why"] + "."))
    labelled = report["labelled"]
    if labelled:
        given = ", ".join(f"{name} {count:,}" for name, count in labelled["given"].items())
        text = f"{labelled['pool']:,} unlabelled and {labelled['labelled']:,} labelled rows"
        if given:
            sure = percent(labelled["mean_confidence"])
            text += f"; of the unlabelled: {given}, {sure} sure on average"
        if report["copies"]:
            text += f"; tried with {report['copies']:,} changed copies of the labelled ones too"
        said.append(tag("p", tag("b", "What the student was taught on. "), text + "."))
    squeezed = report["compressed"]
    if squeezed:
        said.append(tag("p", tag("b", "Compression. "), (
            f"Model file: {size(squeezed['fp32_bytes'])} to {size(squeezed['bytes'])} "
            f"({squeezed['kind']}); the same label as before on "
            f"{percent(squeezed['agreement'])} of {squeezed['texts']:,} dev texts."
        )))  # fmt: skip
    return section(
        "stages", "Stages, and what was dropped", *said,
        table("What became of each stage", ("stage", "status", "why", "seconds"), rows, numbers=1),
    )  # fmt: skip


def _confusion(report: Mapping[str, Any]) -> Markup:
    found = report["confusion"]
    labels, counts = found["labels"], found["counts"]
    parts: list[object] = [
        tag("p", f"{report['wrong']:,} of {report['rows']:,} {report['split']} rows are wrong.")
    ]
    if len(labels) <= MOST_CONFUSED:
        most = max(1, *(n for row in counts for n in row))
        parts.append(table(
            "Rows by true label (rows) and answer (columns)", ("", *labels),
            [(label, *(_shade(n, most, i == j) for j, n in enumerate(row)))
             for i, (label, row) in enumerate(zip(labels, counts, strict=True))],
            numbers=len(labels),
        ))  # fmt: skip
    if found["pairs"]:
        parts.append(table(
            "Most confused", ("true label", "answer", "rows"),
            [(each["gold"], each["said"], each["rows"]) for each in found["pairs"]], numbers=1,
        ))  # fmt: skip
    return section("confusion", "Confusion", *parts)


def _shade(count: int, most: int, right: bool) -> Markup:
    level = 0 if not count else 1 + min(3, int(4 * count / most - 1e-9))
    return tag("span", f"{count:,}", class_=f"cell {'right' if right else 'wrong'}{level}")


def _worst(report: Mapping[str, Any]) -> Markup:
    rows = report["worst"]
    if not rows:
        return section("worst", "Worst examples", tag("p", "Not one row is wrong."))
    return section(
        "worst", "Worst examples",
        tag("p", "Wrong answers the model was surest of. Some are its errors, some the labels'."),
        table(f"The {len(rows)} surest of {report['wrong']:,} wrong answers",
              ("text", "true label", "answer", "confidence"),
              [(each["text"], each["gold"], each["said"], percent(each["confidence"]))
               for each in rows], numbers=1, class_="texts"),
    )  # fmt: skip


def _curves(report: Mapping[str, Any]) -> Markup:
    steps = {name: [(p["steps"], p["dev"]) for p in line]
             for name, line in report["curves"]["steps"].items() if line}  # fmt: skip
    labels = {name: [(p["labels"], p["dev"]) for p in line]
              for name, line in report["curves"]["labels"].items() if line}  # fmt: skip
    figures = [
        tag("div", tag("figure", line_chart(series, across, said), tag("figcaption", said)),
            _numbers(series, across))
        for series, across, said in (
            (steps, "optimizer steps", "Accuracy on dev while the student learned."),
            (labels, "labelled rows", "What labels bring: cheap learners on 2, 4, 8 and 16 rows of "
             "each label and on all. A line that still rises at its end says that more labels "
             "would help."),
        ) if series
    ]  # fmt: skip
    if not figures:
        return Markup("")
    return section("curves", "Learning curves", tag("div", *figures, class_="pair"))


def _numbers(series: Mapping[str, Sequence[tuple[float, float]]], across: str) -> Markup:
    """Return the figures of a chart for those who do not see it."""
    rows = [(name, f"{x:,.0f}", percent(y)) for name, line in series.items() for x, y in line]
    shown = table(f"Accuracy on dev by {across}", ("learner", across, "dev"), rows, numbers=2)
    return tag("details", tag("summary", "The figures of this chart"), shown)


def _commands(report: Mapping[str, Any]) -> Markup:
    said = {
        "repeat": "Do it all again", "serve": "Serve the model", "ask": "Ask it something",
        "predict": "Predict a file",
    }  # fmt: skip
    parts: list[object] = []
    for key, text in said.items():
        parts += [tag("h3", text), tag("pre", tag("code", report["commands"][key]), tabindex="0")]
    made = {**report["versions"], **(report["machine"] or {})}
    rows = [(name, value) for name, value in made.items()]
    return section(
        "commands", "Repeat and serve", *parts,
        tag("details", tag("summary", "Made with"),
            table("Machine and versions", ("", "value"), rows)),
    )  # fmt: skip
