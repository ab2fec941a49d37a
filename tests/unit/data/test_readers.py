import gzip
import io
import json
import logging
import subprocess
import sys
import tracemalloc

import pytest
import zstandard

from easynlp.data.readers import read_rows
from easynlp.errors import ConfigError, DataError, MissingExtra

ROWS = [
    {"text": "这家酒店的早餐不错，房间也干净。", "label": "正面"},
    {"text": "𠮷野家的牛肉饭😋，ＡＢＣ全角", "label": "正面"},
    {"text": "退了，不会再买", "label": "负面"},
]
PACK = {"": lambda b: b, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def body(kind):
    if kind in ("jsonl", "json"):
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    if kind == "array":
        return json.dumps(ROWS, ensure_ascii=False, indent=2)
    mark = "," if kind == "csv" else "\t"
    lines = [list(ROWS[0]), *(list(row.values()) for row in ROWS)]
    return "".join(mark.join(cells) + "\n" for cells in lines)


def values(path, **options):
    return [row.values for row in read_rows(str(path), **options)]


@pytest.fixture
def put(tmp_path):
    def write(name, content, encoding="utf-8"):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return str(file)

    return write


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "array", "csv", "tsv"])
def test_readers_every_format_compression_and_encoding(put, kind, packed, encoding):
    extension = "json" if kind == "array" else kind
    path = put(f"数据.{extension}{packed}", PACK[packed](body(kind).encode(encoding)))
    asked = "utf-8" if encoding == "utf-8-sig" else encoding
    assert values(path, encoding=asked, names=("text",)) == ROWS


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_readers_parquet(put, packed):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), out, row_group_size=2)
    path = put(f"a.parquet{packed}", PACK[packed](out.getvalue()))
    rows = list(read_rows(path))
    assert [row.values for row in rows] == ROWS
    assert [row.line for row in rows] == [1, 2, 3]


def test_readers_parquet_corrupt_says_so(put):
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=r"a\.parquet: not a sound Parquet file \(after 0 rows\)"):
        values(put("a.parquet", b"PAR1" + b"\x00" * 50))
    with pytest.raises(DataError, match=r"gzip file is cut off"):
        values(put("a.parquet.gz", gzip.compress(b"PAR1" * 999)[:-12]))


def test_readers_parquet_without_pyarrow_names_the_extra(put, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"easynlp\[parquet\]"):
        values(put("a.parquet", b"PAR1"))


def test_readers_crlf_blank_lines_and_no_final_newline(put, caplog):
    caplog.set_level(logging.INFO, "easynlp")
    rows = list(read_rows(put("a.jsonl", '{"text": "一"}\r\n\r\n  \r\n{"text": "二"}')))
    assert [(row.line, row.values["text"]) for row in rows] == [(1, "一"), (4, "二")]
    assert "2 blank lines skipped" in caplog.text


def test_readers_txt_keeps_blank_lines_in_place(put):
    rows = list(read_rows(put("a.txt", "第一行\n\n第三行\u2028还是第三行\n")))
    assert [(r.line, r.values["text"]) for r in rows] == [
        (1, "第一行"), (2, ""), (3, "第三行\u2028还是第三行"),
    ]  # fmt: skip


def test_readers_zstd_of_several_frames(put):
    pack = PACK[".zst"]
    path = put("a.jsonl.zst", pack(b'{"text": "\xe4\xb8\x80"}\n') + pack(b'{"text": "b"}\n'))
    assert [v["text"] for v in values(path)] == ["一", "b"]


def test_readers_standard_input_is_json_lines():
    done = subprocess.run(
        [sys.executable, "-c", "from easynlp.data.readers import read_rows\n"
         "assert [str(r) for r in read_rows('-')] == ['-:1', '-:2']"],
        input='{"text": "好"}\n{"text": "差"}\n', text=True, encoding="utf-8", check=False,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_readers_missing_file_suggests_close_names(put):
    path = put("train.jsonl", "{}")
    wrong = path.replace("train", "tran")
    with pytest.raises(DataError) as caught:
        read_rows(wrong)
    assert str(caught.value).startswith(f"{wrong}: no such file")
    assert "train.jsonl" in str(caught.value)
    with pytest.raises(DataError, match="does not exist either"):
        read_rows("没有/这里/a.csv")


def test_readers_folder_lists_its_files(put, tmp_path):
    put("dev.csv", "a")
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(DataError, match=r"x\.csv: this is a folder.*\n.*holds no files"):
        read_rows(str(tmp_path / "x.csv"))
    with pytest.raises(DataError, match=r"Name one file of it: dev\.csv"):
        read_rows(str(tmp_path), format="csv")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b"\xef\xbb\xbf"),
        ("a.jsonl", b"\n\n"),
        ("a.json", b"[]"),
        ("a.csv", b"text,label\n"),
        ("a.tsv", b"\n"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
        ("a.jsonl.zst", PACK[".zst"](b"")),
        ("a.conll", b"\n \n"),
    ],
)
def test_readers_empty_file(put, name, content):
    path = put(name, content)
    with pytest.raises(DataError) as caught:
        values(path, names=("text",))
    assert str(caught.value).startswith(f"{path}: the file ")
    assert "empty (0 bytes)" in str(caught.value) or "holds no rows" in str(caught.value)


def test_readers_broken_utf8_names_line_byte_and_way_out(put):
    good = '{"text": "好"}\n'.encode()
    path = put("a.jsonl", good * 4 + b'{"text": "' + "差".encode("gb18030") + b'"}\n')
    with pytest.raises(DataError) as caught:
        values(path)
    said = str(caught.value)
    assert said.startswith(f"{path}:5: not valid UTF-8: byte 0xb2 at byte 11 of the line")
    assert "--encoding gb18030" in said


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_readers_broken_utf16_names_its_line(put, packed):
    good = "text,label\n好,1\n".encode("utf-16-le") * 20_000
    path = put(f"a.csv{packed}", PACK[packed](b"\xff\xfe" + good + b"\x00\xd8\n\x00"))
    with pytest.raises(DataError) as caught:
        values(path, encoding="utf-16", header=True)
    assert f"{path}:40001: not valid UTF-16" in str(caught.value)
    with pytest.raises(DataError, match=r":1: not valid UTF-8.*\n.*--encoding utf-16"):
        values(path)


def test_readers_nul_byte(put):
    path = put("a.csv", b"text,label\nab,1\nc\x00d,1\n")
    with pytest.raises(DataError) as caught:
        values(path)
    assert str(caught.value).startswith(f"{path}:3: a NUL byte at character 2")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "好"', "Expecting ',' delimiter"),
        ('{"text": "好', "Unterminated string"),
        ("{'text': 1}", "property name"),
        ('["好"]', "a row must be a JSON object, this is list"),
        ('"好"', "a row must be a JSON object, this is str"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_readers_broken_json_line(put, line, said):
    path = put("a.jsonl", '{"text": "一"}\n' + line + "\n")
    with pytest.raises(DataError) as caught:
        values(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('[\n{"a": 1},\n{"a": 2,\n "b": }\n]', 4, "Expecting value"),
        ('[\n{"a": 1}\n{"a": 2}]', 3, "expected , or ]"),
        ('[{"a": 1},\n 2]', 2, "must be a JSON object, this is int"),
        ('[{"a": 1},\n{"a": 2}\n', 2, "expected , or ]"),
        ('[{"a": 1}]\n\nrest', 3, "text after the end of the array"),
        ('{\n  "a": 1\n}', 1, "every object must stand on one line"),
    ],
)
def test_readers_broken_json_array(put, text, line, said):
    path = put("a.json", text)
    with pytest.raises(DataError) as caught:
        values(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert said in str(caught.value)


def test_readers_json_array_lines_are_those_of_the_items(put):
    rows = list(read_rows(put("a.json", '\n [ {"a": 1}, {"a":\n 2},\n\n {"a": 3} ]\n')))
    assert [(row.line, row.values["a"]) for row in rows] == [(2, 1), (2, 2), (5, 3)]


def test_readers_truncated_archives(put):
    content = "".join(f'{{"text": "第{i}条"}}\n' for i in range(50_000)).encode()
    for extension, kind in ((".gz", "gzip"), (".zst", "Zstandard")):
        whole = PACK[extension](content)
        path = put(f"a.jsonl{extension}", whole[: len(whole) // 2])
        seen = 0
        with pytest.raises(DataError) as caught:  # noqa: PT012 - counts the good rows
            for row in read_rows(path):
                seen = row.line
        assert seen > 0
        assert str(caught.value).startswith(f"{path}:{seen + 1}: the {kind} file is cut off")


@pytest.mark.parametrize("extension", [".gz", ".zst"])
def test_readers_not_an_archive(put, extension):
    path = put(f"a.jsonl{extension}", b'{"text": "plain"}\n')
    with pytest.raises(DataError, match=r":1: not a sound (gzip|Zstandard) file.*\n.*extension"):
        values(path)


def test_readers_unknown_extension_lists_the_known(put):
    with pytest.raises(DataError) as caught:
        read_rows(put("a.jsonlines2", "{}"))
    assert 'extension ".jsonlines2". Did you mean ".jsonlines"?' in str(caught.value)
    assert ".csv" in str(caught.value)
    assert "--format jsonl|" in str(caught.value)


def test_readers_options_that_do_not_fit(put):
    path = put("a.jsonl", "{}")
    with pytest.raises(ConfigError, match=r'unknown format "jsnl"\. Did you mean "jsonl"'):
        read_rows(path, format="jsnl")
    with pytest.raises(ConfigError, match="describes csv and tsv tables; this is jsonl"):
        read_rows(path, schema="a:str:1")
    with pytest.raises(ConfigError, match=r'unknown encoding "gb1803"\. Did you mean "gb18030"'):
        values(path, encoding="gb1803")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv.zst", "a.tsv.gz", "a.json"])
def test_readers_need_constant_memory(put, name):
    row = {"a.csv.zst": "第%d条评论很长,1\n", "a.tsv.gz": "第%d条评论很长\t1\n"}.get(
        name, '{"text": "第%d条评论很长", "label": "1"}\n'
    )
    num_rows = 200_000 if name == "a.jsonl" else 60_000
    lines = [row % i for i in range(num_rows)]
    if name == "a.json":
        content = ("[" + ",".join(lines) + "]").encode()
    else:
        content = "".join(lines).encode()
    extension = name[name.rindex(".") :]
    path = put(name, PACK.get(extension, PACK[""])(content))
    del lines, content
    tracemalloc.start()
    count = sum(1 for _ in read_rows(path, header=False if "sv" in name else None))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == num_rows
    assert peak < 2e6, f"{peak:,} bytes"


def test_readers_parquet_needs_constant_memory(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = str(tmp_path / "a.parquet")
    table = pyarrow.table({"text": [f"第{i}条评论" for i in range(100_000)]})
    parquet.write_table(table, path, row_group_size=10_000)
    del table
    before = pyarrow.total_allocated_bytes()
    tracemalloc.start()
    most = count = 0
    for count, _ in enumerate(read_rows(path), 1):
        most = max(most, pyarrow.total_allocated_bytes()) if count % 1000 == 0 else most
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 100_000
    assert peak < 4e6
    assert most - before < 4e6
