"""Pieces of several characters, cut into these."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors

from easynlp.text.characters import Characters
from easynlp.text.tokenizer import Tokenizer

PIECES = ["▁", "在北京", "公司", "hello", *"在北京公司很好h"]


@pytest.fixture
def unigram() -> Tokenizer:
    special = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")]
    pieces = [*special, *((piece, -2.0 - i * 0.01) for i, piece in enumerate(PIECES))]
    backend = Backend(models.Unigram(pieces, unk_id=3))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens([name for name, _ in special])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return Tokenizer(backend)


def names(tokenizer: Tokenizer, ids: np.ndarray) -> list[str]:
    return [tokenizer.tokens()[i] for i in ids]


def test_chinese_pieces_are_cut_and_others_stay(unigram) -> None:
    text = "hello在北京公司很好"
    item = unigram.encode(text, max_length=64, offsets=True)
    assert "在北京" in names(unigram, item.ids)
    cut = Characters(unigram).cut(text, item)
    assert names(unigram, cut.ids) == ["<s>", "▁", "hello", *"在北京公司很好", "</s>"]
    spans = [text[start:end] for start, end in cut.offsets.tolist()]
    assert spans[2:-1] == ["hello", *"在北京公司很好"]
    assert len(cut.type_ids) == len(cut.ids) == len(cut.offsets)


def test_only_pieces_around_given_characters_are_cut(unigram) -> None:
    text = "在北京公司"
    item = unigram.encode(text, max_length=64, offsets=True)
    cut = Characters(unigram).cut(text, item, around=[3])
    assert names(unigram, cut.ids) == ["<s>", "▁", "在北京", "公", "司", "</s>"]


def test_characters_the_vocabulary_lacks_are_unknown(unigram) -> None:
    vocabulary = dict(unigram.backend.get_vocab())
    assert "龘" not in vocabulary
    item = unigram.encode("龘龘", max_length=64, offsets=True)
    cut = Characters(unigram).cut("龘龘", item)
    assert names(unigram, cut.ids)[-3:-1] == ["<unk>", "<unk>"]


def test_a_vocabulary_of_characters_is_left_alone(tiny_backbone) -> None:
    characters = Characters(tiny_backbone.tokenizer)
    item = tiny_backbone.tokenizer.encode("今天很好", max_length=64, offsets=True)
    assert not characters.needed
    assert characters.cut("今天很好", item) is item


def test_entities_inside_pieces_can_be_tagged(unigram) -> None:
    from easynlp.tasks.sequence_labeling import Config, SequenceLabeling

    example = {"text": "在北京公司", "entities": [{"start": 1, "end": 3, "type": "LOC"}]}
    task = SequenceLabeling.prepare(Config(), unigram, [example])
    features = task.encode(example)
    assert features["misaligned"] == 0
    batch = task.collate([features])
    logits = np.zeros((*batch["owned"].shape, len(task.tags)))
    np.put_along_axis(logits, batch["target"][..., None], 9.0, -1)
    (found,) = task.decode(logits, batch, [example])
    assert [(e["start"], e["end"], e["type"]) for e in found["entities"]] == [(1, 3, "LOC")]
