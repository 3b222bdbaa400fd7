"""Texts on which tokenizers that are nearly alike part."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from tuneserve.gguf.sentencepiece import SPACE

HARD_STRINGS = (
    "", " ", "  ", "\n", "\n\n\n", "\t\t x", " leading", "trailing ", "a  b   c    d", "\r\n\r\n",
    "Hello, world!", "HELLO WORLD", "don't can't I'll we've she's he'd I'm you're", "DON'T I'LL",
    "0", "1234567890", "3.14159", "1,000,000", "12 345", "1st 2nd", "0x1F", "²³½", "٣٤٥", "Ⅷ",
    "def f(x):\n    return x ** 2  # squared\n", "if (a&&b||!c) { d[i++] = e->f; }\n",
    "SELECT * FROM t WHERE a >= 10;", "<div class=\"x\">&amp;</div>", "```python\nprint(1)\n```",
    "https://example.org/a/b?c=d&e=%20#f", "user@example.org", "C:\\Users\\x\\y.txt",
    "--flag=value",
    "naïve café Größe Łódź", "Привет, мир!", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم",
    "नमस्ते दुनिया", "สวัสดีชาวโลก", "你好，世界！", "こんにちは世界", "안녕하세요 세계",
    "Xin chào thế giới",
    "🙂", "👨‍👩‍👧‍👦", "🇩🇪🇫🇷", "👍🏽", "✅ done ❌ failed",
    "→ ← ↑ ↓ ≤ ≥ ≠ ∞ ∑ √", "“quotes” ‘single’ — – …",
    "\u00a0nbsp\u00a0", "\u2003em\u2003", "\u200bzero\u200bwidth", "\ufeffbom", "a\u0300 e\u0301",
    "...", "!!!???", "~~~~", "=====", "-----\n=====", "((((()))))", "____", "'''", '"""',
    "$$$ €€ ££",
    "aaaaaaaaaaaaaaaaaaaaaaaa", "supercalifragilisticexpialidocious", "x" * 200, "ab" * 100,
    "line one\nline two\r\nline three\rline four", "a\tb\tc", "\x00\x01\x7f", "end.\n\n  next",
    # Steps of pre-tokenizers that only some have: letters' case, digits by threes or one by one and
    # from which end, contractions in capitals, marks, what newlines and slashes are kept with.
    "CamelCaseWord HTTPServer iPhone15Pro parseJSON2XML aBcDeF", "MacDonald's O'NEILL'S",
    "I'LL WE'VE HE'D THEY'RE I'M CAN'T SHE'S", "’s ’ll it’s IT’S", "'sx 'Tx x'Sx X'LLx",
    "ǅungla ʰa ªº ſ ẞ straßeSTRASSE", "1 12 123 1234 12345 123456 1234567", "x1y22z333 4444a",
    "١٢٣٤٥٦٧ १२३४५ ๑๒๓๔ ⅧⅨ ½¼ ①②", "漢字かなカナ한글 漢字123漢字",
    "中文English中文 日本語2024年5月",
    "ภาษาไทยที่น่าสนใจ ก็ได้ น้ำ", "हिन्दी में क्षत्रिय", "עִבְרִית עם ניקוד", "الْعَرَبِيَّةُ",
    "e\u0301\u0301x A\u0308b",
    "a/b/c\n/d\n", "end/\n\n/x", "!!\n\n x", "...\r\n...", " \n \n  x", "\t\n\tx\n",
    "x \u3000y\u2028z",
    "\u00a0Word _word -word .Word #Tag @Name", "$100 €200 50% 3+4=7", "foo_bar__baz-qux.quux",
    "ÀÉÎõü ÑANDÚ ŁÓDŹ łódź", "ΑΒΓ αβγ Ώρα", "МОСКВА Москва мОСКВА", "ქართული ՀԱՅԵՐԵՆ Հայերեն",
    "🙂🙃a🙂1🙂 🙂", "a\u200db\u200cc", "\ud7a3\u1100\u1161",
)  # fmt: skip

_PARTS = (
    "a", "the", "Word", "WORD", "x", "ß", "É", "éa", "ǅ", "ʰ", "漢", "字", "かな", "한글",
    "ไทย", "ที่", "हिन्दी", "עברית", "\u0301", "0", "12", "3456", "٣٤", "½",
    "'s", "'S", "'ll", "'LL", "’t", "_", "-", "--", ".", "...", "/", "//", "!", "(", ")", "#",
    "$", "+=", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "🙂", "Ж", "ж", "λ", "Λ",
)  # fmt: skip
_MIXED, _LONGEST = 400, 8


def mixed_strings() -> Iterator[str]:
    """The same strings every time, of parts that are put together at random."""
    draw = random.Random(0)  # noqa: S311 - nothing secret
    for _ in range(_MIXED):
        yield "".join(draw.choices(_PARTS, k=draw.randint(2, _LONGEST)))


_TOGETHER = 32


def special_token_strings(tokens: Sequence[str]) -> list[str]:
    """Texts with special tokens written out: the first ones alone and between words, all of them
    in texts of many.

    Not those of nothing but '▁' (Gemma 3's runs of spaces): llama.cpp's are of spaces, which is
    what a text has.
    """
    tokens = [token for token in tokens if set(token) != {SPACE}]
    texts = [form for t in tokens[:_TOGETHER] for form in (t, f"a{t}b", f"x {t}\n{t} y")]
    for first in range(0, len(tokens), _TOGETHER):
        together = tokens[first : first + _TOGETHER]
        texts += ["".join(together), "a".join(together), " ".join(together), "\n".join(together)]
    return texts


def first_difference(one: Sequence[object], other: Sequence[object]) -> int:
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
