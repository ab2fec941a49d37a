from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from easynlp import api
from easynlp.deployment.calibrate import calibrate
from easynlp.errors import ConfigError, DataError, GateError, ModelError
from easynlp.pipeline import Pipeline, read_meta
from tests.unit.deployment import tiny


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run, with dev rows of which every seventh has the wrong label."""
    folder = tmp_path / "copy"
    (folder / "onnx").mkdir(parents=True)
    for file in [*run.iterdir(), *(run / "onnx").iterdir()]:
        if file.is_file() and file.name != "train.yaml":
            shutil.copy2(file, folder / file.relative_to(run))
    lines = (run / "dev.jsonl").read_text("utf-8").splitlines() * 8
    rows = [json.loads(line) for line in lines]
    for number, row in enumerate(rows):
        if number % 7 == 0:
            row["label"] = "好评" if row["label"] == "差评" else "差评"
    (folder / "dev.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8"
    )
    return folder


def test_scores_change_and_labels_do_not(copy):
    before = {b: Pipeline.load(copy, b).predict(tiny.TEXTS) for b in ("torch", "int8")}
    found = calibrate(copy, copy / "dev.jsonl")
    assert set(found) == {str(copy), str(copy / "onnx")}
    for each in found.values():
        assert each.temperature > 1.2, "the tiny model is too sure of wrong labels"
        assert each.ece_after < each.ece
        assert each.nll_after < each.nll
        assert each.rows == 640
    for backend, old in before.items():
        pipeline = Pipeline.load(copy, backend)
        new = pipeline.predict(tiny.TEXTS)
        assert [p["label"] for p in new] == [p["label"] for p in old]
        # exactly the softmax of the logits over the temperature
        item = pipeline.encode([{"text": tiny.TEXTS[0]}])
        logits = pipeline.model.logits(pipeline.task.collate(item)).astype(float)[0]
        wanted = np.exp(logits / pipeline.task.temperature)
        assert new[0]["score"] == pytest.approx((wanted / wanted.sum()).max(), abs=1e-6)
    home = str(copy / "onnx")
    assert read_meta(home)["calibration"] == found[home].as_dict()
    assert calibrate(copy, copy / "dev.jsonl") == found, "an earlier one does not matter"


def test_abstaining(copy, tmp_path):
    found = calibrate(copy, copy / "dev.jsonl", abstain_precision=0.8)
    least = found[str(copy / "onnx")].abstention
    assert least is not None
    assert least.lower >= 0.8
    pipeline = Pipeline.load(copy)
    texts = ["房间很好", "房间"]
    sure = [each["score"] for each in pipeline.predict(texts)]
    middle = sum(sure) / 2
    said = pipeline.predict(texts, threshold=middle)
    assert [each["label"] is None for each in said] == [score < middle for score in sure]
    assert [each["scores"] for each in said] == [e["scores"] for e in pipeline.predict(texts)]
    assert pipeline.predict(texts, abstain=True) == pipeline.predict(
        texts, threshold=least.threshold
    )
    with pytest.raises(ConfigError, match="exclude each other"):
        pipeline.predict(texts, abstain=True, threshold=0.5)
    source, target = tmp_path / "in.jsonl", tmp_path / "out.csv"
    source.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), "utf-8")
    counts = api.predict(copy, source, target, threshold=middle)
    assert counts["abstained"] == 1
    rows = target.read_text("utf-8").splitlines()
    assert sum(row.split(",")[1] == "" for row in rows[1:]) == 1


def test_what_cannot_be_calibrated(copy, tmp_path):
    with pytest.raises(GateError, match="no threshold is sure to give 99 %"):
        calibrate(copy, copy / "dev.jsonl", abstain_precision=0.99)
    assert "calibration" not in read_meta(copy)
    with pytest.raises(DataError, match="no labelled rows"):
        calibrate(copy)
    with pytest.raises(ConfigError, match="easynlp calibrate"):
        Pipeline.load(copy).predict(["好"], abstain=True)
    with pytest.raises(ModelError, match="no folder"):
        calibrate(tmp_path / "absent")
    ner = tiny.labeling_run(tmp_path / "ner")
    with pytest.raises(ConfigError, match="single label"):
        Pipeline.load(ner).predict(["张三"], threshold=0.5)


def test_a_label_the_run_does_not_know_is_told_at_its_line(copy, tmp_path):
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"text": "好", "label": "好评"}\n{"text": "行", "label": "中评"}\n', "utf-8")
    with pytest.raises(DataError, match=r'odd\.jsonl:2: unknown label "中评"'):
        calibrate(copy, odd)
    assert "calibration" not in read_meta(copy)


def test_pairs_are_calibrated(tmp_path):
    folder = tiny.classify_run(tmp_path / "pairs", pair=True)
    (found,) = calibrate(folder).values()
    assert found.rows == 80
    assert (found.accuracy == 1) == (found.temperature == 1)
