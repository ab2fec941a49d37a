import datetime
import errno
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easynlp.data.readers import read_rows
from easynlp.data.writers import Layout, open_writer
from easynlp.errors import ConfigError, DataError, RunError

ROWS = [
    {"id": "1", "text": '他说"好"，真的,很好', "label": "正面"},
    {"id": "2", "text": "第一行\r\n第二行\t制表", "label": "负面"},
    {"id": "3", "text": "", "label": "𠮷😋"},
]
COLUMNS = ["id", "text", "label"]


def write(path, rows=ROWS, columns=COLUMNS, **options):
    with open_writer(str(path), columns, **options) as out:
        for row in rows:
            out.write(row)
    return str(path)


def values(path, **options):
    return [row.values for row in read_rows(str(path), **options)]


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("extension", ["jsonl", "csv", "tsv", "parquet"])
def test_writers_what_is_written_reads_back(tmp_path, extension, packed, caplog):
    if extension == "parquet":
        pytest.importorskip("pyarrow")
    path = write(tmp_path / "新" / f"out.{extension}{packed}")
    expected = [dict(row) for row in ROWS]
    if extension == "tsv":
        expected[1]["text"] = "第一行  第二行 制表"
        assert "tabs or line breaks in 1 values became spaces" in caplog.text
    assert values(path) == expected
    assert [file.name for file in (tmp_path / "新").iterdir()] == [f"out.{extension}{packed}"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030"])
@pytest.mark.parametrize("extension", ["jsonl", "csv"])
def test_writers_encodings(tmp_path, extension, encoding):
    path = write(tmp_path / f"a.{extension}", encoding=encoding)
    assert Path(path).read_bytes().startswith(b"\xef\xbb\xbf") == (encoding == "utf-8-sig")
    assert values(path, encoding=encoding) == ROWS


def test_writers_character_the_encoding_lacks(tmp_path):
    with pytest.raises(DataError, match=r"cannot be written as gbk"):
        write(tmp_path / "a.csv", encoding="gbk")
    assert list(tmp_path.iterdir()) == []
    assert values(write(tmp_path / "a.jsonl", encoding="gbk"), encoding="gbk") == ROWS


def test_writers_jsonl_keeps_types_and_stays_json(tmp_path):
    row = {
        "a": 1, "b": [1.5, float("nan")], "c": {"x": None, "y": float("inf")}, "d": True,
        "e": datetime.date(2024, 5, 1), "f": "\ud83d",
    }  # fmt: skip
    path = write(tmp_path / "a.jsonl", [row])
    expected = {**row, "b": [1.5, None], "c": {"x": None, "y": None}, "e": "2024-05-01"}
    assert values(path) == [expected]
    assert "NaN" not in Path(path).read_text(encoding="utf-8")


def test_writers_tables_hold_json_for_what_is_no_text(tmp_path):
    row = {"a": 1, "b": [{"type": "地点"}], "c": None, "d": True, "e": 0.5}
    path = write(tmp_path / "a.csv", [row, {"a": 2}], list("abcde"))
    assert values(path) == [
        {"a": "1", "b": '[{"type": "地点"}]', "c": "", "d": "true", "e": "0.5"},
        {"a": "2", "b": "", "c": "", "d": "", "e": ""},
    ]
    one = write(tmp_path / "b.csv", [{"a": "x"}, {"a": ""}, {"a": "y"}], ["a"])
    assert values(one, header=True) == [{"a": "x"}, {"a": ""}, {"a": "y"}]


def test_writers_parquet_types_come_from_the_first_batch(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("easynlp.data.sinks.PARQUET_BATCH", 2)
    rows = [
        {"n": 1, "x": 1, "s": "a", "e": [], "b": True},
        {"n": None, "x": 0.5, "s": None, "e": [{"start": 0}], "b": False},
        {"n": 3, "x": 2, "s": 7, "e": [1], "b": None},
    ]
    path = write(tmp_path / "a.parquet", rows, list("nxseb"))
    assert values(path) == [
        {"n": 1, "x": 1.0, "s": "a", "e": "[]", "b": True},
        {"n": None, "x": 0.5, "s": None, "e": '[{"start": 0}]', "b": False},
        {"n": 3, "x": 2.0, "s": "7", "e": "[1]", "b": None},
    ]
    with pytest.raises(DataError, match=r'column "n" held int64 in the first 2 rows, then: '):
        write(tmp_path / "b.parquet", [{"n": 1}, {"n": 2}, {"n": "三"}], ["n"])
    assert not (tmp_path / "b.parquet").exists()


def test_writers_layout_names_collisions():
    layout = Layout.of(["text", "label", "predicted_label"], ["label", "score"])
    assert layout.columns == ("text", "label", "predicted_label", "predicted_label_2", "score")
    row = {"text": "好", "label": "1", "predicted_label": "0"}
    merged = layout.merge(row, {"label": "2", "score": 0.9})
    assert merged == {**row, "predicted_label_2": "2", "score": 0.9}
    with pytest.raises(DataError, match=r'row has a column "score", which the first rows had not'):
        layout.merge({"text": "好", "score": 1}, {"score": 0.9})


def test_writers_unknown_column_in_a_table(tmp_path):
    with pytest.raises(DataError, match=r'a row has a column "extra"'):
        write(tmp_path / "a.csv", [{"a": 1}, {"a": 1, "extra": 2}], ["a"])
    assert list(tmp_path.iterdir()) == []


def test_writers_refuse_to_overwrite(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("旧", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a\.jsonl exists already\. Type --overwrite"):
        write(path)
    assert path.read_text(encoding="utf-8") == "旧"
    assert values(write(path, overwrite=True)) == ROWS


def test_writers_notice_a_file_that_appears_meanwhile(tmp_path):
    path = tmp_path / "a.jsonl"
    out = open_writer(str(path), COLUMNS)
    out.write(ROWS[0])
    path.write_text("别人的", encoding="utf-8")
    with pytest.raises(ConfigError, match="exists already"):
        out.close()
    assert [(f.name, f.read_text(encoding="utf-8")) for f in tmp_path.iterdir()] == [
        ("a.jsonl", "别人的")
    ]


def test_writers_may_overwrite_their_own_input(tmp_path):
    path = write(tmp_path / "a.jsonl")
    with open_writer(path, COLUMNS, overwrite=True) as out:
        for row in read_rows(path):
            out.write({**row.values, "new": 1})
    assert values(path) == [{**row, "new": 1} for row in ROWS]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv.gz", "a.tsv.zst", "a.parquet"])
def test_writers_leave_nothing_after_an_error(tmp_path, name):
    if "parquet" in name:
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, SIM117 - the error comes between rows
        with open_writer(str(tmp_path / name), COLUMNS, overwrite=True) as out:
            out.write(ROWS[0])
            raise KeyboardInterrupt
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [(name, b"old")]


DISK_FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from easynlp.data.writers import open_writer
from easynlp.errors import RunError
import os
try:
    with open_writer(sys.argv[1], ["text"], overwrite=True) as out:
        for i in range(200_000):
            out.write({"text": os.urandom(16).hex()})
except RunError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv.gz", "a.tsv.zst", "a.parquet"])
def test_writers_full_disk_leaves_the_old_output(tmp_path, name):
    pytest.importorskip("resource")
    if "parquet" in name:
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", DISK_FULL, str(tmp_path / name)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert f"{name}: cannot write: File too large. Nothing was left there." in done.stdout
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [(name, b"old")]


def test_writers_full_disk_at_close(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=r"a\.jsonl: cannot write: No space left on device"):
        write(tmp_path / "a.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.xlsx", r'cannot write "\.xlsx".*Known: \.jsonl'),
        ("a.jsnl", r'Did you mean "\.jsonl"'),
        ("folder.csv", r"is a folder\. Name a file in it"),
    ],
)
def test_writers_bad_places(tmp_path, name, said):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ConfigError, match=said):
        open_writer(str(tmp_path / name), COLUMNS)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(RunError, match="cannot write: "):
        open_writer(str(tmp_path / "file" / "a.csv"), COLUMNS)


def test_writers_standard_output_is_json_lines(capfdbinary):
    write("-")
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert [json.loads(line) for line in lines] == ROWS
    write("-", ROWS[:1])
    assert capfdbinary.readouterr().out


def test_writers_same_rows_same_bytes(tmp_path):
    for name in ("a.jsonl.gz", "a.csv.zst"):
        first = Path(write(tmp_path / name)).read_bytes()
        second = Path(write(tmp_path / name, overwrite=True)).read_bytes()
        assert first == second


def test_writers_are_silent_without_reason(tmp_path, caplog):
    caplog.set_level(logging.INFO, "easynlp")
    write(tmp_path / "a.tsv", [{"a": "好"}], ["a"])
    assert caplog.messages == []


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)
CELLS |= st.sampled_from(
    ['"', "\r\n", "\n", "\r", ",", "\ufeff", "\u2028", "\x85", "\x1c", '",\n"']
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), st.sampled_from(["csv", "jsonl"]))
def test_writers_round_trip_of_nasty_texts(tmp_path_factory, rows, extension):
    wanted = [{"text": text, "label": label} for text, label in rows]
    path = write(tmp_path_factory.mktemp("w") / f"a.{extension}", wanted, ["text", "label"])
    assert values(path) == wanted
