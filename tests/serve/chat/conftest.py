"""Grammars over the demo model's vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from llguidance import LLMatcher

from tests.serve.chat.grammar_support import Allows
from tuneserve.llama import LlamaModel
from tuneserve.serve.chat.structured import GrammarCompiler


@pytest.fixture(scope="package")
def model(demo_gguf: Path) -> Iterator[LlamaModel]:
    with LlamaModel(demo_gguf, vocab_only=True) as model:
        yield model


@pytest.fixture(scope="package")
def grammars(model: LlamaModel) -> GrammarCompiler:
    return GrammarCompiler(model)


@pytest.fixture(scope="package")
def allows(model: LlamaModel) -> Allows:
    def allows(grammar: LLMatcher, text: str) -> bool:
        matcher = grammar.deep_copy()
        ids = model.tokenize(text, parse_special=False)
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    return allows
