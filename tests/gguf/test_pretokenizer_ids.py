"""Every name of a pre-tokenizer: the steps that stand for it give llama.cpp's ids."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.base.test_import_tokens import sample_text
from tests.gguf.cut_vocabulary import cut_vocabulary
from tuneserve.base.tokenizer import tokenizer_json
from tuneserve.gguf.pretokenizer_table import SAME_AS
from tuneserve.gguf.pretokenizers import PRE_TOKENIZERS
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import LlamaModel

BLOCKS = (
    (0x20, 0x7F), (0xA0, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0xA00),
    (0xE00, 0xF00), (0x1100, 0x1200), (0x1E00, 0x2000), (0x2000, 0x2200), (0x3000, 0x3190),
    (0x4E00, 0x9FB0), (0xAC00, 0xD7B0), (0xF900, 0xFB00), (0xFF00, 0xFFF0), (0x10400, 0x10450),
    (0x1F300, 0x1F700),
)  # fmt: skip
PIECES = (
    "camelCase", "HTTPServer", "iPhoneX", "ÉCOLEÉcole", "ΑΒγδ", "USA's", "DON'T", "I'Ll", "we'Re",
    "日本語ABC", "1234567", "12345678901", "３４５６", "Ⅷ٣٤٥", "1,234.50", "a1b22c333", "  \n\n  x",
    "\r\n\r\n", "\t\t", "\u2028", "\x85", "\u3000", "/\n/", "?!\n/\r\n", "(a)", "$5+3=8", "|~^<>",
    " ", "",
)  # fmt: skip


def texts(count: int) -> list[str]:
    choose = random.Random(5)

    def of_a_block() -> str:
        first, last = choose.choice(BLOCKS)
        found = (chr(choose.randrange(first, last)) for _ in range(choose.randrange(1, 8)))
        return "".join(c for c in found if unicodedata.category(c) not in ("Cn", "Cs"))

    return [
        *PIECES,
        *(sample_text(choose, ["<|begin|>"]) for _ in range(count)),
        *("".join(choose.choices(PIECES, k=choose.randrange(1, 8))) for _ in range(count)),
        *(
            "".join(of_a_block() + choose.choice(PIECES) for _ in range(choose.randrange(1, 5)))
            for _ in range(count)
        ),
    ]


NAMES = sorted({row.name for row in PRE_TOKENIZERS} | set(SAME_AS))


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_llama_cpps(llama_cpp_source: Path, tmp_path: Path, name: str) -> None:
    source = llama_cpp_source / "models" / "ggml-vocab-gpt-2.gguf"
    path = cut_vocabulary(source, tmp_path / "v.gguf", pre=name, tokens=6000)
    tokenizer = Tokenizer.from_str(json.dumps(tokenizer_json(GGUFFile(path))))
    with LlamaModel(path, vocab_only=True) as model:
        different = [
            text
            for text in texts(30)
            if tokenizer.encode(text, add_special_tokens=False).ids != model.tokenize(text)
        ]
    assert different == []
