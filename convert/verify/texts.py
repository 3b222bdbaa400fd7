"""Strings that tokenizers stumble over."""

from __future__ import annotations

from collections.abc import Sequence

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
)  # fmt: skip


def special_token_strings(tokens: Sequence[str]) -> list[str]:
    """Texts with special tokens written out, alone and between words."""
    return [form for token in tokens for form in (token, f"a{token}b", f"x {token}\n{token} y")]
