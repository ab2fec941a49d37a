"""The page is well-formed, holds no script, needs no network, and lets no text be markup."""

import itertools
import json
from html.parser import HTMLParser

import pytest

from easynlp.landing.charts import interval_chart, line_chart, pareto_chart, reliability_chart
from easynlp.landing.markup import Markup, join, tag
from easynlp.landing.page import page
from easynlp.landing.report import calibration

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&\x00坏\ud800"
VOID = {"meta", "br", "line", "rect", "circle", "polyline", "path", "col"}


class Outline(HTMLParser):
    """Checks nesting; collects elements, their attributes, ids and text."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.text = [], [], []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        assert name in VOID, f"<{name}/> is no void element"
        self.elements.append((name, dict(attributes)))

    def handle_endtag(self, name):
        assert self.open[-1:] == [name], f"</{name}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)


def outline(text):
    found = Outline()
    found.feed(text)
    found.close()
    assert not found.open
    return found


def a_report(word=EVIL):
    row = {
        "key": "small_finetuned", "name": word, "served": True, "parameters": 10_900_000,
        "bytes": 11_200_000, "accuracy": 0.75, "low": 0.6, "high": 0.85, "right": 3,
        "note": f"in torch: {word}", "one": {"p50_ms": 1.0, "p99_ms": 2.0, "calls": 9},
        "batch": None,
    }  # fmt: skip
    some = {"count": 1, "places": [word]}
    split = {
        "rows": 4, "kept": 4, "labels": {word: 4}, "duplicates": some, "conflicts": some,
        "near": None, "odd": {word: some},
        "lengths": {"min": 1, "p50": 2, "p90": 3, "p95": 3, "p99": 3, "max": 3},
    }  # fmt: skip
    return {
        "format": 1, "student": word, "teacher": word, "kept": None, "split": "test", "rows": 4,
        "target": {"wanted": 4_000_000, "bytes": 11_200_000, "reached": False},
        "verdicts": [{"stage": word, "status": "dropped", "why": word, "seconds": 1.0}],
        "diagnosis": {
            "splits": {word: split}, "dropped": {word: {word: 2}}, "split_off": word,
            "leaks": [{"of": word, "in": word, "exact": 1, "near": 2, "places": [word],
                       "dropped": True}],
            "noise": {"rate": 0.1, "accuracy": 0.8, "labels": [word], "joint": [[1.0]],
                      "suspects": 1, "issues": [{"row": 0, "given": word, "likely": word,
                                                 "margin": -0.5, "place": word, "text": word}]},
            "length_alone": {"accuracy": 0.5, "majority": 0.5, "rows": 4, "medians": {word: 2.0}},
            "warnings": [word],
        },
        "teaching": {"way": word, "why": word, "dev": 0.5, "tries": []},
        "labelled": {"labelled": 4, "pool": 2, "given": {word: 2}, "mean_confidence": 0.7},
        "compressed": {"of": word, "precision": "int8", "kind": word, "agreement": 0.99, "texts": 4,
                       "bytes": 1, "fp32_bytes": 4},
        "curves": {"steps": {word: [{"steps": 10, "dev": 0.5}, {"steps": 20, "dev": 0.75}]},
                   "labels": {word: [{"labels": 8, "dev": 1.0}]}},
        "commands": dict.fromkeys(("repeat", "serve", "ask", "predict"), word),
        "machine": {"cpu": word, "load": word}, "timed": 4, "versions": {word: word},
        "seconds": 12.0, "table": [row, {**row, "key": "large_fewshot", "served": False}],
        "floors": [{**row, "key": "majority", "served": False, "parameters": None, "bytes": None,
                    "note": ""}],
        "confusion": {"labels": [word, "x"], "counts": [[2, 1], [0, 1]],
                      "pairs": [{"gold": word, "said": word, "rows": 1}]},
        "calibration": calibration([0.9, 0.9, 0.6, 0.2], [True, False, True, True])
        | {"ece_before": 0.2, "abstention": {"threshold": 0.8, "wanted": 0.9, "rows": 4,
                                             "given": 2, "right": 1}},
        "calibrated": {"temperature": 1.5, "rows": 4, "accuracy": 0.75, "ece": 0.2,
                       "ece_after": 0.1, "refused": "", "precision": 0.9,
                       "abstention": {"precision": 0.9, "threshold": 0.8}},
        "candidates": [
            {"name": word, "bytes": 44e6, "dev": 0.8, "front": True, "chosen": False},
            {"name": word, "bytes": 3.9e6, "dev": 0.75, "front": True, "chosen": True,
             "p50_ms": 2.0},
        ],
        "copies": 8,
        "worst": [{"text": word, "gold": word, "said": word, "confidence": 0.9}], "wrong": 1,
    }  # fmt: skip


def test_no_text_from_outside_becomes_markup():
    text = page(a_report())
    found = outline(text)
    names = [name for name, _ in found.elements]
    assert "script" not in names
    assert "img" not in names
    assert "<script>alert(1)</script>" in "".join(found.text)
    assert "\x00" not in text
    text.encode("utf-8")  # no lone surrogates
    for name, attributes in found.elements:
        assert not [each for each in attributes if each.startswith("on")], name


@pytest.mark.parametrize(
    ("kept", "of", "alike"),
    [("distill", "", True), ("compress", "distill", True), ("compress", "augment", False),
     ("compress", "teacher", False), ("prune", "distill", False)],
)  # fmt: skip
def test_the_same_search_is_claimed_only_of_what_had_it(kept, of, alike):
    report = a_report("x") | {"kept": {"stage": kept, "dev": 0.8}}
    report["compressed"]["of"] = of
    served, large = report["table"]
    report["table"] = [{**served, "key": "served"}, large,
                       {**served, "key": "small_finetuned", "served": False}]  # fmt: skip
    said = "".join(outline(page(report)).text)
    assert "Against plain fine-tuning" in said
    assert ("with the same steps and search" in said) is alike


def test_the_page_needs_no_network():
    text = page(a_report("好评"))
    found = outline(text)
    for name, attributes in found.elements:
        assert name not in ("link", "img", "iframe", "object", "script", "base", "form")
        for key in ("src", "srcset", "action"):
            assert key not in attributes
        assert attributes.get("href", "#").startswith("#")
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_page_can_be_read_without_seeing_it():
    found = outline(page(a_report("好评")))
    names = [name for name, _ in found.elements]
    everything = dict(found.elements)
    assert everything["html"]["lang"] == "en"
    assert {"header", "main", "footer", "title"} <= set(names)
    assert names.count("h1") == 1
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for name, attributes in found.elements:
        if name == "section":
            assert attributes["aria-labelledby"] in ids
        if name == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if name == "th":
            assert attributes["scope"] in ("row", "col")
    assert names.count("caption") == names.count("table") > 8
    levels = [int(name[1]) for name in names if name in ("h1", "h2", "h3")]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    viewport = [a for name, a in found.elements if name == "meta" and a.get("name") == "viewport"]
    assert "width=device-width" in viewport[0]["content"]


def test_every_row_of_a_table_has_its_headings_number_of_cells():
    found = outline(page(a_report("好评")))
    width, cells = None, None
    for name, _ in found.elements:
        if name in ("thead", "tbody", "tr", "table", "svg"):
            if cells:
                width = width or cells
                assert cells == width
            cells = 0
            if name == "table":
                width = None
        elif name in ("th", "td"):
            cells += 1


def test_a_report_without_scores_or_times_still_makes_a_page():
    report = a_report("好评")
    for key in ("table", "floors", "confusion", "calibration", "worst", "split", "rows", "wrong"):
        del report[key]
    nothing = ("machine", "timed", "labelled", "compressed", "teaching", "teacher", "calibrated",
               "copies")  # fmt: skip
    report |= {**dict.fromkeys(nothing), "candidates": [], "curves": {"steps": {}, "labels": {}}}
    report["diagnosis"]["noise"] = {"why_not": "a label has fewer than 8 rows"}
    text = "".join(outline(page(report)).text)
    assert "not scored" in text
    assert "Not judged" in text


def test_the_reports_figures_are_json():
    json.dumps(a_report("好评"), allow_nan=False)


def test_tags_escape_all_but_markup():
    assert tag("p", "<b>", Markup("<b>"), None) == "<p>&lt;b&gt;<b></p>"
    assert tag("p", 1 < 2, title='"<') == '<p title="&quot;&lt;">True</p>'
    assert join(["\x07", "a\n"]) == "\ufffda\n"


def numbers(chart, key):
    return [float(a[key]) for _, a in outline(chart).elements if key in a]


def test_charts_stay_within_their_frame():
    rows = [{"name": "很长的名字" * 20, "accuracy": 0.5, "low": 0.0, "high": 1.0, "served": True},
            {"name": "b", "accuracy": 1.0, "low": 0.98, "high": 1.0}]  # fmt: skip
    one = {"bytes": 3e6, "dev": 1.0, "front": True, "chosen": True}
    charts = [
        pareto_chart([one, {**one, "bytes": 4.4e7, "dev": 0.0}], 10**6, "x"),
        pareto_chart([one, one], None, "x"),
        interval_chart(rows, "x"),
        interval_chart(rows[1:], "x"),
        line_chart({"a": [(1, 0.0), (9, 1.0)], "b": [(5, 0.5)]}, "steps", "x"),
        line_chart({"a": [(100, 0.7)]}, "steps", "x"),
        reliability_chart(calibration([0.05, 1.0, 1.0], [True, True, False])["bins"], "x"),
    ]
    for chart in charts:
        height = float(outline(chart).elements[0][1]["viewbox"].split()[3])
        limits = dict.fromkeys(("x", "x1", "x2", "cx"), 360)
        limits |= dict.fromkeys(("y", "y1", "y2", "cy"), height)
        for key, most in limits.items():
            assert all(0 <= value <= most for value in numbers(chart, key)), key
        assert "nan" not in chart


def test_points_are_where_their_values_say():
    chart = interval_chart([{"name": "a", "accuracy": 0.9, "low": 0.8, "high": 1.0}], "x")
    low, high = (numbers(chart, key)[-1] for key in ("x1", "x2"))
    assert numbers(chart, "cx")[0] == pytest.approx((low + high) / 2)


def test_smaller_is_further_left_and_better_is_higher():
    rows = [{"bytes": b, "dev": d, "front": True, "chosen": False}
            for b, d in ((4e7, 0.9), (1e7, 0.8))]  # fmt: skip
    chart = pareto_chart(rows, None, "x")
    assert numbers(chart, "cx")[1] < numbers(chart, "cx")[0]
    assert numbers(chart, "cy")[1] > numbers(chart, "cy")[0]


def test_what_calibration_did_is_said():
    report = a_report("好评")
    text = "".join(outline(page(report)).text)
    assert "a temperature of 1.500, fitted on 4 dev rows" in text
    assert "2 of 4 rows have such a score, and 50.0 % of them are right" in text
    report["calibrated"] |= {"refused": "no threshold is sure enough.", "abstention": None}
    report["calibration"]["abstention"] = None
    text = "".join(outline(page(report)).text)
    assert "no threshold is sure enough. The model is served without one." in text


def test_calibration_against_the_definition():
    import numpy as np

    random = np.random.default_rng(2)
    chances = random.uniform(0.3, 1, 500)
    right = random.uniform(size=500) < chances**2
    found = calibration(chances.tolist(), right.tolist())
    bins = np.minimum((chances * 10).astype(int), 9)
    ece = sum(
        (bins == b).mean() * abs(chances[bins == b].mean() - right[bins == b].mean())
        for b in range(10) if (bins == b).any()
    )  # fmt: skip
    assert found["ece"] == pytest.approx(ece)
    assert sum(each["rows"] for each in found["bins"]) == 500
