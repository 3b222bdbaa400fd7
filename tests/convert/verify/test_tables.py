"""A vocabulary's tables in the GGUF against tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path

from tuneserve.convert.gguf.vocabulary import Vocabulary
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.convert.verify.hard_strings import special_token_strings
from tuneserve.convert.verify.tables import check_tables
from tuneserve.gguf.reader import GGUFFile
from tuneserve.gguf.sentencepiece import sentencepiece_steps

# As Gemma 3's: runs of spaces are added tokens, and what merges give too, before all others.
TOKENS = ["<unk>", "<bos>", "<eos>", "▁▁", "▁a", "▁", "a"]
MERGES = [["▁", "▁"], ["▁", "a"]]


def test_added_tokens_that_merges_give_too(tmp_path: Path) -> None:
    added = [
        {"id": number, "content": TOKENS[number], "special": number < 3, "lstrip": False,
         "rstrip": False, "single_word": False, "normalized": False}
        for number in range(4)
    ]  # fmt: skip
    model = {
        "type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "merges": MERGES,
        "vocab": {token: number for number, token in enumerate(TOKENS)},
    }  # fmt: skip
    steps = sentencepiece_steps(space_prefix=False)
    content = {"model": model, "added_tokens": added, "post_processor": None, **steps}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    made = Vocabulary(tmp_path, rows=7, architecture="gemma3", config={}).metadata()
    scores = [*made["tokenizer.ggml.scores"][1]]
    assert scores[4] > scores[3]

    write_gguf(
        tmp_path / "x.gguf", {"general.architecture": ("string", "gemma3"), **made}, {}, [],
        threads=1,
    )  # fmt: skip
    assert check_tables(tmp_path, GGUFFile(tmp_path / "x.gguf")).passed


def test_a_run_of_markers_is_no_text() -> None:
    assert special_token_strings(["▁▁", "<a>"]) == special_token_strings(["<a>"])
