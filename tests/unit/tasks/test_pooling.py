"""Mean pooling: the mean is one, padding has no part in it, and all who read a run agree."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import easynlp
from easynlp.cli.main import main
from easynlp.data.sampling import EncodedRows
from easynlp.errors import ConfigError, ModelError
from easynlp.fewshot.vectors import Encoder
from easynlp.models.backbone import Backbone
from easynlp.models.compact import save_compact, unpack
from easynlp.models.heads import MeanPooled, mean_of_tokens
from easynlp.pipeline import Pipeline
from easynlp.tasks.text_classify import Config, TextClassify
from easynlp.training.head import last_layer, read_vectors
from tests.conftest import REVIEWS
from tests.contract.samples import plain

ROWS = [{"text": text, "label": label} for text, label in REVIEWS]
TEXTS = [text for text, _ in REVIEWS]
CPU = torch.device("cpu")


def build(backbone, pooling="mean"):
    task = TextClassify.prepare(Config(max_length=32, pooling=pooling), backbone.tokenizer, ROWS)
    torch.manual_seed(0)
    return task, task.build(plain(backbone))


def test_logits_are_a_linear_layer_of_the_mean_of_stock_vectors(tiny_backbone):
    task, model = build(tiny_backbone)
    model.eval()
    stock = plain(tiny_backbone).with_head("AutoModel").eval()
    batch = task.collate(task.encode_batch(ROWS))
    with torch.no_grad():
        logits = model(torch.from_numpy(batch["input_ids"]),
                       torch.from_numpy(batch["attention_mask"])).logits  # fmt: skip
        for row, found in zip(task.encode_batch(ROWS), logits, strict=True):
            ids = torch.tensor(row["input_ids"][None].astype(np.int64))
            mean = stock(ids).last_hidden_state[0].mean(0)  # alone: no padding at all
            torch.testing.assert_close(found, model.classifier(mean), atol=1e-5, rtol=1e-5)


def test_what_stands_at_padding_makes_no_difference(tiny_backbone):
    task, model = build(tiny_backbone)
    model.eval()
    batch = task.collate(task.encode_batch(ROWS))
    ids, mask = torch.from_numpy(batch["input_ids"]), torch.from_numpy(batch["attention_mask"])
    other = torch.where(mask > 0, ids, torch.full_like(ids, 17))
    wide = [torch.nn.functional.pad(each, (0, 5)) for each in (ids, mask)]
    with torch.no_grad():
        plainly, changed, wider = (model(a, m).logits
                                   for a, m in ((ids, mask), (other, mask), wide))  # fmt: skip
    torch.testing.assert_close(plainly, changed, atol=1e-6, rtol=0)
    torch.testing.assert_close(plainly, wider, atol=1e-6, rtol=0)


def test_the_mean_passes_gradients_to_every_token_and_to_no_padding():
    hidden = torch.randn(2, 3, 4, requires_grad=True)
    mean_of_tokens(hidden, torch.tensor([[1, 1, 0], [1, 1, 1]])).sum().backward()
    assert hidden.grad[:, :, 0].tolist() == pytest.approx(
        np.array([[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    )


def test_the_probe_reads_the_vectors_that_vector_classifiers_read(tiny_backbone, tiny_folder):
    """One rule for a text's vector: the head's and the frozen encoder's mean are the same."""
    task, model = build(tiny_backbone)
    assert last_layer(model) is model.classifier
    vectors, _ = read_vectors(task, model, EncodedRows.of(task.encode_batch(ROWS)), CPU)
    np.testing.assert_allclose(
        vectors, Encoder(str(tiny_folder), 32).vectors(TEXTS)[:, 0], atol=1e-5
    )


def folder_of(kind, tiny_folder, tmp_path, said=None):
    """Return a model folder with or without a pooler and a word on pooling."""
    made = tmp_path / f"{kind}-{said}"
    shutil.copytree(tiny_folder, made)
    if kind == "pooler":
        from transformers import BertModel

        torch.manual_seed(0)
        BertModel.from_pretrained(tiny_folder).save_pretrained(made)
    if said:
        kind = "sentence_transformers.models.Pooling"
        parts = [{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": kind}]
        (made / "modules.json").write_text(json.dumps(parts))
        (made / "1_Pooling").mkdir()
        config = said if isinstance(said, dict) else {"pooling_mode": said}
        (made / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return made


@pytest.mark.parametrize(
    ("kind", "said", "found"),
    [
        ("pooler", None, "first"),
        ("bare", None, "mean"),
        ("pooler", "mean", "mean"),
        ("bare", "cls", "first"),
        ("pooler", {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ("bare", {"pooling_mode_cls_token": True, "include_prompt": True}, "first"),
    ],
)
def test_auto_asks_the_model(kind, said, found, tiny_folder, tmp_path):
    made = folder_of(kind, tiny_folder, tmp_path, said)
    task, model = build(Backbone.load(str(made)), "auto")
    assert task.config.pooling == found
    assert isinstance(model, MeanPooled) == (found == "mean")
    task, model = build(Backbone.load(f"random:{made}"), "auto")
    assert task.config.pooling == ("mean" if said and found == "mean" else "first")
    for asked in ("first", "mean"):
        assert build(Backbone.load(str(made)), asked)[0].config.pooling == asked


def test_a_damaged_word_on_pooling_is_told(tiny_folder, tmp_path):
    made = folder_of("bare", tiny_folder, tmp_path, "mean")
    (made / "1_Pooling" / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"modules\.json does not say how .* pools"):
        build(Backbone.load(str(made)), "auto")


def test_an_encoder_decoder_has_no_mean(tiny_backbone):
    config = plain(tiny_backbone)
    config.config.is_encoder_decoder = True
    with pytest.raises(ConfigError, match="--pooling first"):
        build(config, "mean")


@pytest.fixture
def go(tmp_path, tiny_folder, reviews_file):
    def train(output, **options):
        given = {
            "train": str(reviews_file), "dev": str(reviews_file), "model": str(tiny_folder),
            "precision": "fp32", "output": str(tmp_path / output), "steps": 6, "batch_size": 8,
            "lr": 1e-3, "pooling": "mean", "eval_every": 2, "probe_strength": 1.0,
        }  # fmt: skip
        return easynlp.train("text_classify", **{**given, **options})

    return train


def test_a_run_is_the_same_when_resumed_and_read_again(go, tmp_path, stopped):
    whole = go("whole", probe="first")
    meta = json.loads((tmp_path / "whole" / "easynlp.json").read_text("utf-8"))
    assert meta["config"]["pooling"] == "mean"
    weights = (tmp_path / "whole" / "model.safetensors").read_bytes()
    stopped(lambda: go("part", probe="first"))
    assert not (tmp_path / "part" / "model.safetensors").exists()
    go("part", probe="first", resume=True)
    assert (tmp_path / "part" / "model.safetensors").read_bytes() == weights
    assert Pipeline.load(tmp_path / "whole").predict(TEXTS) == whole.predict(TEXTS)


@pytest.mark.parametrize("int8", [False, True])
def test_an_export_answers_as_the_run(go, tmp_path, int8):
    pipeline = go("run", steps=60)
    report = easynlp.export(str(tmp_path / "run"), int8=int8)
    assert report.passed
    exported = Pipeline.load(tmp_path / "run")
    assert exported.model.backend == ("onnx int8" if int8 else "onnx")
    ours, theirs = (p.predict([*TEXTS, "好"]) for p in (pipeline, exported))
    assert [p["label"] for p in ours] == [p["label"] for p in theirs]
    if not int8:
        for one, other in zip(ours, theirs, strict=True):
            assert one["scores"] == pytest.approx(other["scores"], abs=2e-5)


@pytest.mark.parametrize("method", [[], ["cp_tuning:mlm=0"], ["deep_prompt:tokens=3"]])
def test_a_run_packed_in_int8_rows_answers_as_the_same_run_unpacked(go, tmp_path, method):
    """Layers of ours stand in the same file, and their rows have scales too."""
    go("run", method=method, probe_strength=1.0)
    save_compact(tmp_path / "run", tmp_path / "compact")
    unpack(tmp_path / "compact", tmp_path / "plain")
    packed, plainly = (
        Pipeline.load(tmp_path / name, backend="torch") for name in ("compact", "plain")
    )
    assert packed.predict(TEXTS) == plainly.predict(TEXTS)
    state = packed.model.model.state_dict()
    names = [n for n in state if "mean_classifier" in n or "answers" in n or "deep_prompt" in n]
    assert names
    for name in names:
        torch.testing.assert_close(state[name], plainly.model.model.state_dict()[name])


def test_a_run_is_a_start_for_other_labels(go, tmp_path, reviews_file):
    go("run")
    three = tmp_path / "three.jsonl"
    rows = [json.loads(line) for line in reviews_file.read_text("utf-8").splitlines()]
    three.write_text("".join(json.dumps({**r, "label": str(i % 3)}) + "\n"
                             for i, r in enumerate(rows)))  # fmt: skip
    model = str(tmp_path / "run")
    more = go("more", train=str(three), dev=str(three), model=model, pooling="auto")
    assert more.task.config.pooling == "mean"


def test_the_command_line_has_it(tiny_folder, reviews_file, tmp_path, capsys):
    arguments = ["train", "text_classify", "--train", str(reviews_file), "--model",
                 str(tiny_folder), "--output", str(tmp_path / "x"), "--steps", "1"]  # fmt: skip
    assert main([*arguments, "--pooling", "mean"]) == 0
    assert Pipeline.load(tmp_path / "x").task.config.pooling == "mean"
    assert main([*arguments, "--overwrite", "--pooling", "max"]) == 2
    assert "mean" in capsys.readouterr().err
