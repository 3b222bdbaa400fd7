from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.finetune.conftest import WriteLines
from tuneserve.errors import UsageError
from tuneserve.finetune.check import DataCheck, check, gather
from tuneserve.settings import DataSettings

GOOD = [{"instruction": f"Say {n}.", "output": f"It is {n}."} for n in range(4)]


def checked(path: Path, *, default_fractions: bool = True, **settings: Any) -> DataCheck:
    data = DataSettings(file=path, **settings)
    return check(data, gather(data, default_fractions=default_fractions))


def test_nothing_is_odd_about_good_records(write_lines: WriteLines) -> None:
    found = checked(write_lines(*GOOD))
    assert found.ok
    assert (found.examples, found.shapes, found.refused) == (4, {"alpaca": 4}, [])
    assert [kind.total for kind in found.kinds] == [4]
    assert not found.encoded


def test_every_refused_record_of_every_file_is_told(write_lines: WriteLines) -> None:
    first = write_lines({"instruction": "a"}, *GOOD, "not json", name="a.jsonl")
    second = write_lines({"colour": "red"}, {"text": ""}, name="b.jsonl")
    found = checked(first, more=(str(second),))
    assert not found.ok
    places = [line.split(": ")[0].rpartition("/")[2] for line in found.refused]
    assert places == ["a.jsonl:1", "a.jsonl:6", "b.jsonl:1", "b.jsonl:2"]
    assert found.examples == 4


def test_a_file_without_a_usable_record_is_checked_all_the_same(write_lines: WriteLines) -> None:
    found = checked(write_lines({"colour": "red"}))
    assert (found.ok, found.examples, len(found.refused), found.kinds) == (False, 0, 1, [])


def test_no_file_at_all_is_a_wrong_command(tmp_path: Path, write_lines: WriteLines) -> None:
    with pytest.raises(UsageError, match="no such data file"):
        checked(tmp_path / "nothing.jsonl")
    found = checked(write_lines(*GOOD), more=(str(tmp_path / "nothing.jsonl"),))
    assert not found.ok
    assert "nothing.jsonl: no such data file" in found.problems[0]


def test_an_empty_part_fails_where_its_size_was_chosen_or_chance_is_no_reason(
    write_lines: WriteLines,
) -> None:
    few = write_lines(GOOD[0])
    assert "none for" in checked(few).hints[0]
    chosen = checked(few, default_fractions=False, eval_fraction=0.01)
    assert not chosen.ok
    assert "none for" in chosen.problems[0]
    one_source = write_lines(
        *({"instruction": f"Say {n}.", "output": str(n), "source": "web"} for n in range(120))
    )
    assert not checked(one_source).ok


def test_what_looks_like_a_special_token_is_odd_without_a_base(write_lines: WriteLines) -> None:
    answers = [
        "Iron.<|im_end|>",
        "Tin.</s>",
        "<｜Assistant｜>Zinc.",
        "[INST] Gold",
        "Lead <b>!</b>",
    ]
    rows = [{"instruction": f"Metal {n}?", "output": text} for n, text in enumerate(answers)]
    found = checked(write_lines(*rows))
    assert not found.ok
    marks = [note.text.split("'")[1] for note in found.notes if note.odd]
    assert sorted(marks) == sorted(["<|im_end|>", "</s>", "<｜Assistant｜>", "[INST]"])


def test_duplicates_are_counted_and_not_odd(write_lines: WriteLines) -> None:
    found = checked(write_lines(*GOOD, GOOD[0]))
    assert (found.ok, found.duplicates) == (True, 1)


def test_a_general_file_is_checked_too(write_lines: WriteLines) -> None:
    general = write_lines(*GOOD, {"colour": "red"}, name="general.jsonl")
    found = checked(write_lines(*GOOD), general=general, general_fraction=0.5)
    assert [line.rpartition("/")[2].split(": ")[0] for line in found.refused] == ["general.jsonl:5"]
