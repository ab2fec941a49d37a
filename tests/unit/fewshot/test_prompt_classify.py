"""Classification by prompts, against plain computations on stock transformers; and whole runs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig

import easynlp
from easynlp.errors import ConfigError, DataError, ModelError
from easynlp.fewshot.prompt_classify import PromptClassify, PromptConfig
from easynlp.models.backbone import Backbone
from easynlp.training.loop import make_forward, to_tensors
from tests.conftest import REVIEWS, without_mask_head

CPU = torch.device("cpu")
ROWS = [{"text": text, "label": label} for text, label in REVIEWS]
WORDS = "好评=好;差评=差"
MIXED = "好评=好,很干净;差评=太差,脏"
PATTERN = "{text}，很[MASK]，"


def make(backbone, pattern=PATTERN, words=WORDS, **options):
    config = PromptConfig(**{"pattern": pattern, "words": words, "max_length": 32, **options})
    return PromptClassify.prepare(config, backbone.tokenizer, ROWS)


def run(task, model, rows=ROWS):
    batch = to_tensors(task.collate(task.encode_batch(rows)), CPU)
    with torch.no_grad():
        return make_forward(model, "fp32", CPU)(batch), batch


def reference(folder, task):
    """Return log P(word) of every row and word by stock transformers, word by word."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    stock = AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = [word for words in task.verbalizer.words for word in words]
    found = np.zeros((len(ROWS), len(words)))
    for i, row in enumerate(ROWS):
        for j, word in enumerate(words):
            ids = tokenizer(word, add_special_tokens=False)["input_ids"]
            filled = PATTERN.replace("[MASK]", "[MASK]" * len(ids)).format(text=row["text"])
            encoded = tokenizer(filled, return_tensors="pt")
            with torch.no_grad():
                logits = stock(**encoded).logits[0]
            holes = (encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
            logs = logits[holes].log_softmax(-1)
            found[i, j] = sum(logs[k, token].item() for k, token in enumerate(ids))
    return found


@pytest.mark.parametrize("words", [WORDS, MIXED])
def test_scores_are_those_of_stock_transformers_word_by_word(tiny_backbone, tiny_folder, words):
    task = make(tiny_backbone, words=words)
    output, batch = run(task, task.build(tiny_backbone).eval())
    expected = torch.tensor(reference(tiny_folder, task))
    by_label = torch.stack([part.exp().sum(1) for part in expected.chunk(2, 1)], 1)
    probs = by_label / by_label.sum(1, keepdim=True)
    found = task.log_probs(output, batch).exp()
    np.testing.assert_allclose(found, probs, atol=1e-5)
    predictions = task.decode(output.logits.numpy(), {}, ROWS)
    assert task.labels.names == ("好评", "差评")
    for row, each in zip(probs.tolist(), predictions, strict=True):
        assert each["scores"] == pytest.approx({"好评": row[0], "差评": row[1]}, abs=2e-6)
        assert each["label"] == max(each["scores"], key=each["scores"].get)


def test_the_losses_are_the_papers_and_easynlps(tiny_backbone, tiny_folder):
    gold = torch.tensor([0, 1] * 4)
    task = make(tiny_backbone)
    output, batch = run(task, task.build(tiny_backbone).eval())
    scores = torch.tensor(reference(tiny_folder, task))
    restricted = torch.nn.functional.cross_entropy(scores, gold, reduction="sum")
    assert task.loss(output, batch).item() == pytest.approx(restricted.item(), rel=1e-5)
    whole = make(tiny_backbone, loss="vocabulary")
    expected = -scores[range(8), gold].sum()
    assert whole.loss(output, batch).item() == pytest.approx(expected.item(), rel=1e-5)
    # Words of several tokens: EasyNLP takes the mean over masks.
    whole = make(tiny_backbone, words="好评=很干净;差评=太差了", loss="vocabulary")
    output, batch = run(whole, whole.build(tiny_backbone).eval())
    expected = -torch.tensor(reference(tiny_folder, whole))[range(8), gold].sum() / 3
    assert whole.loss(output, batch).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("loss", ["restricted", "vocabulary"])
def test_several_sets_train_each_row_for_all_of_them(tiny_backbone, loss):
    sets = ["好评=好;差评=差", "好评=丰富;差评=不好"]
    losses = []
    for words in sets:
        task = make(tiny_backbone, words=words, loss=loss)
        losses.append(task.loss(*run(task, task.build(tiny_backbone).eval())))
    fuzzy = make(tiny_backbone, words="好评=好,丰富;差评=差,不好", loss=loss)
    found = fuzzy.loss(*run(fuzzy, fuzzy.build(tiny_backbone).eval()))
    assert found.item() == pytest.approx((sum(losses) / 2).item(), rel=1e-5)


def test_the_mean_over_tokens_does_not_favour_short_words(tiny_backbone):
    total = make(tiny_backbone, words="好评=好;差评=太差了")
    mean = make(tiny_backbone, words="好评=好;差评=太差了", word_score="mean")
    model = total.build(tiny_backbone).eval()
    output, batch = run(total, model)
    first, second = (task.log_probs(output, batch).exp()[:, 1] for task in (total, mean))
    assert first.max() < 0.01
    assert second.min() > 0.1


def test_longer_words_need_no_equal_number_of_tokens(tiny_backbone):
    """EasyNLP's words had to be of one length, checked row by row inside its data loader."""
    task = make(tiny_backbone, words=MIXED)
    batch = task.collate(task.encode_batch(ROWS[:1]))
    assert task.reader.lengths == (1, 2, 3)
    mask = tiny_backbone.tokenizer.mask_id
    assert (batch["input_ids"] == mask).sum(1).tolist() == [1, 2, 3]
    assert task.count(batch) == 1
    flat = batch["input_ids"].reshape(-1)
    assert (flat[batch["masked_positions"]] == mask).all()
    ends = [row[row != 0][-1] for row in batch["input_ids"]]
    assert ends == [tiny_backbone.tokenizer.id_of("[SEP]")] * 3  # EasyNLP put none


def test_what_does_not_go_together_is_refused(tiny_backbone):
    with pytest.raises(ConfigError, match=r'2 times \[MASK\], and the label word "好" has 1 token'):
        make(tiny_backbone, pattern="{text}[MASK][MASK]")
    with pytest.raises(ConfigError, match="as many words for every label"):
        make(tiny_backbone, words="好评=好,干净;差评=差", scoring="sets")
    with pytest.raises(ConfigError, match="reads at most 128 tokens"):
        make(tiny_backbone, max_length=200).build(tiny_backbone)
    with pytest.raises(DataError, match="`text_b`"):
        make(tiny_backbone, pattern="{text}[MASK]{text_b}")
    with pytest.raises(DataError, match='unknown label "中评"'):
        make(tiny_backbone).encode({"text": "好", "label": "中评"})


def test_a_model_without_its_own_mask_head_is_refused(tiny_folder, tmp_path):
    backbone = Backbone.load(str(without_mask_head(tiny_folder, tmp_path)))
    with pytest.raises(ModelError, match="has no masked-LM head of its own"):
        make(backbone).build(backbone)


def test_a_model_of_another_kind_is_refused_by_its_kind(tiny_backbone):
    other = replace(tiny_backbone, config=AutoConfig.for_model("gpt2"), folder=None)
    with pytest.raises(ModelError, match=r"is gpt2, and there is no AutoModelForMaskedLM of that$"):
        make(tiny_backbone).build(other)


def test_soft_tokens_are_new_vectors_that_no_word_competes_with(tiny_backbone):
    task = make(tiny_backbone, pattern="[PRO]*3{text}[MASK]")
    size = tiny_backbone.tokenizer.vocab_size
    assert task.soft_ids == [size, size + 1, size + 2]
    model = task.build(tiny_backbone).eval()
    assert model.core.get_input_embeddings().num_embeddings == size + 3
    output, batch = run(task, model)
    before = task.loss(output, batch)
    output.logits[:, size:] = 50.0
    assert task.loss(output, batch) == before


@pytest.fixture
def files(tmp_path):
    path = tmp_path / "train.jsonl"
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "options",
    [pytest.param({"words": WORDS}, marks=pytest.mark.slow),
     pytest.param({"words": MIXED, "scoring": "candidates"}, marks=pytest.mark.slow),
     {"pattern": "[PRO]*2{text}<pseudo>[MASK]", "words": "好评=好,干净;差评=差,脏",
      "scoring": "sets", "loss": "vocabulary", "epochs": 100}],
)  # fmt: skip
def test_a_run_is_trained_loaded_evaluated_predicted_and_exported(
    tiny_folder, tmp_path, files, options
):
    given = {"pattern": PATTERN, "max_length": 32, "lr": 5e-3, "epochs": 30, "batch_size": 8,
             "precision": "fp32", **options}  # fmt: skip
    out = tmp_path / "run"
    easynlp.train("prompt_classify", train=files, dev=files, output=str(out),
                  model=str(tiny_folder), **given)  # fmt: skip
    scores = easynlp.evaluate(out, files)
    assert scores["accuracy"] == 1.0
    texts = [text for text, _ in REVIEWS]
    answers = easynlp.load(out, "torch").predict(texts)
    assert [each["label"] for each in answers] == [label for _, label in REVIEWS]
    assert answers[0].keys() == {"label", "score", "scores"}
    report = easynlp.export(out)
    assert report.passed
    exported = easynlp.load(out, "onnx").predict(texts)
    for one, other in zip(answers, exported, strict=True):
        assert other["scores"] == pytest.approx(one["scores"], abs=1e-4)
    done = easynlp.predict(out, files, tmp_path / "answers.csv")
    assert done == {"rows": 8, "truncated": 0}


def test_a_saved_run_is_a_plain_model_of_stock_transformers(tiny_backbone, tmp_path):
    from transformers import AutoModelForMaskedLM

    task = make(tiny_backbone, pattern="[PRO]{text}[MASK]")
    model = task.build(tiny_backbone).eval()
    model.core.save_pretrained(tmp_path)
    stock = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    output, batch = run(task, model)
    with torch.no_grad():
        logits = stock(batch["input_ids"], batch.get("attention_mask")).logits
    chosen = logits.flatten(0, 1)[batch["masked_positions"]]
    torch.testing.assert_close(chosen, output.logits, atol=1e-5, rtol=1e-5)
