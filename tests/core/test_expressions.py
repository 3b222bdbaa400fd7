from __future__ import annotations

import re
import time

import pytest

from tuneserve.expressions import ExpressionError, check_expression
from tuneserve.gguf import pretokenizer_table

_VISION = (
    r"(?:.*?(?:vision|image|language|text).*?(?:self_attn|attention|attn|mlp|ffn|dense)"
    r".*?(?:k_proj|v_proj|q_proj|proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:mlp)\.(?:(?:up_proj)))"
)


@pytest.mark.parametrize(
    "expression",
    [
        "(([a-z0-9_.]+)+)+X", "(a|a)*b", "(a|aa)+$", "(a*)*", "(?:x?){50}", "a?" * 30 + "a" * 30,
        "(a|a)" * 30, ".*" * 6, "(a{1000}){1000}", "(.{1,50}){1,50}X", r"(a+)\1+", "(?P<n>a+)+",
        "(?>a+)+", "(?(1)a|b)", "(?x: a # ( \n )+", "[[:](a+)+X]", "(" * 100 + ")" * 100,
        "(", "a)", "[", "\\", "a" * 10_000, "(?:(?:a+)?)+", "(?:a+|b)+", "((a+){2}){2,}",
    ],
)  # fmt: skip
def test_what_may_take_for_ever_is_refused(expression: str) -> None:
    with pytest.raises(ExpressionError):
        check_expression(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "q_proj", "model.layers.0.self_attn.q_proj", r".*\.layers\.(0|1)\..*q_proj",
        "q_proj|v_proj", r"^model\.layers\.\d+\.mlp$", _VISION, "[]a]+", "[^]]", r"[\]\[]",
    ],
)  # fmt: skip
def test_patterns_in_use_are_taken(expression: str) -> None:
    check_expression(expression)
    matcher = re.compile(rf"(.*\.)?({expression})$")
    began = time.process_time()
    assert not matcher.match("model.layers." * 8 + "vision.attn.k" * 4 + "!")
    assert time.process_time() - began < 2


def test_most_pre_tokenizers_need_no_exception() -> None:
    known = {v for name, v in vars(pretokenizer_table).items() if name.endswith("_REGEX")}
    refused = 0
    for expression in known:
        try:
            check_expression(expression)
        except ExpressionError:
            refused += 1
    assert refused <= 3 < len(known)
