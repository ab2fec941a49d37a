"""Where a model's name leads: built in, folder, Hugging Face cache, ModelScope."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from easynlp.errors import MissingExtra, ModelError
from easynlp.models.backbone import BUILT_IN, Backbone


@pytest.fixture
def hub(tmp_path, monkeypatch, tiny_folder: Path):
    """A Hugging Face cache with org/tiny in it, and no network."""
    from huggingface_hub import constants

    home = tmp_path / "hub" / "models--org--tiny"
    commit = "0" * 40
    shutil.copytree(tiny_folder, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return home / "snapshots" / commit


def test_a_hub_id_is_read_from_the_cache_offline(hub) -> None:
    backbone = Backbone.load("org/tiny")
    assert backbone.config.model_type == "bert"
    assert backbone.folder == hub
    with pytest.raises(ModelError, match=r"org/other.*local Hugging Face cache.*hf down"):
        Backbone.load("org/other")


def test_a_hub_repository_of_pickles_is_refused(hub) -> None:
    (hub / "model.safetensors").rename(hub / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickled checkpoint"):
        Backbone.load("org/tiny")


def test_a_modelscope_id_asks_its_own_hub(monkeypatch, tiny_folder) -> None:
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    with pytest.raises(MissingExtra, match=r"easynlp\[modelscope\]"):
        Backbone.load("modelscope:org/tiny")
    asked = []

    class HubApi:
        def download_repo(self, name, kind, *, allow_patterns, local_files_only):
            asked.append((name, kind, local_files_only))
            return tiny_folder

    monkeypatch.setitem(sys.modules, "modelscope_hub", SimpleNamespace(HubApi=HubApi))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert Backbone.load("modelscope:org/tiny").config.hidden_size == 32
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Backbone.load("modelscope:org/tiny")
    assert asked == [("org/tiny", "model", False), ("org/tiny", "model", True)]


def test_random_has_the_shape_and_not_the_weights(tiny_folder) -> None:
    real, random = (
        Backbone.load(name).with_head("AutoModelForSequenceClassification", num_labels=2)
        for name in (str(tiny_folder), f"random:{tiny_folder}")
    )
    one, other = (m.bert.embeddings.word_embeddings.weight for m in (real, random))
    assert one.shape == other.shape
    assert not torch.equal(one, other)


def test_a_folder_with_only_a_vocabulary_works(tiny_folder, tmp_path) -> None:
    old = tmp_path / "old"
    shutil.copytree(tiny_folder, old)
    (old / "tokenizer.json").unlink()
    (old / "tokenizer_config.json").unlink()
    ids = [
        Backbone.load(str(folder)).tokenizer.encode("房间很干净 ok", max_length=32).ids.tolist()
        for folder in (tiny_folder, old)
    ]
    assert ids[0] == ids[1]


def test_dropout_is_set_everywhere(tiny_backbone) -> None:
    model = tiny_backbone.with_dropout(0.0).with_head(
        "AutoModelForSequenceClassification", num_labels=2
    )
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}


def test_no_config_and_no_folder(tmp_path) -> None:
    with pytest.raises(ModelError, match="name is empty"):
        Backbone.load("")
    with pytest.raises(ModelError, match=r"without config\.json"):
        Backbone.load(str(tmp_path))
    with pytest.raises(ModelError, match=r'no model "tiny_zh".*Did you mean "tiny-zh"'):
        Backbone.load("tiny_zh")


def test_the_built_in_model_is_small_and_whole() -> None:
    folder = BUILT_IN / "tiny-zh"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 12_000_000
    backbone = Backbone.load("tiny-zh")
    heads = backbone.config.hidden_size // backbone.config.num_attention_heads
    assert heads >= 32
    model = backbone.with_head("AutoModelForMaskedLM")
    assert next(model.parameters()).dtype == torch.float32
    assert backbone.tokenizer.vocab_size == backbone.config.vocab_size
