import logging

import pytest

from easynlp.data.readers import read_rows
from easynlp.errors import DataError

NAME = {"start": 0, "end": 3, "type": "NAME", "text": "吴重阳"}
BIO = "吴 B-NAME\n重 I-NAME\n阳 I-NAME\n， O\n"
SCHEMES = {
    "bio": BIO,
    "bioes": "吴 B-NAME\n重 I-NAME\n阳 E-NAME\n， O\n",
    "bmes": "吴 B-NAME\n重 M-NAME\n阳 E-NAME\n， O\n",
    "conll": "吴\tX\tB_NAME\n重\tX\tI_NAME\n阳\tX\tL_NAME\n，\tX\tO\n",
}


@pytest.fixture
def put(tmp_path):
    def write(name, content):
        file = tmp_path / name
        file.write_bytes(content.encode())
        return str(file)

    return write


@pytest.mark.parametrize("scheme", SCHEMES)
def test_conll_schemes(put, scheme):
    content = f"-DOCSTART- O\n\n{SCHEMES[scheme]}\n\n京 O\n 　\n"
    content = content.replace("\n 　\n", "\n\n") + SCHEMES[scheme].replace("\n", "\r\n")
    rows = list(read_rows(put(f"a.{scheme}", content)))
    assert [row.line for row in rows] == [3, 9, 11]
    assert rows[0].values == rows[2].values == {"text": "吴重阳，", "entities": [NAME]}
    assert rows[1].values == {"text": "京", "entities": []}


def test_conll_single_adjacent_and_spaces(put):
    path = put("a.bmes", "京 S-LOC\n沪 S-LOC\n  O\n　 O\n张 B-PER\n三 E-PER\n")
    row = next(read_rows(path))
    assert row.values["text"] == "京沪 　张三"
    found = [(e["start"], e["end"], e["type"], e["text"]) for e in row.values["entities"]]
    assert found == [(0, 1, "LOC", "京"), (1, 2, "LOC", "沪"), (4, 6, "PER", "张三")]


def test_conll_two_begins_are_two_entities(put):
    row = next(read_rows(put("a.bio", "北 B-LOC\n京 I-LOC\n上 B-LOC\n海 I-LOC\n")))
    assert [e["text"] for e in row.values["entities"]] == ["北京", "上海"]


@pytest.mark.parametrize(
    ("content", "line", "said", "mended"),
    [
        ("好 O\n北 I-LOC\n京 I-LOC\n", 2, "tag I-LOC does not continue", ["北京"]),
        ("北 B-LOC\n京 I-ORG\n", 2, "tag I-ORG does not continue", ["北", "京"]),
        ("北 E-LOC\n京 O\n", 1, "tag E-LOC does not continue", ["北"]),
        (
            "上 S-LOC\n北 B-LOC\n京 M-LOC\n好 O\n",
            4,
            "ends without E-, which line 1",
            ["上", "北京"],
        ),
        (
            "北 B-LOC\n京 I-LOC\n好 O\n上 S-LOC\n",
            3,
            "ends without E-, which line 4",
            ["北京", "上"],
        ),
        ("上 S-LOC\n北 B-LOC\n", 2, "ends without E-", ["上", "北"]),
    ],
)
def test_conll_wrong_sequences_fail_or_are_mended_and_counted(
    put, caplog, content, line, said, mended
):
    path = put("a.conll", content)
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert said in str(caught.value)
    assert "--format conll_repair" in str(caught.value)
    with caplog.at_level(logging.WARNING, "easynlp"):
        rows = list(read_rows(path, format="conll_repair"))
    assert [e["text"] for row in rows for e in row.values["entities"]] == mended
    assert f"{path}: 1 wrong tags mended, the first at line {line}" in caplog.text


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("北京", "expected a character and a tag"),
        ("北 LOC", '"LOC" is no tag'),
        ("北 X-LOC", "no tag"),
    ],
)
@pytest.mark.parametrize("format", ["conll", "conll_repair"])
def test_conll_malformed_lines(put, bad, said, format):
    path = put("a.txt", f"{BIO}\n好 O\n{bad}\n")
    with pytest.raises(DataError) as caught:
        list(read_rows(path, format=format))
    assert str(caught.value).startswith(f"{path}:7: ")
    assert said in str(caught.value)
