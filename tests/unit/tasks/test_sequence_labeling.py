"""What is particular to sequence labeling; what all tasks share is in tests/contract."""

from __future__ import annotations

import gzip
import json
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from easynlp.data.sampling import EncodedRows
from easynlp.errors import ConfigError, DataError
from easynlp.models.runtime import TorchModel
from easynlp.pipeline import Pipeline
from easynlp.tasks.sequence_labeling import Config, SequenceLabeling
from easynlp.text.tokenizer import Tokenizer
from easynlp.training.loop import FitOptions, State, fit
from easynlp.training.plan import Plan, task_term


def entity(text, piece, kind):
    start = text.index(piece)
    return {"start": start, "end": start + len(piece), "type": kind, "text": piece}


def row(text, **pieces):
    return {"text": text, "entities": [entity(text, p, kind) for p, kind in pieces.items()]}


ROWS = [
    row("张三在北京大学读书", 张三="人名", 北京大学="机构"),
    row("今天北京天气真好", 北京="地名"),
    row("我在读书"),
]


@pytest.fixture
def tokenizer(tiny_backbone):
    return tiny_backbone.tokenizer


def make(tokenizer, rows=ROWS, **options):
    return SequenceLabeling.prepare(Config(**{"overlap": 2, **options}), tokenizer, rows)


def exactly(entities):
    return [(e["start"], e["end"], e["type"]) for e in entities]


def round_trip(task, rows):
    """Decode one-hot logits of the gold tags of a batch."""
    batch = task.collate(task.encode_batch(rows))
    logits = np.eye(len(task.tags), dtype=np.float32)[batch["target"]] * 20
    return task.decode(logits, batch, rows)


def test_types_are_learned_and_named_in_the_model(tiny_backbone):
    task = make(tiny_backbone.tokenizer)
    assert task.config.labels == ("人名", "地名", "机构")
    config = task.build(tiny_backbone).config
    assert list(config.id2label.values()) == [
        "O", "B-人名", "I-人名", "B-地名", "I-地名", "B-机构", "I-机构",
    ]  # fmt: skip
    assert config.label2id["I-机构"] == 6


def test_tags_are_on_the_characters(tokenizer):
    features = make(tokenizer).encode(ROWS[0])
    assert features["target"].tolist() == [0, 1, 2, 0, 5, 6, 6, 6, 0, 0, 0]
    assert features["owned"].tolist() == [False, *[True] * 9, False]
    assert features["starts"].tolist() == [0, *range(9), 0]
    assert features["misaligned"] == 0


TRICKY = [
    ("  张三　在\t北京 \n", [("张三", "人名"), ("北京", "地名")]),  # spaces of all kinds
    ("ＡＢＣ公司的张三，１２３号", [("ＡＢＣ", "机构"), ("张三", "人名")]),  # full width
    (
        "😀张三👨‍👩‍👧在北京😀",
        [("张三", "人名"), ("北京", "地名")],
    ),  # beyond the basic plane, joined
    ("龘䶮𠀀在𪚥𪚥读书", [("龘䶮𠀀", "人名"), ("𪚥𪚥", "地名")]),  # not in the vocabulary
    ("Zhāng Sān在Běijīng", [("Zhāng Sān", "人名"), ("Běijīng", "地名")]),  # accents, a space inside
    ("e\u0301tude在Straße", [("e\u0301tude", "人名"), ("Straße", "地名")]),  # combining
    ("张\u200b三在\u00ad北\ufeff京", [("张\u200b三", "人名"), ("北\ufeff京", "地名")]),  # no width
    ("İstanbul在北京", [("İstanbul", "地名"), ("北京", "地名")]),  # lower case is longer
]


@pytest.mark.parametrize(("text", "pieces"), TRICKY)
def test_offsets_stay_right(tokenizer, text, pieces):
    example = {"text": text, "entities": [entity(text, piece, kind) for piece, kind in pieces]}
    task = make(tokenizer)
    assert task.encode(example)["misaligned"] == 0
    (found,) = round_trip(task, [example])
    assert exactly(found["entities"]) == exactly(example["entities"])
    assert [e["text"] for e in found["entities"]] == [piece for piece, _ in pieces]


def test_entities_that_cut_a_token_are_counted_and_widened(tokenizer, caplog):
    cut = {"text": "在😀😀读书", "entities": [{"start": 1, "end": 2, "type": "地名"}]}
    spaces = {"text": "在 北京 读书", "entities": [{"start": 1, "end": 4, "type": "地名"}]}
    nothing = {"text": "在   读书", "entities": [{"start": 1, "end": 3, "type": "地名"}]}
    task = make(tokenizer)
    found = round_trip(task, [cut, spaces, nothing])
    assert [exactly(p["entities"]) for p in found] == [[(1, 3, "地名")], [(2, 4, "地名")], []]
    assert [task.encode(e)["misaligned"] for e in (cut, spaces, nothing)] == [1, 1, 1]
    with caplog.at_level(logging.WARNING, "easynlp"):
        make(tokenizer, [*ROWS, cut])
    assert "1 of 4 entities begin or end inside a token" in caplog.text


def test_two_entities_in_one_token_both_count(tokenizer):
    both = {
        "text": "在😀😁读书",
        "entities": [
            {"start": 1, "end": 2, "type": "地名"},
            {"start": 2, "end": 3, "type": "人名"},
        ],
    }
    task = make(tokenizer)
    assert task.encode(both)["misaligned"] == 2
    assert exactly(round_trip(task, [both])[0]["entities"]) == [(1, 3, "地名")]


@pytest.mark.parametrize(
    ("entities", "said"),
    [
        (None, "`entities` is NoneType None, not a list"),
        ("PER", "`entities` is str PER, not a list"),
        ([{"start": 0, "end": 2}], "needs start, end and type"),
        (["张三"], "needs start, end and type"),
        ([{"start": 0, "end": 2, "type": 3}], "type of an entity is 3"),
        ([{"start": 0, "end": 2, "type": ""}], "type of an entity is ''"),
        ([{"start": "0", "end": 2, "type": "人名"}], "whole numbers"),
        ([{"start": 0.0, "end": 2, "type": "人名"}], "whole numbers"),
        ([{"start": False, "end": 2, "type": "人名"}], "whole numbers"),
        ([{"start": 0, "end": 10, "type": "人名"}], "人名 0-10 is out of range: .* 9 characters"),
        ([{"start": -2, "end": 2, "type": "人名"}], "out of range"),
        ([{"start": 2, "end": 2, "type": "人名"}], "out of range"),
        ([{"start": 1, "end": 3, "type": "人名", "text": "张三"}], 'claims to be "张三".*"三在"'),
        ([{"start": 0, "end": 2, "type": "人"}], 'unknown entity type "人".*人名, 地名, 机构'),
        (
            [{"start": 3, "end": 7, "type": "机构"}, {"start": 3, "end": 5, "type": "地名"}],
            'overlap: 地名 "北京" .3-5. and 机构 "北京大学" .3-7.',
        ),
    ],
)
def test_bad_entities_say_what_is_wrong(tokenizer, entities, said):
    with pytest.raises(DataError, match=said):
        make(tokenizer).encode({"text": ROWS[0]["text"], "entities": entities})


def test_training_data_must_have_entities(tokenizer):
    with pytest.raises(DataError, match="no entities"):
        make(tokenizer, ROWS[2:])
    with pytest.raises(DataError, match="`entities` is missing"):
        make(tokenizer, [{"text": "张三"}])


def test_overlap_must_fit(tokenizer):
    with pytest.raises(ConfigError, match=r"--overlap 6 .*--max-length 8 .*0 to 5"):
        make(tokenizer, max_length=8, overlap=6)


LONG = "今天张三在北京大学读书，" * 200


def long_row():
    starts = [i for i in range(len(LONG)) if LONG.startswith("张三", i)]
    return {
        "text": LONG,
        "entities": [
            {"start": i + at, "end": i + at + length, "type": kind}
            for i in starts
            for at, length, kind in ((0, 2, "人名"), (3, 4, "机构"))
        ],
    }


def test_long_texts_take_windows_and_lose_nothing(tokenizer):
    task = make(tokenizer, max_length=16, overlap=4)
    features = task.encode(long_row())
    assert not features["truncated"]
    batch = task.collate([features, task.encode(ROWS[0])])
    assert batch["windows"].tolist() == [240, 1]
    assert batch["input_ids"].shape == (241, 16)
    cls, sep = features["input_ids"][0], features["input_ids"][-1]
    assert (batch["input_ids"][:240, 0] == cls).all()
    assert (batch["input_ids"][:240, -1] == sep).all()
    assert task.count(batch) == len(LONG) + 9
    read = batch["starts"][:240][batch["owned"][:240].astype(bool)]
    assert read.tolist() == list(range(len(LONG)))
    found = round_trip(task, [ROWS[0], long_row(), ROWS[1]])
    assert exactly(found[1]["entities"]) == exactly(long_row()["entities"])
    assert exactly(found[2]["entities"]) == exactly(ROWS[1]["entities"])


def test_a_hundred_thousand_characters_are_all_read(tokenizer):
    task = make(tokenizer, max_length=128, overlap=32)
    text = "好" * 99_998 + "张三"
    example = {"text": text, "entities": [{"start": 99_998, "end": 100_000, "type": "人名"}]}
    assert exactly(round_trip(task, [example])[0]["entities"]) == [(99_998, 100_000, "人名")]


def test_a_text_in_one_window_and_a_window_alone_agree(tiny_backbone):
    """A long text's windows are rows as any other: same logits as the short text alone."""
    task = make(tiny_backbone.tokenizer, max_length=12, overlap=0)
    torch.manual_seed(0)
    model = TorchModel(task.build(tiny_backbone).eval())
    long = {"text": "张三在北京大学读书啊" + "今天天气真好我在北京"}
    whole = task.collate([task.encode(long)])
    first = task.collate([task.encode({"text": long["text"][:10]})])
    np.testing.assert_allclose(model.logits(whole)[0], model.logits(first)[0], atol=1e-6)


def test_loss_is_summed_over_characters_each_once(tokenizer):
    task = make(tokenizer, max_length=8, overlap=3)
    batch = task.collate(task.encode_batch(ROWS))
    assert task.count(batch) == sum(len(r["text"]) for r in ROWS)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*batch["input_ids"].shape, 7, generator=generator)
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}

    class Output:
        pass

    output = Output()
    output.logits = logits
    owned = tensors["owned"].bool()
    wanted = cross_entropy(logits[owned], tensors["target"][owned]) * task.count(batch)
    assert task.loss(output, tensors).item() == pytest.approx(wanted.item(), rel=1e-5)
    chosen = task.log_probs(output, tensors).gather(1, tensors["target"][owned][:, None])
    assert -chosen.sum().item() == pytest.approx(wanted.item(), rel=1e-5)


def test_score_of_an_entity_is_its_mean_probability(tokenizer):
    task = make(tokenizer)
    batch = task.collate([task.encode({"text": "张三在"})])
    logits = np.zeros((1, 5, 7), np.float32)
    logits[0, 1, 1] = logits[0, 2, 2] = np.log(6)  # 6 of 12
    logits[0, 3, 0] = 9
    (found,) = task.decode(logits, batch, [{"text": "张三在"}])
    assert found == {
        "entities": [{"start": 0, "end": 2, "type": "人名", "text": "张三", "score": 0.5}]
    }
    json.dumps(found)


def test_special_tokens_and_padding_have_no_say(tokenizer):
    task = make(tokenizer)
    rows = [{"text": "张三在北京"}, {"text": ""}, {"text": "   "}, {"text": "好"}]
    batch = task.collate(task.encode_batch(rows))
    logits = np.zeros((4, 7, 7), np.float32)
    logits[..., 1] = np.where(batch["owned"], 0, 50)
    logits[..., 0] += np.where(batch["owned"], 50, 0)
    assert task.decode(logits, batch, rows) == [{"entities": []}] * 4


def test_scores_are_strict(tokenizer):
    task = make(tokenizer)
    given = [
        {
            "entities": [
                {"start": 0, "end": 2, "type": "人名"},
                {"start": 4, "end": 6, "type": "机构"},
            ]
        },
        {"entities": [{"start": 2, "end": 4, "type": "地名"}]},
        {"entities": []},
    ]
    found = task.score(given, ROWS)
    assert found["f1"] == pytest.approx(2 / 3)
    assert (found["f1/人名"], found["f1/地名"], found["f1/机构"]) == (1, 1, 0)


texts = st.text("张三在北京大学读书abcXYZ 12，。😀龘Ａ　\u200be\u0301\n", max_size=60)


@settings(derandomize=True, database=None, deadline=None, max_examples=150)
@given(text=texts, data=st.data())
def test_any_text_round_trips_what_is_not_misaligned(tiny_backbone, text, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    spans = [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False) if a < b]
    entities = [
        {"start": a, "end": b, "type": data.draw(st.sampled_from(["人名", "地名"]))}
        for a, b in spans
    ]
    config = Config(max_length=12, overlap=3, labels=("人名", "地名"))
    task = SequenceLabeling(config, tiny_backbone.tokenizer)
    example = {"text": text, "entities": entities}
    unfit = task.encode(example)["misaligned"]
    (found,) = round_trip(task, [example])
    right = set(exactly(found["entities"])) & set(exactly(entities))
    assert len(entities) - len(right) <= unfit
    for piece in found["entities"]:
        assert piece["text"] == text[piece["start"] : piece["end"]] != ""
    assert exactly(found["entities"]) == sorted(exactly(found["entities"]))


def test_training_on_windows_learns(tiny_backbone):
    task = make(tiny_backbone.tokenizer, max_length=8, overlap=3)
    torch.manual_seed(0)
    plan = Plan(task, task.build(tiny_backbone), (task_term(task),))
    options = FitOptions(steps=80, batch_size=3, lr=5e-3)
    source = EncodedRows.of(task.encode_batch(ROWS))
    list(fit(plan, source, options, state=State(), device=torch.device("cpu")))
    pipeline = Pipeline(task, TorchModel(plan.model.eval()))
    assert pipeline.evaluate(ROWS)["f1"] == 1.0
    assert exactly(pipeline.predict([ROWS[0]["text"]])[0]["entities"]) == exactly(
        ROWS[0]["entities"]
    )


def test_every_row_of_resume_ner_round_trips(shared, tmp_path):
    from easynlp.pretraining.vocabulary import save_vocabulary, train_vocabulary

    rows = []
    for split in ("train", "dev", "test"):
        with gzip.open(shared / "data/bench/resume_ner" / f"{split}.jsonl.gz", "rt") as file:
            rows += [json.loads(line) for line in file]
    vocabulary = train_vocabulary([r["text"] for r in rows[:3821]], 4000, min_frequency=3)
    save_vocabulary(vocabulary, tmp_path, max_length=128)
    task = make(Tokenizer.load(tmp_path), rows[:3821], overlap=32)
    assert len(task.config.labels) == 8
    found = round_trip(task, rows)
    assert len(found) == 4761
    gold = [exactly(r["entities"]) for r in rows]
    assert [exactly(p["entities"]) for p in found] == gold
    assert task.score(found, rows)["f1"] == 1.0
