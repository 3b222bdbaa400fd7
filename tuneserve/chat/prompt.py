"""From a conversation to token ids, the one way for trainer, verification, server and benchmark.

The rules: the model's own chat template renders the text; the prompt is tokenized as a whole with
special tokens parsed and none added, one BOS in front where the vocabulary wants it and the
template did not write it; the answer is tokenized by itself, as it will be when the model writes it
after that prompt, and ends with its end token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from tuneserve.chat.builtin_templates import NAMES
from tuneserve.chat.examples import CONTINUES, Example
from tuneserve.chat.special_tokens import MARK, SpecialTokens
from tuneserve.chat.template import ChatTemplate, Message, TemplateError, or_raise
from tuneserve.chat.template_traits import template_traits
from tuneserve.chat.thinking import (
    REASONING,
    TargetText,
    complete,
    opens_thoughts,
    without_thoughts,
)
from tuneserve.chat.tools import arranged
from tuneserve.errors import TuneserveError, rust_failure
from tuneserve.llama import LlamaModel

_THINKING_BY_DEFAULT = (
    "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}{{ '' }}"
)


_ANSWER_MARK = "qzanswerqz"


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

    @property
    def special_tokens(self) -> SpecialTokens:
        """The special tokens that texts may spell out without meaning them."""

    def tokens(self, text: str) -> list[TokenSpan]:
        """The tokens of a text, special tokens parsed but for protected ones, and none added."""

    def is_end(self, token: int) -> bool:
        """Is it a token at which a server stops?"""

    def is_special(self, token: int) -> bool:
        """Is it a token that stands for no text, such as an end of turn?"""


END_TOKENS = frozenset(
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>",
        "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>",
        "</s>", "<|return|>", "<|call|>", "<｜end▁of▁sentence｜>",
    }
)  # fmt: skip
"""Texts of special tokens that end a turn or a text: llama.cpp stops at each that a vocabulary
has."""


class FastTokenizer:
    """A fast tokenizer of transformers, which the caller has loaded. `protects`: may special tokens
    be told from text that spells them out?"""

    def __init__(self, tokenizer: Any, *, protects: bool = True) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        special = {number: token for number, token in added.items() if token.special}
        self.special_ids = frozenset(special)
        greedy = [token.content for token in special.values() if token.rstrip]
        self.all_special = SpecialTokens([token.content for token in special.values()], greedy)
        self.special_tokens = SpecialTokens(())
        ends = {number for number, token in special.items() if token.content in END_TOKENS}
        if {"<|return|>", "<|call|>"} <= {token.content for token in special.values()}:
            # Harmony: <|end|> ends a part of an answer, not the answer.
            ends -= {number for number, token in special.items() if token.content == "<|end|>"}
        self.end_ids = frozenset(ends | {tokenizer.eos_token_id} - {None})
        self.end_texts = frozenset(tokenizer.convert_ids_to_tokens(sorted(self.end_ids)))
        ids = tokenizer("a")["input_ids"]
        bos: int | None = tokenizer.bos_token_id
        self.leading_bos = bos if bos is not None and ids[:1] == [bos] else None
        self.end_token: int | None = tokenizer.eos_token_id
        if protects and _joins(self._ids, tokenizer.eos_token or ""):
            self.special_tokens = self.all_special

    def tokens(self, text: str) -> list[TokenSpan]:
        return _joined(self.special_tokens, text, self._of_piece)

    def _ids(self, text: str) -> list[int]:
        return [token.id for token in self.tokens(text)]

    def _of_piece(self, text: str, plain: bool) -> list[TokenSpan]:
        try:
            coded = self._tokenizer(
                text,
                add_special_tokens=False,
                return_offsets_mapping=True,
                split_special_tokens=plain,
            )
        except BaseException as error:
            if not text.isascii() and (half := _half_character(text)) is not None:
                raise TuneserveError(
                    f"a text has half a character (a surrogate without its pair, {half!a})"
                ) from error
            if (reason := rust_failure(error)) is None:
                raise
            raise TuneserveError(
                f"the tokenizers library fails with a text: {reason[:200]}",
                where=str(self._tokenizer.name_or_path),
                problems=[ascii(text[:80])],
            ) from error
        pairs = zip(coded["input_ids"], coded["offset_mapping"], strict=True)
        return [TokenSpan(number, start, end) for number, (start, end) in pairs]

    def is_special(self, token: int) -> bool:
        return token in self.special_ids

    def is_end(self, token: int) -> bool:
        return token in self.end_ids

    def template(self) -> ChatTemplate:
        """The tokenizer's chat template. Raises TuneserveError if it has none."""
        if not self._tokenizer.chat_template:
            raise TuneserveError(
                "this base model has no chat template",
                where=str(self._tokenizer.name_or_path),
                hint="Choose an instruct model, or set [model] chat_template to "
                f"{', '.join(NAMES)} or a Jinja file.",
            )
        return ChatTemplate(
            self._tokenizer.chat_template,
            bos_token=self._tokenizer.bos_token or "",
            eos_token=self._tokenizer.eos_token or "",
        )


def _half_character(text: str) -> str | None:
    return next((one for one in text if "\ud800" <= one <= "\udfff"), None)


class GGUFTokenizer:
    """The vocabulary of a GGUF."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self.leading_bos = model.bos if model.adds_bos else None
        self.end_token = model.eos if model.eos >= 0 else None
        self.special_tokens = special_tokens_of(model)

    def tokens(self, text: str) -> list[TokenSpan]:
        return _joined(self.special_tokens, text, self._of_piece)

    def is_end(self, token: int) -> bool:
        return self._model.is_end(token)

    def _of_piece(self, text: str, plain: bool) -> list[TokenSpan]:
        ids = self._model.tokenize(text, parse_special=not plain)
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


_SPECIAL: WeakKeyDictionary[LlamaModel, SpecialTokens] = WeakKeyDictionary()


def special_tokens_of(model: LlamaModel) -> SpecialTokens:
    """The special tokens of a GGUF's vocabulary that texts may spell out."""
    if model not in _SPECIAL:
        joined = _joins(model.tokenize, model.token_text(model.eos))
        _SPECIAL[model] = SpecialTokens(model.control_texts if joined else ())
    return _SPECIAL[model]


def _joins(tokenize: Callable[[str], list[int]], special: str) -> bool:
    """Is text behind a special token tokenized as it is by itself? Some sentencepiece vocabularies
    put a space in front of every text; with them no text can be told from special tokens."""
    return tokenize(f"{special}a")[1:] == tokenize("a")


def _joined(
    special: SpecialTokens, text: str, tokenize: Callable[[str, bool], list[TokenSpan]]
) -> list[TokenSpan]:
    """The tokens of a text's segments, their places those in the text."""
    if MARK not in text:
        return tokenize(text, False)
    found: list[TokenSpan] = []
    for piece in special.segments(text):
        places = [*piece.places, piece.places[-1] + 1]
        found += [
            TokenSpan(token, places[start], places[end - 1] + 1 if end > start else places[end])
            for token, start, end in tokenize(piece.text, piece.plain)
        ]
    return found


@dataclass(frozen=True)
class EncodedExample:
    """Token ids of an example's prompt and of its reference answer, thoughts and end token
    included; of a text without a prompt, of BOS and of the text.

    The first `unscored` ids of the answer are thoughts that training does not teach.
    `opens_thought`: the template ends the prompt inside a thought, so answers begin in one.
    `taught` are the places in the prompt of earlier answers' ids that are trained too, and
    `untaught` are the places in the conversation of the earlier answers that can't be: the
    template renders them otherwise once the conversation goes on.
    """

    example: Example
    prompt: list[int]
    answer: list[int]
    opens_thought: bool
    unscored: int = 0
    taught: frozenset[int] = frozenset()
    untaught: tuple[int, ...] = ()


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

    What a template can't write gets to it in another form (see tuneserve.chat.tools). `thinks`: the
    answer has thoughts; some templates close them in the prompt unless told that there will be any.
    `variables` are a client's own.
    """
    turns, offered = arranged(messages, tools or (), template_traits(template))
    own = {"enable_thinking": True} if thinks else {}
    return {"messages": turns, "tools": None, **offered, **own, **(variables or {})}


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
    arguments = example_arguments(template, example, thoughts=thoughts)
    *before, last = arguments["messages"]
    ((prompt, full),) = _prompted(template, arguments, [len(before)])
    arguments |= {"messages": before, "add_generation_prompt": True}
    completion = _completion(template, {**arguments, "messages": [*before, last]}, prompt, full)
    return Rendering(prompt, completion, arguments)


def example_arguments(
    template: ChatTemplate, example: Example, *, thoughts: str = "train"
) -> dict[str, Any]:
    """`template_arguments` of a whole example; `thoughts` is [data]'s setting."""
    messages = example.messages
    if thoughts == "drop":
        messages = tuple(without_thoughts(messages))
    thinks = bool(messages[-1].get(REASONING))
    return template_arguments(template, messages, tools=example.tools, thinks=thinks)


def answer_calls(arguments: Mapping[str, Any], places: Sequence[int]) -> list[dict[str, Any]]:
    """The calls of the template that tell a conversation's answers apart, three for each, by its
    place: its prompt, the conversation to its end, and its prompt not opened."""
    messages = arguments["messages"]
    return [
        {**arguments, "messages": messages[:end], "add_generation_prompt": opens}
        for place in places
        for end, opens in ((place, True), (place + 1, False), (place, False))
    ]


def _prompted(
    template: ChatTemplate, arguments: Mapping[str, Any], places: Sequence[int]
) -> list[tuple[str, str]]:
    """For each of a conversation's answers, by their places: its prompt, and the conversation up to
    its end. Some templates (Command R7B) open the next answer whether they are asked to or not:
    that is left out."""
    texts = iter(template.render_all(answer_calls(arguments, places)))
    return [
        (or_raise(prompt), _ended(template, or_raise(full), opened))
        for prompt, full, opened in zip(texts, texts, texts, strict=True)
    ]


def _ended(template: ChatTemplate, full: str, opened: str | TemplateError) -> str:
    """A conversation without the opening of the next answer, which `opened` ends with where the
    template writes it unasked."""
    answered, end, rest = full.rpartition(template.eos_token) if template.eos_token else ("",) * 3
    if end and rest.strip() and or_raise(opened).endswith(f"{end}{rest}"):
        return answered + end
    return full


def _completion(
    template: ChatTemplate, arguments: Mapping[str, Any], prompt: str, full: str
) -> TargetText | None:
    """What the model writes after `prompt` to give the last of the messages in `arguments`, with
    which `full` was rendered; None if the template does not render it as it is."""
    *before, last = arguments["messages"]
    content = last["content"] or ""
    start = None
    if content.strip() and not full.startswith(prompt):
        # The prompt is rendered otherwise once it is answered, and a question may hold its answer's
        # text: a mark shows where that begins.
        marked = [*before, {**last, "content": _ANSWER_MARK + content}]
        ended = {"messages": marked, "add_generation_prompt": False}
        start = template.render(**{**arguments, **ended}).find(_ANSWER_MARK)
        if start < 0:
            return None
    calls = last.get("tool_calls") or ()
    thoughts = last.get(REASONING)
    whole = complete(prompt, full, content, thoughts, calls=bool(calls), start=start)
    if whole is None or all(call["function"]["name"] in whole.text for call in calls):
        return whole
    # The template writes the text behind the calls: all of the turn is the answer.
    whole = complete(prompt, full, "", thoughts, calls=True)
    has_all = whole is not None and all(c["function"]["name"] in whole.text for c in calls)
    return whole if has_all else None


def encode(
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    example: Example,
    *,
    thoughts: str = "train",
    train_on: str = "last",
    as_it_is: bool = False,
) -> EncodedExample:
    """Token ids of an example, and which of them are taught.

    `thoughts` is [data]'s setting: 'train' on them, 'mask' them (the model reads them but is not
    taught them) or 'drop' them; `train_on` 'all' marks the conversation's earlier answers too.
    A text without a prompt needs no template.
    Raises EncodingError naming the example's place if the template does not render its answer
    (with `as_it_is` the answer's text is taken then), and TemplateError if the template refuses the
    conversation.
    """
    if not example.prompt:
        return _encode_text(tokenizer, example)
    if template is None:
        raise EncodingError("a prompt needs a chat template", where=example.where)
    rendering = render_example(template, protected(tokenizer, example), thoughts=thoughts)
    completion = rendering.completion
    if completion is None:
        if not as_it_is:
            raise EncodingError(
                "the chat template does not render the answer as it is, so it can't be told "
                "from the rest",
                where=example.where,
            )
        completion = TargetText(example.reference, 0)
    tokens = tokenizer.tokens(rendering.prompt)
    ids = with_bos([token.id for token in tokens], tokenizer.leading_bos)
    taught, untaught = frozenset[int](), tuple[int, ...]()
    if train_on == "all":
        turns = _earlier_answers(tokenizer, template, rendering, tokens)
        taught = _taught(tokens, turns, masked=thoughts == "mask", first=len(ids) - len(tokens))
        answers = [n for n, m in enumerate(example.messages) if m["role"] == "assistant"]
        untaught = tuple(answers[turn] for turn, found in turns.items() if found is None)
    answer = encode_answer(tokenizer, completion.text)
    masked = completion.thoughts_end if thoughts == "mask" else 0
    return EncodedExample(
        example=example,
        prompt=ids,
        answer=[token.id for token in answer],
        opens_thought=opens_thoughts(rendering.prompt),
        # A token that reaches into the answer belongs to it.
        unscored=sum(token.end <= masked for token in answer) if masked else 0,
        taught=taught,
        untaught=untaught,
    )


def protected(tokenizer: Tokenizer, example: Example) -> Example:
    """An example in which special tokens that texts spell out are text."""
    protect = tokenizer.special_tokens.protect
    return replace(example, messages=protect(example.messages), tools=protect(example.tools))


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


def encode_text(model: LlamaModel, text: str, *, most: int | None = None) -> list[int]:
    """Token ids of rendered text, special tokens parsed but for protected ones, with one BOS if the
    model wants it. Raises TooManyTokensError, early, for a text of which it is plain that it has
    more than `most` tokens."""
    ids: list[int] = []
    for piece, plain in special_tokens_of(model).pieces(text):
        ids += model.tokenize(piece, parse_special=not plain, most=most)
    return with_bos(ids, model.bos if model.adds_bos else None)


def with_bos(ids: list[int], bos: int | None) -> list[int]:
    """`ids` beginning with `bos` (None: the model wants none); never doubled."""
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


@dataclass(frozen=True)
class _Turn:
    """An earlier answer in the prompt: characters from `start` to `end`, its end token included,
    of which those before `thoughts_end` are thoughts."""

    start: int
    thoughts_end: int
    end: int

    def holds(self, token: TokenSpan) -> bool:
        return self.start <= token.start < token.end <= self.end


def _earlier_answers(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    rendering: Rendering,
    tokens: Sequence[TokenSpan],
) -> dict[int, _Turn | None]:
    """The assistant's earlier turns that are to be trained, by their number among the assistant's,
    as they stand in the prompt, whose tokens are `tokens`.

    None for a turn that does not stand there as the model writes it: the template renders it
    otherwise once the conversation goes on (thoughts removed, say, or no end token).
    """
    messages = rendering.arguments["messages"]
    trained = trained_places(messages)
    turns: dict[int, _Turn | None] = {}
    rendered = _prompted(template, rendering.arguments, list(trained.values()))
    for (number, place), (before, after) in zip(trained.items(), rendered, strict=True):
        closed = {"messages": messages[: place + 1], "add_generation_prompt": False}
        own = _completion(template, {**rendering.arguments, **closed}, before, after)
        if place == 0 and own is not None and after.endswith(own.text):
            # No server is asked for a greeting: its prompt is what the template puts before it.
            before = after.removesuffix(own.text)
        found = None if own is None else _found(tokenizer, rendering.prompt, tokens, before, own)
        turns[number] = found
    return turns


def trained_places(messages: Sequence[Message]) -> dict[int, int]:
    """The places of the assistant's messages that are trained, by their number among all of the
    assistant's."""
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    return {n: place for n, place in enumerate(answers) if messages[place].get("weight") != 0}


def _found(
    tokenizer: Tokenizer, prompt: str, tokens: Sequence[TokenSpan], before: str, own: TargetText
) -> _Turn | None:
    """Where a turn of the text `own` stands in the prompt behind `before`, if it has the very
    tokens there that the model writes."""
    answer = encode_answer(tokenizer, own.text)
    end = answer[-1].end
    if not prompt.startswith(before + own.text[:end]):
        return None
    turn = _Turn(len(before), len(before) + own.thoughts_end, len(before) + end)
    same = [token.id for token in tokens if turn.holds(token)] == [token.id for token in answer]
    return turn if same and end <= len(own.text) else None


def _taught(
    tokens: Sequence[TokenSpan], turns: Mapping[int, _Turn | None], *, masked: bool, first: int
) -> frozenset[int]:
    """Places of the tokens that are trained, the prompt's first token being at `first`."""
    found = [turn for turn in turns.values() if turn is not None]
    return frozenset(
        place
        for place, token in enumerate(tokens, start=first)
        for turn in found
        # A token that reaches into the answer belongs to it.
        if turn.holds(token) and not (masked and token.end <= turn.thoughts_end)
    )


def encode_answer(tokenizer: Tokenizer, text: str) -> list[TokenSpan]:
    """The tokens of an answer as the model writes it: with the end token at which a server stops,
    and nothing behind it. Raises EncodingError if the template ends it before that."""
    tokens = tokenizer.tokens(text.rstrip())
    # Some templates write an end of text behind the end of the turn.
    last = len(tokens)
    ends = None
    while last and (tokenizer.is_end(tokens[last - 1].id) or _is_blank(text, tokens[last - 1])):
        last -= 1
        if tokenizer.is_end(tokens[last].id):
            ends = last
    protects = bool(tokenizer.special_tokens)
    if protects and any(tokenizer.is_end(token.id) for token in tokens[:last]):
        raise EncodingError("the chat template writes an end token in the middle of an answer")
    if ends is not None:
        return tokens[: ends + 1]
    end = tokenizer.end_token
    if end is None:
        raise EncodingError("the template ends no turn and the tokenizer has no end token")
    return [*tokenizer.tokens(text), TokenSpan(end, len(text), len(text) + 1)]


def _is_blank(text: str, token: TokenSpan) -> bool:
    return not text[token.start : token.end].strip()


def _encode_text(tokenizer: Tokenizer, example: Example) -> EncodedExample:
    """Text without a prompt: no template, all of it learned, and its end, unless it goes on."""
    text = tokenizer.special_tokens.protect(example.reference)
    ids = [token.id for token in tokenizer.tokens(text)]
    goes_on = example.messages[-1].get(CONTINUES)
    end = [] if tokenizer.end_token is None or goes_on else [tokenizer.end_token]
    whole = with_bos([*ids, *end], tokenizer.leading_bos)
    # BOS, which is put in front, or which the text begins with itself, stands for the prompt.
    start = 1 if tokenizer.leading_bos is not None else 0
    return EncodedExample(example, whole[:start], whole[start:], opens_thought=False)
