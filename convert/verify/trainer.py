"""The trainer's own tokenizer and chat template, read from what training saved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tuneserve.chat.prompt import (
    EncodedExample,
    FastTokenizer,
    Rendering,
    encode,
    render_example,
)
from tuneserve.examples import Example

SHOWN_SPECIALS = 32


class TrainerTokenizer:
    """transformers' tokenizer of the adapter directory, and examples as training encodes them.

    `thoughts` is the run's [data] setting. Raises TuneserveError if there is no chat template.
    """

    def __init__(self, directory: Path, *, thoughts: str = "train") -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from transformers import PreTrainedTokenizerFast

        # By tokenizer.json as training left it: a class of its own (LlamaTokenizer) would build
        # another pre-tokenizer than the one that was saved.
        self._tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(
            directory, local_files_only=True
        )
        self._fast = FastTokenizer(self._tokenizer)
        self.template = self._fast.template()
        # What is trained and what is only read is all the same here, but where answers begin.
        self.thoughts = "drop" if thoughts == "drop" else "mask"

    def encode(self, text: str) -> list[int]:
        """Ids of text with special tokens parsed and none added."""
        return [token.id for token in self._fast.tokens(text)]

    def encode_example(self, example: Example) -> EncodedExample:
        """Ids of the prompt and of the answer as training has them; the thoughts are `unscored`."""
        return encode(self._fast, self.template, example, thoughts=self.thoughts)

    def rendering(self, example: Example) -> Rendering:
        """An example that has a prompt, as the project's own renderer gave it to training."""
        return render_example(self.template, example, thoughts=self.thoughts)

    def render(self, example: Example) -> str:
        """Its prompt by transformers' renderer, called as ours is."""
        arguments = dict(self.rendering(example).arguments)
        text: str = self._tokenizer.apply_chat_template(
            arguments.pop("messages"), tokenize=False, **arguments
        )
        return text

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
        return [token.content for token in added][:SHOWN_SPECIALS]
