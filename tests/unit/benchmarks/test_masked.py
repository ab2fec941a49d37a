"""Masked accuracy by genre: the same holes for all, and who may take part."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

pytest.importorskip("rjieba")

from easynlp.benchmarks.masked import bench_masked, masked_table, sample_passages
from easynlp.benchmarks.settings import MaskedOptions
from easynlp.cli import main
from easynlp.errors import DataError, ModelError

LINE = "今天天气真好我在北京大学读书房间很干净下次还来服务态度太差了"


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "heldout"
    folder.mkdir()
    for name, shift in (("reviews", 0), ("essays", 3)):
        lines = [f"{i}{LINE[i + shift :]}{LINE}" for i in range(6)]
        (folder / f"{name}.txt").write_text("\n\n".join([*lines, "short"]), encoding="utf-8")
    return folder


def test_a_row_for_each_file_and_a_column_for_each_model(texts, tiny_folder, tmp_path):
    names = (f"random:{tiny_folder}", str(tiny_folder))
    out = tmp_path / "report.json"
    report = bench_masked(MaskedOptions(models=names, data=(str(texts),), output=str(out)))
    assert [row["genre"] for row in report["genres"]] == ["essays", "reviews"]
    for row in report["genres"]:
        assert row["holes"] > 20
        for name in names:
            low, high = row["interval"][name]
            assert low - 1e-9 <= row["accuracy"][name] <= high + 1e-9
            assert high - low < 0.5
    expected = sum(row["accuracy"][names[1]] for row in report["genres"]) / 2
    assert report["means"][names[1]]["mean"] == pytest.approx(expected, abs=1e-5)
    assert list(report["differences"]) == [names[0]]
    assert json.loads(out.read_text("utf-8"))["genres"] == json.loads(json.dumps(report["genres"]))
    assert masked_table(report).row_count == 4


def test_holes_do_not_depend_on_the_models(texts, tiny_folder):
    def genres(*names):
        report = bench_masked(MaskedOptions(models=names, data=(str(texts),)))
        return [(row["genre"], row["holes"], row["commonest"]) for row in report["genres"]]

    assert genres(str(tiny_folder)) == genres(f"random:{tiny_folder}", str(tiny_folder))


def test_a_head_that_is_not_there_is_refused(texts, tiny_folder, tmp_path):
    folder = tmp_path / "headless"
    shutil.copytree(tiny_folder, folder)
    state = load_file(folder / "model.safetensors")
    state = {name: value for name, value in state.items() if not name.startswith("cls.")}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="has no trained masked-LM head"):
        bench_masked(MaskedOptions(models=(str(folder),), data=(str(texts),)))


def test_pieces_of_several_characters_are_cut_around_holes(texts, tiny_folder, tmp_path):
    """A tokenizer that knows 今天 as one token is asked the same question."""

    from tokenizers import Tokenizer
    from transformers import AutoModelForMaskedLM

    folder = tmp_path / "pieces"
    shutil.copytree(tiny_folder, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["今天"])
    tokenizer.save(str(folder / "tokenizer.json"))
    model = AutoModelForMaskedLM.from_pretrained(folder)
    model.resize_token_embeddings(tokenizer.get_vocab_size())
    model.save_pretrained(folder)
    report = bench_masked(
        MaskedOptions(models=(str(folder), str(tiny_folder)), data=(str(texts),), rate=0.9)
    )
    assert list(report["means"]) == [str(folder), str(tiny_folder)]
    assert not report["left_out"]


def test_passages_are_drawn_evenly_and_repeat(texts):
    path = texts / "reviews.txt"
    whole = sample_passages(path, 100, 500, 0)
    assert len(whole) == 6  # "short" holds too few Chinese characters
    few = sample_passages(path, 3, 40, 1)
    assert few == sample_passages(path, 3, 40, 1)
    assert all(len(text) <= 40 for text in few)
    seen = {text for seed in range(30) for text in sample_passages(path, 1, 500, seed)}
    assert seen == set(whole)


def test_the_command(texts, tiny_folder, capsys, tmp_path):
    assert main(["bench", "masked", "--models", str(tiny_folder), "--data", str(texts)]) == 0
    assert "reviews" in capsys.readouterr().out
    (tmp_path / "empty.txt").write_text("abc\n", encoding="utf-8")
    with pytest.raises(DataError, match="no paragraph"):
        bench_masked(MaskedOptions(data=(str(tmp_path / "empty.txt"),)))
    missing = str(tmp_path / "nothing.txt")
    assert main(["bench", "masked", "--models", str(tiny_folder), "--data", missing]) == 2
