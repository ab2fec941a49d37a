"""PET as a method: what it makes of a plan, how it is written, and its auxiliary term."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import easynlp
from easynlp.errors import ConfigError
from easynlp.fewshot.auxiliary import hidden_words
from easynlp.fewshot.pet import pet
from easynlp.methods import apply_methods
from easynlp.tasks.text_classify import ClassifyConfig, TextClassify
from easynlp.training.loop import make_forward, to_tensors
from easynlp.training.plan import Pass, Plan, task_term
from tests.conftest import REVIEWS

CPU = torch.device("cpu")
ROWS = [{"text": text, "label": label} for text, label in REVIEWS]
OPTIONS = {"pattern": "{text}，很[MASK]", "words": "好评=好;差评=差"}


def plan_of(backbone, **options):
    task = TextClassify.prepare(ClassifyConfig(max_length=32, **options), backbone.tokenizer, ROWS)
    return Plan(task, task.build(backbone), (task_term(task),), backbone)


def a_pass(plan):
    batch = to_tensors(plan.task.collate(plan.task.encode_batch(ROWS)), CPU)
    forward = make_forward(plan.model.eval(), "fp32", CPU)
    return Pass(forward, plan.model, batch, forward(batch))


def test_a_classifier_becomes_a_prompt(tiny_backbone):
    plan = pet(plan_of(tiny_backbone), **OPTIONS, loss="vocabulary", word_score="mean")
    config = plan.task.config
    assert plan.task.name == "prompt_classify"
    assert (config.labels, config.max_length) == (("好评", "差评"), 32)
    assert (config.loss, config.word_score, config.scoring) == ("vocabulary", "mean", "candidates")
    again = pet(plan, scoring="sets")  # over a prompt: what is not said stays
    assert again.task.config.pattern == "{text}，很[MASK]"
    assert (again.task.config.loss, again.task.config.scoring) == ("vocabulary", "sets")


def test_patterns_and_words_may_hold_commas_in_a_spec(tiny_backbone):
    spec = "pet:pattern={text},很[MASK],words=好评=好,干净;差评=差,脏,alpha=1e-4"
    plan = apply_methods(plan_of(tiny_backbone), [spec])
    assert plan.task.config.pattern == "{text},很[MASK]"
    assert plan.task.verbalizer.words == (("好", "干净"), ("差", "脏"))
    assert [(term.name, term.weight) for term in plan.terms] == [("loss", 1 - 1e-4), ("mlm", 1e-4)]
    spec = "pet:pattern=sent1,很,label,words=好评=好;差评=差"
    plan = apply_methods(plan_of(tiny_backbone), [spec])
    assert plan.task.config.pattern == "{text}很[MASK]"


def test_what_it_cannot_change_is_refused(tiny_backbone):
    plan = apply_methods(plan_of(tiny_backbone), ["r_drop"])
    with pytest.raises(ConfigError, match="comes first among the methods"):
        pet(plan, **OPTIONS)
    with pytest.raises(ConfigError, match="with one label a text, not for text_classify"):
        pet(plan_of(tiny_backbone, multi_label=True), **OPTIONS)
    with pytest.raises(ConfigError, match="a prompt needs a pattern, for example"):
        pet(plan_of(tiny_backbone))
    with pytest.raises(ConfigError, match="valid: alpha from 0 to below 1"):
        pet(plan_of(tiny_backbone), alpha=1.0, **OPTIONS)


def test_the_auxiliary_term_is_masked_language_modeling_of_the_rows(tiny_backbone, tiny_folder):
    from transformers import AutoModelForMaskedLM

    plan = pet(plan_of(tiny_backbone), **OPTIONS, alpha=0.5, mask_rate=0.3)
    torch.manual_seed(3)
    run = a_pass(plan)
    found = plan.terms[1].compute(run)
    ids = run.batch["input_ids"]
    tokenizer = plan.task.tokenizer
    special = [tokenizer.id_of(name) for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
    places = hidden_words(ids.numpy(), np.array(special), 0.3)
    assert plan.terms[1].count(plan.task.collate(plan.task.encode_batch(ROWS))) == len(places)
    stock = AutoModelForMaskedLM.from_pretrained(tiny_folder).eval()
    masked = ids.clone()
    masked.view(-1)[places] = tokenizer.mask_id
    with torch.no_grad():
        logits = stock(masked, run.batch["attention_mask"]).logits.flatten(0, 1)[places]
    expected = torch.nn.functional.cross_entropy(logits, ids.view(-1)[places], reduction="sum")
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_hidden_words_differ_by_step_and_not_by_company():
    rng = np.random.default_rng(0)
    ids = rng.integers(10, 90, (6, 20))
    ids[:, 15:] = 0
    fixed = np.array([0, 10, 11])
    torch.manual_seed(1)
    whole = hidden_words(ids, fixed, 0.2)
    assert not np.isin(ids.reshape(-1)[whole], fixed).any()
    assert set(whole // 20) == set(range(6))
    narrow = np.concatenate(
        [number * 20 + hidden_words(row[None, :15], fixed, 0.2) for number, row in enumerate(ids)]
    )
    assert whole.tolist() == narrow.tolist()
    torch.manual_seed(2)
    assert whole.tolist() != hidden_words(ids, fixed, 0.2).tolist()
    assert len(hidden_words(np.zeros((2, 4), np.int64), fixed, 0.2)) == 0


def test_a_recipe_may_name_the_method_with_its_options(tiny_folder, tmp_path):
    train = tmp_path / "train.jsonl"
    train.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8"
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""task: text_classify
train: {train}
dev: {train}
output: {tmp_path / "run"}
model: {tiny_folder}
max_length: 32
epochs: 30
batch_size: 8
lr: 5e-3
method:
  - {{name: pet, pattern: "{{text}}, 很[MASK]", words: "好评=好,干净;差评=差,脏"}}
  - r_drop:alpha=0.5
""",
        encoding="utf-8",
    )
    pipeline = easynlp.train(config=recipe)
    assert pipeline.task.config.pattern == "{text}, 很[MASK]"
    assert easynlp.evaluate(tmp_path / "run", train)["accuracy"] == 1.0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert {"loss", "r_drop"} <= json.loads(lines[0])["losses"].keys()
