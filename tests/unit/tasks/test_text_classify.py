"""What is particular to text classification; what all tasks share is in tests/contract."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from easynlp.errors import ConfigError, DataError
from easynlp.pipeline import Pipeline
from easynlp.tasks.inputs import pad_rows
from easynlp.tasks.labels import sort_labels
from easynlp.tasks.text_classify import Config, TextClassify
from tests.conftest import REVIEWS

ROWS = [{"text": text, "label": label} for text, label in REVIEWS]
PAIRS = [{"text": t, "text_b": t[:4], "label": str(i % 2)} for i, (t, _) in enumerate(REVIEWS)]
MULTI = [
    {"text": "房间很干净", "label": "卫生"},
    {"text": "服务态度太差了", "label": "服务|差评"},
    {"text": "早餐丰富", "label": ["早餐"]},
    {"text": "景色优美", "label": []},
]


class Output:
    def __init__(self, logits):
        self.logits = torch.as_tensor(logits)


@pytest.fixture
def tokenizer(tiny_backbone):
    return tiny_backbone.tokenizer


def multi(tokenizer, **options):
    config = Config(multi_label=True, label_separator="|", **options)
    return TextClassify.prepare(config, tokenizer, MULTI)


def test_labels_are_sorted_and_numbers_by_value(tokenizer):
    rows = [{"text": "好", "label": label} for label in (10, 9.0, "-1", "9")]
    task = TextClassify.prepare(Config(), tokenizer, rows)
    assert task.config.labels == ("-1", "9", "10")
    assert TextClassify.prepare(Config(), tokenizer, rows[::-1]).config == task.config
    assert sort_labels(["b", "a", "2"]) == ("2", "a", "b")
    assert sort_labels(["inf", "1"]) == ("1", "inf")


def test_a_fixed_order_of_labels_is_kept(tokenizer):
    task = TextClassify.prepare(Config(labels=("差评", "好评")), tokenizer, ROWS)
    assert task.encode(ROWS[0])["target"] == 1
    with pytest.raises(ConfigError, match='label "好评" is named twice'):
        TextClassify(Config(labels=("好评", "好评")), tokenizer)


@pytest.mark.parametrize("rows", [ROWS[:1], [r for r in ROWS if r["label"] == "好评"]])
def test_one_class_only_is_an_error(tokenizer, rows):
    with pytest.raises(DataError, match=r'only one label, "好评".*\n.*--label'):
        TextClassify.prepare(Config(), tokenizer, rows)


def test_no_labels_at_all_is_an_error(tokenizer):
    with pytest.raises(DataError, match="no label"):
        TextClassify.prepare(Config(multi_label=True), tokenizer, [{"text": "好", "label": []}])


def test_unknown_label_names_those_known_and_the_closest(tokenizer):
    task = TextClassify.prepare(Config(), tokenizer, ROWS)
    with pytest.raises(
        DataError, match=r'unknown label "好评价"\. Did you mean "好评"\?.*好评, 差评'
    ):
        task.encode({"text": "好", "label": "好评价"})
    with pytest.raises(DataError, match='unknown label "中评"'):
        task.score([{"label": "好评"}], [{"text": "好", "label": "中评"}])


@pytest.mark.parametrize(
    ("example", "said"),
    [
        ({"label": "好评"}, "`text` is missing; this row has: label"),
        ({"text": None}, "`text` is NoneType"),
        ({"text": 3.5}, "`text` is float 3.5"),
        ({"text": "好\ud83d"}, "half of a surrogate pair at character 2"),
        ({"text": "好", "label": None}, "`label` is null"),
        ({"text": "好", "label": float("nan")}, "`label` is NaN"),
        ({"text": "好", "label": ["好评", "差评"]}, "2 labels.*\n.*--multi-label"),
        ("好", "`text` is missing; this row has: no fields"),
    ],
)
def test_bad_examples_say_what_is_wrong(tokenizer, example, said):
    task = TextClassify.prepare(Config(), tokenizer, ROWS)
    with pytest.raises(DataError, match=said):
        task.encode(example)


def test_scoring_needs_labels(tokenizer):
    task = TextClassify.prepare(Config(), tokenizer, ROWS)
    with pytest.raises(DataError, match="`label` is missing"):
        task.score([{"label": "好评"}], [{"text": "好"}])


def test_numbers_as_labels_are_the_labels_of_files(tokenizer):
    rows = [{"text": "好", "label": i % 2} for i in range(4)]
    task = TextClassify.prepare(Config(), tokenizer, rows)
    assert task.encode({"text": "好", "label": 1.0})["target"] == 1
    assert task.score([{"label": "1"}], [{"text": "好", "label": 1}])["accuracy"] == 1.0


def test_encoding_together_is_encoding_one_by_one(tokenizer):
    for rows in (ROWS, PAIRS):
        task = TextClassify.prepare(Config(max_length=16), tokenizer, rows)
        for one, other in zip(task.encode_batch(rows), map(task.encode, rows), strict=True):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[key], other[key]) for key in one)


def test_pairs_are_learned_from_the_data(tokenizer):
    single = TextClassify.prepare(Config(), tokenizer, ROWS)
    pair = TextClassify.prepare(Config(), tokenizer, PAIRS)
    assert (single.config.pair, pair.config.pair) == (False, True)
    features = pair.encode(PAIRS[0])
    assert features["type_ids"].tolist() == [0] * (len(PAIRS[0]["text"]) + 2) + [1] * 5
    assert [f.name for f in single.fields if not f.target] == ["text"]
    assert [(f.name, f.required) for f in pair.fields[:2]] == [("text", True), ("text_b", True)]


def test_a_pair_task_wants_both_texts_and_a_single_one_takes_no_pair(tokenizer):
    pair = TextClassify.prepare(Config(), tokenizer, PAIRS)
    with pytest.raises(DataError, match="`text_b` is missing"):
        pair.encode({"text": "好", "label": "1"})
    with pytest.raises(DataError, match="1 of 8 rows have no `text_b`, the first is row 3"):
        TextClassify.prepare(Config(), tokenizer, [*PAIRS[:2], ROWS[0], *PAIRS[3:]])
    with pytest.raises(DataError, match=r"8 of 8 rows.*\n.*--text-b"):
        TextClassify.prepare(Config(pair=True), tokenizer, ROWS)
    asked_not = TextClassify.prepare(Config(pair=False), tokenizer, PAIRS)
    assert asked_not.config.pair is False
    single = TextClassify.prepare(Config(), tokenizer, ROWS)
    with pytest.raises(DataError, match="takes at most 1: text"):
        Pipeline(single, None).predict([("好", "坏")])  # type: ignore[arg-type]


def test_pairs_are_cut_from_the_longer_text(tokenizer):
    task = TextClassify.prepare(Config(max_length=16), tokenizer, PAIRS)
    features = task.encode({"text": "好" * 50, "text_b": "天气真好"})
    assert features["truncated"]
    assert len(features["input_ids"]) == 16
    assert features["type_ids"].sum() == 5


def test_truncation_is_told(tokenizer):
    task = TextClassify.prepare(Config(max_length=8), tokenizer, ROWS)
    assert not task.encode({"text": "好" * 6})["truncated"]
    assert task.encode({"text": "好" * 7})["truncated"]
    assert len(task.encode({"text": "好" * 100_000})["input_ids"]) == 8


def test_single_label_loss_is_summed_cross_entropy(tokenizer):
    task = TextClassify.prepare(Config(), tokenizer, ROWS)
    batch = task.collate(task.encode_batch(ROWS))
    logits = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    target = torch.from_numpy(batch["target"])
    found = task.loss(Output(logits), {"target": target})
    assert found.item() == pytest.approx(8 * cross_entropy(logits, target).item(), rel=1e-6)
    assert task.count(batch) == 8


def test_multi_label_loss_over_its_count_is_mean_bce(tokenizer):
    task = multi(tokenizer)
    assert task.config.labels == ("卫生", "差评", "早餐", "服务")
    batch = task.collate(task.encode_batch(MULTI))
    assert batch["target"].dtype == np.float32
    assert batch["target"].tolist() == [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    target = torch.from_numpy(batch["target"])
    found = task.loss(Output(logits), {"target": target}) / task.count(batch)
    wanted = binary_cross_entropy_with_logits(logits, target)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    log_probs = task.log_probs(Output(logits), {})
    chosen = log_probs.gather(1, target.long().reshape(-1, 1))
    assert -chosen.mean().item() == pytest.approx(wanted.item(), rel=1e-6)
    assert log_probs.exp().sum(1).numpy() == pytest.approx(np.ones(16))


def test_decode_is_softmax_and_the_first_of_equals(tokenizer):
    task = TextClassify.prepare(Config(), tokenizer, ROWS)
    logits = np.array([[1000.0, -1000.0], [0.5, 0.5], [-1.0, 1.0]], np.float32)
    found = task.decode(logits, {}, ROWS[:3])
    assert [p["label"] for p in found] == ["好评", "好评", "差评"]
    assert found[0]["scores"] == {"好评": 1.0, "差评": 0.0}
    assert found[2]["score"] == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-6)
    json.dumps(found)


def test_multi_label_decode_uses_the_threshold(tokenizer):
    logits = np.array([[0.0, -0.1, 800.0, -800.0]], np.float32)
    found = multi(tokenizer).decode(logits, {}, MULTI[:1])[0]
    assert found["labels"] == ["卫生", "早餐"]
    assert found["scores"] == pytest.approx(
        {"卫生": 0.5, "差评": 0.475021, "早餐": 1.0, "服务": 0.0}, abs=1e-6
    )
    assert multi(tokenizer, threshold=0.4).decode(logits, {}, MULTI[:1])[0]["labels"] == [
        "卫生", "差评", "早餐",
    ]  # fmt: skip
    json.dumps(found)


def test_multi_label_scores_and_metric(tokenizer):
    task = multi(tokenizer)
    assert task.metric == "micro_f1"
    assert TextClassify.metric == "accuracy"
    given = [{"labels": ["卫生"]}, {"labels": ["服务"]}, {"labels": []}, {"labels": []}]
    found = task.score(given, MULTI)
    assert found["micro_f1"] == pytest.approx(2 * 2 / (4 + 2))
    assert found["exact_match"] == 0.5
    assert set(found) == {"micro_f1", "macro_f1", "exact_match"}


def test_multi_label_needs_a_separator(tokenizer):
    with pytest.raises(DataError, match="--label-separator is empty"):
        TextClassify.prepare(Config(multi_label=True, label_separator=""), tokenizer, MULTI)


def test_the_model_carries_real_label_names(tiny_backbone):
    task = multi(tiny_backbone.tokenizer)
    config = task.build(tiny_backbone).config
    assert config.id2label == {0: "卫生", 1: "差评", 2: "早餐", 3: "服务"}
    assert config.label2id["服务"] == 3
    assert config.problem_type == "multi_label_classification"
    assert (
        TextClassify.prepare(Config(), tiny_backbone.tokenizer, ROWS)
        .build(tiny_backbone)
        .config.problem_type
        == "single_label_classification"
    )


def test_a_length_the_encoder_cannot_read_is_refused(tiny_backbone):
    task = TextClassify.prepare(Config(max_length=129), tiny_backbone.tokenizer, ROWS)
    with pytest.raises(ConfigError, match=r"--max-length 129: .* reads at most 128 tokens"):
        task.build(tiny_backbone)


def test_padding():
    rows = [np.array([2, 7, 8, 3], np.int32), np.array([2, 3], np.int32)]
    batch = pad_rows(rows, 9, [np.array([0, 0, 1, 1]), np.array([0, 0])])
    assert batch["input_ids"].tolist() == [[2, 7, 8, 3], [2, 3, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}
    assert set(pad_rows([rows[0], rows[0]], 9)) == {"input_ids"}


def test_a_pair_of_very_long_texts_costs_little(tokenizer):
    """Left alone, the tokenizers library takes minutes and gigabytes for these."""
    task = TextClassify.prepare(Config(max_length=16), tokenizer, PAIRS)
    first, second = "房间很干净" * 20_000, "早餐丰富" * 25_000
    began = time.perf_counter()
    features = task.encode({"text": first, "text_b": second})
    assert time.perf_counter() - began < 2
    short = task.encode({"text": first[:10], "text_b": second[:10]})
    assert features["truncated"]
    assert features["input_ids"].tolist() == short["input_ids"].tolist()
