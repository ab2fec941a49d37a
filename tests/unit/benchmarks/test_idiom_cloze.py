"""CHID as a cloze, beside stock transformers."""

import numpy as np
import pytest
import torch

from easynlp.benchmarks.contender import Budget
from easynlp.benchmarks.contenders import find
from easynlp.benchmarks.encodings import grade, hide, idiom
from easynlp.benchmarks.fewclue import find_split, read_split_file
from easynlp.benchmarks.idiom_cloze import ClozeConfig, IdiomCloze
from easynlp.benchmarks.prompts import prompt_of
from easynlp.data.readers import Row
from easynlp.errors import DataError
from easynlp.models.runtime import TorchModel
from easynlp.pipeline import Pipeline

PATTERN = "{text}[MASK]{text_b}"


def questions(*rows):
    prompt = prompt_of("chid", parts=("candidates",))
    found = []
    for number, (text, candidates) in enumerate(rows, 1):
        values = {"text": text, "candidates": candidates, "answer": number % len(candidates)}
        found += idiom(Row(values, "a.jsonl", number))
    return [prompt.show(each) for each in found]


ROWS = (("房间#idiom#，下次还来", ["很干很净", "早餐丰富", "老板热情"]),
        ("老板#idiom#", ["一夜没睡", "天气真好", "孩子喜欢", "又贵又脏"]))  # fmt: skip


@pytest.fixture
def cloze(tiny_backbone):
    return IdiomCloze(ClozeConfig(PATTERN, 64), tiny_backbone.tokenizer)


def reference(model, tokenizer, example, turned=0):
    """The joint log-probability of each candidate's characters, one question at a time."""
    ids = [tokenizer.id_of("[CLS]"), *(tokenizer.id_of(c) for c in example["before"]),
           *[tokenizer.mask_id] * 4, *(tokenizer.id_of(c) for c in example["after"]),
           tokenizer.id_of("[SEP]")]  # fmt: skip
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    holes = [i for i, token in enumerate(ids) if token == tokenizer.mask_id]
    unknown = tokenizer.id_of("[UNK]")
    words = example["candidates"][turned:] + example["candidates"][:turned]
    scores = torch.stack([
        sum(logits[hole, unknown if (i := tokenizer.id_of(c)) is None else i]
            for hole, c in zip(holes, word, strict=True))
        for word in words
    ])  # fmt: skip
    return scores.softmax(0).numpy()


@pytest.mark.parametrize("turned", [0, 1])
def test_candidates_have_their_joint_probability_as_stock_transformers_has_it(
    tiny_backbone, turned
):
    task = IdiomCloze(ClozeConfig(PATTERN, 64, turned), tiny_backbone.tokenizer)
    model = task.build(tiny_backbone).eval()
    examples = questions(*ROWS)
    pipeline = Pipeline(task, TorchModel(model))
    for batch_size in (1, 3, 32):  # however the questions are cut
        found = pipeline.predict(examples, batch_size)
        for example, answer in zip(examples, found, strict=True):
            every = reference(model.core, tiny_backbone.tokenizer, example, turned)
            assert answer["scores"]["1"] == pytest.approx(every[example["choice"]], rel=1e-4)
            assert answer["label"] == str(int(every.argmax() == example["choice"]))


def test_a_question_is_computed_once(cloze):
    features = [cloze.encode(each) for each in questions(*ROWS)]
    batch = cloze.collate(features)
    assert len(batch["input_ids"]) == 2
    assert batch["row"].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert len(batch["masked_positions"]) == 8
    assert np.isinf(batch["penalty"]).tolist() == [[False] * 3 + [True], [False] * 4]


def test_the_loss_is_of_right_candidates_only(cloze, tiny_backbone):
    model = cloze.build(tiny_backbone).eval()
    examples = questions(*ROWS)
    batch = cloze.collate([cloze.encode(each) for each in examples])
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    keys = ("input_ids", "masked_positions", "attention_mask")
    with torch.inference_mode():
        output = model(**{k: tensors[k] for k in keys if k in tensors})
    right = [each for each in examples if each["label"] == "1"]
    expected = sum(
        -np.log(reference(model.core, tiny_backbone.tokenizer, each)[each["choice"]])
        for each in right
    )
    assert float(cloze.loss(output, tensors)) == pytest.approx(expected, rel=1e-4)


def test_candidates_of_different_lengths_are_refused(cloze):
    (example, *_) = questions(("他#idiom#", ["一二三四", "一二"]))
    with pytest.raises(DataError, match="do not compare"):
        cloze.encode(example)


@pytest.mark.parametrize("placebo", ["", ":placebo=shuffled-words"])
def test_pet_on_chid_is_the_cloze(tiny_folder, shared, placebo):
    split = find_split(shared / "data" / "bench", "chid", "0")
    budget = Budget(lrs=(1e-3,), min_steps=2, max_steps=2, evaluations=1, max_length=128)
    contender = find(f"method:pet{placebo}@{tiny_folder}", budget)
    learned = contender.learn(split.closed(), 13, lambda text: None)
    assert learned.chosen["prompt"] == "clue-pet"
    dev = read_split_file(split.dev, "chid")
    predictions = learned.predict(hide(dev))
    assert grade(dev, predictions) == learned.dev_accuracy
    by_question = {}
    for example, answer in zip(dev, predictions, strict=True):
        by_question.setdefault(example["question"], []).append(answer["scores"]["1"])
    assert all(sum(each) == pytest.approx(1, abs=1e-4) for each in by_question.values())
