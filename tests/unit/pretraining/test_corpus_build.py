"""`corpus build` from source files to rows: nothing uncounted, and the same however it is run."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import zstandard

from easynlp.cli import main
from easynlp.errors import ConfigError, DataError
from easynlp.pretraining.corpora import build as building
from easynlp.pretraining.corpora import reading
from easynlp.pretraining.corpora.build import build_corpus
from easynlp.pretraining.corpora.reading import Source, find_sources, name_of, shards
from easynlp.pretraining.corpora.settings import CorpusConfig
from easynlp.pretraining.corpora.shard import REASONS, shard_folder, sift
from easynlp.pretraining.corpus import documents, find_files
from easynlp.pretraining.rows import CONTINUES, pack
from easynlp.tasks.language_modeling import token_words
from easynlp.text.tokenizer import Tokenizer

LEAK = "这段文字出自评测集，训练语料中绝不应当出现它的任何三十个连续的字符才行"
COPIED = "同一段落出现在两篇文章之中，只应当留下先出现的那一次。"


def sentence(rng: random.Random, low: int = 20, high: int = 60) -> str:
    letters = [chr(0x4E00 + rng.randrange(600)) for _ in range(rng.randint(low, high))]
    return "".join(letters) + "。"


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Three files with one of everything planted in them."""
    folder = tmp_path_factory.mktemp("sources")
    rng = random.Random(3)
    found = [[sentence(rng) for _ in range(rng.randint(2, 6))] for _ in range(240)]
    found[5].append(COPIED)
    found[150].append(COPIED)
    found[60].insert(1, "读到这里：" + LEAK[2:34] + "如此。")
    found[61] = ["All of this document is English.", "Nothing of it is Chinese."]
    found[200] = list(found[20])
    found[201] = [*found[21][:-1], found[21][-1] + "完"]
    found[70].append("<p>上一篇</p>")
    text = "\n\n".join("\n".join(document) for document in found[:80]) + "\n"
    (folder / "a.txt").write_text(text, encoding="utf-8")
    (folder / "deeper").mkdir()
    rows = "".join(
        json.dumps({"id": i, "content": "\n".join(d)}, ensure_ascii=False) + "\n"
        for i, d in enumerate(found[80:160])
    )
    (folder / "deeper" / "b.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    text = "\n\n".join("\n".join(document) for document in found[160:])
    (folder / "z.txt.zst").write_bytes(zstandard.compress(text.encode()))
    (folder / "notes.md").write_text("no source")
    return folder


@pytest.fixture(scope="module")
def heldout(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("heldout") / "test.jsonl"
    path.write_text(json.dumps({"sentence": LEAK, "label": "x"}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def config(sources, heldout, tmp_path_factory):
    def make(output: Path, **options) -> CorpusConfig:
        given = {
            "sources": (str(sources),), "output": str(output), "heldout": (str(heldout),),
            "vocab_size": 900, "row_length": 32, "shard_characters": 4000, "workers": 1,
        }  # fmt: skip
        return CorpusConfig(**{**given, **options})

    return make


@pytest.fixture(scope="module")
def built(config, tmp_path_factory):
    output = tmp_path_factory.mktemp("built") / "out"
    return output, build_corpus(config(output))


def contents(output: Path) -> dict[str, bytes]:
    """Return all that must not depend on how a corpus was built."""
    found = {
        str(path.relative_to(output)): path.read_bytes()
        for folder in ("text", "tokens", "tokenizer")
        for path in sorted((output / folder).rglob("*"))
    }
    report = json.loads((output / "corpus.json").read_text(encoding="utf-8"))
    kept = {name: report[name] for name in ("counts", "inputs", "held_out", "tokens", "shards")}
    return found | {"report": json.dumps(kept).encode()}


def test_every_character_is_in_the_text_or_counted_for_a_reason(built) -> None:
    output, report = built
    counts = report["counts"]
    assert set(counts) == {"in", "cleaned", "out", *REASONS}
    for i in range(3):
        left_out = sum(
            counts[name][i] for name in ("cleaned", *REASONS) if (name, i) != ("cleaned", 1)
        )
        assert counts["in"][i] - left_out == counts["out"][i]
    found = [document for file in find_files([output]) for document in documents(file)]
    assert counts["out"] == [
        len(found), sum(map(len, found)), sum(len(p) for document in found for p in document)
    ]  # fmt: skip
    for name in ("in", "out"):
        assert [sum(x) for x in zip(*(each[name] for each in report["inputs"]), strict=True)] == (
            counts[name]
        )
    assert report["shards"] > 6
    assert not (output / "work").exists()


def test_what_was_planted_is_found_and_nothing_else_is_lost(built, sources, heldout) -> None:
    output, report = built
    counts = report["counts"]
    lost = {name: counts[name][1] for name in REASONS if counts[name][1]}
    near = lost.pop("near-duplicate document")
    whole = lost.pop("duplicate document")
    assert lost == {"boilerplate": 1, "language": 2, "held-out": 1, "duplicate paragraph": 1}
    assert counts["language"][0] == counts["duplicate document"][0] == 1
    assert counts["near-duplicate document"][0] == 1
    assert near >= 2
    assert whole >= 2
    text = "\n".join(p for f in find_files([output]) for d in documents(f) for p in d)
    assert LEAK[2:34] not in text
    assert text.count(COPIED) == 1
    assert report["held_out"] == {str(heldout): 1}
    assert [each["held_out"] for each in report["inputs"]] == [1, 0, 0]
    assert [Path(each["path"]).name for each in report["inputs"]] == [
        "a.txt", "b.jsonl.gz", "z.txt.zst"
    ]  # fmt: skip
    assert report["inputs"][0]["sha256"] == Source.of(sources / "a.txt").sha256


def test_the_result_does_not_depend_on_the_number_of_processes(built, config, tmp_path) -> None:
    build_corpus(config(tmp_path / "out", workers=2))
    assert contents(tmp_path / "out") == contents(built[0])


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    ("place", "after"),
    [("building.sift", 3), ("building._mark_duplicates", 0), ("building.keep", 4),
     ("packing._tokenize_file", 3), ("packing._join", 0), ("building.write_json", 3)],
)  # fmt: skip
def test_interrupted_anywhere_and_resumed_it_ends_the_same(
    built, config, tmp_path, monkeypatch, place, after
) -> None:
    from easynlp.pretraining import packing

    module, _, name = place.partition(".")
    owner = {"building": building, "packing": packing}[module]
    real, calls = getattr(owner, name), []

    def dying(*arguments, **named):
        calls.append(arguments)
        if len(calls) > after:
            raise Killed
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, dying)
    with pytest.raises(Killed):
        build_corpus(config(tmp_path / "out"))
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="Go on with --resume"):
        build_corpus(config(tmp_path / "out"))
    anew = []

    def watching(sieve, shard):
        anew.extend([shard.number] * (not shard_folder(sieve.work, shard.number).is_dir()))
        return sift(sieve, shard)

    monkeypatch.setattr(building, "sift", watching)
    report = build_corpus(config(tmp_path / "out", resume=True))
    assert contents(tmp_path / "out") == contents(built[0])
    assert anew == (list(range(after, report["shards"])) if place == "building.sift" else [])


def test_resuming_a_finished_build_changes_nothing(built, config) -> None:
    output, report = built
    before = contents(output)
    assert build_corpus(config(output, resume=True, workers=2))["counts"] == report["counts"]
    assert contents(output) == before
    with pytest.raises(ConfigError, match="--min-document: was 8, now 9"):
        build_corpus(config(output, resume=True, min_document=9))


def test_resuming_over_changed_sources_is_refused(config, tmp_path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("今天天气很好，我们去公园散步。\n\n" * 30, encoding="utf-8")
    options = {"sources": (str(source),), "heldout": (), "tokenize": False, "duplicates": "keep"}
    build_corpus(config(tmp_path / "out", **options))
    source.write_text("今天天气不好，我们在家里读书。\n\n" * 30, encoding="utf-8")
    with pytest.raises(ConfigError, match="not those this corpus was begun with"):
        build_corpus(config(tmp_path / "out", resume=True, **options))


def test_pretraining_takes_the_rows_of_a_corpus_as_they_are(
    built, config, heldout, tmp_path
) -> None:
    from easynlp.pretraining.corpus import Heldout

    output, report = built
    files, tokenizer = find_files([output]), Tokenizer.load(output / "tokenizer")
    made = pack(files, tokenizer, tmp_path / "same", row_length=32)
    assert os.path.samefile(tmp_path / "same" / "rows.bin", output / "tokens" / "rows.bin")
    assert made.tokens == report["tokens"]["tokens"]
    checked = Heldout.read([heldout])  # of which the corpus has been cleaned
    pack(files, tokenizer, tmp_path / "checked", row_length=32, heldout=checked)
    assert os.path.samefile(tmp_path / "checked" / "rows.bin", output / "tokens" / "rows.bin")
    for name, given in {
        "longer": {"row_length": 40},
        "other": {"row_length": 32, "heldout": Heldout([COPIED])},
    }.items():
        stats = pack(files, tokenizer, tmp_path / name, **given)
        assert not os.path.samefile(tmp_path / name / "rows.bin", output / "tokens" / "rows.bin")
        assert stats.refused == (1 if name == "other" else 0)
    pack(files[1:], tokenizer, tmp_path / "fewer", row_length=32)
    assert not os.path.samefile(tmp_path / "fewer" / "rows.bin", output / "tokens" / "rows.bin")


def test_packing_in_processes_and_in_pieces_gives_the_same_rows(
    built, tmp_path, monkeypatch
) -> None:
    from easynlp.pretraining import packing

    output, _ = built
    files, tokenizer = find_files([output])[:5], Tokenizer.load(output / "tokenizer")
    straight = pack(files, tokenizer, tmp_path / "a", row_length=32)
    assert pack(files, tokenizer, tmp_path / "b", row_length=32, workers=2) == straight
    monkeypatch.setattr(packing, "BLOCK", 50)
    assert pack(files, tokenizer, tmp_path / "c", row_length=32) == straight
    first = (tmp_path / "a" / "rows.bin").read_bytes()
    assert (tmp_path / "b" / "rows.bin").read_bytes() == first
    assert (tmp_path / "c" / "rows.bin").read_bytes() == first
    assert [path.name for path in sorted((tmp_path / "b").iterdir())] == ["rows.bin", "rows.json"]


def test_words_are_marked_as_they_are_text_by_text(built, tmp_path) -> None:
    output, _ = built
    tokenizer = Tokenizer.load(output / "tokenizer")
    texts = [
        ["含[SEP]和[CLS]的[MASK]文本", "天  气 很好"],
        ["\u0301组合😀😀"],
        ["[SEP]"],
        ["北京大学的学生"],
    ]
    lines = "\n\n".join("\n".join(document) for document in texts * 20)
    (tmp_path / "a.txt").write_text(lines, encoding="utf-8")
    names = ("[CLS]", "[SEP]")
    special = np.array([tokenizer.id_of(name) for name in names])
    expected: list[int] = []
    for document in texts * 20:
        for text in document:
            item = tokenizer.encode_batch([text], 1 << 20, offsets=True)[0]
            words = token_words(text, item.ids, item.offsets, special).tolist()
            found = [(i, w) for i, w in zip(item.ids.tolist(), words, strict=True) if w >= 0]
            expected += [
                i | (int(CONTINUES) if at and w == found[at - 1][1] else 0)
                for at, (i, w) in enumerate(found)
            ]
        expected.append(tokenizer.id_of("[SEP]"))
    stats = pack([tmp_path / "a.txt"], tokenizer, tmp_path / "rows", row_length=9)
    rows = np.fromfile(tmp_path / "rows" / "rows.bin", np.uint32).reshape(-1, 9)
    flat = np.array(expected[: stats.rows * 7], np.uint32)
    flat[::7] &= ~CONTINUES
    assert rows[:, 1:-1].ravel().tolist() == flat.tolist()
    assert (flat & CONTINUES).any()


def test_options_reach_the_filters(sources, config, tmp_path) -> None:
    report = build_corpus(
        config(tmp_path / "out", language="any", duplicates="keep", heldout=(), boilerplate=0,
               exclude=("b",), tokenize=False)
    )  # fmt: skip
    assert [name for name in REASONS if report["counts"][name][1]] == []
    assert report["counts"]["in"][0] == report["counts"]["out"][0] == 160
    assert report["tokens"] is None
    assert not (tmp_path / "out" / "tokens").exists()


def test_a_model_lends_its_tokenizer(tiny_folder, config, tmp_path) -> None:
    report = build_corpus(config(tmp_path / "out", model=str(tiny_folder)))
    assert report["tokens"]["tokenizer"]["fingerprint"] == Tokenizer.load(tiny_folder).fingerprint()
    assert (tmp_path / "out" / "tokenizer" / "vocab.txt").is_file()
    with pytest.raises(ConfigError, match="exclude each other"):
        config(tmp_path / "out", model="tiny-zh", vocab="vocab.txt")


def test_sources_are_cut_alike_whatever_is_known_of_them(sources) -> None:
    found = [Source.of(path) for path in find_sources([str(sources)])]
    all_ = list(shards(found, None, 4000, [None] * 3))
    assert [s.number for s in all_] == list(range(len(all_)))
    known = [sum(s.source == 0 for s in all_), None, None]
    assert list(shards(found, None, 4000, known)) == all_[known[0] :]
    assert {s.name for s in all_} == {"a", "b", "z"}
    assert [name_of(Path(n)) for n in ("a.txt", "b.c.jsonl.gz", "d.ndjson")] == ["a", "b.c", "d"]


def test_a_file_without_blank_lines_does_not_fill_the_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(reading, "LONGEST", 100)
    path = tmp_path / "a.txt"
    path.write_text("二十个字一行的文章没有空行也读得下去的。\n" * 200, encoding="utf-8")
    found = list(shards([Source.of(path)], None, 1000, [None]))
    assert len(found) == 4
    assert {len(document) for shard in found for document in shard.documents} == {5}


def test_wrong_sources(tmp_path, sources) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        find_sources([str(tmp_path / "none")])
    with pytest.raises(DataError, match="no source files"):
        find_sources([str(tmp_path)])
    with pytest.raises(DataError, match=r"its name ends in none of \.txt"):
        find_sources([str(sources / "notes.md")])
    with pytest.raises(DataError, match='no source file "y" to exclude'):
        find_sources([str(sources)], ["y"])


def test_nothing_left_is_an_error_that_names_the_reasons(config, tmp_path) -> None:
    (tmp_path / "a.txt").write_text("only English here\n", encoding="utf-8")
    with pytest.raises(DataError, match="nothing is left of the sources"):
        build_corpus(config(tmp_path / "out", sources=(str(tmp_path / "a.txt"),), heldout=()))


def test_on_the_command_line(sources, heldout, tmp_path, capsys) -> None:
    output = tmp_path / "out"
    code = main(
        ["corpus", "build", str(sources / "a.txt"), str(sources / "deeper"), "--output",
         str(output), "--heldout", str(heldout), "--no-tokenize", "--workers", "1"]
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert code == 0
    for text in ("in", "held-out", "duplicate paragraph", "out", "MB/s"):
        assert text in shown
    assert f"held out: 1 paragraphs showed {heldout}" in shown
    assert main(["corpus", "build", "--output", str(output)]) == 2
    assert "SOURCES is missing" in capsys.readouterr().err


def test_a_held_out_file_that_is_missing_leaves_no_folder(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("今天天气很好，我们去公园散步，孩子们放风筝。\n", encoding="utf-8")
    with pytest.raises(DataError, match="no such file"):
        build_corpus(
            CorpusConfig(
                sources=(str(source),), output=str(tmp_path / "out"),
                heldout=(str(tmp_path / "b.txt"),),
            )
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_an_output_inside_a_source_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("今天天气很好，我们去公园散步。\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="inside the source"):
        build_corpus(CorpusConfig(sources=(str(tmp_path),), output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_an_empty_source_is_called_empty(tmp_path):
    (tmp_path / "a.txt").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="is empty"):
        find_sources([str(tmp_path / "a.txt")])
