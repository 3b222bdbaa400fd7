"""dspy: a plain call, a typed signature by schema, tools, embeddings, responses."""

from __future__ import annotations

from typing import Any

import checks
import dspy
from checks import MODEL, QUESTION, TOKENS, Person
from dspy.lm15 import (
    AccessPolicy,
    ModelSupport,
    OpenAIChatCompat,
    ProviderDefinition,
    register_provider,
)


def _language_model(**fields: Any) -> Any:
    fields = {"max_tokens": 300, "temperature": 0.7, **fields}
    return dspy.LM(
        f"openai/{MODEL}", api_base=checks.V1, api_key=checks.KEY, cache=False, num_retries=0,
        **fields,
    )  # fmt: skip


class Describe(dspy.Signature):  # type: ignore[misc]
    """Describe a person who lives at the harbour."""

    place: str = dspy.InputField()
    person: Person = dspy.OutputField()


def chat() -> None:
    (text,) = _language_model(max_tokens=TOKENS)(QUESTION)
    checks.check_text(text if isinstance(text, str) else text["text"])


def _declare() -> None:
    """A server of one's own is declared with what it can; without it no schema is ever sent."""
    access = AccessPolicy(provider="tuneserve", env_keys=("TUNESERVE_KEY",), base_url=checks.V1)
    register_provider(
        ProviderDefinition.chat(access, compat=OpenAIChatCompat()),
        supports=ModelSupport(function_calling=True, response_schema=True),
    )


def typed_signature() -> None:
    """JSONAdapter sends the signature's schema, so the answer has the class."""
    _declare()
    model = dspy.LM(f"tuneserve/{MODEL}", api_key=checks.KEY, max_tokens=300, cache=False)
    with dspy.context(lm=model, adapter=dspy.JSONAdapter()):
        answer = dspy.Predict(Describe)(place="Genoa")
    assert isinstance(answer.person, Person)


def tools() -> None:
    """The call that a model makes by the API's own tools, not by text."""
    answer = _language_model()(
        messages=[{"role": "user", "content": QUESTION}],
        tools=[checks.TOOL],
        tool_choice="required",
    )
    (call, *_) = answer[0]["tool_calls"]
    checks.check_arguments(call["function"]["arguments"])


def embeddings() -> None:
    embedder = dspy.Embedder(
        f"openai/{MODEL}", api_base=checks.V1, api_key=checks.KEY, caching=False
    )
    for vector in embedder(["one", "two"]):
        checks.check_vector(vector)


def responses() -> None:
    (text,) = _language_model(max_tokens=TOKENS, model_type="responses")(QUESTION)
    checks.check_text(text if isinstance(text, str) else text["text"])


if __name__ == "__main__":
    checks.run("dspy", chat, typed_signature, tools, embeddings, responses)
