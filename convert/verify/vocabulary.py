"""Contract: the GGUF's tokenizer gives the ids that training saw."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tuneserve.base.fast_tokenizer import load_fast_tokenizer
from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import (
    EncodedExample,
    FastTokenizer,
    Rendering,
    encode,
    render_example,
)
from tuneserve.chat.template import ChatTemplate, Message
from tuneserve.convert.result import Check
from tuneserve.convert.verify.hard_strings import (
    HARD_STRINGS,
    first_difference,
    mixed_strings,
    special_token_strings,
)
from tuneserve.convert.verify.transformers_template import TransformersTemplate
from tuneserve.gguf.pretokenizers import is_exact
from tuneserve.llama import LlamaModel


def check_token_ids(
    trainer: TrainerTokenizer, model: LlamaModel, examples: Sequence[Example]
) -> Check:
    """Held-out texts, hard strings and written-out special tokens, id by id.

    Where llama.cpp has only nearly the tokenizer's steps, hard strings outside ASCII may differ,
    and are counted; held-out texts may not.
    """
    hard = [unicodedata.normalize("NFC", text) for text in (*HARD_STRINGS, *mixed_strings())]
    hard += special_token_strings(trainer.special_tokens)
    texts = []
    for example in examples:
        texts += [str(message["content"]) for message in example.messages]
        if example.prompt:
            rendering = trainer.rendering(example)
            texts += [rendering.prompt, rendering.completion.text if rendering.completion else ""]
    exact = trainer.is_exact(model.metadata("tokenizer.ggml.pre") or "")
    rare = 0
    for number, text in enumerate([*texts, *hard]):
        ours, theirs = trainer.encode(text), model.tokenize(text)
        if ours == theirs:
            continue
        if not exact and number >= len(texts) and not text.isascii():
            rare += 1
            continue
        place = first_difference(ours, theirs)
        return Check(
            "token ids", False,
            f"the GGUF cuts {text[:60]!r} differently: at position {place} the trainer has "
            f"{ours[place : place + 3]}, the GGUF {theirs[place : place + 3]}",
            {"texts": len(texts) + len(hard)},
        )  # fmt: skip
    count = len(texts) + len(hard)
    detail = f"equal on {count - rare} texts"
    if rare:
        detail += f"; {rare} made-up ones in rare writing are cut otherwise by llama.cpp"
    return Check("token ids", True, detail, {"texts": count, "rare": rare})


def check_special_tokens(trainer: TrainerTokenizer, model: LlamaModel) -> Check:
    """BOS and EOS ids, whether BOS is added, and that EOS ends a generation."""
    problems = []
    if trainer.eos != model.eos:
        problems.append(f"the end token is {trainer.eos} in training, {model.eos} in the GGUF")
    elif not model.is_end(model.eos):
        problems.append(f"the end token {model.eos} does not end a generation")
    if trainer.adds_bos != model.adds_bos:
        problems.append(
            f"BOS is added: {trainer.adds_bos} in training, {model.adds_bos} in the GGUF"
        )
    if trainer.bos is not None and trainer.bos != model.bos:
        problems.append(f"BOS is {trainer.bos} in training, {model.bos} in the GGUF")
    detail = "; ".join(problems) or f"EOS {model.eos}, BOS {model.bos} added: {model.adds_bos}"
    return Check("special tokens", not problems, detail)


class TrainerTokenizer:
    """transformers' tokenizer of the adapter `directory`, and examples as training encodes them.

    `thoughts` is the run's [data] setting.
    """

    def __init__(self, directory: Path, *, thoughts: str = "train") -> None:
        self.directory = directory
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._tokenizer: Any = load_fast_tokenizer(directory)
        self._fast = FastTokenizer(self._tokenizer)
        # Only the place where the answer proper begins matters here, and 'mask' marks it.
        self.thoughts = "drop" if thoughts == "drop" else "mask"
        self._theirs: dict[str, TransformersTemplate] = {}

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template. Raises TuneserveError if there is none: texts without a prompt need
        none."""
        return self._fast.template()

    @cached_property
    def template_source(self) -> str:
        """The chat template's text; '' if there is none."""
        return str(self._tokenizer.chat_template or "")

    def encode(self, text: str) -> list[int]:
        """Ids of text with special tokens parsed and none added."""
        return [token.id for token in self._fast.tokens(text)]

    def encode_example(self, example: Example) -> EncodedExample:
        """Ids of the prompt and of the answer as training has them; the thoughts are `unscored`."""
        template = self.template if example.prompt else None
        return encode(self._fast, template, example, thoughts=self.thoughts)

    def rendering(self, example: Example) -> Rendering:
        """An example that has a prompt, as the project's own renderer gave it to training."""
        return render_example(self.template, example, thoughts=self.thoughts)

    def render(self, example: Example) -> str:
        """Its prompt by transformers' renderer, called as ours is. Raises TemplateError."""
        return self.render_plainly(**self.rendering(example).arguments)

    def render_plainly(self, messages: Sequence[Message], **arguments: Any) -> str:
        """transformers' renderer with nothing arranged for the template. Raises TemplateError."""
        source: str = self._tokenizer.get_chat_template(tools=arguments.get("tools"))
        if source not in self._theirs:
            special_tokens = self._tokenizer.special_tokens_map
            self._theirs[source] = TransformersTemplate(source, special_tokens)
        return self._theirs[source].render(messages, **arguments)

    def is_exact(self, pre: str) -> bool:
        """Does llama.cpp's pre-tokenizer of this name cut every text as this one does?"""
        content = json.loads(self._tokenizer.backend_tokenizer.to_str())
        return is_exact(content.get("pre_tokenizer"), pre)

    @property
    def bos(self) -> int | None:
        number: int | None = self._tokenizer.bos_token_id
        return number

    @property
    def eos(self) -> int | None:
        return self._fast.end_token

    @property
    def adds_bos(self) -> bool:
        """Does it put BOS in front of plain text?"""
        return self._fast.leading_bos is not None

    @property
    def special_tokens(self) -> list[str]:
        added = self._tokenizer.added_tokens_decoder.values()
        return [token.content for token in added]
