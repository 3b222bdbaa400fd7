"""The trainer's own tokenizer and chat template, read from what training saved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuneserve.convert.verify.texts import Conversation
from tuneserve.errors import TuneserveError
from tuneserve.prompt import with_bos
from tuneserve.template import Message
from tuneserve.thoughts import KEY, complete

SHOWN_SPECIALS = 32


class TrainerTokenizer:
    """transformers' tokenizer of the adapter directory."""

    def __init__(self, directory: Path) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from transformers import PreTrainedTokenizerFast

        # By tokenizer.json as training left it: a class of its own (LlamaTokenizer) would build
        # another pre-tokenizer than the one that was saved.
        self._tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(
            directory, local_files_only=True
        )
        if not self._tokenizer.chat_template:
            raise TuneserveError(
                "the trainer's tokenizer has no chat template", where=str(directory)
            )

    def encode(self, text: str) -> list[int]:
        """Ids of text with special tokens parsed and none added."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of rendered text as training feeds them: one BOS if the tokenizer adds it."""
        return with_bos(self.encode(text), self.bos if self.adds_bos else None)

    def render(self, conversation: Conversation) -> str:
        """The prompt: conversation rendered up to where the assistant speaks; '' for a text."""
        if not conversation.prompt:
            return ""
        return self._render(conversation, conversation.prompt, add_generation_prompt=True)

    def render_to_answer(self, conversation: Conversation) -> str:
        """What the model has read when it begins with the answer: the prompt and the thoughts, as
        it was trained to write them."""
        prompt, thoughts = self.render(conversation), conversation.thoughts
        if not prompt or not thoughts:
            return prompt
        turn = {"role": "assistant", "content": conversation.answer, KEY: thoughts}
        full = self._render(conversation, [*conversation.prompt, turn])
        completion = complete(prompt, full, conversation.answer, thoughts)
        return prompt + (completion.text[: completion.thoughts_end] if completion else "")

    def _render(self, conversation: Conversation, messages: Sequence[Message], **how: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(messages), tools=conversation.tools, tokenize=False, **how
        )
        return text

    @property
    def bos(self) -> int | None:
        number: int | None = self._tokenizer.bos_token_id
        return number

    @property
    def eos(self) -> int | None:
        number: int | None = self._tokenizer.eos_token_id
        return number

    @property
    def adds_bos(self) -> bool:
        """Does it put BOS in front of plain text?"""
        ids: list[int] = self._tokenizer("a")["input_ids"]
        return self.bos is not None and ids[:1] == [self.bos]

    @property
    def special_tokens(self) -> list[str]:
        added = self._tokenizer.added_tokens_decoder.values()
        return [token.content for token in added][:SHOWN_SPECIALS]
