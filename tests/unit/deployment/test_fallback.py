from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import onnx
import pytest
from safetensors.torch import load_file, save_file

from easynlp.deployment import export as export_module
from easynlp.deployment.export import export
from easynlp.deployment.fallback import attempts, choose, operators
from easynlp.deployment.parity import Agreement, Reference
from easynlp.errors import GateError
from easynlp.models.runtime import OnnxModel
from easynlp.pipeline import Pipeline
from tests.unit.deployment import tiny
from tests.unit.deployment.test_export import Wrong, fake_trace

OUTLIER = 1e4


@pytest.fixture(scope="module")
def spiky(tmp_path_factory):
    """A run one of whose channels is so large that int8 drowns the others beside it."""
    folder = tiny.classify_run(tmp_path_factory.mktemp("spiky") / "run", train=False)
    weights = load_file(folder / "model.safetensors")
    layer = "bert.encoder.layer.1.attention"
    weights[f"{layer}.self.value.bias"][3] += 1
    for part in ("weight", "bias"):
        weights[f"{layer}.self.value.{part}"][3] *= OUTLIER
    weights[f"{layer}.output.dense.weight"][:, 3] /= OUTLIER
    for name in ("bert.pooler.dense.weight", "classifier.weight"):
        weights[name] *= 10
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_the_operator_that_int8_spoils_stays_fp32(spiky, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(
        export_module._Job, "_reject",
        lambda self, found: None if found.largest_difference < 0.018 else "far off",
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "easynlp"):
        report = export(spiky, int8=True, output=tmp_path / "out", texts=tiny.TEXTS)
    assert "kept: int8 but 1 operator" in caplog.text
    assert [each["passed"] for each in report.tried] == [False, True]
    assert (report.passed, report.kind) == (True, "int8 but 1 operator")
    assert report.int8_difference < 0.018
    assert report.bytes < 0.8 * report.fp32_bytes
    said = json.loads((tmp_path / "out" / "export.json").read_text("utf-8"))
    assert (said["kind"], said["fp32_operators"]) == (report.kind, list(report.fp32_operators))
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [
        "easynlp.json", "export.json", "model.int8.onnx", "tokenizer.json",
    ]  # fmt: skip
    graph = onnx.load(tmp_path / "out" / "model.int8.onnx").graph
    (kept,) = report.fp32_operators
    node = next(node for node in graph.node if node.name == kept)
    (matrix,) = [i for i in graph.initializer if i.name == node.input[1]]
    values = np.abs(onnx.numpy_helper.to_array(matrix)).max(-1)
    assert values.argmin() == 3, "the row that undoes the large channel"
    assert values[3] < 1e-3 * np.median(values)


def test_weights_alone_as_int8_say_what_fp32_says(run, tmp_path):
    graph = onnx.load(run / "fp32" / "model.onnx")
    pipeline = Pipeline.load(run / "fp32")
    examples = [pipeline.example(text) for text in tiny.TEXTS]
    reference = Reference(pipeline.task, pipeline.model, pipeline.encode(examples), examples)
    tried = attempts(
        graph, tmp_path, lambda file: reference.compare(OnnxModel(file)), refuse_int8()
    )
    assert tried[0].kind == "int8"
    assert tried[-1].kind == "int8 weights"
    assert len(tried[1].fp32_operators) < len(tried[2].fp32_operators)
    assert tried[0].agreement.largest_difference > 0
    kept = choose(tried, tmp_path / "kept.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["kept.onnx"]
    model = OnnxModel(tmp_path / "kept.onnx")
    assert (model.backend, model.row_wise) == ("onnx int8 weights", False)
    assert kept.bytes < 0.7 * (run / "fp32" / "model.onnx").stat().st_size
    stored = onnx.load(tmp_path / "kept.onnx").graph.initializer
    assert sum(i.data_type == onnx.TensorProto.INT8 for i in stored) == 13, "12 and a table"
    assert kept.agreement.share == 1.0


def refuse_int8():
    """Refuse every way but the last."""
    seen = []

    def reject(found):
        seen.append(found)
        return "not good enough" if len(seen) < 5 else None

    return reject


def test_every_quantized_operator_has_a_name_of_its_own(run):
    graph = onnx.load(run / "fp32" / "model.onnx")
    names = operators(graph)
    assert len(names) == len(set(names)) >= 8


def test_a_drop_of_the_score_fails(run, tmp_path, monkeypatch):
    fake_trace(monkeypatch, run)
    monkeypatch.setattr(export_module, "OnnxModel", Wrong)
    monkeypatch.setattr(export_module, "TOLERANCE", np.inf)
    monkeypatch.setattr(export_module, "AGREEMENT", 0.0)
    wanted = r"loses 50\.00 points, accuracy on 80 labelled texts 100\.00 before, 50\.00 after"
    with pytest.raises(GateError, match=wanted):
        export(run, int8=True, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    report = export(run, int8=True, output=tmp_path / "out", max_drop=50)
    assert (report.drop, report.passed, report.kind) == (50.0, True, "int8")


def test_without_labels_there_is_no_score(run, tmp_path, monkeypatch):
    fake_trace(monkeypatch, run)
    report = export(run, int8=True, output=tmp_path / "out", texts=tiny.TEXTS)
    assert (report.metric, report.score, report.drop) == (None, None, None)
    assert Agreement(1, 1, 1, 0.0).scored == ""
    with pytest.raises(GateError, match="--texts FILE"):
        export(run, int8=True, output=tmp_path / "out", texts=tiny.TEXTS, abstain_precision=0.9)


def test_an_export_takes_over_the_calibration_or_has_its_own(run, tmp_path, monkeypatch):
    from easynlp.pipeline import read_meta, save_meta

    fake_trace(monkeypatch, run)
    folder = tmp_path / "run"
    folder.mkdir()
    for file in run.iterdir():
        if file.is_file():
            shutil.copy2(file, folder / file.name)
    said = {
        "temperature": 1.5, "rows": 10, "accuracy": 0.9, "nll": 0.5, "nll_after": 0.4, "ece": 0.1,
        "ece_after": 0.05, "abstention": None,
    }  # fmt: skip
    save_meta(folder, read_meta(folder) | {"calibration": said})
    export(folder, texts=tiny.TEXTS)
    exported = Pipeline.load(folder, "onnx")
    assert exported.task.temperature == 1.5
    export(folder)
    again = Pipeline.load(folder, "onnx").calibration
    assert again is not None
    assert (again.rows, again.abstention) == (80, None)
    export(folder, abstain_precision=0.9)
    own = Pipeline.load(folder, "onnx").calibration
    assert own is not None
    assert own.rows == 80
    assert own.abstention is not None
    assert own.abstention.lower >= 0.9
