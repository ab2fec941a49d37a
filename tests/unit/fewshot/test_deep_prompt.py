"""Deep prompts: what a layer computes by hand, what stays as it was, and the run that is left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

import easynlp
from easynlp.errors import ConfigError, ModelError
from easynlp.fewshot.deep_prompt import deep_prompt
from easynlp.models.heads import core
from easynlp.models.prefix import add_prefix
from easynlp.pipeline import Pipeline
from easynlp.tasks.text_classify import Config, TextClassify
from easynlp.training.plan import Plan, task_term
from tests.conftest import REVIEWS
from tests.contract.samples import plain

ROWS = [{"text": text, "label": label} for text, label in REVIEWS]
TEXTS = [text for text, _ in REVIEWS]


def make_plan(backbone, pooling="first"):
    task = TextClassify.prepare(Config(max_length=32, pooling=pooling), backbone.tokenizer, ROWS)
    torch.manual_seed(0)
    backbone = plain(backbone)
    return Plan(task, task.build(backbone), (task_term(task),), backbone)


def kind_of(tiny_backbone, kind):
    """Return a random encoder of another architecture, of the tiny one's shape."""
    sizes = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 64, "max_position_embeddings": 128, "pad_token_id": 0,
             "embedding_size": 32, "ngram_buckets": 11, "initializer_range": 0.3}  # fmt: skip
    return replace(tiny_backbone, config=AutoConfig.for_model(kind, **sizes), folder=None)


def inputs_of(plan):
    batch = plan.task.collate(plan.task.encode_batch(ROWS))
    return {k: torch.from_numpy(v) for k, v in batch.items() if k != "target"}


@pytest.mark.parametrize("kind", ["bert", "ngram_bert", "roberta", "electra"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_no_prompt_is_the_plain_model_and_a_prompt_is_not(tiny_backbone, kind, pooling):
    plan = make_plan(kind_of(tiny_backbone, kind), pooling)
    plain_model, batch = plan.model.eval(), inputs_of(plan)
    with torch.no_grad():
        expected = plain_model(**batch).logits
        none = add_prefix(plain_model, 0)
        assert torch.equal(plain_model(**batch).logits, expected)
        assert none.weight.numel() == 0
        prefix = add_prefix(plain_model, 3)
        torch.nn.init.normal_(prefix.weight)
        found = plain_model(**batch).logits
        assert (found - expected).abs().max() > 1e-3
        assert torch.equal(plain_model(**batch).logits, found)  # without dropout


def test_a_layer_looks_at_the_learned_keys_and_values(tiny_backbone):
    """Attention of the first layer by hand, for a row alone."""
    plan = deep_prompt(make_plan(tiny_backbone), tokens=3)
    model = plan.model.eval()
    prefix = core(model).deep_prompt
    with torch.no_grad():
        torch.nn.init.normal_(prefix.weight, generator=torch.Generator().manual_seed(1))
        ids = torch.tensor(plan.task.encode(ROWS[0])["input_ids"][None].astype(np.int64))
        seen = {}
        layer = model.bert.encoder.layer[0].attention.self
        layer.register_forward_hook(lambda m, a, k, o: seen.update(x=a, k=k, o=o[0]),
                                    with_kwargs=True)  # fmt: skip
        model(ids)
        hidden = model.bert.embeddings(ids)
        torch.testing.assert_close(seen["x"][0], hidden)  # positions are as without prompts
        query, key, value = (getattr(layer, n)(hidden)[0] for n in ("query", "key", "value"))
        key, value = torch.cat([prefix.weight[0, 0], key]), torch.cat([prefix.weight[0, 1], value])
        parts = []
        for head in range(2):
            cut = slice(16 * head, 16 * head + 16)
            weights = (query[:, cut] @ key[:, cut].T / 4).softmax(-1)
            parts.append(weights @ value[:, cut])
    torch.testing.assert_close(seen["o"][0], torch.cat(parts, -1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_padding_makes_no_difference(tiny_backbone, pooling, attention):
    plan = deep_prompt(make_plan(tiny_backbone, pooling), tokens=3)
    model = plan.model.eval()
    core(model).set_attn_implementation(attention)
    torch.nn.init.normal_(core(model).deep_prompt.weight)
    batch = inputs_of(plan)
    with torch.no_grad():
        together = model(**batch).logits
        for row, found in zip(plan.task.encode_batch(ROWS), together, strict=True):
            alone = model(torch.tensor(row["input_ids"][None].astype(np.int64))).logits[0]
            torch.testing.assert_close(alone, found, atol=1e-5, rtol=1e-5)


@pytest.fixture
def go(tmp_path, tiny_folder, reviews_file):
    def train(output, **options):
        given = {
            "train": str(reviews_file), "dev": str(reviews_file), "model": str(tiny_folder),
            "precision": "fp32", "output": str(tmp_path / output), "steps": 60, "batch_size": 8,
            "lr": 2e-2, "method": ["deep_prompt:tokens=4"], "eval_every": 20, "dropout": 0.0,
            "pooling": "first",
        }  # fmt: skip
        return easynlp.train("text_classify", **{**given, **options})

    return train


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_frozen_encoder_stays_bit_for_bit_and_the_run_learns_all_the_same(
    go, tmp_path, tiny_folder, pooling
):
    pipeline = go("run", pooling=pooling)
    if pooling == "mean":  # the tiny model's pooler is as random as the rest, and frozen too
        assert pipeline.meta["scores"]["dev"]["accuracy"] == 1.0
    before = load_file(tiny_folder / "model.safetensors")
    after = load_file(tmp_path / "run" / "model.safetensors")
    kept = [name for name in before if name.startswith(("bert.embeddings", "bert.encoder"))]
    assert len(kept) > 20
    for name in kept:
        own = name if pooling == "first" else name.removeprefix("bert.")
        assert torch.equal(after[own], before[name]), name
    again = Pipeline.load(tmp_path / "run", backend="torch")
    assert again.predict(TEXTS) == pipeline.predict(TEXTS)
    with torch.no_grad():  # the answers do hang on the prompts
        core(again.model.model).deep_prompt.weight.zero_()
    assert again.predict(TEXTS) != pipeline.predict(TEXTS)


def test_a_run_resumes_to_the_same_weights(go, tmp_path, stopped):
    options = {"steps": 4, "eval_every": 2, "dropout": 0.1}
    go("run", **options)
    stopped(lambda: go("part", **options))
    last = [tmp_path / name / "checkpoints" / "step-00000004" for name in ("run", "part")]
    assert not last[1].exists()
    go("part", resume=True, **options)
    whole, found = (load_file(folder / "model.safetensors") for folder in last)
    assert any("deep_prompt" in name for name in whole)
    assert all(torch.equal(found[name], value) for name, value in whole.items())


@pytest.mark.parametrize(
    ("pooling", "int8"),
    [
        ("first", True),
        pytest.param("mean", False, marks=pytest.mark.slow),
        pytest.param("first", False, marks=pytest.mark.slow),
        pytest.param("mean", True, marks=pytest.mark.slow),
    ],
)
def test_an_export_has_the_prompts_in_it(go, tmp_path, pooling, int8):
    pipeline = go("run", pooling=pooling)
    assert easynlp.export(str(tmp_path / "run"), int8=int8).passed
    exported = Pipeline.load(tmp_path / "run")
    ours, theirs = pipeline.predict([*TEXTS, "好"]), exported.predict([*TEXTS, "好"])
    assert [p["label"] for p in ours] == [p["label"] for p in theirs]
    if not int8:
        for one, other in zip(ours, theirs, strict=True):
            assert one["scores"] == pytest.approx(other["scores"], abs=2e-5)


def test_without_freezing_all_learn(tiny_backbone):
    plan = deep_prompt(make_plan(tiny_backbone), freeze=False)
    assert all(p.requires_grad for p in plan.model.parameters())
    plan = deep_prompt(make_plan(tiny_backbone))
    learn = {name for name, p in plan.model.named_parameters() if p.requires_grad}
    assert learn == {"classifier.weight", "classifier.bias", "deep_prompt.weight"}
    plan = deep_prompt(make_plan(tiny_backbone, "mean"))
    learn = {name for name, p in core(plan.model).named_parameters() if p.requires_grad}
    assert learn == {"mean_classifier.weight", "mean_classifier.bias", "deep_prompt.weight"}


def test_what_does_not_fit_is_refused(tiny_backbone, go, tmp_path):
    with pytest.raises(ConfigError, match="1 or more"):
        deep_prompt(make_plan(tiny_backbone), tokens=0)
    with pytest.raises(ConfigError, match="first among the methods"):
        deep_prompt(replace(make_plan(tiny_backbone), backbone=None))
    with pytest.raises(ConfigError, match="given twice"):
        deep_prompt(deep_prompt(make_plan(tiny_backbone)))
    albert = kind_of(tiny_backbone, "albert")
    with pytest.raises(ModelError, match="not for albert"):
        deep_prompt(make_plan(albert))
    with pytest.raises(ModelError, match="activation-checkpointing"):
        go("never", steps=1, activation_checkpointing=True)
    assert not list(tmp_path.rglob("never"))
