"""Contract: the GGUF's tokenizer gives the ids that training saw."""

from __future__ import annotations

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
    template_of,
)
from tuneserve.chat.template import ChatTemplate
from tuneserve.convert.result import Check
from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaModel


def check_token_ids(
    trainer: TrainerTokenizer, model: LlamaModel, examples: Sequence[Example]
) -> Check:
    """Held-out texts, hard strings and written-out special tokens, id by id."""
    texts = [unicodedata.normalize("NFC", text) for text in HARD_STRINGS]
    texts += special_token_strings(trainer.special_tokens)
    for example in examples:
        texts += [str(message["content"]) for message in example.messages]
        if example.prompt:
            rendering = trainer.rendering(example)
            texts += [rendering.prompt, rendering.completion.text if rendering.completion else ""]
    for text in texts:
        ours, theirs = trainer.encode(text), model.tokenize(text)
        if ours != theirs:
            place = _first_difference(ours, theirs)
            return Check(
                "token ids", False,
                f"the GGUF cuts {text[:60]!r} differently: at position {place} the trainer has "
                f"{ours[place : place + 3]}, the GGUF {theirs[place : place + 3]}",
                {"texts": len(texts)},
            )  # fmt: skip
    return Check("token ids", True, f"equal on {len(texts)} texts", {"texts": len(texts)})


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


def check_template(
    trainer: TrainerTokenizer, model: LlamaModel, examples: Sequence[Example]
) -> Check:
    """transformers' renderer with the trainer's template against ours with the GGUF's."""
    asked = [example for example in examples if example.prompt]
    try:
        for example in asked:
            template = template_of(model)
            theirs = trainer.render(example)
            ours = render_example(template, example, thoughts=trainer.thoughts).prompt
            if ours != theirs:
                place = _first_difference(ours, theirs)
                return Check(
                    "chat template", False,
                    f"a prompt is rendered differently: training has "
                    f"{theirs[place : place + 40]!r}, the GGUF {ours[place : place + 40]!r}",
                )  # fmt: skip
    except TuneserveError as error:
        return Check("chat template", False, str(error))
    return Check(
        "chat template", True, f"equal on {len(asked)} prompts", {"prompts": len(asked)},
    )  # fmt: skip


def _first_difference(one: Sequence[object], other: Sequence[object]) -> int:
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


SHOWN_SPECIALS = 32


class TrainerTokenizer:
    """transformers' tokenizer of the adapter directory, and examples as training encodes them.

    `thoughts` is the run's [data] setting.
    """

    def __init__(self, directory: Path, *, thoughts: str = "train") -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._tokenizer: Any = load_fast_tokenizer(directory)
        self._fast = FastTokenizer(self._tokenizer)
        # Only the place where the answer proper begins matters here, and 'mask' marks it.
        self.thoughts = "drop" if thoughts == "drop" else "mask"

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template. Raises TuneserveError if there is none: texts without a prompt need
        none."""
        return self._fast.template()

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


HARD_STRINGS = (
    "", " ", "  ", "\n", "\n\n\n", "\t\t x", " leading", "trailing ", "a  b   c    d", "\r\n\r\n",
    "Hello, world!", "HELLO WORLD", "don't can't I'll we've she's he'd I'm you're", "DON'T I'LL",
    "0", "1234567890", "3.14159", "1,000,000", "12 345", "1st 2nd", "0x1F", "²³½", "٣٤٥", "Ⅷ",
    "def f(x):\n    return x ** 2  # squared\n", "if (a&&b||!c) { d[i++] = e->f; }\n",
    "SELECT * FROM t WHERE a >= 10;", "<div class=\"x\">&amp;</div>", "```python\nprint(1)\n```",
    "https://example.org/a/b?c=d&e=%20#f", "user@example.org", "C:\\Users\\x\\y.txt",
    "--flag=value",
    "naïve café Größe Łódź", "Привет, мир!", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم",
    "नमस्ते दुनिया", "สวัสดีชาวโลก", "你好，世界！", "こんにちは世界", "안녕하세요 세계",
    "Xin chào thế giới",
    "🙂", "👨‍👩‍👧‍👦", "🇩🇪🇫🇷", "👍🏽", "✅ done ❌ failed",
    "→ ← ↑ ↓ ≤ ≥ ≠ ∞ ∑ √", "“quotes” ‘single’ — – …",
    "\u00a0nbsp\u00a0", "\u2003em\u2003", "\u200bzero\u200bwidth", "\ufeffbom", "a\u0300 e\u0301",
    "...", "!!!???", "~~~~", "=====", "-----\n=====", "((((()))))", "____", "'''", '"""',
    "$$$ €€ ££",
    "aaaaaaaaaaaaaaaaaaaaaaaa", "supercalifragilisticexpialidocious", "x" * 200, "ab" * 100,
    "line one\nline two\r\nline three\rline four", "a\tb\tc", "\x00\x01\x7f", "end.\n\n  next",
)  # fmt: skip


def special_token_strings(tokens: Sequence[str]) -> list[str]:
    """Texts with special tokens written out, alone and between words."""
    return [form for token in tokens for form in (token, f"a{token}b", f"x {token}\n{token} y")]
