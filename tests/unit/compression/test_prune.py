"""Importance and pruning: exact where nothing is lost; no width knows of another."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForMaskedLM,
)

from easynlp.compression.importance import Importance, encoder_layers, measure_importance
from easynlp.compression.prune import (
    Cut,
    full_cut,
    make_cut,
    prune_state,
    pruned_config,
    save_pruned,
    spread_layers,
)
from easynlp.data.sampling import EncodedRows
from easynlp.errors import ConfigError, ModelError
from easynlp.models.backbone import Backbone
from easynlp.models.heads import core
from tests.contract.samples import SAMPLES


@pytest.fixture
def tuned(tiny_backbone):
    """A classifier of reviews with random weights of some size, its task and rows."""
    sample = SAMPLES["text_classify"]
    task = sample.make(tiny_backbone)
    torch.manual_seed(1)
    model = task.build(tiny_backbone)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return task, model.eval(), EncodedRows.of(task.encode_batch(sample.rows))


def batch_of(task, source):
    batch = task.collate([source.features(i, 0) for i in range(len(source.rows))])
    return {name: torch.from_numpy(value) for name, value in batch.items()}


def logits(model, batch):
    inputs = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask")}
    with torch.no_grad():
        return model(**inputs).logits


def test_importance_is_the_sum_of_what_each_batch_alone_would_say(tuned):
    task, model, source = tuned
    whole = measure_importance(task, model, source, batch_size=2)
    order = sorted(range(len(source.rows)), key=lambda i: source.lengths[i])
    parts = [
        measure_importance(
            task, model, EncodedRows.of([source.rows[i] for i in order[start : start + 2]])
        )
        for start in range(0, len(order), 2)
    ]
    torch.testing.assert_close(whole.heads, sum(p.heads for p in parts), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(whole.neurons, sum(p.neurons for p in parts), rtol=1e-4, atol=1e-7)
    # Gradients that run on from batch to batch give other numbers: the test can tell.
    assert not torch.allclose(whole.heads, parts[0].heads * len(parts), rtol=1e-2)


def test_importance_of_a_head_is_the_gradient_of_its_mask(tuned):
    task, model, source = tuned
    found = measure_importance(task, model, source, batch_size=len(source.rows))
    mask = torch.ones(2, 2, requires_grad=True)
    handles = [
        layer.attention.output.dense.register_forward_pre_hook(
            lambda module, args, i=i: (
                (args[0].unflatten(-1, (2, 16)) * mask[i][:, None]).flatten(-2),
            )
        )
        for i, layer in enumerate(encoder_layers(model))
    ]
    batch = batch_of(task, source)
    inputs = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask")}
    (task.loss(model(**inputs), batch) / len(source.rows)).backward()
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(found.heads, mask.grad.abs(), rtol=1e-4, atol=1e-7)


def test_importance_leaves_the_model_as_it_was(tuned):
    task, model, source = tuned
    before = copy.deepcopy(model.state_dict())
    model.train()
    measure_importance(task, model, source)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_part_without_influence_has_no_importance(tuned):
    task, model, source = tuned
    layer = encoder_layers(model)[0]
    layer.attention.output.dense.weight.data[:, 16:] = 0  # what head 1 says is not heard
    layer.output.dense.weight.data[:, 5] = 0
    layer.intermediate.dense.weight.data[5] = 0
    layer.intermediate.dense.bias.data[5] = 0
    found = measure_importance(task, model, source)
    assert found.heads[0, 1] == 0 < found.heads[0, 0]
    assert found.neurons[0].argmin() == 5
    cut = make_cut(core(model).config, found, width=0.5)
    assert cut.heads[0] == (0,)
    assert 5 not in cut.neurons[0]


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_rewiring_alone_changes_no_answer(tiny_backbone, tmp_path, pooling):
    sample = SAMPLES["text_classify, mean" if pooling == "mean" else "text_classify"]
    task = sample.make(tiny_backbone)
    model = task.build(tiny_backbone).eval()
    source = EncodedRows.of(task.encode_batch(sample.rows))
    importance = measure_importance(task, model, source)
    cut = make_cut(core(model).config, importance)
    assert cut.neurons != full_cut(core(model).config).neurons  # the order is another
    save_pruned(model, cut, tiny_backbone.tokenizer, tmp_path / "same")
    again = task.build(Backbone.load(str(tmp_path / "same"))).eval()
    batch = batch_of(task, source)
    torch.testing.assert_close(logits(again, batch), logits(model, batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_a_cut_model_says_what_the_whole_one_says_without_those_parts(tuned, tmp_path, width):
    task, model, source = tuned
    config = core(model).config
    cut = make_cut(config, measure_importance(task, model, source), width=width)
    save_pruned(model, cut, task.tokenizer, tmp_path / "small")
    small = task.build(Backbone.load(str(tmp_path / "small"))).eval()
    silenced = copy.deepcopy(model)
    for number, layer in enumerate(encoder_layers(silenced)):
        for head in set(range(2)) - set(cut.heads[number]):
            layer.attention.output.dense.weight.data[:, head * 16 : head * 16 + 16] = 0
        gone = sorted(set(range(64)) - set(cut.neurons[number]))
        layer.output.dense.weight.data[:, gone] = 0
    batch = batch_of(task, source)
    torch.testing.assert_close(logits(small, batch), logits(silenced, batch), rtol=1e-4, atol=1e-5)
    expected = "narrow_bert" if width < 1 else "bert"
    assert core(small).config.model_type == expected
    if width < 1:
        assert sum(p.numel() for p in small.parameters()) < sum(
            p.numel() for p in model.parameters()
        )


def test_widths_do_not_compound_and_are_beginnings_of_each_other(tuned):
    task, model, source = tuned
    config = core(model).config
    importance = measure_importance(task, model, source)
    before = copy.deepcopy(model.state_dict())
    wide = prune_state(model.state_dict(), config, make_cut(config, importance, width=0.75))
    half = prune_state(model.state_dict(), config, make_cut(config, importance, width=0.5))
    alone = prune_state(before, config, make_cut(config, importance, width=0.5))
    name = "bert.encoder.layer.1.intermediate.dense.weight"
    assert wide[name].shape == (64, 32)  # 48 rounds up to a whole block
    assert half[name].shape == (32, 32)
    for key, value in half.items():
        assert torch.equal(value, alone[key])
    assert torch.equal(wide[name][:32], half[name])
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_layers_and_positions_and_stock_transformers_reads_what_has_all_heads(tuned, tmp_path):
    task, model, source = tuned
    config = core(model).config
    importance = measure_importance(task, model, source)
    cut = make_cut(config, importance, depth=1, positions=32)
    save_pruned(model, cut, task.tokenizer, tmp_path / "low")
    stock = BertForSequenceClassification.from_pretrained(tmp_path / "low")
    assert stock.config.num_hidden_layers == 1
    assert stock.config.max_position_embeddings == 32
    assert stock.config.id2label == {0: "好评", 1: "差评"}
    own = task.build(Backbone.load(str(tmp_path / "low"))).eval()
    batch = batch_of(task, source)
    torch.testing.assert_close(logits(stock.eval(), batch), logits(own, batch))


def test_a_narrow_model_is_saved_loaded_and_cut_again(tuned, tmp_path):
    task, model, source = tuned
    config = core(model).config
    importance = measure_importance(task, model, source)
    save_pruned(model, make_cut(config, importance, width=0.5), task.tokenizer, tmp_path / "narrow")
    narrow = task.build(Backbone.load(str(tmp_path / "narrow"))).eval()
    core(narrow).save_pretrained(tmp_path / "again")
    task.tokenizer.save(tmp_path / "again")
    assert (tmp_path / "again" / "narrow_bert.py").is_file()  # for those without easynlp
    again = task.build(Backbone.load(str(tmp_path / "again"))).eval()
    batch = batch_of(task, source)
    assert torch.equal(logits(narrow, batch), logits(again, batch))
    found = measure_importance(task, narrow, source)
    assert found.heads.shape == (2, 1)
    cut = make_cut(core(narrow).config, found, width=1.0, depth=1)
    save_pruned(narrow, cut, task.tokenizer, tmp_path / "third")
    third = task.build(Backbone.load(str(tmp_path / "third")))
    assert core(third).config.kept_heads == 1
    assert core(third).config.num_hidden_layers == 1


def test_other_architectures_keep_their_heads_and_their_ties(tmp_path, tiny_backbone):
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=tiny_backbone.tokenizer.vocab_size, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=64, max_position_embeddings=66, pad_token_id=0,
    )  # fmt: skip
    model = RobertaForMaskedLM(config).eval()
    importance = Importance(torch.rand(2, 2), torch.rand(2, 64))
    cut = make_cut(config, importance, width=0.5, positions=32)
    assert len(cut.heads[0]) == 2
    assert cut.positions == 33  # its first position is the padding's id and one more
    save_pruned(model, cut, tiny_backbone.tokenizer, tmp_path / "roberta")
    small, info = RobertaForMaskedLM.from_pretrained(tmp_path / "roberta", output_loading_info=True)
    assert not info["missing_keys"]
    assert small.config.intermediate_size == 32
    assert torch.equal(
        small.lm_head.decoder.weight, small.roberta.embeddings.word_embeddings.weight
    )


def test_tokens_keep_their_rows(tuned, tmp_path):
    _, model, _ = tuned
    config = core(model).config
    kept = (0, 1, 2, 3, 4, 9, 7)
    cut = Cut(**{**vars(full_cut(config)), "tokens": kept})
    made = prune_state(model.state_dict(), config, cut)
    table = model.bert.embeddings.word_embeddings.weight
    assert torch.equal(made["bert.embeddings.word_embeddings.weight"], table[list(kept)])
    assert pruned_config(config, cut, 0).vocab_size == 7


def test_what_cannot_be_is_said(tuned):
    task, model, source = tuned
    config = core(model).config
    importance = measure_importance(task, model, source)
    with pytest.raises(ConfigError, match="valid: 1 to 2"):
        make_cut(config, importance, depth=3)
    with pytest.raises(ConfigError, match="above 0 up to 1"):
        make_cut(config, importance, width=1.5)
    with pytest.raises(ModelError, match="shaped like BERT"):
        encoder_layers(torch.nn.Linear(2, 2))
    assert [spread_layers(12, n) for n in (2, 6)] == [(0, 11), (0, 2, 4, 7, 9, 11)]


def test_the_stock_configuration_cannot_say_fewer_heads():
    # Why there is a narrow_bert at all: heads of the old size times fewer heads is no hidden size.
    layer = BertForSequenceClassification(
        BertConfig(vocab_size=10, hidden_size=32, num_hidden_layers=1, num_attention_heads=1,
                   intermediate_size=8)
    ).bert.encoder.layer[0]  # fmt: skip
    assert layer.attention.self.query.out_features == 32
