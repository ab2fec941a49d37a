"""A teacher's vectors: computed once, resumed, turned to the student's width, and learnt."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import easynlp
from easynlp.errors import ConfigError, DataError, ModelError
from easynlp.models.backbone import Backbone
from easynlp.pretraining import teacher as module
from easynlp.pretraining.sentence_distill import Axes, start_embeddings, turn_to
from easynlp.pretraining.teacher import Teacher, teach
from tests.conftest import REVIEWS

TEXTS = [text for text, _ in REVIEWS]


@pytest.fixture
def teacher(tiny_folder):
    return Teacher(str(tiny_folder), max_length=32)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_those_of_stock_transformers_whatever_the_batch(tiny_folder, pooling):
    from transformers import AutoModel, AutoTokenizer

    teacher = Teacher(str(tiny_folder), pooling=pooling, prefix="好", max_length=32)
    model = AutoModel.from_pretrained(tiny_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    whole, small = teacher.vectors(TEXTS), teacher.vectors(TEXTS, tokens=1)
    np.testing.assert_allclose(whole, small, atol=1e-5)
    for text, vector in zip(TEXTS, whole, strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer("好" + text, return_tensors="pt")).last_hidden_state[0]
        wanted = hidden.mean(0) if pooling == "mean" else hidden[0]
        np.testing.assert_allclose(vector, wanted / wanted.norm(), atol=1e-5)


def test_teaching_goes_on_where_it_stopped(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 3)
    straight = teach(teacher, TEXTS, tmp_path / "a", key="k")

    def stop(text):
        if "block 2" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach(teacher, TEXTS, tmp_path / "b", key="k", progress=stop)
    assert len(list((tmp_path / "b").glob("*.npy"))) == 2
    kept = (tmp_path / "b" / "000001.npy").stat().st_mtime_ns
    resumed = teach(teacher, TEXTS, tmp_path / "b", key="k")
    assert (tmp_path / "b" / "000001.npy").stat().st_mtime_ns == kept
    np.testing.assert_array_equal(straight, resumed)
    with pytest.raises(DataError, match="other texts"):
        teach(teacher, TEXTS, tmp_path / "a", key="another")


@pytest.mark.parametrize("width", [4, 6, 9])
def test_axes_keep_angles_as_far_as_they_are_wide(width):
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(500, 6)) * [5, 4, 3, 2, 0.01, 0.01] + 7).astype(np.float32)
    axes = Axes.of(vectors, width)
    found = axes.targets(vectors).astype(np.float32)
    assert found.shape == (500, width)
    centred = vectors - vectors.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(found @ found.T, centred @ centred.T, atol=5e-3)


def test_embeddings_start_where_the_teacher_sees_the_tokens(tiny_backbone, teacher):
    model = tiny_backbone.with_head("AutoModel")
    before = model.get_input_embeddings().weight.detach().clone()
    axes = Axes.of(teacher.vectors(TEXTS), 32)
    start_embeddings(model, tiny_backbone.tokenizer, teacher, axes)
    table = model.get_input_embeddings().weight.detach()
    special = [tiny_backbone.tokenizer.id_of(t) for t in ("[PAD]", "[CLS]", "[MASK]")]
    assert torch.equal(table[special], before[special])
    assert not torch.equal(table, before)
    number = tiny_backbone.tokenizer.id_of("好")
    wanted = (teacher.vectors(["好"])[0] - axes.mean) @ axes.rotation
    cosine = np.corrcoef(table[number].numpy(), wanted)[0, 1]
    assert cosine > 0.8  # the spreads were evened out, the direction is nearly the same
    assert table.std() == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize(
    ("architecture", "start"),
    [pytest.param("bert", "teacher", marks=pytest.mark.slow), ("ngram_bert", "bag")],
)
def test_the_pooled_vector_learns_what_the_teacher_says(tiny_folder, tmp_path, architecture, start):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(TEXTS * 10), encoding="utf-8")
    output = tmp_path / "run"
    folder = easynlp.pretrain(
        corpus=[str(corpus)], output=str(output), vocab_size=200, layers=1, hidden_size=32,
        heads=2, ffn=64, max_positions=64, row_length=32, rows="texts", batch_size=16, steps=150,
        lr=5e-3, precision="fp32", heldout_rows=8, teacher=str(tiny_folder), embeddings=start,
        architecture=architecture, ngram_buckets=97, bag_epochs=20,
        method=["sentence_distill:contrast=0.2"], cache=str(tmp_path / "cache"),
    )  # fmt: skip
    lines = [json.loads(x) for x in (output / "metrics.jsonl").read_text().splitlines()]
    first, last = (line["losses"]["sentence_distill"] for line in (lines[0], lines[-1]))
    if start == "teacher":
        assert last < 0.6 * first
        assert lines[-1]["scores"]["sentence_distill"] < 0.7 * first
    else:  # it starts near what it learns
        assert last < first
        assert lines[-1]["scores"]["sentence_distill"] < 0.3
    assert (tmp_path / "cache" / "teacher" / "000000.npy").is_file()
    names = Backbone.load(str(folder)).with_head("AutoModelForMaskedLM").state_dict()
    assert not any("to_teacher" in name for name in names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "tiny-zh"}, "--teacher works on texts"),
        ({"rows": "texts", "embeddings": "teacher"}, "needs --teacher"),
        ({"rows": "texts", "teacher": "tiny-zh"}, "asked nothing"),
        ({"cache": "somewhere"}, "add --rows texts"),
        ({"rows": "texts", "method": ["sentence_distill"]}, "give --teacher"),
        (
            {"rows": "texts", "teacher": "tiny-zh", "method": ["sentence_distill:temperature=0"]},
            "temperature above 0",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, options, message):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(TEXTS * 10), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        easynlp.pretrain(
            corpus=[str(corpus)], output=str(tmp_path / "run"), vocab_size=200, layers=1,
            hidden_size=32, heads=2, ffn=64, max_positions=64, row_length=32, steps=1, **options,
        )  # fmt: skip


def test_a_continued_checkpoint_is_taught_at_its_own_width_and_its_teacher_is_not_deleted(
    tiny_folder, tmp_path
):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(TEXTS * 10), encoding="utf-8")
    options = dict(
        corpus=[str(corpus)], row_length=32, rows="texts", batch_size=8, steps=2,
        init=str(tiny_folder), method=["sentence_distill", "fgm"], precision="fp32",
        max_positions=64,
    )  # fmt: skip
    folder = easynlp.pretrain(output=str(tmp_path / "run"), teacher=str(tiny_folder), **options)
    assert Backbone.load(str(folder)).config.hidden_size == 32
    with pytest.raises(ConfigError, match="overwrite"):
        easynlp.pretrain(
            output=str(tmp_path / "run"), teacher=str(folder), overwrite=True, **options
        )
    assert (folder / "model.safetensors").is_file()


def test_what_cannot_read_both_ways_cannot_teach(tmp_path):
    from transformers import GPT2Config

    folder = tmp_path / "gpt2"
    GPT2Config(n_layer=1, n_embd=8, n_head=1).save_pretrained(folder)
    backbone = Backbone("gpt2", GPT2Config(), None, folder)
    with pytest.raises(ModelError, match="a teacher is an encoder"):
        module.check_teacher(backbone)


def test_a_student_as_wide_as_its_teacher_begins_turned_to_the_axes():
    vectors = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    axes = Axes.of(vectors, 8)
    layer = torch.nn.Linear(8, 8)
    turn_to(axes, layer)
    centred = torch.from_numpy(vectors - axes.mean)
    found = torch.nn.functional.normalize(layer(centred), dim=-1)
    np.testing.assert_allclose(found.detach().numpy(), axes.targets(vectors), atol=2e-3)
    narrow = torch.nn.Linear(8, 4)
    before = narrow.weight.clone()
    turn_to(axes, narrow)
    assert torch.equal(narrow.weight, before)
