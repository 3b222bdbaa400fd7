"""From messages to token ids with what a GGUF itself says: its template, its tokenizer, its BOS.

The rule, here and in training: the rendered text is tokenized with special tokens parsed and none
added; where the model wants a BOS and the template did not write it, exactly one is put in front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaModel
from tuneserve.template import ChatTemplate, Message


def template_of(model: LlamaModel) -> ChatTemplate:
    """The chat template stored in the GGUF. Raises TuneserveError if it has none."""
    source = model.metadata("tokenizer.chat_template")
    if not source:
        raise TuneserveError(
            "this GGUF carries no chat template",
            where=str(model.path),
            hint="Convert it with tuneserve, or use /v1/completions, which needs none.",
        )
    return ChatTemplate(
        source, bos_token=model.token_text(model.bos), eos_token=model.token_text(model.eos)
    )


def encode_text(model: LlamaModel, text: str) -> list[int]:
    """Token ids of rendered text, special tokens parsed, with one BOS if the model wants it."""
    ids = model.tokenize(text, add_special=False, parse_special=True)
    return with_bos(ids, model.bos if model.adds_bos else None)


def with_bos(ids: list[int], bos: int | None) -> list[int]:
    """`ids` beginning with `bos` (None: the model wants none); never doubled."""
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


def encode_messages(
    model: LlamaModel,
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    **variables: Any,
) -> list[int]:
    """Token ids of a conversation as the model was trained to see it."""
    text = template.render(
        messages, add_generation_prompt=add_generation_prompt, tools=tools, **variables
    )
    return encode_text(model, text)
