"""Students of some of a checkpoint's layers."""

from __future__ import annotations

import pytest
import torch
from transformers import AlbertConfig, BertConfig, BertForMaskedLM, BertModel

import easynlp
from easynlp.errors import ConfigError
from easynlp.models.backbone import Backbone
from easynlp.models.heads import add_pooler, start_pooler
from easynlp.pretraining.layer_choice import chosen_layers, keep_layers

SHAPE = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


def test_kept_layers_are_those_of_the_checkpoint_in_order() -> None:
    torch.manual_seed(0)
    large = BertForMaskedLM(BertConfig(num_hidden_layers=4, **SHAPE)).eval()
    small = keep_layers(large, (1, 3))
    assert small.config.num_hidden_layers == 2
    assert large.config.num_hidden_layers == 4
    hidden = torch.randn(2, 5, 16)
    for new, old in enumerate((1, 3)):
        given = small.bert.encoder.layer[new](hidden)
        wanted = large.bert.encoder.layer[old](hidden)
        torch.testing.assert_close(given, wanted)
    assert small.get_output_embeddings().weight is small.get_input_embeddings().weight
    ids = torch.arange(10)[None]
    whole = keep_layers(large, (0, 1, 2, 3))
    torch.testing.assert_close(whole(ids).logits, large(ids).logits)


@pytest.mark.parametrize("spec", ["", "0,x", "3,1", "0,0", "1,1,2", "0,,1", "-1", "0,4"])
def test_layers_that_are_none_are_refused(spec) -> None:
    with pytest.raises(ConfigError, match="0 to 3"):
        chosen_layers(spec, BertConfig(num_hidden_layers=4))


def test_layers_need_a_checkpoint_with_layers_of_its_own(tmp_path) -> None:
    with pytest.raises(ConfigError, match="not on albert"):
        chosen_layers("0", AlbertConfig(num_hidden_layers=4))
    with pytest.raises(ConfigError, match="of a new model say --layers"):
        easynlp.pretrain(corpus=[str(tmp_path)], output=str(tmp_path / "run"), keep_layers="0")


def test_a_vocabulary_without_room_is_told_before_a_folder_is_made(tiny_folder, tmp_path) -> None:
    (tmp_path / "a.txt").write_text("房间很干净", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--cut-vocab 5 .*valid: 6 or more, or 0 for all"):
        easynlp.pretrain(
            corpus=[str(tmp_path / "a.txt")], output=str(tmp_path / "run"), init=str(tiny_folder),
            cut_vocab=5, row_length=32,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_run_starts_from_the_kept_layers(tiny_folder, tmp_path) -> None:
    corpus = tmp_path / "a.txt"
    corpus.write_text("\n\n".join(["房间很干净，下次还来", "今天天气真好"] * 60), encoding="utf-8")
    folder = easynlp.pretrain(
        corpus=[str(corpus)], output=str(tmp_path / "run"), init=str(tiny_folder), keep_layers="1",
        row_length=32, batch_size=8, lr=1e-9, weight_decay=0.0, precision="fp32", heldout_rows=4,
        steps=2,
    )  # fmt: skip
    found, first = Backbone.load(str(folder)), Backbone.load(str(tiny_folder))
    assert found.config.num_hidden_layers == 1 < first.config.num_hidden_layers
    one, two = (b.with_head("AutoModel") for b in (first, found))
    torch.testing.assert_close(
        two.encoder.layer[0].output.dense.weight, one.encoder.layer[1].output.dense.weight,
        rtol=0, atol=1e-4,
    )  # fmt: skip


def test_an_added_pooler_is_the_checkpoints_or_the_identity(tmp_path) -> None:
    torch.manual_seed(0)
    with_one = BertModel(BertConfig(num_hidden_layers=1, **SHAPE))
    without = BertModel(BertConfig(num_hidden_layers=1, **SHAPE), add_pooling_layer=False)
    for name, model in (("with", with_one), ("without", without)):
        model.save_pretrained(tmp_path / name)
    for name, wanted in (("with", with_one.pooler.dense.weight), ("without", torch.eye(16) / 2)):
        model = BertModel(BertConfig(num_hidden_layers=1, **SHAPE), add_pooling_layer=False)
        assert add_pooler(model)
        start_pooler(model, tmp_path / name)
        torch.testing.assert_close(model.pooler.dense.weight, wanted)
