from __future__ import annotations

import itertools
import json
import pickle

import numpy as np
import pytest

from easynlp.errors import ConfigError, DataError, ModelError
from easynlp.models.runtime import portions
from easynlp.pipeline import (
    BATCH_TOKENS,
    WINDOW,
    Pipeline,
    make_meta,
    read_meta,
    save_meta,
)
from tests.unit.deployment import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny.classify_run(tmp_path_factory.mktemp("runs") / "x")


@pytest.fixture(scope="module")
def pipeline(run):
    return Pipeline.load(run)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return Pipeline.load(tiny.classify_run(tmp_path_factory.mktemp("runs") / "pairs", pair=True))


class Echo:
    """A model that answers with the first token's id, and notes the shapes it was given."""

    backend, row_wise, inputs, call_cost = "echo", False, ("input_ids", "attention_mask"), 0

    def __init__(self, row_wise=False):
        self.row_wise, self.shapes = row_wise, []

    def logits(self, batch):
        self.shapes.append(batch["input_ids"].shape)
        ids = batch["input_ids"]
        return np.stack([ids[:, 1] == 5, ids[:, 1] != 5], 1).astype(np.float32)


def test_predict_answers_in_order_of_the_questions(pipeline):
    said = pipeline.predict(["房间很好", "前台态度差", "饭菜味道很棒", "糟"])
    assert [p["label"] for p in said] == ["好评", "差评", "好评", "差评"]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_size_and_company_change_no_answer(pipeline, batch_size):
    texts = tiny.TEXTS * 9
    alone = [pipeline.predict([text])[0] for text in texts]
    together = pipeline.predict(texts, batch_size=batch_size)
    assert [p["label"] for p in together] == [p["label"] for p in alone]
    np.testing.assert_allclose(
        [p["score"] for p in together], [p["score"] for p in alone], atol=2e-5
    )


def test_rows_of_like_length_are_run_together(pipeline):
    model = Echo()
    echo = Pipeline(pipeline.task, model)
    texts = [text for _ in range(8) for text in ("好", "房间很干净前台态度很好")]
    assert [p["label"] for p in echo.predict(texts, batch_size=8)][:2] == ["好评", "差评"]
    assert model.shapes == [(8, 3), (8, 13)]


def test_memory_is_bounded_by_tokens_not_rows(pipeline):
    model = Echo()
    Pipeline(pipeline.task, model).predict(["好" * 126] * 300, batch_size=300)
    assert model.shapes == [(128, 128), (128, 128), (44, 128)]


def test_windows_of_a_long_text_are_run_in_parts(tmp_path):
    run = tiny.labeling_run(tmp_path / "ner")
    pipeline = Pipeline.load(run)
    text = "张三在北京大学" * 3000
    said = pipeline.predict([text])[0]
    shapes = []
    whole = pipeline.model.logits
    pipeline.model.logits = lambda batch: shapes.append(batch["input_ids"].shape) or whole(batch)
    assert pipeline.predict([text])[0] == said
    assert len(shapes) > 1
    assert all(rows * width <= BATCH_TOKENS for rows, width in shapes)


def test_a_row_wise_model_runs_rows_alone(pipeline):
    model = Echo(row_wise=True)
    Pipeline(pipeline.task, model).predict(["好", "很好", "好"], batch_size=32)
    assert model.shapes == [(1, 3), (1, 4), (1, 3)]


def test_stream_is_lazy_and_reads_a_window_ahead(pipeline):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield "房间很好"

    stream = Pipeline(pipeline.task, Echo()).stream(endless(), batch_size=2)
    assert taken == 0
    for _ in range(5):
        next(stream)
    assert taken == 2 * WINDOW


def test_pairs_as_tuples_and_as_mappings(pairs):
    one = pairs.predict([("房间好", "房间很好")])
    assert one == pairs.predict([{"text": "房间好", "text_b": "房间很好"}])
    with pytest.raises(DataError, match=r"item 0.*text_b"):
        pairs.predict(["一个"])


def test_predict_does_not_look_at_targets(pipeline):
    assert pipeline.predict([{"text": "房间很好", "label": "没见过"}])[0]["label"] == "好评"


@pytest.mark.parametrize("bad", [None, 3, float("nan"), ("a", "b"), {"content": "好"}])
def test_a_bad_item_is_named_by_its_number(pipeline, bad):
    with pytest.raises(DataError, match="item 70"):
        pipeline.predict(["好"] * 70 + [bad], batch_size=1)


def test_one_text_is_not_a_list(pipeline):
    with pytest.raises(DataError, match="list of texts"):
        pipeline.predict("房间很好")
    with pytest.raises(ConfigError, match="batch_size"):
        pipeline.predict(["好"], batch_size=0)


def test_nothing_asked_nothing_answered(pipeline):
    assert pipeline.predict([]) == []


def test_long_texts_are_cut_and_counted(run):
    fresh = Pipeline.load(run)
    fresh.predict(["好" * 100_000, "好"])
    assert (fresh.counts.rows, fresh.counts.truncated) == (2, 1)


def test_evaluate_compares_with_the_targets(pipeline):
    examples = [{"text": "房间很好", "label": "好评"}, {"text": "态度差", "label": "好评"}]
    assert pipeline.evaluate(examples)["accuracy"] == 0.5
    with pytest.raises(DataError, match="no examples"):
        pipeline.evaluate([])


def test_meta_is_read_as_written(tmp_path, pipeline):
    meta = make_meta(pipeline.task, base_model="tiny-zh", dev={"accuracy": 0.9})
    save_meta(tmp_path, meta)
    found = read_meta(tmp_path)
    assert found["task"] == "text_classify"
    assert found["config"]["labels"] == ["好评", "差评"]
    assert found["dev"] == {"accuracy": 0.9}
    assert "python" in found["versions"]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "cannot be read"),
        ("[]", "does not describe"),
        ('{"format": 9, "task": "x", "config": {}}', "format 9"),
    ],
)
def test_a_damaged_description_is_refused(tmp_path, written, said):
    (tmp_path / "easynlp.json").write_text(written)
    with pytest.raises(ModelError, match=said):
        Pipeline.load(tmp_path)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no folder"):
        Pipeline.load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no easynlp\.json"):
        Pipeline.load(tmp_path)


def test_backends_that_are_not_there(run):
    for backend in ("int8", "onnx"):
        with pytest.raises(ModelError, match="easynlp export"):
            Pipeline.load(run, backend=backend)
    with pytest.raises(ConfigError, match="unknown backend"):
        Pipeline.load(run, backend="tpu")


def copy_of(run, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in run.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_pickled_model_is_refused_and_not_run(run, tmp_path):
    folder = copy_of(run, tmp_path)
    (folder / "model.safetensors").unlink()
    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self):
            return (trap.write_text, ("sprung",))

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*pickled"):
        Pipeline.load(folder)
    assert not trap.exists()


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-100], lambda b: b"\0" * 100, lambda b: b"\xff" * 50]
)
def test_damaged_weights_are_refused(run, tmp_path, damage):
    folder = copy_of(run, tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        Pipeline.load(folder)


def test_weights_without_the_head_are_refused(run, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copy_of(run, tmp_path)
    weights = folder / "model.safetensors"
    kept = {k: v for k, v in load_file(weights).items() if not k.startswith("classifier")}
    save_file(kept, weights, {"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 2 parameters.*classifier"):
        Pipeline.load(folder)


def test_a_damaged_tokenizer_is_refused(run, tmp_path):
    folder = copy_of(run, tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Pipeline.load(folder)


def test_options_the_task_does_not_know_are_refused(run, tmp_path):
    folder = copy_of(run, tmp_path)
    meta = read_meta(folder)
    meta["config"]["colour"] = "red"
    save_meta(folder, meta)
    with pytest.raises(ModelError, match="colour"):
        Pipeline.load(folder)


def test_an_export_of_other_weights_is_refused(run, tmp_path):
    folder = copy_of(run, tmp_path)
    onnx = folder / "onnx"
    onnx.mkdir()
    (onnx / "model.onnx").write_bytes(b"")
    save_meta(onnx, read_meta(folder))
    (onnx / "export.json").write_text(json.dumps({"weights": "of another day"}))
    (folder / "model.safetensors").touch()
    with pytest.raises(ModelError, match="exported from other weights"):
        Pipeline.load(folder)
    assert Pipeline.load(folder, backend="torch").predict(["房间很好"])[0]["label"] == "好评"


def test_rows_of_unlike_lengths_are_not_padded_to_each_other() -> None:
    def cut(lengths, cost):
        batch = sorted(range(len(lengths)), key=lengths.__getitem__)
        return [[lengths[i] for i in part] for part in portions(batch, lengths, cost)]

    assert cut([9, 90, 10], 24) == [[9, 10], [90]]
    assert cut([9, 90, 10], 0) == [[9, 10, 90]]  # hardware that wants whole batches
    assert cut([9, 12, 10], 24) == [[9, 10, 12]]  # padding is cheaper than a call
    assert cut([128] * 9, 24) == [[128], [128] * 4, [128] * 4]
    assert cut([2000, 2000], 24) == [[2000], [2000]]
    rng = np.random.default_rng(0)
    for _ in range(50):
        lengths = rng.integers(1, 40, 6).tolist()
        batch = sorted(range(6), key=lengths.__getitem__)
        rows = [lengths[i] for i in batch]
        every = []
        for cuts in itertools.product((0, 1), repeat=5):
            ends = [i + 1 for i, cut_here in enumerate(cuts) if cut_here] + [6]
            starts = [0, *ends[:-1]]
            every.append(sum(24 + (b - a) * rows[b - 1] for a, b in zip(starts, ends, strict=True)))
        found = cut(lengths, 24)
        assert [x for part in found for x in part] == rows
        if len(found) > 1:
            assert sum(24 + len(part) * part[-1] for part in found) == min(every)
