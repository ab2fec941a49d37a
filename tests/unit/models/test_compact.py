"""Weights as int8 rows: how far they round, who reads them, and the way back."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM

from easynlp.cli import main
from easynlp.errors import ModelError
from easynlp.models.backbone import Backbone
from easynlp.models.compact import (
    COMPACT_FILE,
    COMPACT_KEY,
    quantize_rows,
    read_compact,
    save_compact,
    stored_state,
    unpack,
)


@pytest.fixture
def compact(tiny_folder, tmp_path):
    """The tiny model with all its matrices in int8 rows."""
    save_compact(tiny_folder, tmp_path / "compact")
    return tmp_path / "compact"


@pytest.mark.parametrize("seed", range(5))
def test_no_value_moves_by_more_than_half_a_step(seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(40, 33, generator=generator) * 10.0 ** torch.arange(-20, 20).unsqueeze(1)
    rows[7] = 0
    whole, scale = quantize_rows(rows)
    back = whole.float() * scale[:, None]
    assert whole.dtype == torch.int8
    assert int(whole.min()) >= -127
    # The largest of a row is kept; others move by half a step at most.
    step = rows.abs().amax(1, keepdim=True) / 127
    assert bool(((back - rows).abs() <= step * (0.5 + 1e-4)).all())
    torch.testing.assert_close(back.abs().amax(1), rows.abs().amax(1), rtol=1e-5, atol=0)
    assert bool((back[7] == 0).all())


def test_a_second_round_changes_nothing(compact, tmp_path):
    plain = unpack(compact, tmp_path / "plain")
    save_compact(plain, tmp_path / "again")
    first, second = (load_file(f / COMPACT_FILE) for f in (compact, tmp_path / "again"))
    assert first.keys() == second.keys()
    for name, value in first.items():
        if value.dtype == torch.int8:
            assert torch.equal(value, second[name]), name


def test_the_folder_is_smaller_and_loads_to_fp32(compact, tiny_folder):
    before = (tiny_folder / "model.safetensors").stat().st_size
    assert (compact / COMPACT_FILE).stat().st_size < 0.4 * before
    assert not (compact / "model.safetensors").exists()
    backbone = Backbone.load(str(compact))
    model, gaps = backbone.with_head_and_gaps("AutoModelForMaskedLM")
    assert gaps == []
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    exact = Backbone.load(str(tiny_folder)).with_head("AutoModelForMaskedLM")
    for (name, one), other in zip(model.named_parameters(), exact.parameters(), strict=True):
        limit = other.abs().max() / 127 if other.ndim == 2 else 1e-3 * other.abs().max()
        assert float((one - other).detach().abs().max()) <= float(limit.detach()), name
    # The tied table is stored once and tied again.
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_every_head_can_be_put_on(compact):
    backbone = Backbone.load(str(compact))
    model, gaps = backbone.with_head_and_gaps("AutoModelForSequenceClassification", num_labels=3)
    assert set(gaps) >= {"classifier.weight", "classifier.bias"}
    assert not [gap for gap in gaps if ".encoder." in gap or "embeddings" in gap]
    assert model.config.num_labels == 3


def test_what_is_trained_from_it_is_plain(compact, tmp_path):
    model = Backbone.load(str(compact)).with_head("AutoModelForMaskedLM")
    model.save_pretrained(tmp_path / "run")
    assert COMPACT_KEY not in json.loads((tmp_path / "run" / "config.json").read_text("utf-8"))
    shutil.copyfile(compact / "tokenizer.json", tmp_path / "run" / "tokenizer.json")
    Backbone.load(str(tmp_path / "run")).with_head("AutoModelForMaskedLM")


def test_random_weights_of_a_compact_shape_are_saved_as_plain_ones(compact, tmp_path):
    model = Backbone.load(f"random:{compact}").with_head("AutoModelForMaskedLM")
    assert model.config.hidden_size == 32
    model.save_pretrained(tmp_path / "run")
    shutil.copyfile(compact / "tokenizer.json", tmp_path / "run" / "tokenizer.json")
    again = Backbone.load(str(tmp_path / "run")).with_head("AutoModelForMaskedLM")
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_transformers_refuses_it_and_reads_what_unpack_writes(compact, tmp_path):
    with pytest.raises(OSError, match="no file named"):
        AutoModelForMaskedLM.from_pretrained(compact)
    assert main(["models", "unpack", str(compact), str(tmp_path / "plain")]) == 0
    stock = AutoModelForMaskedLM.from_pretrained(tmp_path / "plain", dtype=torch.float32)
    ours = Backbone.load(str(compact)).with_head("AutoModelForMaskedLM")
    for name, value in ours.state_dict().items():
        assert torch.equal(value, stock.state_dict()[name]), name
    ids = Backbone.load(str(tmp_path / "plain")).tokenizer.encode("房间很干净", max_length=16).ids
    expected = Backbone.load(str(compact)).tokenizer.encode("房间很干净", max_length=16).ids
    np.testing.assert_array_equal(ids, expected)


def test_unpack_keeps_what_no_head_uses(tiny_folder, tmp_path):
    folder = tmp_path / "pooled"
    shutil.copytree(tiny_folder, folder)
    state = {**load_file(folder / "model.safetensors"), "bert.pooler.dense.bias": torch.ones(32)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    save_compact(folder, tmp_path / "compact")
    unpack(tmp_path / "compact", tmp_path / "plain")
    assert stored_state(tmp_path / "plain").keys() == state.keys()


@pytest.mark.parametrize("said", [True, False])
def test_the_configuration_decides_between_two_kinds_of_weights(
    compact, tiny_folder, tmp_path, said
):
    if not said:
        shutil.copyfile(tiny_folder / "config.json", compact / "config.json")
    other = {"left.over": torch.ones(2)}
    save_file(other, compact / "model.safetensors", metadata={"format": "pt"})
    wanted = read_compact(compact) if said else other
    state = stored_state(compact)
    assert state.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in state.items())


def test_tensors_that_are_no_floats_come_back_as_they_were(tiny_folder, tmp_path):
    folder = tmp_path / "buffers"
    shutil.copytree(tiny_folder, folder)
    buffers = {
        "bert.embeddings.position_ids": torch.arange(512)[None],
        "steps": torch.tensor([70_001]),
        "seen": torch.tensor([True, False]),
    }
    state = {**load_file(folder / "model.safetensors"), **buffers}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    save_compact(folder, tmp_path / "compact")
    back = read_compact(tmp_path / "compact")
    for name, value in buffers.items():
        assert back[name].dtype == value.dtype, name
        assert torch.equal(back[name], value), name


def test_only_embeddings(tiny_folder, tmp_path, capsys):
    target = tmp_path / "small"
    assert main(["models", "pack", str(tiny_folder), str(target), "--matrices", "embeddings"]) == 0
    assert "in int8; weights" in capsys.readouterr().err
    kinds = {n: v.dtype for n, v in load_file(target / COMPACT_FILE).items() if v.ndim == 2}
    assert {n for n, kind in kinds.items() if kind == torch.int8} == {
        n for n in kinds if "embeddings" in n
    }
    assert torch.float16 in kinds.values()


def test_a_folder_that_contradicts_itself_is_refused(compact, tmp_path, tiny_folder):
    config = json.loads((compact / "config.json").read_text("utf-8"))
    (compact / "config.json").write_text(json.dumps({**config, COMPACT_KEY: "int4"}))
    with pytest.raises(ModelError, match='is "int4"; known is "int8-rows"'):
        Backbone.load(str(compact))
    del config[COMPACT_KEY]
    (compact / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"its config\.json lacks"):
        Backbone.load(str(compact))
    plain = tmp_path / "plain"
    shutil.copytree(tiny_folder, plain)
    (plain / "config.json").write_text(json.dumps({**config, COMPACT_KEY: "int8-rows"}))
    with pytest.raises(ModelError, match="which is not there"):
        Backbone.load(str(plain))


def test_a_scale_that_is_missing_is_noticed(compact):
    state = load_file(compact / COMPACT_FILE)
    name = next(name for name in state if name.endswith(".scale"))
    del state[name]
    save_file(state, compact / COMPACT_FILE)
    with pytest.raises(ModelError, match="has no scale"):
        read_compact(compact)


def test_a_taken_folder_is_left_alone(compact, tiny_folder):
    with pytest.raises(ModelError, match="is there already"):
        save_compact(tiny_folder, compact)
    with pytest.raises(ModelError, match="is there already"):
        unpack(compact, compact)
