from __future__ import annotations

import itertools
import json
import logging
import warnings

import numpy as np
import onnx
import pytest
import torch

from easynlp.deployment import export as export_module
from easynlp.deployment.export import export
from easynlp.deployment.quantize import quantize_tables, quiet
from easynlp.deployment.texts import MOST_TEXTS, read_texts
from easynlp.errors import ConfigError, DataError, GateError, RunError
from easynlp.pipeline import Pipeline
from easynlp.tasks.text_classify import TextClassify
from tests.unit.deployment import tiny


def fake_trace(monkeypatch, run):
    """Take the graph from an earlier export: tracing takes seconds."""
    graph = onnx.load(run / "fp32" / "model.onnx")
    monkeypatch.setattr(export_module, "_trace", lambda model, inputs: graph)


def report_of(folder):
    return json.loads((folder / "export.json").read_text(encoding="utf-8"))


def test_fp32_export_equals_the_run_in_every_shape(run):
    eager, exported = Pipeline.load(run, backend="torch"), Pipeline.load(run / "fp32")
    assert exported.model.backend == "onnx"
    for rows, width in ((1, 2), (3, 21), (16, 100)):
        ids = np.random.default_rng(rows).integers(0, 60, (rows, width))
        mask = (np.arange(width) < np.arange(rows)[:, None] * 3 + 2).astype(np.int64)
        batch = {"input_ids": ids, "attention_mask": mask}
        np.testing.assert_allclose(
            exported.model.logits(batch), eager.model.logits(batch), atol=1e-4
        )
    assert report_of(run / "fp32")["difference"] <= 1e-4


def test_int8_export_says_what_the_run_says_and_is_smaller(run):
    said = report_of(run / "onnx")
    assert said["passed"] is True
    assert said["agreement"] >= 0.99
    assert said["texts"] == 80
    assert said["bytes"] == (run / "onnx" / "model.int8.onnx").stat().st_size
    assert said["bytes"] < 0.7 * said["fp32_bytes"]
    texts = tiny.TEXTS * 3
    int8, eager = Pipeline.load(run), Pipeline.load(run, backend="torch")
    assert int8.model.backend == "onnx int8"
    assert [p["label"] for p in int8.predict(texts)] == [p["label"] for p in eager.predict(texts)]


def test_an_int8_answer_does_not_depend_on_its_company(run):
    int8 = Pipeline.load(run)
    texts = tiny.TEXTS * 5
    assert int8.predict(texts, batch_size=64) == [int8.predict([text])[0] for text in texts]


def test_the_exported_folder_is_complete_in_itself(run, tmp_path):
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in (run / "onnx").iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert {f.name for f in moved.iterdir()} == {
        "easynlp.json", "export.json", "model.int8.onnx", "tokenizer.json",
    }  # fmt: skip
    assert Pipeline.load(moved).predict(["房间很好"])[0]["label"] == "好评"


def test_embedding_tables_are_int8_rows(run):
    graph = onnx.load(run / "onnx" / "model.int8.onnx").graph
    tables = [i for i in graph.initializer if i.name.endswith("_int8") and i.dims[0] == 1200]
    assert [i.data_type for i in tables] == [onnx.TensorProto.INT8]
    sizes = [np.prod(i.dims) for i in graph.initializer if i.data_type == onnx.TensorProto.FLOAT]
    assert max(sizes) < 1200 * 32


def test_int8_rows_are_close_to_the_table():
    table = np.random.default_rng(0).normal(size=(2000, 32)).astype(np.float32)
    table[7] *= 1000  # a scale for the whole table would wipe out all other rows
    table[9] = 0
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["out"], axis=0)], "lookup",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, ["n", 32])],
        [onnx.numpy_helper.from_array(table, "table")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert quantize_tables(model) == 1
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"ids": np.arange(2000)})
    allowed = np.abs(table).max(1, keepdims=True) / 254 * 1.001
    assert (np.abs(found - table) <= allowed).all()


def test_bigrams_and_bags_are_exported_their_tables_in_int8(tmp_path):
    from easynlp.models.ngram_bert import NgramBertConfig

    config = NgramBertConfig(
        vocab_size=1200, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=160, ngram_buckets=2003,
    )  # fmt: skip
    folder = tiny.classify_run(tmp_path / "run", config=config)
    report = export(folder, int8=True, texts=tiny.TEXTS * 4)
    assert report.difference <= 1e-4
    assert report.agreement >= 0.99
    graph = onnx.load(folder / "onnx" / "model.int8.onnx").graph
    tables = {i.dims[0] for i in graph.initializer if i.name.endswith("_int8")}
    assert {1200, 2003} <= tables
    int8 = Pipeline.load(folder)
    assert int8.predict(tiny.TEXTS, 64) == [int8.predict([text])[0] for text in tiny.TEXTS]


def test_token_labels_of_an_encoder_without_type_ids(tmp_path):
    from transformers import DistilBertConfig

    config = DistilBertConfig(
        vocab_size=1200, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=160
    )
    folder = tiny.labeling_run(tmp_path / "ner", config)
    texts = ["今天张三在北京大学", "经理在房间", "张三在北京大学" * 40]
    report = export(folder, int8=True, texts=texts)
    assert report.agreement >= 0.99
    int8, eager = Pipeline.load(folder), Pipeline.load(folder, backend="torch")
    assert int8.model.inputs == ("input_ids", "attention_mask")

    found = [entity for one in eager.predict(texts) for entity in one["entities"]]
    assert len(found) > 40
    in_entities = sum(entity["end"] - entity["start"] for entity in found)
    assert in_entities <= report.labels < sum(map(len, texts))

    def places(said):
        return [[(e["start"], e["end"], e["type"]) for e in one["entities"]] for one in said]

    assert places(int8.predict(texts)) == places(eager.predict(texts))
    assert places(int8.predict(texts[:1])) == [[(2, 4, "PER"), (5, 9, "LOC")]]
    assert int8.predict(texts) == [int8.predict([text])[0] for text in texts]


def test_words_at_holes(tmp_path):
    folder = tiny.modeling_run(tmp_path / "mlm")
    texts = ["房间很[MASK]", "[MASK][MASK]天气怎么样", "好", "饭菜味道很[MASK]，我们很[MASK]"]
    report = export(folder, int8=True, texts=texts)
    assert report.difference <= 1e-4
    assert report.labels == 5, "holes"
    int8, eager = Pipeline.load(folder), Pipeline.load(folder, backend="torch")
    assert int8.model.inputs == ("input_ids", "attention_mask", "masked_positions")

    def words(pipeline, **options):
        said = pipeline.predict(texts, **options)
        return [[hole["tokens"][0] for hole in one["holes"]] for one in said]

    assert words(int8) == words(eager, batch_size=3)
    assert [len(found) for found in words(int8)] == [1, 2, 0, 2]
    assert words(int8)[0] == ["好"]
    assert int8.predict(texts) == [int8.predict([text])[0] for text in texts]


class Wrong:
    """A model that disagrees with every other."""

    backend, row_wise = "wrong", True

    def __init__(self, path, threads=1):
        self.path = path

    def logits(self, batch):
        return np.tile(np.float32([9.0, -9.0]), (len(batch["input_ids"]), 1))


def test_a_failed_check_writes_nothing_unless_forced(run, tmp_path, monkeypatch, caplog):
    fake_trace(monkeypatch, run)
    monkeypatch.setattr(export_module, "OnnxModel", Wrong)
    target = tmp_path / "out"
    with pytest.raises(GateError, match=r"differs from the run by .*allowed: 0\.0001"):
        export(run, output=target)
    monkeypatch.setattr(export_module, "TOLERANCE", np.inf)
    with pytest.raises(
        GateError, match=r"agrees with the run on 40 of 80 labels \(50\.00 %.*--force"
    ) as e:
        export(run, int8=True, output=target)
    assert e.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []
    with caplog.at_level(logging.WARNING, "easynlp"):
        report = export(run, int8=True, output=target, force=True)
    assert report.passed is False
    assert report_of(target)["passed"] is False
    assert report_of(target)["agreement"] == 0.5
    assert "kept all the same" in caplog.text


def test_int8_needs_real_texts(run, tmp_path, monkeypatch):
    fake_trace(monkeypatch, run)
    folder = tmp_path / "moved"
    folder.mkdir()
    for file in run.iterdir():
        if file.is_file() and file.name != "train.yaml":
            (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(GateError, match="--texts"):
        export(folder, int8=True)
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "房间很好"}\n{"text": "态度很差"}\n', encoding="utf-8")
    assert export(folder, int8=True, texts=texts).texts == 2
    assert export(folder, int8=True, texts=["房间很好"]).texts == 1
    with pytest.raises(DataError, match="no texts"):
        export(folder, int8=True, texts=[])


def test_a_label_the_run_does_not_know_is_told_at_its_line(run, tmp_path, monkeypatch):
    fake_trace(monkeypatch, run)
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"text": "好", "label": "好评"}\n{"text": "行", "label": "中评"}\n', "utf-8")
    with pytest.raises(DataError, match=r'odd\.jsonl:2: unknown label "中评"'):
        export(run, int8=True, texts=odd, output=tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_the_check_is_made_on_rows_from_all_over_the_file(tmp_path):
    file = tmp_path / "sorted.jsonl"
    rows = ["房间很好"] * 1500 + ["态度很差"] * 1500 + ["饭菜很赞"] * 1500
    file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    seen = [row["text"] for row in read_texts(str(file), TextClassify.fields)]
    assert len(seen) == MOST_TEXTS
    assert [row for row, _ in itertools.groupby(seen)] == ["房间很好", "态度很差", "饭菜很赞"]
    assert min(seen.count(row) for row in set(seen)) > 280
    assert read_texts(str(file), TextClassify.fields)[:50] == [{"text": row} for row in seen[:50]]


def test_another_folder_is_never_replaced(run, tmp_path, monkeypatch):
    fake_trace(monkeypatch, run)
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(ConfigError, match="not written by an export"):
        export(run, output=tmp_path)
    with pytest.raises(ConfigError, match="is a file"):
        export(run, output=tmp_path / "thesis.txt")
    target = tmp_path / "out"
    first = export(run, output=target)
    assert export(run, output=target).bytes == first.bytes


def test_a_full_disk_leaves_what_was_there(run, tmp_path, monkeypatch):
    fake_trace(monkeypatch, run)
    target = tmp_path / "out"
    export(run, output=target)
    before = report_of(target)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "save_meta", full)
    with pytest.raises(RunError, match="No space left"):
        export(run, output=target)
    assert report_of(target) == before
    assert [f.name for f in tmp_path.iterdir()] == ["out"]


def test_a_run_trained_further_does_not_use_its_old_export(run, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "copy"
    (folder / "onnx").mkdir(parents=True)
    for file in [*run.iterdir(), *(run / "onnx").iterdir()]:
        if file.is_file():
            (folder / file.relative_to(run)).write_bytes(file.read_bytes())
    assert Pipeline.load(folder).model.backend == "onnx int8"
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"] = weights["classifier.bias"] + torch.tensor([1.0, 0.0])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(Exception, match="exported from other weights"):
        Pipeline.load(folder)


def test_exporters_are_quiet_and_logging_is_left_alone(capfd):
    root, handlers = logging.getLogger(), list(logging.getLogger().handlers)
    with quiet():
        logging.warning("please consider to run pre-processing")
        warnings.warn("deprecated", stacklevel=1)
    assert root.handlers == handlers
    assert logging.getLogger("torch.onnx").level == logging.NOTSET
    assert capfd.readouterr() == ("", "")
