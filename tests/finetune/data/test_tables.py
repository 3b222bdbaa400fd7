"""Tables as spreadsheets, pandas and Arrow write them."""

from __future__ import annotations

import csv
import io
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from tuneserve.errors import UsageError
from tuneserve.finetune.data.formats import BadRecord
from tuneserve.finetune.data.notes import Notes
from tuneserve.finetune.data.reading import read_examples
from tuneserve.finetune.data.records import read_records

GOOD = {"instruction": "a", "output": "b"}


def read(path: Path, content: str | bytes) -> tuple[list[tuple[int, Any]], list[str]]:
    """Lines with their records, and notes."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    notes = Notes()
    found = [(int(r.place.rpartition(":")[2]), r.record) for r in read_records(path, notes)]
    return found, [note.text for note in notes]


@pytest.mark.parametrize(
    ("content", "line", "notes"),
    [
        ("instruction,output\na,b\n", 2, []),
        ("instruction;output\na;b\n", 2, ["fields are separated by ';'"]),
        ("instruction\toutput\na\tb\n", 2, ["fields are separated by '\\t'"]),
        ("instruction|output\na|b\n", 2, ["fields are separated by '|'"]),
        ("instruction, output\na, b\n", 2, ["fields are separated by ',' and a space"]),
        ("\n\ninstruction,output\na,b\n", 4, []),
        ("instruction,output,\na,b,\n", 2, []),
        ("instruction,output\na,b,,\n", 2, []),
        ("instruction,output\r\na,b\r\n", 2, []),
        ("instruction,output\ra,b\r", 2, []),
        ("Export,\n\ninstruction,output\na,b\n", 4, ["not read, above the header: 'Export'"]),
        ("sep=;\ninstruction;output\na;b\n", 3, []),
        ("\"sep=|\"\r\ninstruction|output\r\na|b\r\n", 3, []),
        (
            "instruction,output\na,b\ninstruction,output\n", 2,
            ["the header stands there again and is not read"],
        ),
        (
            "Unnamed: 0,instruction,output\n0,a,b\n", 2,
            ["a column of row numbers is not read"],
        ),
        ("instruction,output\n,\n\na,b\n", 4, ["empty rows are not read"]),
    ],
)  # fmt: skip
def test_csv_however_it_is_written(
    tmp_path: Path, content: str, line: int, notes: list[str]
) -> None:
    assert read(tmp_path / "data.csv", content) == ([(line, GOOD)], notes)


def test_a_line_that_names_the_delimiter_is_obeyed(tmp_path: Path) -> None:
    found, _ = read(tmp_path / "data.csv", "sep=;\nFrage, bitte;Antwort\nWas, jetzt?;Nein\n")
    assert found == [(3, {"Frage, bitte": "Was, jetzt?", "Antwort": "Nein"})]


def test_a_first_row_that_is_an_example_is_suspected(tmp_path: Path) -> None:
    """A column's name that stands in it as a value: the file has no header."""
    found, notes = read(tmp_path / "data.csv", "It burns,fire\nIt rings,phone\nSmoke,fire\n")
    assert len(found) == 2
    assert notes == ["'fire' is a column's name and a value in it: is there a header?"]


def test_known_names_in_a_header_are_matched_and_told(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("Instruction ,OUTPUT,Kind\na,b,c\n")
    read = read_examples(path)
    assert [m["content"] for m in read.examples[0].messages] == ["a", "b"]
    told = " ".join(note.text for note in read.notes)
    assert "'Instruction' is read as 'instruction'" in told
    assert "'OUTPUT' is read as 'output'" in told


@pytest.mark.parametrize(
    ("text", "encoding", "name"),
    [
        ("größer — “naïve”", "cp1252", "Windows-1252"),
        ("größer", "utf-16", "UTF-16"),
        ("Быстро", "utf-16", "UTF-16"),
        ("größer", "utf-16-le", "UTF-16-LE"),
        ("Быстро", "utf-16-be", "UTF-16-BE"),
        ("größer", "utf-8-sig", None),
    ],
)
def test_encodings_are_recognised_and_told(
    tmp_path: Path, text: str, encoding: str, name: str | None
) -> None:
    content = f"instruction,output\nTranslate it,{text}\n".encode(encoding)
    ((_, record),), notes = read(tmp_path / "data.csv", content)
    assert record["output"] == text
    assert notes == ([f"the file is not UTF-8: it was recognised as {name}"] if name else [])


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Переведи", "cp1251"),
        ("翻译这个", "gbk"),
        ("翻訳する", "shift-jis"),
        ("cześć, było", "cp1250"),
    ],
)
def test_what_is_written_in_another_encoding_is_refused(
    tmp_path: Path, text: str, encoding: str
) -> None:
    content = f"instruction,output\na,b\nTranslate,{text}\n".encode(encoding)
    with pytest.raises(UsageError, match=r"not UTF-8 \(byte \d+ of the file\)") as refused:
        read(tmp_path / "data.csv", content)
    assert refused.value.where == f"{tmp_path / 'data.csv'}:3"
    assert "skip-bad" not in refused.value.render()
    found = list(read_records(write(tmp_path / "data.txt", f"One\n{text}".encode(encoding))))
    assert [isinstance(raw.record, BadRecord) for raw in found] == [True]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ("instruction,output,output\na,b,c\n", 1, "the header names the column 'output' twice"),
        ("instruction,output\na,b\na,b,c\n", 3, "more fields than the header has columns"),
        (",instruction,output\nfoo,a,b\n", 2, "a column without a name holds 'foo'"),
        ('instruction,output\n"a,b\nc,d\n', 2, "a quote that opens here is never closed, lines 2"),
        ('instruction,output\n"a" b,c\n', 2, "a quote inside of a quoted cell is written twice"),
    ],
)
def test_what_is_wrong_in_a_table_is_told_with_the_line_it_begins_on(
    tmp_path: Path, content: str, line: int, reason: str
) -> None:
    found, _ = read(tmp_path / "data.csv", content)
    assert found[-1][0] == line
    assert reason in str(found[-1][1])


def test_reading_goes_on_behind_a_row_that_is_no_csv(tmp_path: Path) -> None:
    content = 'instruction,output\n"x" y,z\na,"b\n\nc"\n,\nd,e\n'
    found, _ = read(tmp_path / "data.csv", content)
    assert [line for line, _ in found] == [2, 3, 7]
    assert [record for _, record in found[1:]] == [
        {"instruction": "a", "output": "b\n\nc"}, {"instruction": "d", "output": "e"},
    ]  # fmt: skip


def test_marks_of_empty_cells_are_told(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    found, notes = read(path, "instruction,input,output\na,nan,NULL\nb,,NaN\n")
    assert found[0][1] == {"instruction": "a", "input": None, "output": "NULL"}
    assert found[1][1] == {"instruction": "b", "input": None, "output": "NaN"}
    assert notes == ["'nan' is read as an empty cell"]
    told = [note.text for note in read_examples(path).notes if note.odd]
    assert any("'NULL'" in text for text in told)
    assert any("'NaN'" in text for text in told)


def test_a_character_that_ends_a_text_is_refused(tmp_path: Path) -> None:
    content = json.dumps({"messages": [{"role": "user", "content": "a\0b"}]})
    path = write(tmp_path / "data.jsonl", f"{json.dumps(GOOD)}\n{content}".encode())
    read = read_examples(path, skip_bad=True)
    assert read.problems == [
        f"{path}:2: 'messages[0].content' holds a NUL character (U+0000): take it out"
    ]


def test_arrow_gives_what_json_lines_give(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    rows: list[dict[str, Any]] = [
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "content": "1", "name": "f"},
                {"role": "assistant", "content": "b"},
            ],
        },
        {"messages": [{"role": "user", "content": "c"}], "id": "n"},
    ]
    table = pa.Table.from_pylist([{"id": None, **rows[0]}, rows[1]])
    parquet.write_table(table, tmp_path / "a.parquet")
    with ipc.new_stream(tmp_path / "b.arrow", table.schema) as stream:
        stream.write_table(table)
    with ipc.new_file(tmp_path / "c.feather", table.schema) as file:
        file.write_table(table)
    for name in ("a.parquet", "b.arrow", "c.feather"):
        assert [raw.record for raw in read_records(tmp_path / name)] == rows


def test_values_of_arrow_that_json_has_not(tmp_path: Path) -> None:
    turns = pa.array(
        [[[("role", "user"), ("content", "a")], [("role", "assistant"), ("content", "b")]]],
        pa.list_(pa.map_(pa.string(), pa.string())),
    )
    columns = {
        "messages": turns, "price": [Decimal("1.50")], "day": [date(2020, 1, 2)], "raw": [b"x"],
        "picture": [b"\xff"],
    }  # fmt: skip
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    (raw,) = read_records(tmp_path / "a.parquet", notes := Notes())
    assert raw.record == {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "price": "1.50", "day": "2020-01-02", "raw": "x", "picture": b"\xff",
    }  # fmt: skip
    assert len(list(notes)) == 2


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12).filter(
    lambda text: text not in ("nan", "NaN")
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(cells, cells, cells), max_size=6), st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from([".csv", ".tsv"]),
)  # fmt: skip
def test_any_cells_come_back_at_their_lines(
    tmp_path: Path, rows: list[tuple[str, str, str]], delimiter: str, end: str, encoding: str,
    suffix: str,
) -> None:  # fmt: skip
    text = io.StringIO(newline="")
    table = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    table.writerow(["instruction", "input", "output"])
    expected = []
    for row in rows:
        start = len(io.StringIO(text.getvalue(), newline="").readlines()) + 1
        table.writerow(row)
        if any(cell.strip() for cell in row):
            record = zip(("instruction", "input", "output"), row, strict=True)
            expected.append((start, {key: cell or None for key, cell in record}))
    path = tmp_path / f"data{suffix}"
    assert read(path, text.getvalue().encode(encoding))[0] == expected
