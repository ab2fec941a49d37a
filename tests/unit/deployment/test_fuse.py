from __future__ import annotations

import logging

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from easynlp.deployment import export as export_module
from easynlp.deployment import fuse
from easynlp.deployment.export import export
from easynlp.deployment.fuse import fuse_attention, select_early
from easynlp.deployment.quantize import quantize, quantize_attention
from easynlp.pipeline import Pipeline
from tests.unit.deployment import tiny

WIDTH, HEADS, SIZE = 24, 3, 8


class Builder:
    """A graph, node by node, over ``input_ids`` and ``attention_mask``."""

    def __init__(self):
        self.nodes, self.stored, self.rng = [], [], np.random.default_rng(0)

    def put(self, value):
        name = f"stored_{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def random(self, *shape):
        return self.put((self.rng.normal(size=shape) * 0.4).astype(np.float32))

    def node(self, kind, *inputs, **attributes):
        out = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def linear(self, source, bias=True, flip=False, outs=WIDTH):
        made = self.node("MatMul", source, self.random(WIDTH, outs))
        if not bias:
            return made
        pair = (made, self.random(outs))
        return self.node("Add", *(pair[::-1] if flip else pair))

    def model(self, **outputs):
        ids = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
            for name in ("input_ids", "attention_mask")
        ]
        for name, value in outputs.items():
            self.nodes.append(helper.make_node("Identity", [value], [name]))
        made = helper.make_graph(
            self.nodes, "test", ids,
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
            self.stored,
        )  # fmt: skip
        found = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        return found

    def mask(self, kind):
        """Return what is added to scores: 0, or the least number where nothing may be seen."""
        if kind == "none":
            return None
        kept = self.node("Cast", "attention_mask", to=TensorProto.BOOL)
        kept = self.node("Unsqueeze", kept, self.put(np.int64([1, 2])))
        if kind == "causal":
            length = self.node("Shape", "attention_mask", start=1)
            square = self.node("Concat", length, length, axis=0)
            one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1])
            ones = self.node("ConstantOfShape", square, value=one)
            past = self.node("Cast", self.node("Trilu", ones, upper=0), to=TensorProto.BOOL)
            kept = self.node("And", kept, past)
        least = np.finfo(np.float32).min if kind != "slight" else np.float32(-1)
        return self.node("Where", kept, self.put(np.float32(0)), self.put(least))

    def attention(self, source, mask, *, scale=SIZE**-0.5, bias=True, flip=False, divide=False):
        heads = self.put(np.int64([0, 0, HEADS, SIZE]))
        q, k, v = (
            self.node(
                "Transpose",
                self.node("Reshape", self.linear(source, bias, flip), heads),
                perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3],
            )
            for part in "qkv"
        )
        scores = self.node("MatMul", q, k)
        if divide:
            scores = self.node("Div", scores, self.put(np.float32(1 / scale)))
        else:
            scores = self.node("Mul", scores, self.put(np.float32(scale)))
        if mask is not None:
            scores = self.node("Add", *((mask, scores) if flip else (scores, mask)))
        mixed = self.node("MatMul", self.node("Softmax", scores, axis=-1), v)
        back = self.node("Transpose", mixed, perm=[0, 2, 1, 3])
        return self.node("Reshape", back, self.put(np.int64([0, 0, WIDTH])))

    def block(self, source, mask, **options):
        """Return a transformer layer over a source."""
        seen = self.linear(self.attention(source, mask, **options))
        first = self.normalize(self.node("Add", seen, source))
        hidden = self.node("Gelu", self.linear(first, outs=WIDTH))
        return self.normalize(self.node("Add", self.linear(hidden), first))

    def normalize(self, value):
        return self.node("LayerNormalization", value, self.random(WIDTH), self.random(WIDTH))

    def embed(self):
        return self.normalize(self.node("Gather", self.random(50, WIDTH), "input_ids"))

    def first(self, value):
        return self.node("Gather", value, self.put(np.int64(0)), axis=1)


def compute(model, rows=4, width=9):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    lengths = np.arange(width, width - rows, -1)
    feeds = {
        "input_ids": np.random.default_rng(1).integers(0, 50, (rows, width)),
        "attention_mask": (np.arange(width) < lengths[:, None]).astype(np.int64),
    }
    used = {item.name for item in session.get_inputs()}
    return session.run(None, {name: feeds[name] for name in used})


def kinds(model):
    return [node.op_type for node in model.graph.node]


def changed(model, rewrite):
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    return copy, rewrite(copy)


@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False}, {"flip": True}, {"divide": True}],
    ids=["plain", "without bias", "sums turned round", "divided"],
)
@pytest.mark.parametrize("mask", ["padding", "none"])
def test_attention_becomes_one_node_with_the_same_answers(options, mask):
    made = Builder()
    bias, source = made.mask(mask), made.embed()
    for _ in range(2):
        source = made.block(source, bias, **options)
    model = made.model(logits=source)
    fused, count = changed(model, fuse_attention)
    assert count == 2
    assert kinds(fused).count("Attention") == 2
    assert not {"Softmax", "Transpose", "Where", "Reshape"} & set(kinds(fused))
    np.testing.assert_allclose(compute(fused)[0], compute(model)[0], atol=1e-5)
    assert [item.name for item in fused.graph.input] == ["input_ids", "attention_mask"]


def test_attention_of_another_kind_is_left_alone():
    def model(kind="padding", **options):
        made = Builder()
        bias = made.mask(kind)
        return made.model(logits=made.block(made.embed(), bias, **options))

    for each in (model("causal"), model("slight"), model(scale=1.0)):
        same, count = changed(each, fuse_attention)
        assert count == 0
        assert same == each


def test_queries_and_keys_of_different_sources_are_left_alone():
    made = Builder()
    one = made.block(made.embed(), made.mask("padding"))
    model = made.model(logits=one)
    other = next(n for n in model.graph.node if n.op_type == "MatMul")
    other.input[0] = "elsewhere"
    other = next(n for n in model.graph.node if n.op_type == "Gather")
    twin = onnx.NodeProto.FromString(other.SerializeToString())
    twin.output[0] = "elsewhere"
    model.graph.node.insert(0, twin)
    assert changed(model, fuse_attention)[1] == 0


def test_probabilities_that_are_looked_at_stay():
    made = Builder()
    found = made.block(made.embed(), made.mask("padding"))
    looked_at = next(node.output[0] for node in made.nodes if node.op_type == "Softmax")
    assert changed(made.model(logits=found, seen=looked_at), fuse_attention)[1] == 0


def test_int8_attention_is_near_and_keeps_eight_bits():
    made = Builder()
    model = made.model(logits=made.attention(made.embed(), made.mask("padding")))
    expected = compute(model)[0]
    assert fuse_attention(model) == 1
    assert quantize_attention(model) == 1
    assert "QAttention" in kinds(model)
    (weight,) = [i for i in model.graph.initializer if i.name.endswith("qkv_weight_int8")]
    assert np.abs(numpy_helper.to_array(weight)).max(0).tolist() == [127] * 3 * WIDTH
    assert not any(i.name.endswith("qkv_weight") for i in model.graph.initializer)
    found = compute(model)[0]
    assert 0 < np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_only_the_token_that_is_read_is_computed():
    made = Builder()
    bias, source = made.mask("padding"), made.embed()
    for _ in range(2):
        source = made.block(source, bias)
    model = made.model(logits=made.linear(made.first(source)))
    early, count = changed(model, select_early)
    # The last layer: projection and two sums, two normalizations, feed-forward in five.
    assert count == 11
    np.testing.assert_allclose(compute(early)[0], compute(model)[0], atol=1e-6)
    (picks,) = [[n.output[0] for n in early.graph.node if n.op_type == "Gather"][1:]]
    assert len(picks) == 2, "what attention gives, and what is added to it"
    assert select_early(early) == 0


def test_a_value_used_elsewhere_is_still_computed_for_all():
    made = Builder()
    source = made.embed()
    hidden = made.node("Gelu", made.linear(source))
    everywhere = made.normalize(hidden)
    model = made.model(logits=made.linear(made.first(everywhere)), tokens=hidden)
    early, count = changed(model, select_early)
    assert count == 1
    for found, expected in zip(compute(early), compute(model), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_mixes_tokens_is_not_moved():
    made = Builder()
    mixed = made.node("Softmax", made.embed(), axis=1)
    per_token = made.put(np.ones((9, 1), np.float32))
    for value in (mixed, made.node("Mul", made.embed(), per_token)):
        model = made.model(logits=made.first(value))
        assert changed(model, select_early)[1] == 0
        made.nodes.pop()


def test_a_run_is_exported_with_both(run):
    fp32 = onnx.load(run / "fp32" / "model.onnx")
    assert {item.domain for item in fp32.opset_import} == {""}, "runs anywhere"
    assert kinds(fp32).count("Gather") > 2
    int8 = kinds(onnx.load(run / "onnx" / "model.int8.onnx"))
    assert int8.count("QAttention") == 2
    assert "Softmax" not in int8


@pytest.mark.parametrize("rewrite", ["select_early", "fuse_attention"])
@pytest.mark.parametrize("fault", ["wrong", "invalid", "raises"])
def test_a_rewrite_that_goes_wrong_costs_speed_only(
    run, tmp_path, monkeypatch, caplog, rewrite, fault
):
    def broken(model):
        if fault == "raises":
            raise KeyError("val_7")
        if fault == "invalid":
            model.graph.node[0].input[0] = "nowhere"
            return 1
        last = next(n for n in model.graph.node if "logits" in n.output)
        last.output[0] = "before"
        model.graph.node.append(helper.make_node("Neg", ["before"], ["logits"]))
        return 1

    broken.__name__ = rewrite
    graph = onnx.load(run / "fp32" / "model.onnx")
    monkeypatch.setattr(export_module, "_trace", lambda model, inputs: graph)
    monkeypatch.setattr(fuse, rewrite, broken)
    with caplog.at_level(logging.WARNING, "easynlp"):
        report = export(run, int8=True, output=tmp_path / "out")
    assert f"{rewrite} " in caplog.text
    assert "left out" in caplog.text
    assert report.passed
    assert report.difference <= 1e-4
    eager = Pipeline.load(run, backend="torch").predict(tiny.TEXTS)
    said = Pipeline.load(tmp_path / "out").predict(tiny.TEXTS)
    assert [p["label"] for p in said] == [p["label"] for p in eager]


def test_a_model_of_both_kinds_of_nodes_is_quantized(tmp_path):
    made = Builder()
    model = made.model(logits=made.block(made.embed(), made.mask("padding")))
    expected = compute(model)[0]
    fuse_attention(model)
    quantize(model, tmp_path / "model.onnx")
    found = onnx.load(tmp_path / "model.onnx")
    assert "MatMul" not in kinds(found)
    assert np.abs(compute(found)[0] - expected).max() < 0.05 * np.abs(expected).max()
