"""Which candidates are tried, which is chosen, and the picture of them."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from transformers import BertConfig

from easynlp.compression.candidates import (
    Candidate,
    Candidates,
    Shape,
    choose,
    estimate_bytes,
    grid,
    pareto,
    shapes_to_try,
)
from easynlp.compression.chart import Dot, draw
from easynlp.compression.settings import CompressConfig, parse_size
from easynlp.errors import ConfigError, ModelError


def row(name, size, drop, p50=1.0):
    return Candidate(
        name, Shape(0.5, 2, True), "int8", 0.9 - drop / 100, 0.8, 0.95, drop, size, 10, 100, 0.0,
        None, p50, 2 * p50, 2.0, 30.0, "home", "export",
    )  # fmt: skip


def test_the_best_within_both_budgets_is_chosen():
    rows = [row("a", 5_000_000, 0.0), row("b", 3_900_000, 0.4), row("c", 3_000_000, 0.4, p50=0.5),
            row("d", 1_000_000, 2.0)]  # fmt: skip
    assert choose(rows, 4_000_000, 0.5).name == "c"  # as good as b, and faster
    assert choose(rows, 6_000_000, 0.5).name == "a"
    assert choose(rows, None, 0.5).name == "c"  # without a size: the smallest
    assert choose(rows, None, 5.0).name == "d"
    assert choose(rows, 500_000, 5.0) is None
    assert choose(rows, 2_000_000, 0.5) is None
    assert [r.name for r in pareto(rows)] == ["d", "c", "a"]


def test_rows_are_kept_and_read_again(tmp_path):
    path = tmp_path / "candidates.jsonl"
    kept = Candidates(path)
    kept.add(row("a", 1, 0.0))
    kept.add(row("b", 2, 0.5))
    assert list(Candidates(path).rows.values()) == list(kept.rows.values())
    path.write_text('{"name": 1}\n', "utf-8")
    with pytest.raises(ModelError, match="damaged"):
        Candidates(path)


def test_explicit_widths_and_depths_are_combined():
    config = CompressConfig(run="x", width=(0.5, 0.75), depth=(2, 3), int8=True)
    names = [shape.name for shape in shapes_to_try(config, 4)]
    assert names == ["w0.5-d2", "w0.5-d3", "w0.75-d2", "w0.75-d3"]
    only = shapes_to_try(CompressConfig(run="x", int8=True), 4)
    assert only == [Shape(1.0, 4, False)]


def test_a_target_size_takes_the_largest_shapes_that_fit():
    config = CompressConfig(run="x", target_size="1000", candidates=2)
    sizes = {s: int(400 * s.width * s.depth + (100 if s.vocab else 500)) for s in grid(config, 4)}
    found = shapes_to_try(config, 4, sizes)
    assert all(sizes[shape] <= 1000 for shape in found)
    assert [s.width * s.depth for s in found] == [2.25, 2.0]
    assert all(shape.vocab for shape in found)
    tight = CompressConfig(run="x", target_size="10")
    assert shapes_to_try(tight, 4, sizes) == [Shape(0.25, 1, True)]  # to say how far off it is


def test_estimates_follow_the_shape():
    config = BertConfig(hidden_size=64, num_attention_heads=4, intermediate_size=256)
    small = {"tokenizer": 0, "positions": 64}
    whole = estimate_bytes(config, Shape(1.0, 4, False), tokens=1000, **small)
    half = estimate_bytes(config, Shape(0.5, 4, False), tokens=1000, **small)
    assert whole - half == pytest.approx(4 * (4 * 64 * 32 + 2 * 64 * 128), rel=0.1)
    fewer = estimate_bytes(config, Shape(1.0, 4, True), tokens=500, **small)
    assert whole - fewer == 500 * 64


@pytest.mark.parametrize(
    ("width", "depth", "measured"),
    [(0.25, 3, 3_103_477), (0.25, 4, 3_591_606), (0.5, 2, 3_512_180), (1.0, 1, 3_472_716)],
)
def test_estimates_are_near_what_tiny_zh_came_out_as(width, depth, measured):
    """Bytes of model, tokenizer and descriptions of an int8 classifier with 3,123 pieces left."""
    config = BertConfig(hidden_size=384, num_attention_heads=12, intermediate_size=1536)
    found = estimate_bytes(
        config, Shape(width, depth, True), tokens=3123, tokenizer=193_984, positions=128,
        other=384 * 384 + 2 * 384,
    )  # fmt: skip
    assert found == pytest.approx(measured, rel=0.02)


def test_sizes_are_read():
    assert parse_size("4MB") == 4_000_000
    for bad in ("4 apples", "", "-1MB", "0"):
        with pytest.raises(ConfigError, match="no size"):
            parse_size(bad)
    with pytest.raises(ConfigError, match="say what to reach"):
        CompressConfig(run="x")
    with pytest.raises(ConfigError, match="go with --vocab"):
        CompressConfig(run="x", int8=True, vocab_size=100)


def test_the_picture_is_xml_and_holds_every_candidate():
    dots = [
        Dot("a <1>", 4.0, 90.0, 88.0, 92.0, front=True, chosen=True),
        Dot("b", 10.0, 91.0, 89.0, 93.0, front=True),
        Dot("c", 12.0, 90.5, 89.0, 92.0),
    ]
    text = draw(dots, title="runs/x & more", metric="accuracy", budget=5.0, floor=89.5)
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    circles = root.findall(f"{space}circle")
    assert len(circles) == 3
    left = [float(c.get("cx")) for c in circles]
    assert left == sorted(left)
    high = [float(c.get("cy")) for c in circles]
    assert high[1] < high[2] < high[0]  # up is better
    assert "a <1>" in "".join(root.itertext())
    assert len(root.find(f"{space}polyline").get("points").split()) == 2
    ElementTree.fromstring(draw(dots[:1], title="", metric="f1"))  # one alone has a picture, too
