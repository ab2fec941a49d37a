"""The table of models: its facts are of the right kind, its names lead somewhere."""

from __future__ import annotations

import json
import shutil

import pytest

from easynlp.cli import main
from easynlp.errors import ModelError
from easynlp.models.backbone import BUILT_IN, Backbone
from easynlp.models.catalogue import (
    FAMILIES,
    aliases,
    canonical,
    catalogue,
    find_entries,
    find_entry,
)


def test_every_row_is_well_formed():
    entries = catalogue()
    for entry in entries:
        assert entry.kind in FAMILIES
        assert entry.mask_head in ("", "yes", "no")
        assert entry.built_in or entry.hub.count("/") == 1
        assert not entry.modelscope or entry.modelscope.count("/") == 1
        assert entry.parameters is None or 0 < entry.parameters < 2000
        assert bool(entry.layers) == bool(entry.width)
    assert len({entry.name for entry in entries}) == len(entries)
    listed = [entry.hub for entry in entries if entry.hub]
    assert len(set(listed)) == len(listed)


def test_parameters_fit_the_shape_of_a_bert():
    """12 H^2 a layer and a table of words: more than 15% off would be a slip of the pen."""
    checked = 0
    for entry in catalogue():
        if entry.built_in:  # counted in its file, and not by hand
            continue
        if not (entry.kind == "mlm" and entry.parameters and entry.layers and entry.vocabulary):
            continue
        body = entry.layers * (12 * entry.width**2 + 13 * entry.width)
        table = (entry.vocabulary + 512) * entry.width + entry.width**2
        assert entry.parameters * 1e6 == pytest.approx(body + table, rel=0.15), entry.name
        checked += 1
    assert checked > 8


def test_an_alias_means_one_model_and_hides_no_other():
    pairs = [(alias, entry.name) for entry in catalogue() for alias in entry.aliases]
    assert len({alias for alias, _ in pairs}) == len(pairs)
    ids = {entry.hub for entry in catalogue()}
    assert not ids & {alias for alias, _ in pairs}
    assert all(canonical(alias) in ids for alias in aliases())


def test_the_first_bge_is_not_taken_for_its_successor():
    assert canonical("bge-small-zh-v1.5") == "BAAI/bge-small-zh-v1.5"
    assert canonical("bge-small-zh") == "bge-small-zh"


@pytest.mark.parametrize(
    ("old", "hub"),
    [
        ("bert-base-chinese", "google-bert/bert-base-chinese"),
        ("hfl/macbert-large-zh", "hfl/chinese-macbert-large"),
        ("langboat/mengzi-bert-base", "Langboat/mengzi-bert-base"),
        ("pai-bert-tiny-zh", "alibaba-pai/pai-bert-tiny-zh"),
        ("roberta-base-en", "FacebookAI/roberta-base"),
        ("hfl/rbt3", "hfl/rbt3"),
    ],
)
def test_easynlp_names_lead_to_the_hub(old, hub):
    assert canonical(old) == hub


def test_the_model_option_takes_an_old_name(monkeypatch, tmp_path, tiny_folder):
    from huggingface_hub import constants

    home = tmp_path / "hub" / "models--hfl--chinese-macbert-base"
    shutil.copytree(tiny_folder, home / "snapshots" / ("0" * 40))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert Backbone.load("hfl/macbert-base-zh").config.hidden_size == 32
    assert Backbone.load("random:macbert-base-zh").folder is None
    # A folder of that name is what was meant.
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder, tmp_path / "macbert-base-zh")
    assert str(Backbone.load("macbert-base-zh").folder) == "macbert-base-zh"


def test_built_in_models_are_listed_from_their_folders():
    (entry,) = [entry for entry in catalogue() if entry.name == "tiny-zh"]
    config = json.loads((BUILT_IN / "tiny-zh" / "config.json").read_text("utf-8"))
    assert (entry.layers, entry.width) == (config["num_hidden_layers"], config["hidden_size"])
    assert entry.built_in
    model = Backbone.load("tiny-zh").with_head("AutoModelForMaskedLM")
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert entry.parameters == pytest.approx(count, rel=0.02)  # the file may hold a pooler too


def test_find_by_part_of_a_name():
    assert len(find_entries("ernie-3.0")) == 6
    assert find_entries("MACBERT") == find_entries("macbert")
    assert find_entry("rbt3").hub == "hfl/rbt3"
    assert find_entry("modelscope:dienstag/rbt3").hub == "hfl/rbt3"
    assert find_entry("nothing") is None


def test_a_misspelt_alias_is_answered_with_the_right_one():
    with pytest.raises(ModelError, match='Did you mean "bert-base-chinese"'):
        Backbone.load("bert-base-chinesse")


def test_the_command_lists_filters_and_refuses(capsys):
    assert main(["models", "minirbt", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["hub"] for row in rows] == ["hfl/minirbt-h256", "hfl/minirbt-h288"]
    assert main(["models"]) == 0
    assert "nghuyong/ernie-3.0-nano-zh" in capsys.readouterr().out
    assert main(["models", "minirtb"]) == 2
    assert "no model is called" in capsys.readouterr().err
