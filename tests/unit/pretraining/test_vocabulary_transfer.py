"""Continuing from a checkpoint: with its vocabulary, with another, or with less of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors

import easynlp
from easynlp.errors import ConfigError, ModelError
from easynlp.models.backbone import Backbone
from easynlp.models.ngram_bert import set_token_codes, token_code
from easynlp.pretraining.architectures import Shape, make_config
from easynlp.pretraining.vocabulary import SPECIAL, save_vocabulary
from easynlp.pretraining.vocabulary_transfer import (
    count_tokens,
    cut_vocabulary,
    sources,
    transfer_vocabulary,
)
from easynlp.text.tokenizer import Tokenizer

TEXTS = ["房间很干净，下次还来", "早餐丰富，位置方便", "今天天气真好"]
NEW = [
    *SPECIAL,
    "好",
    "干净",
    "abc",
    "##b",
    "##bc",
    *"房间很，下次还来早餐丰富位置方便今天气真",
    "龘",
]


def other(tmp_path: Path, tokens=NEW) -> Tokenizer:
    folder = tmp_path / "other"
    folder.mkdir(parents=True)
    save_vocabulary(list(tokens), folder, max_length=64)
    return Tokenizer.load(folder)


def model_of(tiny_backbone, name: str):
    """Return a minute masked-language model whose output bias is not zero."""
    torch.manual_seed(1)
    config = make_config(name, Shape(2, 32, 2, 64, 64), tiny_backbone.tokenizer)
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    vocabulary = tiny_backbone.tokenizer.vocab_size
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.shape == (vocabulary,):
                parameter.normal_()
    return model


def logits(model, tokenizer, text: str):
    ids = torch.tensor([tokenizer.encode(text, max_length=64).ids.tolist()])
    with torch.no_grad():
        return model(input_ids=ids).logits[0]


@pytest.mark.parametrize("name", ["bert", "ngram_bert", "roberta", "albert", "electra"])
@pytest.mark.parametrize("how", ["swapped", "cut"])
def test_texts_of_shared_tokens_get_the_same_answers(tiny_backbone, tmp_path, name, how) -> None:
    old = tiny_backbone.tokenizer
    model = model_of(tiny_backbone, name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    if how == "cut":
        new = cut_vocabulary(old, count_tokens(TEXTS, old), 26)
        assert new.vocab_size == 26
        assert cut_vocabulary(old, count_tokens(TEXTS, old), 99).vocab_size == 28  # all in use
    else:
        new = other(tmp_path)
    moved = transfer_vocabulary(model, old, new)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert moved.config.vocab_size == new.vocab_size
    was, now = old.backend.get_vocab(), new.backend.get_vocab()
    both = sorted(set(was) & set(now))
    checked = 0
    for text in TEXTS:
        theirs, ours = (
            [t.backend.id_to_token(int(i)) for i in t.encode(text, max_length=64).ids]
            for t in (old, new)
        )
        if theirs != ours:
            continue
        one = logits(model, old, text)[:, [was[t] for t in both]]
        two = logits(moved, new, text)[:, [now[t] for t in both]]
        torch.testing.assert_close(two, one, rtol=0, atol=1e-5)  # output layer and its bias too
        checked += 1
    assert checked >= 2


def test_new_tokens_start_as_the_mean_of_their_old_pieces(tiny_backbone, tmp_path) -> None:
    old, new = tiny_backbone.tokenizer, other(tmp_path)
    model = model_of(tiny_backbone, "bert")
    moved = transfer_vocabulary(model, old, new)
    was, now = old.backend.get_vocab(), new.backend.get_vocab()
    one, two = (m.get_input_embeddings().weight for m in (model, moved))
    bias, new_bias = (m.cls.predictions.decoder.bias for m in (model, moved))
    for token, pieces in {
        "好": ["好"], "干净": ["干", "净"], "abc": ["a", "##b", "##c"], "##b": ["##b"],
        "##bc": ["##b", "##c"], "[MASK]": ["[MASK]"],
    }.items():  # fmt: skip
        old_rows = [was[p] for p in pieces]
        torch.testing.assert_close(two[now[token]], one[old_rows].mean(0), rtol=0, atol=1e-6)
        torch.testing.assert_close(new_bias[now[token]], bias[old_rows].mean(), rtol=0, atol=1e-6)
    assert sources(old, new)[now["龘"]] == []
    torch.testing.assert_close(two[now["龘"]], one.mean(0))
    assert moved.get_output_embeddings().weight.data_ptr() == two.data_ptr()  # still tied


def test_special_tokens_are_matched_by_purpose_and_their_ids_follow(tiny_backbone, tmp_path):
    backend = Backend(models.WordLevel({"好": 0, "<s>": 1, "</s>": 2, "<pad>": 3, "<unk>": 4,
                                        "<mask>": 5}, unk_token="<unk>"))  # fmt: skip
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    new = Tokenizer(backend)
    model = model_of(tiny_backbone, "bert")
    moved = transfer_vocabulary(model, tiny_backbone.tokenizer, new)
    assert moved.config.pad_token_id == 3
    one, two = (m.get_input_embeddings().weight for m in (model, moved))
    torch.testing.assert_close(two[1], one[tiny_backbone.tokenizer.id_of("[CLS]")])
    torch.testing.assert_close(two[5], one[tiny_backbone.tokenizer.mask_id])
    with pytest.raises(ModelError, match="counts positions from the padding"):
        transfer_vocabulary(model_of(tiny_backbone, "roberta"), tiny_backbone.tokenizer, new)


def test_a_unigram_vocabulary_is_cut_and_byte_pairs_are_not() -> None:
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0),
              *((c, -4.0 - i) for i, c in enumerate("天气很好坏")), ("<mask>", 0.0)]  # fmt: skip
    backend = Backend(models.Unigram(pieces, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    old = Tokenizer(backend)
    new = cut_vocabulary(old, count_tokens(["天气很好", "天气"], old), 9)
    assert new.vocab_size == 9
    text = "天气"
    theirs, ours = (
        [t.backend.id_to_token(int(i)) for i in t.encode(text, max_length=9).ids]
        for t in (old, new)
    )
    assert theirs == ours == ["<s>", "▁", "天", "气", "</s>"]
    assert new.encode("坏", max_length=9).ids.tolist()[2] == new.id_of("<unk>")
    unknown = sources(new, old)[old.id_of("坏")]  # to the cut one it is a text, not a token
    assert unknown == [new.id_of("▁")]
    with pytest.raises(ConfigError, match="no room beside 5 special tokens"):
        cut_vocabulary(old, Counter(), 5)
    with pytest.raises(ConfigError, match="BPE vocabulary cannot be cut"):
        cut_vocabulary(Tokenizer(Backend(models.BPE({"[PAD]": 0}, []))), Counter(), 3)


@pytest.mark.parametrize("how", ["whole", "cut", "swapped"])
def test_pretraining_goes_on_from_a_checkpoint(tiny_folder, tmp_path, how) -> None:
    corpus = tmp_path / "a.txt"
    corpus.write_text("\n\n".join(TEXTS * 60), encoding="utf-8")
    options = {"cut": {"cut_vocab": 26}, "swapped": {"vocab": str(tmp_path / "vocab.txt")},
               "whole": {}}[how]  # fmt: skip
    (tmp_path / "vocab.txt").write_text("\n".join(NEW) + "\n", encoding="utf-8")
    given = {
        "corpus": [str(corpus)], "output": str(tmp_path / "run"), "init": str(tiny_folder),
        "row_length": 32, "batch_size": 8, "lr": 1e-9, "weight_decay": 0.0, "precision": "fp32",
        "heldout_rows": 4, "save_every": 1,
    }  # fmt: skip
    folder = easynlp.pretrain(steps=2, **given, **options)
    found, first = Backbone.load(str(folder)), Backbone.load(str(tiny_folder))
    assert found.config.num_hidden_layers == first.config.num_hidden_layers
    size = {"cut": 26, "swapped": len(NEW), "whole": first.tokenizer.vocab_size}[how]
    assert found.tokenizer.vocab_size == found.config.vocab_size == size
    text = TEXTS[1] if how == "swapped" else TEXTS[0]
    stock = transformers.AutoTokenizer.from_pretrained(folder)
    assert stock(text)["input_ids"] == found.tokenizer.encode(text, max_length=64).ids.tolist()
    one, two = (
        logits(b.with_head("AutoModelForMaskedLM").eval(), b.tokenizer, text)
        for b in (first, found)
    )
    was, now = (b.tokenizer.backend.get_vocab() for b in (first, found))
    both = sorted(set(was) & set(now))
    torch.testing.assert_close(
        two[:, [now[t] for t in both]], one[:, [was[t] for t in both]], rtol=0, atol=5e-3
    )  # fp16 on disk, and a rate of next to nothing


def test_characters_stay_before_words_when_a_vocabulary_is_cut() -> None:
    words = [f"{a}{b}" for a in "天气" for b in "很好"]
    pieces = [*((name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")), ("▁", -3.0),
              *((piece, -2.0) for piece in words), *((c, -9.0) for c in "天气很好坏")]  # fmt: skip
    backend = Backend(models.Unigram(pieces, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    old = Tokenizer(backend)
    counts = count_tokens([*words * 9, "坏"], old)
    assert not any(counts[old.id_of(c)] for c in "天气很好")  # only ever inside words
    kept = set(cut_vocabulary(old, counts, 5 + 10).backend.get_vocab())
    assert {"天", "气", "很", "好"} - kept == set()
    assert len(kept & {*words, "坏"}) == 5  # half of the room is left to what is used most


def test_a_word_that_goes_is_still_spelled_by_wordpiece(tmp_path) -> None:
    latin = [c for letter in "helo" for c in (letter, f"##{letter}")]
    old = other(tmp_path, [*SPECIAL, "hello", "##llo", *latin, *"房间很干净", "##", "#"])
    counts = count_tokens(["hello"] * 9 + ["房间很干净"] * 20, old)
    new = cut_vocabulary(old, counts, len(SPECIAL) + 18)
    # Characters of words come in though no text has them as tokens; what spells nothing goes.
    assert set(new.backend.get_vocab()) == {
        *SPECIAL, "hello", "h", "##e", "##l", "##o", *"房间很干净"
    }  # fmt: skip
    words = ["hell", "helo", "hel", "he"]
    old = other(tmp_path / "more", [*SPECIAL, "hello", *words, *latin])
    counts = count_tokens([*words * 9, "hello"], old)
    new = cut_vocabulary(old, counts, len(SPECIAL) + 8)
    ids = new.encode("hello", max_length=9).ids[1:-1]
    assert [new.tokens()[i] for i in ids] == ["hell", "##o"]


def test_new_tokens_are_hashed_by_their_names(tiny_backbone, tmp_path) -> None:
    old, new = tiny_backbone.tokenizer, other(tmp_path)
    model = model_of(tiny_backbone, "ngram_bert")
    names = [old.backend.id_to_token(i) for i in range(old.vocab_size)]
    set_token_codes(model, names, range(5))
    codes = transfer_vocabulary(model, old, new).base_model.embeddings.token_codes
    assert codes[new.id_of("干净")] == token_code("干净")  # two old pieces
    assert codes[new.id_of("好")] == token_code("好")
    assert codes[:5].tolist() == [0] * 5
