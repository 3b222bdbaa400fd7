"""Amounts of money: currencies of which 1.234 is a thousand, and prices without cents."""

from __future__ import annotations

import re

CODES = (
    "(?:USD|EUR|GBP|CHF|JPY|CNY|RMB|INR|AUD|CAD|SEK|NOK|DKK|ISK|PLN|CZK|HUF|RON|BGN|RSD|RUB|UAH|TRY"
    "|BRL|COP|CLP|ARS|UYU|PYG|CRC|MXN|IDR|VND|Rs|Rp|RM|kr|Kr)"
)
"""What may stand right before an amount: USD5."""
# Where three digits behind a point are thousands. Before an amount signs and codes alone: peso is
# a weight too.
_SIGN = (
    r"(?:€|₫|₺|₽|₴|₡|₲|R\$|(?:SEK|ISK|PLN|CZK|HUF|RON|BGN|RSD|RUB|UAH|TRY|COP|CLP|ARS|UYU|PYG|CRC"
    r"|MXN|VNĐ)(?![^\W\d_])|(?i:euros?|eur|brl|dkk|nok|idr|vnd|rp|kr|tl)(?![^\W\d_]))"
)
_WORD = (
    r"(?i:pesos?|guaran[ií](?:es)?|bol[ií]vares|bolivianos|colones|reais|rupiah|đồng|đ|dong"
    r"|zł(?:ot\w+)?|(?:türk\s)?liras[ıi]|lir[ae]s?|kron(?:er|or|en|e|a|ur|or)|kč|korun\w?|forint\w*|lei"
    r"|лв|лева|руб\w*|грн|гривен\w*|гривн\w*|динара|dinara|евро|євро|ευρώ|eur[oa]\w?)(?!\w)"
    r"|ユーロ|欧元|歐元|유로|ペソ|比索|越南盾|盾|里拉"
)
_POINT_THOUSANDS = re.compile(
    rf"(?P<before>(?<!\w){_SIGN}\.?\s?\$?[-+]?|(?<![\d.,]))(?P<amount>[1-9]\d{{0,2}}\.\d{{3}})(?![\d.,])"
    rf"(?P<behind>\s?\(?(?:{_SIGN}|{_WORD}))?"
)
_NO_CENTS = re.compile(r"(?<![\d.,])(\d{1,3}(?:\.\d{3}){0,6}|\d+),[-—]{1,2}(?![\w-])")  # 1.234,– €


def with_plain_amounts(text: str) -> str:
    """Text with the amounts of such currencies as 1234."""
    text = _NO_CENTS.sub(lambda found: found[1].replace(".", ""), text)
    return _POINT_THOUSANDS.sub(_without_point, text)


def _without_point(found: re.Match[str]) -> str:
    if not found["before"] and found["behind"] is None:
        return found[0]
    return found[0].replace(found["amount"], found["amount"].replace(".", ""), 1)
