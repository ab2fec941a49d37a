"""A masked language model puts other words into holes."""

import pytest
import torch

from easynlp.distillation.fill_words import WordFiller
from easynlp.errors import ModelError
from tests.conftest import REVIEWS, without_mask_head

TEXTS = [text for text, _ in REVIEWS]


def test_only_the_holes_change_and_each_draw_is_its_seeds(tiny_folder):
    fill = WordFiller(str(tiny_folder))
    holes = [[(0, 2)], [(2, 4), (8, 10)], *[[(0, 1)]] * 6]
    first = fill(TEXTS, holes, range(8))
    for text, made, cuts in zip(TEXTS, first, holes, strict=True):
        inside = {i for start, end in cuts for i in range(start, end)}
        assert len(made) == len(text)
        for i, (a, b) in enumerate(zip(text, made, strict=True)):
            assert (a != b) == (i in inside)
    assert fill(TEXTS, holes, range(8)) == first
    assert fill(TEXTS[::-1], holes[::-1], range(7, -1, -1)) == first[::-1]
    assert fill(TEXTS, holes, range(8, 16)) != first


def test_special_tokens_and_pieces_are_never_drawn(tiny_folder):
    """EasyNLP's copies held [unused24] and lost their spaces."""
    fill = WordFiller(str(tiny_folder), top=20)
    for seed in range(20):
        (made,) = fill(["A  房间 good"], [[(3, 5)]], [seed])
        assert made.startswith("A  ")
        assert made.endswith(" good")
        assert made[3:5].isalnum()


def test_dropout_is_off(tiny_folder):
    """EasyNLP never switched its model to evaluation."""
    assert not any(module.training for module in WordFiller(str(tiny_folder)).model.modules())


def test_texts_longer_than_the_model_reads_keep_their_end(tiny_folder):
    text = "房间很干净" * 10
    fill = WordFiller(str(tiny_folder), max_length=12)
    (made,) = fill([text], [[(45, 47)]], [0])
    assert made == text


def test_a_model_without_a_masked_head_is_refused(tmp_path, tiny_folder):
    torch.manual_seed(0)
    folder = without_mask_head(tiny_folder, tmp_path)
    with pytest.raises(ModelError, match="no trained masked-LM head"):
        WordFiller(str(folder))
