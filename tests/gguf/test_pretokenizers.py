"""Pre-tokenizers: names and structures, and their ids against llama.cpp's vocabularies."""

from __future__ import annotations

import pytest

from tuneserve.errors import UsageError
from tuneserve.gguf.pretokenizers import PRE_TOKENIZERS, PreTokenizer, by_name, recognise


@pytest.mark.parametrize("row", PRE_TOKENIZERS, ids=lambda row: row.name)
def test_what_is_written_is_recognised(row: PreTokenizer) -> None:
    found = recognise(
        row.to_json(), ignore_merges=row.ignore_merges, adds_bos=bool(row.adds_bos),
        vocabulary={row.marker} - {""},
    )  # fmt: skip
    assert found is row


def test_no_two_rows_are_the_same() -> None:
    keys = [(str(r.steps), r.ignore_merges, r.adds_bos, r.marker) for r in PRE_TOKENIZERS]
    assert len(set(keys)) == len(keys)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown pre-tokenizer 'made-up'") as caught:
        by_name("made-up")
    assert "llama-bpe" in caught.value.hint


@pytest.mark.parametrize(
    "structure",
    [
        None,
        {"type": "Whitespace"},
        {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True},
        {
            "type": "Split", "pattern": {"Regex": r"\d+"}, "behavior": "Isolated", "invert": False
        },
    ],
)  # fmt: skip
def test_unknown_structure_is_an_error(structure: dict[str, object] | None) -> None:
    with pytest.raises(UsageError, match="is unknown to"):
        recognise(structure, ignore_merges=False, adds_bos=False, vocabulary=set())


def test_left_out_defaults_count() -> None:
    found = recognise(
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False},
        ignore_merges=False, adds_bos=False, vocabulary=set(),
    )  # fmt: skip
    assert found.name == "gpt-2"
