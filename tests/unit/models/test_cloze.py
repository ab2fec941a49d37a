"""Hidden characters: which are hidden, how guesses are counted, and verdicts on heads."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("rjieba")

from easynlp.cli import main
from easynlp.errors import ModelError
from easynlp.models.backbone import Backbone
from easynlp.models.catalogue_check import check_model, shipped_passages
from easynlp.models.cloze import (
    Filler,
    Passage,
    commonest_share,
    hide_each_word,
    hide_words,
    is_han,
)
from easynlp.text.segment import word_ids

TEXT = "今天天气真好，我在北京大学读书（2021年），房间很干净，下次还来。" * 3


@pytest.mark.parametrize("seed", range(20))
def test_only_whole_words_of_chinese_characters_are_hidden(seed):
    passage = hide_words(TEXT, 0.3, seed)
    words = word_ids(TEXT)
    hidden = set(passage.holes)
    assert hidden
    assert all(is_han(TEXT[hole]) for hole in hidden)
    for word in {int(words[hole]) for hole in hidden}:
        assert set(np.flatnonzero(words == word).tolist()) <= hidden
    assert passage == hide_words(TEXT, 0.3, seed)


def test_the_rate_is_kept_in_the_mean():
    han = sum(map(is_han, TEXT))
    shares = [len(hide_words(TEXT, 0.15, seed).holes) / han for seed in range(400)]
    assert np.mean(shares) == pytest.approx(0.15, abs=0.005)


def test_each_word_is_hidden_once():
    copies = hide_each_word(TEXT)
    holes = [hole for passage in copies for hole in passage.holes]
    assert len(holes) == len(set(holes))
    assert sum(map(is_han, TEXT)) - len(holes) <= 3  # 年 may stand in a word with digits


def test_a_guess_is_that_of_transformers(tiny_folder):
    """The same argmax over single Chinese characters, text by text, without padding."""
    backbone = Backbone.load(str(tiny_folder))
    filler = Filler(backbone)
    passages = [hide_words(text, 0.4, 1) for text in ("今天天气真好", "房间很干净，下次还来")]
    found = filler.fill(passages)
    model = backbone.with_head("AutoModelForMaskedLM").eval()
    vocabulary = backbone.tokenizer.backend.get_vocab()
    han = [i for token, i in vocabulary.items() if len(token) == 1 and is_han(token)]
    expected = []
    for passage in passages:
        ids = backbone.tokenizer.encode(passage.text, max_length=64).ids
        masked = ids.copy()
        places = [hole + 1 for hole in passage.holes]  # behind [CLS], a token a character
        masked[places] = backbone.tokenizer.mask_id
        with torch.inference_mode():
            logits = model(torch.from_numpy(masked.astype(np.int64))[None]).logits[0]
        for place in places:
            best = max(han, key=lambda token: float(logits[place, token]))
            expected.append(best == ids[place])
    assert found.tolist() == expected


def test_batching_and_order_make_no_difference(tiny_folder):
    filler = Filler(Backbone.load(str(tiny_folder)))
    passages = [hide_words(TEXT[i : i + 20 + i], 0.3, i) for i in range(6)]
    passages = [passage for passage in passages if passage.holes]
    together = filler.context_gain(passages, batch_size=4)
    np.testing.assert_allclose(together, filler.context_gain(passages, batch_size=1), atol=1e-4)
    assert filler.fill(passages, batch_size=4).tolist() == filler.fill(
        passages, batch_size=1
    ).tolist()  # fmt: skip


def test_a_character_that_is_no_token_counts_as_wrong(tiny_folder):
    filler = Filler(Backbone.load(str(tiny_folder)))
    assert filler.fill([Passage("龘龘很好", (0, 1))]).tolist() == [False, False]


def test_a_passage_too_long_for_the_model_is_refused(tiny_folder):
    with pytest.raises(ModelError, match="take shorter passages"):
        Filler(Backbone.load(str(tiny_folder))).fill([Passage("好" * 200, (3,))])


def test_the_commonest_hidden_character():
    assert commonest_share([Passage("的好的", (0, 1)), Passage("的", (0,))]) == pytest.approx(2 / 3)


def test_context_is_worth_something_to_a_head_that_knows_it(tiny_folder, tmp_path):
    """A head taught eight sentences by heart is told from the same one before it was taught."""
    folder = tmp_path / "taught"
    shutil.copytree(tiny_folder, folder)
    texts = ["房间很干净", "早餐丰富", "今天天气真好", "老板热情", "位置方便", "下次还来",
             "景色优美", "服务态度太差了"]  # fmt: skip
    passages = [copy for text in texts for copy in hide_each_word(text)]
    before = Filler(Backbone.load(str(folder)))
    assert before.context_gain(passages).mean() < 0.05
    backbone = Backbone.load(str(folder))
    model = backbone.with_dropout(0.0).with_head("AutoModelForMaskedLM")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = [backbone.tokenizer.encode(p.text, max_length=16).ids.astype(np.int64) for p in passages]
    for _ in range(40):
        for passage, ids in zip(passages, rows, strict=True):
            places = [hole + 1 for hole in passage.holes]
            masked = ids.copy()
            masked[places] = backbone.tokenizer.mask_id
            logits = model(torch.from_numpy(masked)[None]).logits[0, places]
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(ids[places])).backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(folder)
    after = Filler(Backbone.load(str(folder)))
    assert after.context_gain(passages).mean() > 1
    assert after.fill(passages).mean() > 0.7


def test_the_shipped_sentences_are_plain():
    passages = shipped_passages()
    texts = {passage.text for passage in passages}
    assert len(texts) == 40
    assert sum(len(passage.holes) for passage in passages) > 600
    assert commonest_share(passages) < 0.05


def test_check_says_what_is_missing(tiny_folder, tmp_path, capsys):
    facts = check_model(str(tiny_folder))
    assert (facts["layers"], facts["width"], facts["architecture"]) == (2, 32, "bert")
    assert facts["tokens"] == "single Chinese characters"
    assert facts["pooler"] == "untrained"
    assert facts["mask_head"]["verdict"] == "unproven"  # in the weights, but never trained
    assert facts["mask_head"]["lacks"] == []
    folder = tmp_path / "headless"
    shutil.copytree(tiny_folder, folder)
    state = load_file(folder / "model.safetensors")
    state = {name: value for name, value in state.items() if not name.startswith("cls.")}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert main(["models", "check", str(folder), "--json"]) == 0
    head = json.loads(capsys.readouterr().out)["mask_head"]
    assert head["verdict"] == "missing"
    assert any("predictions" in name for name in head["lacks"])
    assert main(["models", "check", str(folder)]) == 0
    assert "masked-LM head: missing" in capsys.readouterr().out


def test_check_of_nothing_exits_with_2(tmp_path, capsys):
    assert main(["models", "check", str(tmp_path)]) == 2
    assert "without config.json" in capsys.readouterr().err
    assert main(["models", "check", "no-such-model"]) == 2
