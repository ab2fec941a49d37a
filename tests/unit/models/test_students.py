"""What holds of every small model by name: sizes, padding, learning, saving, exporting, serving."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from easynlp.config import TrainConfig
from easynlp.deployment.export import export
from easynlp.errors import ModelError
from easynlp.models.backbone import Backbone
from easynlp.models.compact import save_compact, unpack
from easynlp.models.students import STUDENTS, read_student
from easynlp.pipeline import Pipeline
from easynlp.run import train
from easynlp.tasks.sequence_labeling import SequenceLabeling
from tests.conftest import REVIEWS

SMALL = {
    "text_cnn": "text_cnn:width=16,filters=8,kernels=1+2+3+4",
    "bilstm": "bilstm:width=16,units=8,layers=2",
    "hashed_ngram": "hashed_ngram:buckets=997,width=8",
}
KINDS = {**SMALL, "bilstm, last": "bilstm:width=16,units=8,pooling=last"}
TAGGERS = ("text_cnn", "bilstm")

every = pytest.mark.parametrize("name", KINDS.values(), ids=list(KINDS))
quick = ("hashed_ngram",)
"""Kinds that go all the way in every test run; the others do in slow ones."""
each_slowly = pytest.mark.parametrize("name", [
    pytest.param(kind, id=name, marks=() if name in quick else pytest.mark.slow)
    for name, kind in KINDS.items()
])  # fmt: skip


def named(spec: str, tiny_folder) -> str:
    """Let a student read with the tests' own tokenizer."""
    return spec if spec.startswith("hashed") else f"{spec},tokenizer={tiny_folder}"


def model_of(name: str, head: str = "AutoModelForSequenceClassification"):
    torch.manual_seed(0)
    return Backbone.load(name).with_head(head, num_labels=3).eval()


def fit(name: str, reviews_file, folder, **options):
    return train(
        TrainConfig(
            task="text_classify", model=name, train=str(reviews_file), dev=str(reviews_file),
            output=str(folder), **{"steps": 60, "lr": 0.02, "threads": 1, **options},
        )
    )  # fmt: skip


def test_every_student_is_tried_here():
    assert set(SMALL) == set(STUDENTS)


def test_sizes_stand_in_the_name():
    config = Backbone.load("bilstm:units=24,layers=2,pooling=last").config
    assert (config.units, config.num_hidden_layers, config.text_pooling) == (24, 2, "last")
    assert config.hidden_size == 48
    assert Backbone.load("random:text_cnn:filters=5,kernels=1+7").config.hidden_size == 10
    found = Backbone.load("hashed_ngram:buckets=101,orders=2")
    assert found.config.vocab_size == found.tokenizer.vocab_size == 102
    assert read_student("tiny-zh") is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("bilstm:unit=3", 'no size "unit". Did you mean "units"'),
        ("bilstm:units", "not size=value"),
        ("bilstm:units=3,units=4", "given twice"),
        ("bilstm:units=0", "1 or more"),
        ("bilstm:pooling=mean", "max"),
        ("text_cnn:kernels=2+x", "2+3+4"),
        ("text_cnn:kernels=2+2", "2+3+4"),
        ("hashed_ngram:orders=9", "1 to 8"),
        ("text_cn", "text_cnn"),
    ],
)
def test_a_wrong_name_is_explained(name, why):
    with pytest.raises(ModelError, match=why.replace("+", r"\+")):
        Backbone.load(name)


@every
def test_padding_and_neighbours_change_nothing(name, tiny_folder):
    model = model_of(named(name, tiny_folder))
    rng = np.random.default_rng(0)
    rows = [torch.from_numpy(rng.integers(5, 60, n)) for n in (1, 2, 3, 9, 17)]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    with torch.no_grad():
        together = model(ids, mask).logits
        alone = torch.cat([model(row[None]).logits for row in rows])
        other = model(torch.where(mask > 0, ids, 7), mask).logits  # whatever padding is
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(together, other, rtol=0, atol=0)
    assert alone.std(0).min() > 1e-3  # and rows do differ


@pytest.mark.parametrize("name", TAGGERS)
def test_tokens_have_answers_of_their_own(name, tiny_folder):
    model = model_of(named(SMALL[name], tiny_folder), "AutoModelForTokenClassification")
    long, short = torch.arange(5, 14)[None], torch.arange(5, 9)[None]
    padded = torch.nn.functional.pad(short, (0, 5))
    with torch.no_grad():
        found = model(torch.cat([long, padded]), torch.cat([long, padded]).clamp(max=1)).logits
        assert found.shape == (2, 9, 3)
        torch.testing.assert_close(found[:1], model(long).logits, rtol=0, atol=1e-6)
        torch.testing.assert_close(found[1:, :4], model(short).logits, rtol=0, atol=1e-6)


def test_bilstm_is_torchs_own_bidirectional_lstm(tiny_folder):
    model = model_of(named("bilstm:width=16,units=8,layers=1", tiny_folder), "AutoModel")
    layer = model.layer[0]
    reference = torch.nn.LSTM(16, 8, batch_first=True, bidirectional=True)
    state = {k: v for k, v in layer.rightward.state_dict().items()}
    state |= {f"{k}_reverse": v for k, v in layer.leftward.state_dict().items()}
    reference.load_state_dict(state)
    rows = [torch.arange(5, 12), torch.arange(9, 13)]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    with torch.no_grad():
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            model.get_input_embeddings()(ids), [7, 4], batch_first=True
        )
        wanted, _ = torch.nn.utils.rnn.pad_packed_sequence(reference(packed)[0], batch_first=True)
        found = model(ids, (ids > 0).long())
    torch.testing.assert_close(found.last_hidden_state, wanted)
    torch.testing.assert_close(found.pooler_output[1], wanted[1, :4].amax(0))


def test_text_cnn_is_convolution_and_maximum(tiny_folder):
    model = model_of(named("text_cnn:width=16,filters=4,kernels=3", tiny_folder), "AutoModel")
    ids = torch.arange(5, 11)[None]
    layer = model.convolutions[0]
    with torch.no_grad():
        vectors = torch.nn.functional.pad(model.get_input_embeddings()(ids)[0], (0, 0, 1, 1))
        wanted = [
            torch.relu((layer.weight * vectors[i : i + 3].T).sum((1, 2)) + layer.bias)
            for i in range(6)
        ]
        found = model(ids)
    torch.testing.assert_close(found.last_hidden_state[0], torch.stack(wanted))
    torch.testing.assert_close(found.pooler_output[0], torch.stack(wanted).amax(0))


def test_hashed_ngrams_are_a_mean_of_vectors():
    model = model_of(SMALL["hashed_ngram"], "AutoModel")
    ids = torch.tensor([[4, 9, 9, 1, 0, 0]])
    table = model.get_input_embeddings().weight
    found = model(ids, (ids > 0).long()).pooler_output
    torch.testing.assert_close(found[0], (table[4] + 2 * table[9] + table[1]) / 4)


@each_slowly
def test_trains_saves_exports_and_serves(name, tiny_folder, reviews_file, tmp_path):
    run = tmp_path / "run"
    pipeline = fit(named(name, tiny_folder), reviews_file, run)
    assert pipeline.meta["scores"]["dev"]["accuracy"] == 1.0
    texts = [text for text, _ in REVIEWS]
    wanted = [label for _, label in REVIEWS]
    assert [p["label"] for p in pipeline.predict([*texts, ""])[:8]] == wanted
    again = Pipeline.load(run, backend="torch")
    assert again.predict(texts) == pipeline.predict(texts)

    plain = export(run, output=tmp_path / "fp32")
    assert plain.passed
    assert plain.difference < 1e-5
    small = export(run, int8=True)
    assert small.passed
    assert small.agreement == 1.0
    for folder, backend in ((tmp_path / "fp32", "onnx"), (run, "int8")):
        served = Pipeline.load(folder, backend=backend)
        assert [p["label"] for p in served.predict([*texts, ""])[:8]] == wanted


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "bilstm")) for name in TAGGERS]
)
def test_finds_entities(name, tiny_folder, tmp_path):
    rows = [
        {"text": f"{before}张三在北京", "entities": [
            {"start": len(before), "end": len(before) + 2, "type": "人名"},
            {"start": len(before) + 3, "end": len(before) + 5, "type": "地名"}]}
        for before in ("", "今天", "老板", "我和")
    ]  # fmt: skip
    data = tmp_path / "ner.jsonl"
    data.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    run = tmp_path / "run"
    pipeline = train(
        TrainConfig(
            task="sequence_labeling", model=named(SMALL[name], tiny_folder), train=str(data),
            dev=str(data), output=str(run), steps=80, lr=0.02, threads=1,
        ),
        SequenceLabeling.Config(max_length=16, overlap=4),
    )  # fmt: skip
    assert pipeline.meta["scores"]["dev"]["f1"] == 1.0
    assert export(run, int8=True).agreement == 1.0
    (found,) = Pipeline.load(run, backend="int8").predict(["今天张三在北京"])
    assert [(e["text"], e["type"]) for e in found["entities"]] == [
        ("张三", "人名"),
        ("北京", "地名"),
    ]


def test_hashed_ngrams_tag_nothing_and_say_so(reviews_file, tmp_path):
    data = tmp_path / "ner.jsonl"
    row = {"text": "张三在", "entities": [{"start": 0, "end": 2, "type": "人名"}]}
    data.write_text(json.dumps(row, ensure_ascii=False) + "\n", "utf-8")
    with pytest.raises(ModelError, match=r"text_classify alone|no AutoModelForTokenClassification"):
        train(
            TrainConfig(
                task="sequence_labeling", model="hashed_ngram", train=str(data),
                output=str(tmp_path / "run"),
            )
        )  # fmt: skip


@every
def test_same_seed_same_weights_and_resuming_changes_nothing(
    name, tiny_folder, reviews_file, tmp_path, stopped
):
    name = named(name, tiny_folder)
    options = {"steps": 8, "eval_every": 3, "batch_size": 8}
    fit(name, reviews_file, tmp_path / "one", **options)
    stopped(lambda: fit(name, reviews_file, tmp_path / "two", **options))
    fit(name, reviews_file, tmp_path / "two", resume=True, **options)
    one, two = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("one", "two"))
    assert one == two


@every
def test_a_run_is_a_model_to_go_on_from_and_pooling_may_be_the_mean(
    name, tiny_folder, reviews_file, tmp_path
):
    fit(named(name, tiny_folder), reviews_file, tmp_path / "one", steps=2)
    again = fit(str(tmp_path / "one"), reviews_file, tmp_path / "two", steps=2, probe="first")
    assert again.meta["scores"]["dev"]["accuracy"] >= 0.9  # a probe of 24 rows


@pytest.mark.parametrize("name", [
    pytest.param(kind, id=name, marks=[pytest.mark.slow] * (name != "hashed_ngram"))
    for name, kind in KINDS.items()
])  # fmt: skip
def test_int8_rows_and_weights_alone_load(name, tiny_folder, reviews_file, tmp_path):
    run = tmp_path / "run"
    pipeline = fit(named(name, tiny_folder), reviews_file, run)
    done = save_compact(run, tmp_path / "packed")
    assert done["after"] < 0.5 * done["before"]
    packed = Pipeline.load(tmp_path / "packed", backend="torch")
    texts = [text for text, _ in REVIEWS]
    assert [p["label"] for p in packed.predict(texts)] == [
        p["label"] for p in pipeline.predict(texts)
    ]
    unpack(tmp_path / "packed", tmp_path / "plain")
    assert (tmp_path / "plain" / "light.py").is_file()
    program = (
        "import sys; from transformers import AutoModelForSequenceClassification as A;"
        f"A.from_pretrained({str(tmp_path / 'plain')!r}, trust_remote_code=True);"
        "assert not any(n.startswith('easynlp') for n in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, timeout=120)
    assert AutoModelForSequenceClassification.from_pretrained(run).num_labels == 2
