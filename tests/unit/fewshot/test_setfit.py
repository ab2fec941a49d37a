"""Mates and SetFit: who meets whom, the loss by hand, and the run that comes of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import easynlp
from easynlp.data.sampling import EncodedRows
from easynlp.errors import ConfigError
from easynlp.fewshot.mates import ANCHORS, Mates, anchor_count, mated
from easynlp.fewshot.setfit import setfit
from easynlp.training.plan import Pass, Plan, task_term
from tests.conftest import REVIEWS
from tests.contract.samples import SAMPLES, plain


def rows_of(targets):
    return EncodedRows.of(
        [{"input_ids": np.arange(3 + i), "target": t, "row": i} for i, t in enumerate(targets)]
    )


def test_mates_are_of_the_label_and_of_others_and_depend_on_seed_epoch_and_row_alone():
    targets = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3]
    source = Mates(rows_of(targets), same=2, other=3, seed=1)
    met = set()
    for epoch in range(30):
        for row in range(10):
            mates = source.mates(row, epoch)
            assert mates == source.mates(row, epoch)
            assert [targets[m] == targets[row] for m in mates] == [True] * 2 + [False] * 3
            assert row not in mates or targets.count(targets[row]) == 1
            met |= {(row, m) for m in mates}
            assert [m["row"] for m in source.features(row, epoch)["mates"]] == mates
    assert len(met) == 10 * 9 + 1  # everyone meets everyone; the lonely one itself
    assert Mates(rows_of(targets), seed=2).mates(0, 0) != source.mates(0, 0)
    assert source.lengths.tolist() == [6 * (3 + i) for i in range(10)]


def test_every_other_label_is_met_as_often():
    targets = [0] * 10 + [1] * 40 + [2] * 2
    source = Mates(rows_of(targets), same=1, other=1)
    met = [targets[source.mates(0, epoch)[1]] for epoch in range(600)]
    assert 250 < met.count(2) < 350


@pytest.fixture
def plan(tiny_backbone):
    task = SAMPLES["text_classify"].make(tiny_backbone)
    torch.manual_seed(0)
    return Plan(task, task.build(plain(tiny_backbone)), (task_term(task),))


def groups(plan, count=3):
    source = plan.source(EncodedRows.of(plan.task.encode_batch(SAMPLES["text_classify"].rows)), 0)
    return plan.task.collate([source.features(i, 0) for i in range(count)])


def test_groups_are_laid_out_in_order_and_rows_to_predict_stay_alone(plan):
    changed = mated(plan, same=1, other=2)
    batch = groups(changed)
    assert batch[ANCHORS].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    target = batch["target"].reshape(3, 4)
    assert ((target == target[:, :1]) == [True, True, False, False]).all()
    assert anchor_count(batch) == 3
    assert type(changed.task) is type(plan.task)
    alone = changed.task.collate(changed.task.encode_batch(SAMPLES["text_classify"].rows[:2]))
    assert ANCHORS not in alone
    assert anchor_count(alone) == 2
    with pytest.raises(ConfigError, match="only one method"):
        mated(changed)


def test_the_loss_is_the_squared_error_of_cosines(plan):
    changed = setfit(plan, pairs=2)
    batch = {k: torch.from_numpy(v) for k, v in groups(changed).items()}
    model = plan.model.eval()
    inputs = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask")}
    run = Pass(lambda b: None, model, batch, model(**inputs))
    pooled = model.bert(**inputs).pooler_output.view(3, 5, -1)
    expected = 0.0
    for group in pooled:
        for number, mate in enumerate(group[1:]):
            cosine = torch.nn.functional.cosine_similarity(group[0], mate, dim=0)
            expected += (cosine.item() - (1.0 if number < 2 else 0.0)) ** 2 / 4
    term = changed.terms[-1]
    assert float(term.compute(run).detach()) == pytest.approx(expected, rel=1e-5)
    assert changed.vectors_only
    assert changed.terms[0].weight == 0
    term.compute(run).backward()
    assert float(model.bert.pooler.dense.weight.grad.abs().sum()) > 0


def test_bad_options_are_refused(plan, tiny_backbone):
    with pytest.raises(ConfigError, match="pairs 0"):
        setfit(plan, pairs=0)
    with pytest.raises(ConfigError, match="two or more labels"):
        Mates(rows_of([1, 1, 1]))


def test_a_run_is_a_plain_classifier_that_stock_transformers_loads(
    tmp_path, tiny_folder, reviews_file
):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    pipeline = easynlp.train(
        "text_classify", train=str(reviews_file), dev=str(reviews_file), model=str(tiny_folder),
        output=str(tmp_path / "run"), method=["setfit"], epochs=8.0, batch_size=8, lr=3e-3,
        precision="fp32", probe_strength=1.0, pooling="first",
    )  # fmt: skip
    assert pipeline.meta["task"] == "text_classify"
    assert pipeline.meta["scores"]["dev"]["accuracy"] == 1.0
    texts = [text for text, _ in REVIEWS]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    stock = [model.config.id2label[i] for i in logits.argmax(-1).tolist()]
    assert stock == [p["label"] for p in pipeline.predict(texts)]
    lines = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["losses"]["setfit"] for line in lines if "losses" in line]
    assert losses[-1] < 0.8 * losses[0]
