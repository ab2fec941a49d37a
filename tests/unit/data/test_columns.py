import gzip
import json
import logging
from pathlib import Path

import pytest

from easynlp.data.columns import Columns, read_examples
from easynlp.data.readers import Row
from easynlp.errors import ConfigError, DataError
from easynlp.tasks.base import Field

CLASSIFY = (
    Field("text", ("text", "sentence", "content", "text_a", "sentence1")),
    Field("text_b", ("text_b", "sentence2"), required=False),
    Field("label", ("label", "category"), target=True),
)
NER = (Field("text", ("text",)), Field("entities", ("entities",), target=True))
BENCH = Path(__file__).parents[4] / "shared" / "data" / "bench"


@pytest.fixture
def put(tmp_path):
    def write(name, content):
        file = tmp_path / name
        if not isinstance(content, str):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        file.write_bytes(content.encode())
        return str(file)

    return write


def examples(path, fields=CLASSIFY, **options):
    return [dict(example) for _, example in read_examples(path, fields, **options)]


@pytest.mark.parametrize(
    ("header", "chosen", "expected"),
    [
        (["text", "label"], {}, {"text": "text", "label": "label"}),
        (["id", "sentence1", "sentence2", "category"], {},
         {"text": "sentence1", "text_b": "sentence2", "label": "category"}),
        (["text", "content", "label", "category"], {}, {"text": "text", "label": "label"}),
        ([" Text ", "LABEL"], {}, {"text": " Text ", "label": "LABEL"}),
        (["text", "标签"], {"label": "标签"}, {"text": "text", "label": "标签"}),
        (["text", "content", "label"], {"label": "text"}, {"text": "content", "label": "text"}),
        (["text", "text_b", "label"], {"text_b": ""}, {"text": "text", "label": "label"}),
        (["text", "label"], {"text": None}, {"text": "text", "label": "label"}),
    ],
)  # fmt: skip
def test_columns_resolve(header, chosen, expected):
    assert Columns.resolve(header, CLASSIFY, chosen).names == expected


def test_columns_guesses_are_logged_and_choices_are_not(caplog):
    with caplog.at_level(logging.INFO, "easynlp"):
        Columns.resolve(["sentence", "sentence2", "标签"], CLASSIFY, {"label": "标签"})
    assert caplog.messages == [
        "text ← column `sentence` (guessed; set with --text)",
        "text_b ← column `sentence2` (guessed; set with --text-b)",
    ]


def test_columns_preferred_come_before_guesses_but_may_be_absent():
    preferred = {"text": "正文"}
    found = Columns.resolve(["text", "正文"], CLASSIFY, {}, preferred=preferred, with_targets=False)
    assert found.names == {"text": "正文"}
    found = Columns.resolve(["text"], CLASSIFY, {}, preferred=preferred, with_targets=False)
    assert found.names == {"text": "text"}


def test_columns_the_only_column_is_the_text():
    fields = (CLASSIFY[0], CLASSIFY[2])
    assert Columns.resolve(["评论"], fields, {}, with_targets=False).names == {"text": "评论"}
    with pytest.raises(DataError):
        Columns.resolve(["评论"], fields, {})


def test_columns_missing_column_says_what_there_is_and_what_to_type():
    with pytest.raises(DataError) as caught:
        Columns.resolve(["id", "txet", "label"], CLASSIFY, {}, path="a.csv")
    said = str(caught.value)
    assert said.startswith("a.csv: no column for `text` (looked for: text, sentence, content")
    assert "Columns present: id, txet, label." in said
    assert 'Did you mean "txet"?' in said
    assert "--text COLUMN" in said
    with pytest.raises(DataError, match=r'--schema "label:str:1'):
        Columns.resolve(["column1", "column2"], CLASSIFY, {})


def test_columns_wrong_choice_and_ambiguity():
    with pytest.raises(DataError, match=r'--label: no column "labl"\. Did you mean "label"\?'):
        Columns.resolve(["text", "label"], CLASSIFY, {"label": "labl"})
    with pytest.raises(DataError, match=r"`sentence` and `content` could each be the text\n"
                       r".*--text sentence"):  # fmt: skip
        Columns.resolve(["content", "sentence", "label"], CLASSIFY, {})
    with pytest.raises(DataError, match=r"could each be the label"):
        Columns.resolve(["text", "Label", "label"], CLASSIFY, {})
    with pytest.raises(ConfigError, match=r'no field "labels"\. Did you mean "label"'):
        Columns.resolve(["text"], CLASSIFY, {"labels": "x"})


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (1, "1"), (1.0, "1"), ("1", "1"), (" 正面 ", "正面"), (True, "true"), (False, "false"),
        (0, "0"), (-0.5, "-0.5"), ("None", "None"), ([1, "二", 3.0], ["1", "二", "3"]), ([], []),
        ("体育,财经", "体育,财经"), ([{"type": "a"}], [{"type": "a"}]), ({"a": 1}, {"a": 1}),
    ],
)  # fmt: skip
def test_columns_labels_are_canonical(put, label, expected):
    path = put("a.jsonl", [{"text": "好", "label": label}])
    assert examples(path) == [{"text": "好", "label": expected}]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (None, "`label` is null"), ("", "`label` is empty"), ("  ", "`label` is empty"),
        (float("nan"), "`label` is NaN"), ("NaN", 'is "NaN": not a number'),
        (float("inf"), "is infinite"), (["正面", None], "`label` is null"),
    ],
)  # fmt: skip
def test_columns_useless_labels_fail_at_their_line(put, label, said):
    path = put("a.jsonl", [{"text": "好", "label": "1"}, {"text": "差", "label": label}])
    with pytest.raises(DataError) as caught:
        examples(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert said in str(caught.value)


def test_columns_nan_label_in_csv_and_parquet(put, tmp_path):
    path = put("a.csv", "text,label\n好,1\n差,nan\n")
    with pytest.raises(DataError, match=r'a\.csv:3: `label` is "nan"'):
        examples(path)
    path = put("b.csv", "text,label\n好,1\n差,\n")
    with pytest.raises(DataError, match=r"b\.csv:3: `label` is empty"):
        examples(path)
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    file = str(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"text": ["好", "差"], "label": [1.0, float("nan")]}), file)
    with pytest.raises(DataError, match=r"a\.parquet:2: `label` is NaN"):
        examples(file)
    assert examples(file, with_targets=False) == [{"text": "好"}, {"text": "差"}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"), (" \u3000\n", "is empty"), (None, "is null"), (float("nan"), "is NaN"),
        (3, "is int 3, not a string"), (["好"], "is list"), ({"a": 1}, "is dict"),
        (True, "is bool True"), ("\ud83d", "half of a surrogate pair at character 1"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("column", ["text", "text_b"])
def test_columns_useless_texts_fail_at_their_line(put, column, text, said):
    path = put("a.jsonl", "".join(json.dumps(row) + "\n" for row in [
        {"text": "好", "text_b": "b", "label": "1"},
        {"text": "好", "text_b": "b", "label": "1", column: text},
    ]))  # fmt: skip
    with pytest.raises(DataError) as caught:
        examples(path)
    assert str(caught.value).startswith(f"{path}:2: `{column}` ")
    assert said in str(caught.value)


def test_columns_a_missing_key_names_the_row_s_own(put):
    path = put("a.jsonl", [{"sentence": "好", "label": 1}, {"text": "差", "label": 0}])
    with pytest.raises(DataError) as caught:
        examples(path, chosen={"text": "sentence"})
    said = f"{path}:2: `text` (column `sentence`) is missing; this row has: text, label"
    assert str(caught.value) == said


def test_columns_prediction_keeps_empty_rows_in_place(put):
    rows = [{"text": "好"}, {"text": ""}, {"text": None}, {"text": " "}, {"id": 5}, {"text": "差"}]
    path = put("a.jsonl", rows)
    found = list(read_examples(path, CLASSIFY, with_targets=False, on_empty="keep"))
    assert [example["text"] for _, example in found] == ["好", "", "", "", "", "差"]
    assert [row.values for row, _ in found] == rows
    with pytest.raises(DataError, match=r":1: `text` is int"):
        examples(put("b.jsonl", [{"text": 7}]), with_targets=False, on_empty="keep")


def test_columns_prediction_does_not_look_at_labels(put):
    path = put("a.csv", "text,label\n好,\n差,1\n")
    found = examples(path, with_targets=False, chosen={"label": "label"})
    assert found == [{"text": "好"}, {"text": "差"}]


def test_columns_texts_are_kept_as_they_are(put):
    text = "  前后有空格 " + "长" * 100_000 + "\n"
    assert examples(put("a.jsonl", [{"text": text, "label": 1}]))[0]["text"] == text


def test_columns_entities(put):
    entities = [{"start": 0, "end": 2, "type": "LOC", "text": "北京"}]
    assert examples(put("a.jsonl", [{"text": "北京", "entities": entities}]), NER) == [
        {"text": "北京", "entities": entities}
    ]
    cell = json.dumps(entities, ensure_ascii=False).replace('"', '""')
    path = put("a.csv", f'text,entities\n北京,"{cell}"\n北京,LOC\n')
    stream = read_examples(path, NER)
    assert next(stream)[1]["entities"] == entities
    with pytest.raises(DataError, match=r"a\.csv:3: `entities` holds \"LOC\", which is not a JSON"):
        next(stream)
    with pytest.raises(DataError, match=r"a\.jsonl:1: `entities` is dict"):
        examples(put("a.jsonl", [{"text": "北京", "entities": {}}]), NER)


def test_columns_optional_fields_that_are_no_text_are_left_out():
    fields = (CLASSIFY[0], Field("domain", ("domain",), required=False))
    columns = Columns.resolve(["text", "domain"], fields, {})
    assert columns.example(Row({"text": "好", "domain": None}, "a", 1)) == {"text": "好"}
    listed = columns.example(Row({"text": "好", "domain": ["书"]}, "a", 1))
    assert listed == {"text": "好", "domain": ["书"]}


def test_read_examples_reports_columns_and_takes_reading_options(put):
    path = put("a.tsv", "1\t好\n0\t差\n")
    stream = read_examples(path, CLASSIFY, schema="label:str:1,sentence:str:1")
    assert stream.columns.names == {"text": "sentence", "label": "label"}
    assert stream.header == ("label", "sentence")
    assert [dict(example)["label"] for _, example in stream] == ["1", "0"]
    again = put("b.jsonl", [{"text": "好", "label": 1}])
    assert examples(again, encoding="utf-8", header=None) == [{"text": "好", "label": "1"}]


def test_read_examples_chosen_columns_settle_the_header(put):
    path = put("a.csv", "评论,情感\n好看,正面\n")
    assert examples(path, chosen={"text": "评论", "label": "情感"}) == [
        {"text": "好看", "label": "正面"}
    ]


def test_read_examples_finds_optional_keys_below_the_first_row(put):
    path = put("a.jsonl", [{"text": "好", "label": 1}, {"text": "a", "text_b": "b", "label": 1}])
    with pytest.raises(DataError, match=r"a\.jsonl:1: `text_b` is missing"):
        examples(path)
    assert len(examples(path, chosen={"text_b": ""})) == 2


LABELLED = {
    **dict.fromkeys([
        "chnsenticorp", "csl_category", "fewclue_csldcp", "fewclue_eprstmt", "fewclue_iflytek",
        "fewclue_tnews", "online_shopping_10_cats", "thucnews_title10", "tnews_clue",
        "chinese_review_absa", "amazon_fdu_mtl", "afqmc", "ocnli_10k", "fewclue_bustm",
        "fewclue_ocnli", "fewclue_csl", "fewclue_cluewsc",
    ], CLASSIFY),
    **dict.fromkeys(["cluener2020", "msra_ner", "resume_ner", "weibo_ner"], NER),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELLED)
def test_read_examples_of_real_sets(name):
    files = [
        BENCH / name / f for f in ("dev.jsonl.gz", "dev_0.jsonl", "dev_0.jsonl.gz", "test.jsonl.gz")
    ]
    path = next((file for file in files if file.exists()), None)
    if path is None:
        pytest.skip(f"the shared data set {name} is not here")
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    raw = [json.loads(line) for line in data.splitlines()]
    found = examples(str(path), LABELLED[name])
    assert len(found) == len(raw)
    for row, example in zip(raw, found, strict=True):
        assert example["text"] in (row.get("text"), row.get("text_a"))
        assert example.get("text_b") == row.get("text_b")
        if "label" in example:
            assert example["label"] == row["label"]
        else:
            assert all(row["text"][e["start"] : e["end"]] == e["text"] for e in example["entities"])
