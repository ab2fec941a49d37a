"""Architectures from configuration alone: train, save for stock transformers, resume exactly."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoTokenizer

import easynlp
from easynlp.errors import ConfigError, DataError, Interrupted
from easynlp.models.heads import core
from easynlp.pretraining import run as pretraining
from easynlp.pretraining.architectures import ARCHITECTURES, Shape, make_config, positions_of
from easynlp.training import session

TEXT = (
    "今天天气很好，我们去公园散步。\n孩子们在草地上放风筝。\n\n"
    "这家酒店的早餐很不错，房间也很干净。\n服务员态度热情，下次还会再来。\n\n"
) * 30
STOCK = {"mlm": "AutoModelForMaskedLM", "electra": "AutoModelForPreTraining",
         "t5": "AutoModelForSeq2SeqLM", "causal": "AutoModelForCausalLM"}  # fmt: skip
CASES = {
    **{name: {"architecture": name} for name in ARCHITECTURES},
    "albert of two layers repeated": {"architecture": "albert", "layers": 4, "inner_group_num": 2},
    "electra by masked words": {"architecture": "electra", "objective": "mlm"},
    "bert, order of segments": {"method": ["sop"]},
    "albert, next segment": {"architecture": "albert", "method": ["nsp"]},
    "bert, similar words": {"masking": "similar"},
}


@pytest.fixture
def go(tmp_path: Path):
    """Pre-train a minute model; keyword arguments override."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text(TEXT, encoding="utf-8")

    def pretrain(**options):
        given = {
            "corpus": [str(tmp_path / "corpus")], "output": str(tmp_path / "run"),
            "vocab_size": 200, "layers": 2, "hidden_size": 32, "heads": 2, "ffn": 64,
            "max_positions": 64, "row_length": 32, "batch_size": 4, "steps": 4, "lr": 3e-3,
            "precision": "fp32", "save_every": 2, "heldout_rows": 4, "dropout": 0.1,
        }  # fmt: skip
        return easynlp.pretrain(**{**given, **options})

    return pretrain


def outputs(model, ids):
    """Return a transformers model's logits on ids."""
    extra = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model.eval()(input_ids=ids, **extra).logits


@pytest.mark.parametrize("options", [
    pytest.param(options, id=name, marks=[pytest.mark.slow] * (" " in name))  # variants are slow
    for name, options in CASES.items()
])  # fmt: skip
def test_trains_resumes_exactly_and_leaves_what_stock_transformers_loads(
    go, tmp_path, monkeypatch, options
) -> None:
    trained = []
    real_save = pretraining.save_model_folder
    monkeypatch.setattr(
        pretraining, "save_model_folder",
        lambda model, *rest: (trained.append(core(model)), real_save(model, *rest)),
    )  # fmt: skip
    folder = go(output=str(tmp_path / "straight"), **options)
    straight = (folder / "model.safetensors").read_bytes()
    lines = (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 4
    assert json.loads(lines[-1])["peak_share"] > 0

    name = options.get("architecture", "bert")
    stock = STOCK[options.get("objective", ARCHITECTURES[name].objective)]
    loaded = getattr(transformers, stock).from_pretrained(folder)
    assert loaded.config.model_type == name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer("今天天气很好")["input_ids"]])
    rounded = trained[-1].half().float()  # as the weights are stored
    torch.testing.assert_close(outputs(loaded, ids), outputs(rounded, ids), rtol=0, atol=1e-5)

    real_report = session.Reporter.report

    def report(self, event):
        real_report(self, event)
        if event.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(session.Reporter, "report", report)
    with pytest.raises(Interrupted, match="stopped at step 3 of 4"):
        go(**options)
    monkeypatch.setattr(session.Reporter, "report", real_report)
    assert (go(resume=True, **options) / "model.safetensors").read_bytes() == straight


def test_albert_repeats_a_stack_of_two_layers(tiny_backbone) -> None:
    shape = Shape(6, 32, 2, 64, 40, inner_group_num=2, embedding_size=16)
    config = make_config("albert", shape, tiny_backbone.tokenizer)
    assert (config.num_hidden_layers, config.num_hidden_groups, config.inner_group_num) == (3, 1, 2)
    model = transformers.AlbertModel(config).eval()
    first, second = model.encoder.albert_layer_groups[0].albert_layers
    assert first.ffn.weight.data_ptr() != second.ffn.weight.data_ptr()
    single = make_config("albert", Shape(6, 32, 2, 64, 40, embedding_size=16),
                         tiny_backbone.tokenizer)  # fmt: skip
    layer = sum(p.numel() for p in first.parameters())
    grown = model.num_parameters() - transformers.AlbertModel(single).num_parameters()
    assert grown == layer
    ran = []
    for name, module in (("a", first), ("b", second)):
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    ids = torch.tensor([[2, 7, 8, 9, 3]])
    with torch.no_grad():
        found = model(input_ids=ids).last_hidden_state
        assert "".join(ran) == "ababab"
        hidden = model.encoder.embedding_hidden_mapping_in(model.embeddings(ids))
        for _ in range(3):
            for module in (first, second):
                output = module(hidden, None)
                hidden = output[0] if isinstance(output, tuple) else output
    torch.testing.assert_close(hidden, found, rtol=0, atol=1e-6)


def test_a_json_file_goes_over_the_shape(tiny_backbone, tmp_path) -> None:
    path = tmp_path / "more.json"
    path.write_text('{"hidden_act": "relu", "num_hidden_layers": 3}', encoding="utf-8")
    shape = Shape(2, 32, 2, 64, 40)
    config = make_config("roberta", shape, tiny_backbone.tokenizer, path)
    assert (config.hidden_act, config.num_hidden_layers) == ("relu", 3)
    assert config.vocab_size == tiny_backbone.tokenizer.vocab_size
    assert config.max_position_embeddings == 41  # its positions begin behind the padding's id
    assert positions_of(config) == 40
    for text, message in (
        ('{"hiden_act": "relu"}', 'no field "hiden_act".*Did you mean "hidden_act"'),
        ('{"model_type": "bert"}', "is not of --architecture roberta"),
        ("[]", "holds no object"),
        ("{", "cannot be read"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            make_config("roberta", shape, tiny_backbone.tokenizer, path)


def test_what_does_not_fit_is_told(go, tiny_backbone, tmp_path) -> None:
    for options, message in (
        ({"architecture": "bert", "objective": "t5"}, "--objective t5 trains t5, and not bert"),
        (
            {"architecture": "gpt2", "objective": "mlm"},
            "mlm trains bert, ngram_bert",
        ),
        (
            {"architecture": "albert", "layers": 3, "inner_group_num": 2},
            "not a multiple of --inner",
        ),
        ({"cut_vocab": 100}, "--cut-vocab cuts the vocabulary of --init"),
        ({"similar_words": "x.tsv"}, "--similar-words is read by --masking similar"),
        ({"masking": "similar", "architecture": "electra"}, "for --objective mlm to correct"),
        ({"masking": "char", "objective": "causal"}, "--masking says what --objective mlm hides"),
        ({"init": "tiny-zh"}, "takes the checkpoint.s shape: drop --ffn"),
        ({"method": ["bag_of_words", "r_drop:alpha=-1"]}, "alpha is -1"),
        ({"init": "tiny-zh", "architecture": "albert"}, r"is \w*bert, not --architecture albert"),
        ({"architecture": "roberta", "method": ["sop"]}, "needs two token types"),
        ({"architecture": "electra", "objective": "mlm", "method": ["sop"]}, "with a pooler"),
    ):
        with pytest.raises(ConfigError, match=message):
            go(output=str(tmp_path / "never"), **options)
        assert not (tmp_path / "never").exists()  # before anything is made
    vocabulary = tmp_path / "vocab.txt"
    for written, message in (
        (b"[PAD]\n[UNK]\n", "txt: no vocabulary: .CLS., .SEP., .MASK. missing"),
        ("[PAD]\n你\n".encode("gb18030"), "txt:2: no vocabulary: byte 0xc4 is not UTF-8"),
    ):
        vocabulary.write_bytes(written)
        with pytest.raises(DataError, match=message):
            go(output=str(tmp_path / "never"), vocab=str(vocabulary))
        assert not (tmp_path / "never").exists()
    with pytest.raises(ConfigError, match='Did you mean "bert"'):
        make_config("brt", Shape(2, 32, 2, 64, 40), tiny_backbone.tokenizer)
