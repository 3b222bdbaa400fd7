"""Numbers as LaTeX writes them, made plain: \\frac{3}{4}, 1{,}234, 3 \\times 10^{5}."""

from __future__ import annotations

import re

_LATEX = (
    (re.compile(r"\\([dtc]?)frac\s*\{\s*([\d.]+)\s*\}\s*\{\s*-\s*([\d.]+)\s*\}"),
     r"\\\1frac{-\2}{\3}"),
    (re.compile(r"\\([dtc]?)frac\s*\{\s*-\s*([\d.]+)\s*\}\s*\{\s*-\s*([\d.]+)\s*\}"),
     r"\\\1frac{\2}{\3}"),
    (re.compile(r"\\[dtc]?frac\s*\{\s*(-?\d+(?:\.\d+)?)\s*\}\s*\{\s*(\d+(?:\.\d+)?)\s*\}"),
     r" \1/\2 "),
    (re.compile(r"\\[dtc]?frac\s*(\d)\s*(\d)"), r" \1/\2 "),
    (re.compile(r"-\s+(?=[\d.]+/[\d.]+ )"), "-"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\(?:text|math|mbox|operatorname)(?:rm|bf|it)?\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\[,;:! ]"), " "),
    (re.compile(r"\\(?=[%$#&_])"), ""),
    (re.compile(r"\^\s?\{?\s?\\circ\s?\}?"), "° "),
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), "×"),  # \times10 is two words to LaTeX
    (re.compile(r"\\pm(?![A-Za-z])"), "±"),
    (re.compile(r"\\pi(?![A-Za-z])"), "π"),
    (re.compile(r"\\(?:left|right|displaystyle|approx|quad|qquad)(?![A-Za-z])|\\[()\[\]]"), " "),
    (re.compile(r"(?<=\d)~(?=\d)"), " "),
)  # fmt: skip


def without_latex(text: str) -> str:
    """Text with the commands that numbers need as plain signs."""
    if "\\" in text or "{,}" in text or "~" in text:
        for pattern, plain in _LATEX:
            text = pattern.sub(plain, text)
    return text
