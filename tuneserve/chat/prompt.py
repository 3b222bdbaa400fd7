"""From a conversation to token ids, the one way for trainer, verification, server and benchmark.

The rules: the model's own chat template renders the text; the prompt is tokenized as a whole with
special tokens parsed and none added, one BOS in front where the vocabulary wants it and the
template did not write it; the answer is tokenized by itself, as it will be when the model writes it
after that prompt, and ends with its end token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

from tuneserve.chat.examples import Example
from tuneserve.chat.template import ChatTemplate, Message
from tuneserve.chat.thinking import (
    REASONING,
    TargetText,
    complete,
    opens_thoughts,
    thoughts_end,
    without_thoughts,
)
from tuneserve.chat.tools import described, knows_tools
from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaModel

_THINKING_BY_DEFAULT = (
    "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}{{ '' }}"
)


class EncodingError(TuneserveError):
    """An example can't be turned into token ids."""


class TokenSpan(NamedTuple):
    """A token of a text, which stands for the characters from `start` to `end`."""

    id: int
    start: int
    end: int


class Tokenizer(Protocol):
    """A vocabulary as a conversation is encoded with it."""

    @property
    def leading_bos(self) -> int | None:
        """BOS, if this vocabulary wants one in front of every text."""

    @property
    def end_token(self) -> int | None:
        """What ends a text where the template ends no turn."""

    def tokens(self, text: str) -> list[TokenSpan]:
        """The tokens of a text, special tokens parsed and none added."""

    def is_special(self, token: int) -> bool:
        """Is it a token that stands for no text, such as an end of turn?"""


class FastTokenizer:
    """A fast tokenizer of transformers, which the caller has loaded."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self.special_ids = frozenset(number for number, token in added.items() if token.special)
        ids = tokenizer("a")["input_ids"]
        bos: int | None = tokenizer.bos_token_id
        self.leading_bos = bos if bos is not None and ids[:1] == [bos] else None
        self.end_token: int | None = tokenizer.eos_token_id

    def tokens(self, text: str) -> list[TokenSpan]:
        coded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        pairs = zip(coded["input_ids"], coded["offset_mapping"], strict=True)
        return [TokenSpan(number, start, end) for number, (start, end) in pairs]

    def is_special(self, token: int) -> bool:
        return token in self.special_ids

    def template(self) -> ChatTemplate:
        """The tokenizer's chat template. Raises TuneserveError if it has none."""
        if not self._tokenizer.chat_template:
            raise TuneserveError(
                "this base model has no chat template",
                where=str(self._tokenizer.name_or_path),
                hint="Choose an instruct model, or name a Jinja file in [model] chat_template.",
            )
        return ChatTemplate(
            self._tokenizer.chat_template,
            bos_token=self._tokenizer.bos_token or "",
            eos_token=self._tokenizer.eos_token or "",
        )


class GGUFTokenizer:
    """The vocabulary of a GGUF."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self.leading_bos = model.bos if model.adds_bos else None
        self.end_token = model.eos if model.eos >= 0 else None

    def tokens(self, text: str) -> list[TokenSpan]:
        ids = self._model.tokenize(text)
        data = text.encode("utf-8", "surrogatepass")
        sizes = [len(self._model.token_bytes(token)) for token in ids]
        # Some vocabularies put a space in front of every text.
        added = max(0, sum(sizes) - len(data))
        ends = [min(max(end - added, 0), len(data)) for end in accumulate(sizes)]
        # [bytes + 1]: characters that begin before a byte. A token that holds a part of a
        # character stands for the whole of it.
        begun = [0, *accumulate(byte & 0xC0 != 0x80 for byte in data)]
        return [
            TokenSpan(token, begun[min(start + 1, end)] - (start < end), begun[end])
            for token, start, end in zip(ids, [0, *ends], ends, strict=False)
        ]

    def is_special(self, token: int) -> bool:
        return self._model.is_special(token)


@dataclass(frozen=True)
class EncodedExample:
    """Token ids of an example's prompt and of its reference answer, thoughts and end token
    included; of a text without a prompt, of BOS and of the text.

    The first `unscored` ids of the answer are thoughts that training does not teach.
    `opens_thought`: the template ends the prompt inside a thought, so answers begin in one.
    `taught` are the places in the prompt of earlier answers' ids that are trained too, and
    `untrained_turns` counts the earlier answers that can't be: the template renders them otherwise
    once the conversation goes on.
    """

    example: Example
    prompt: list[int]
    answer: list[int]
    opens_thought: bool
    unscored: int = 0
    taught: frozenset[int] = frozenset()
    untrained_turns: int = 0


def template_arguments(
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    thinks: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All that a chat template is called with beside `add_generation_prompt`, the same for every
    renderer: messages, tools, variables.

    A template that knows no tools gets them described in the messages. `thinks`: the answer has
    thoughts; some templates close them in the prompt unless told that there will be any.
    `variables` are a client's own.
    """
    if not knows_tools(template.source):
        messages, tools = described(messages, tools or ()), None
    own = {"enable_thinking": True} if thinks else {}
    return {"messages": list(messages), "tools": list(tools or ()) or None,
            **own, **(variables or {})}  # fmt: skip


@dataclass(frozen=True)
class Rendering:
    """An example as text: `prompt`, up to where the assistant speaks, and the `completion` that the
    model is to write after it, None where the template does not render the answer as it is.

    `arguments` are those of the template for the prompt.
    """

    prompt: str
    completion: TargetText | None
    arguments: dict[str, Any]


def render_example(
    template: ChatTemplate, example: Example, *, thoughts: str = "train"
) -> Rendering:
    """Render an example that has a prompt; `thoughts` is [data]'s setting. Raises TemplateError if
    the template refuses the conversation."""
    messages = example.messages
    if thoughts == "drop":
        messages = tuple(without_thoughts(messages))
    arguments = template_arguments(
        template, messages, tools=example.tools, thinks=bool(messages[-1].get(REASONING))
    )
    full = template.render(**arguments)
    *before, last = arguments["messages"]
    arguments |= {"messages": before, "add_generation_prompt": True}
    prompt = template.render(**arguments)
    completion = complete(prompt, full, last["content"] or "", last.get(REASONING))
    return Rendering(prompt, completion, arguments)


def encode(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    example: Example,
    *,
    thoughts: str = "train",
    train_on: str = "last",
    as_it_is: bool = False,
) -> EncodedExample:
    """Token ids of an example, and which of them are taught.

    `thoughts` is [data]'s setting: 'train' on them, 'mask' them (the model reads them but is not
    taught them) or 'drop' them; `train_on` 'all' marks the conversation's earlier answers too.
    Raises EncodingError naming the example's place if the template does not render its answer
    (with `as_it_is` the answer's text is taken then), and TemplateError if the template refuses the
    conversation.
    """
    if not example.prompt:
        return _encode_text(tokenizer, example)
    rendering = render_example(template, example, thoughts=thoughts)
    completion = rendering.completion
    if completion is None:
        if not as_it_is:
            raise EncodingError(
                "the chat template does not render the answer as it is, so it can't be told "
                "from the rest",
                where=example.where,
            )
        completion = TargetText(example.reference, 0)
    turns: list[_Turn | None] = []
    if train_on == "all":
        turns = _earlier_answers(template, rendering, masked=thoughts == "mask")
    tokens = tokenizer.tokens(rendering.prompt)
    ids = with_bos([token.id for token in tokens], tokenizer.leading_bos)
    taught = frozenset(
        place
        for place, token in enumerate(tokens, start=len(ids) - len(tokens))
        if any(turn is not None and turn.teaches(token) for turn in turns)
    )
    answer = _encode_answer(tokenizer, completion.text)
    masked = completion.thoughts_end if thoughts == "mask" else 0
    return EncodedExample(
        example=example,
        prompt=ids,
        answer=[token.id for token in answer],
        opens_thought=opens_thoughts(rendering.prompt),
        # A token that reaches into the answer belongs to it.
        unscored=sum(token.end <= masked for token in answer) if masked else 0,
        taught=taught,
        untrained_turns=turns.count(None),
    )


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


def thinking_by_default(source: str) -> str:
    """A chat template that thinks unless it is told not to: for a model that was trained with
    thoughts, so that every server's default prompt is the one that it was trained with."""
    if "enable_thinking" not in source or source.startswith(_THINKING_BY_DEFAULT):
        return source
    return _THINKING_BY_DEFAULT + source


def encode_text(model: LlamaModel, text: str) -> list[int]:
    """Token ids of rendered text, special tokens parsed, with one BOS if the model wants it."""
    ids = model.tokenize(text, add_special=False, parse_special=True)
    return with_bos(ids, model.bos if model.adds_bos else None)


def with_bos(ids: list[int], bos: int | None) -> list[int]:
    """`ids` beginning with `bos` (None: the model wants none); never doubled."""
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


@dataclass(frozen=True)
class _Turn:
    """An earlier answer in the prompt: characters from `start` to `end`, its end token included,
    of which those before `taught_from` are thoughts that are not taught."""

    start: int
    taught_from: int
    end: int

    def teaches(self, token: TokenSpan) -> bool:
        """Is the token taught? One that reaches into the answer is."""
        inside = self.start <= token.start < token.end <= self.end
        return inside and token.end > self.taught_from


def _earlier_answers(
    template: ChatTemplate, rendering: Rendering, *, masked: bool
) -> list[_Turn | None]:
    """The assistant's earlier turns that are to be trained, as they stand in the prompt.

    None for a turn that the template renders otherwise once the conversation goes on (thoughts
    removed, say). It is context only: the model is not taught to write what it never wrote.
    """
    messages = rendering.arguments["messages"]
    turns: list[_Turn | None] = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant" or message.get("weight") == 0:
            continue
        before = template.render(**{**rendering.arguments, "messages": messages[:number]})
        closed = {"messages": messages[: number + 1], "add_generation_prompt": False}
        after = template.render(**{**rendering.arguments, **closed}).rstrip()
        if not after.startswith(before) or not rendering.prompt.startswith(after):
            turns.append(None)
            continue
        end = thoughts_end(after[len(before) :], message["content"]) if masked else 0
        turns.append(_Turn(len(before), len(before) + end, len(after)))
    return turns


def _encode_answer(tokenizer: Tokenizer, text: str) -> list[TokenSpan]:
    """The answer's tokens, ending with its end-of-turn token and nothing after it."""
    # Templates write a line break behind the end token; the model stops before it.
    tokens = tokenizer.tokens(text.rstrip())
    if tokens and tokenizer.is_special(tokens[-1].id):
        return tokens
    end = tokenizer.end_token
    if end is None:
        raise EncodingError("the template ends no turn and the tokenizer has no end token")
    return [*tokenizer.tokens(text), TokenSpan(end, len(text), len(text) + 1)]


def _encode_text(tokenizer: Tokenizer, example: Example) -> EncodedExample:
    """Text without a prompt: no template, all of it learned, and its end."""
    ids = [token.id for token in tokenizer.tokens(example.reference)]
    end = [] if tokenizer.end_token is None else [tokenizer.end_token]
    whole = with_bos([*ids, *end], tokenizer.leading_bos)
    # BOS, which is put in front, or which the text begins with itself, stands for the prompt.
    start = 1 if tokenizer.leading_bos is not None else 0
    return EncodedExample(example, whole[:start], whole[start:], opens_thought=False)
