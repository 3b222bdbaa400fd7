"""outlines: its OpenAI model, and the ones it has for vLLM's and SGLang's servers."""

from __future__ import annotations

from typing import Any, Literal

import checks
import openai
import outlines
from checks import MODEL, QUESTION, TOKENS, Person
from outlines.types import CFG, Regex

client: Any = openai.OpenAI(base_url=checks.V1, api_key=checks.KEY, max_retries=0)


def chat() -> None:
    checks.check_text(outlines.from_openai(client, MODEL)(QUESTION, max_completion_tokens=TOKENS))


def stream() -> None:
    model: Any = outlines.from_openai(client, MODEL)
    checks.check_text("".join(model.stream(QUESTION, max_completion_tokens=TOKENS)))


def structured_output() -> None:
    model: Any = outlines.from_openai(client, MODEL)
    Person.model_validate_json(model(QUESTION, Person, max_completion_tokens=300))


def vllm_schema() -> None:
    model: Any = outlines.from_vllm(client, MODEL)
    Person.model_validate_json(model(QUESTION, Person, max_tokens=300))


def vllm_choice() -> None:
    model: Any = outlines.from_vllm(client, MODEL)
    answer = model(QUESTION, Literal["yes", "no"], max_tokens=30)
    assert answer in ("yes", "no"), answer


def vllm_regex() -> None:
    model: Any = outlines.from_vllm(client, MODEL)
    answer = model(QUESTION, Regex("[0-9]{4}"), max_tokens=30)
    assert len(answer) == 4, answer
    assert answer.isdigit(), answer


def vllm_grammar() -> None:
    model: Any = outlines.from_vllm(client, MODEL)
    answer = model(QUESTION, CFG('start: "yes" | "no"'), max_tokens=30)
    assert answer in ("yes", "no"), answer


def sglang_schema() -> None:
    model: Any = outlines.from_sglang(client, MODEL)
    Person.model_validate_json(model(QUESTION, Person, max_tokens=300))


def sglang_regex() -> None:
    model: Any = outlines.from_sglang(client, MODEL)
    answer = model(QUESTION, Regex("[0-9]{4}"), max_tokens=30)
    assert len(answer) == 4, answer


if __name__ == "__main__":
    checks.run(
        "outlines", chat, stream, structured_output, vllm_schema, vllm_choice, vllm_regex,
        vllm_grammar, sglang_schema, sglang_regex,
    )  # fmt: skip
