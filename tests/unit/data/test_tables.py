import csv
import io
import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easynlp.data.readers import read_rows
from easynlp.data.tables import parse_schema
from easynlp.errors import ConfigError, DataError


@pytest.fixture
def put(tmp_path):
    def write(name, content):
        file = tmp_path / name
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(file)

    return write


def values(path, **options):
    return [row.values for row in read_rows(path, **options)]


def test_tables_quoted_fields_span_lines_and_hold_anything(put):
    path = put("a.csv", 'text,label\r\n"他说""好"",\r\n真的",1\r\n他说"差",0\r\n"",1\r\n')
    rows = list(read_rows(path))
    assert [(row.line, row.values["text"]) for row in rows] == [
        (2, '他说"好",\r\n真的'), (4, '他说"差"'), (5, ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        ('text,label\n好,1\n"差,0\n好,1\n', 3, "a quote opened on this line is never closed:"),
        ('text,label\n"差,0\n好,1\n"好",1\n', 2, "never closed (noticed at line 4)"),
        ('text,label\n"好"的,1\n', 2, "text after a closing quote"),
        ('text,label\n"好\n的",1,"\n', 3, "a quote opened on this line is never closed:"),
    ],
)
def test_tables_unclosed_quote_is_found_where_it_opened(put, content, line, said):
    path = put("a.csv", content)
    with pytest.raises(DataError) as caught:
        values(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert said in str(caught.value)


def test_tables_unclosed_quote_does_not_read_a_huge_file(put, monkeypatch):
    monkeypatch.setattr("easynlp.data.tables.LONGEST_FIELD", 1000)
    path = put("a.csv", 'text,label\n"好,1\n' + "差,0\n" * 1000 + '"')
    with pytest.raises(DataError, match=r"a\.csv:2: a quote opened on this line"):
        values(path)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("extra", [1, -1])
def test_tables_wrong_number_of_columns(put, name, extra):
    mark = "," if name == "a.csv" else "\t"
    bad = mark.join(["好"] * (2 + extra))
    path = put(name, f"text{mark}label\n好{mark}1\n\n{bad}\n")
    with pytest.raises(DataError) as caught:
        values(path)
    said = f"{path}:4: {2 + extra} columns where 2 are expected (text, label): 好"
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_tables_long_fields_are_legal(put, size):
    text = "长" * size
    for name, content in (("a.csv", f'text,label\n"{text}",1\n{text},1\n'),
                          ("a.tsv", f"text\tlabel\n{text}\t1\n")):  # fmt: skip
        assert {row["text"] for row in values(put(name, content))} == {text}


def test_tables_tsv_quotes_are_plain_characters(put):
    path = put("a.tsv", 'text\tlabel\n"好"他说\t1\n"未闭合\t0\n')
    assert [row["text"] for row in values(path)] == ['"好"他说', '"未闭合']
    quoted = put("b.tsv", 'text\tlabel\n"一\t二\n三"\t1\n')
    assert values(quoted, format="csv") == [{"text": "一\t二\n三", "label": "1"}]


@pytest.mark.parametrize(
    ("content", "header"),
    [
        ("text,label\n好,1\n", True),
        ("sentence_x,y\n好,1\n", True),
        ("好看，值得买,1\n差,0\n", False),
        ("好,1\n差,0\n", False),
        ("评论,标签\n好,1\n", True),
    ],
)
def test_tables_header_is_guessed_and_said(put, caplog, content, header):
    caplog.set_level(logging.INFO, "easynlp")
    path = put("a.csv", content)
    rows = values(path, names=("评论",))
    assert len(rows) == (1 if header else 2)
    assert f"{path}: line 1 is {'the' if header else 'no'} header (guessed" in caplog.text
    if not header:
        assert list(rows[0]) == ["column1", "column2"]


def test_tables_header_that_cannot_be_told_is_asked_for(put):
    path = put("a.csv", "好看,正面\n难看,负面\n")
    with pytest.raises(DataError, match=r"a\.csv:1: cannot tell.*好看 \| 正面\n.*--no-header"):
        values(path)
    assert len(values(path, header=True)) == 1
    assert values(path, header=False)[0] == {"column1": "好看", "column2": "正面"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,text\n好,1\n", 'column name "text" stands twice'),
        ("text,,label\n好,1,1\n", "a column has no name"),
        ("text,label\r好,1\r差,0\r", "a carriage return inside the header"),
    ],
)
def test_tables_bad_header(put, content, said):
    path = put("a.csv", content)
    with pytest.raises(DataError) as caught:
        values(path, header=True)
    assert str(caught.value).startswith(f"{path}:1: {said}")


def test_tables_pandas_index_column(put):
    path = put("a.csv", ",text,label\n0,好,1\n")
    assert values(path, names=("text",)) == [{"column1": "0", "text": "好", "label": "1"}]


def test_tables_one_column_keeps_blank_lines(put):
    assert [row["text"] for row in values(put("a.tsv", "text\n好\n\n差\n"))] == ["好", "", "差"]


def test_tables_schema_of_easynlp(put):
    path = put("train.tsv", "1\t好\t0.5,1\t3\n0\t差\t2,3\t4\n")
    schema = "label:str:1,sent1:str:1,vector:float:2,n:int:1"
    assert values(path, schema=schema) == [
        {"label": "1", "sent1": "好", "vector": [0.5, 1.0], "n": 3},
        {"label": "0", "sent1": "差", "vector": [2.0, 3.0], "n": 4},
    ]
    with_header = put("dev.tsv", "label\tsent1\n1\t好\n")
    assert values(with_header, schema="label:str:1,sent1:str:1") == [{"label": "1", "sent1": "好"}]


def test_tables_schema_mismatch_is_placed(put):
    path = put("a.tsv", "1\t3\n1\t三\n")
    with pytest.raises(DataError, match=r'a\.tsv:2: column `n` holds "三", which does not fit'):
        values(path, schema="label:str:1,n:int:1")
    with pytest.raises(DataError, match=r"a\.tsv:1: 2 columns where 1 are expected"):
        values(path, schema="label:str:1")


@pytest.mark.parametrize("schema", ["label", "label:str", "a:text:1", "a:str:x", "a:str:1,a:str:1"])
def test_tables_malformed_schema(schema):
    with pytest.raises(ConfigError, match=r"--schema: "):
        parse_schema(schema)


NASTY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
CELLS = NASTY | st.sampled_from(
    ['"', '""', "\r\n", "\n", ",", "\ufeff", "\u2028", "\x85", "\x1c", " ", "\r"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=1, max_size=6))
def test_tables_csv_reads_what_the_standard_library_writes(tmp_path_factory, rows):
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["text", "label"], *rows])
    file = tmp_path_factory.mktemp("csv") / "a.csv"
    file.write_bytes(out.getvalue().encode())
    assert [list(row.values()) for row in values(str(file))] == rows


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(NASTY, CELLS, min_size=1), min_size=1, max_size=6))
def test_tables_jsonl_reads_what_json_writes(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    file.write_bytes("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode())
    assert values(str(file)) == rows
