"""What an answer may be: JSON of a schema, calls of tools, text of a grammar; by llguidance.

llguidance reads JSON Schema, regular expressions and Lark. All three kinds of bounds are put into
one Lark text here, compiled once per request, and followed by the engine token by token.

A client can send anything, so compilation is bounded: the text's size and llguidance's own limits
bound what a grammar can cost, `multipleOf`, which they don't cover, has a limit here; it runs in a
thread whose stack is deep enough for any chain of references of that size (6,000 rules that lead
to each other overflow a stack of 8 MiB, which ends the process), and nobody waits for it for long.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from tuneserve.chat.argument_styles import ArgumentStyle
from tuneserve.chat.call_formats import HERMES, CallForm
from tuneserve.llama import LlamaModel, backend
from tuneserve.serve.chat.argument_grammar import ArgumentGrammar
from tuneserve.serve.chat.call_grammar import BLANK, call_rules
from tuneserve.serve.chat.gbnf import check_rules_end, lark_of_rules, read_gbnf
from tuneserve.serve.chat.grammar_errors import HALF_CHARACTER, GrammarError
from tuneserve.serve.chat.json_schema import function_param, json_rule, parameters_of
from tuneserve.serve.chat.text_patterns import in_lark
from tuneserve.serve.engine import UnavailableError

Schema = Mapping[str, Any]

LONGEST_SCHEMAS = 256 * 1024
"""Characters of all schemas of a request; a grammar's length is bounded where requests are read."""
_TOO_LONG = f"the request's schemas have more than {LONGEST_SCHEMAS} characters"

LIMITS = LLParserLimits(
    initial_lexer_fuel=500_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=50_000,
    max_grammar_size=300_000,
    verbose_errors=False,
)
"""About half of llguidance's defaults. With 150,000 tokens the worst grammars found took 0.3 s and
100 MiB at one token before they were given up, and 0.09 s a token for as long as they were not;
a schema takes 0.1 ms."""

COMPILE_SECONDS = 5.0
"""Everyday schemas take milliseconds; this is how long a grammar made to be slow may take."""
COMPILED_AT_ONCE = 2
COMPILE_STACK_BYTES = 256 * 1024 * 1024

MOST_FORCED = 256
"""Tokens that a grammar forces at its beginning, behind which it is tried."""

LONGEST_REASON = 160


class GrammarCompiler:
    """Compiles the bounds of requests for one model. Safe from any thread; never call it in the
    event loop's: without `warm`, the first call takes 0.3 s with 49,000 tokens, 1.9 s with 128,000.
    """

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._made_tokenizer: LLTokenizer | None = None
        self._free = threading.Semaphore(COMPILED_AT_ONCE)

    def warm(self) -> None:
        """Build what every grammar needs of the vocabulary."""
        self._tokenizer()

    def compile_regex(self, regex: str, param: str) -> LLMatcher:
        """Text that a regular expression matches as a whole. Raises GrammarError,
        UnavailableError."""
        if re.search("[\ud800-\udfff]", regex):
            raise GrammarError(f"it has {HALF_CHARACTER}", param=param)
        return self._compiled_or_refused(f"start: TEXT\nTEXT: /{in_lark(regex)}/", param)

    def compile_choice(self, texts: Sequence[str], param: str) -> LLMatcher:
        """One of some texts. Raises GrammarError, UnavailableError."""
        if any(re.search("[\ud800-\udfff]", text) for text in texts):
            raise GrammarError(f"it has {HALF_CHARACTER}", param=param)
        written = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
        return self._compiled_or_refused(f"start: {written}", param)

    def compile_lark(self, grammar: str, param: str) -> LLMatcher:
        """A grammar in Lark's notation as llguidance reads it, rule `start`, which clients of other
        servers send. Raises GrammarError, UnavailableError."""
        return self._compiled_or_refused(grammar, param)

    def _compiled_or_refused(self, lark: str, param: str) -> LLMatcher:
        if len(lark) > LONGEST_SCHEMAS:
            raise GrammarError(f"it has more than {LONGEST_SCHEMAS} characters", param=param)
        matcher, reason = self._compile(lark, param)
        if reason:
            raise GrammarError(reason, param=param)
        return matcher

    def allows(self, schema: Schema) -> bool:
        """Can a schema be enforced? Raises UnavailableError."""
        try:
            rule = json_rule(schema, "schema")
            return len(rule) <= LONGEST_SCHEMAS and not self._compile(f"start: {rule}", "schema")[1]
        except GrammarError:
            return False

    def compile_gbnf(self, grammar: str, param: str = "grammar") -> LLMatcher:
        """A grammar in GBNF, llama.cpp's notation, rule `root`. Raises GrammarError,
        UnavailableError.

        A grammar that needs no recursion becomes one regular expression, which is fast. In others
        every character is a terminal: llguidance's longer ones take as much text as they can, so
        that `[a-z]+ "x"` would never end.
        """
        try:
            rules = read_gbnf(grammar, self._model)
            check_rules_end(rules)
        except GrammarError as error:
            raise error.of(param) from None
        for regular in (True, False):
            matcher, reason = self._compile(lark_of_rules(rules, regular=regular), "grammar")
            if not reason:
                return matcher
        raise GrammarError(reason, param=param)

    def compile_answer(
        self,
        schema: Schema | None,
        functions: Mapping[int, Mapping[str, Any]],
        *,
        several: bool,
        opened: bool,
        form: CallForm = HERMES,
        schema_param: str = "response_format",
    ) -> LLMatcher:
        """JSON of a schema, which the field `schema_param` has, or a call (or `several`) of the
        functions in the template's `form`, by their places among the request's tools; either, if
        both are given. `opened`: the form's first trigger is there already, or where it has none,
        the answer may be text instead. Raises GrammarError, which names the schema's field, and
        UnavailableError."""
        parts: dict[str, str] = {}
        if schema is not None:
            _check_length(schema, schema_param)
            parts[schema_param] = json_rule(schema, schema_param)
        arguments: dict[str, str] = {}
        names: dict[str, str] = {}
        styled: dict[str, list[str]] = {}
        for place, function in functions.items():
            param = function_param(place)
            try:
                parameters = parameters_of(function, param)
                if form.style is not None:
                    grammar = self._argument_grammar(form.style, place)
                    arguments[function["name"]] = grammar.add(parameters)
                    names[param], styled[param] = function["name"], grammar.lines
                    continue
                parts[param] = json_rule(parameters, param)
            except GrammarError as error:
                raise error.of(param, function["name"]) from None
            names[param] = function["name"]
            arguments[function["name"]] = f"p{len(parts) - 1}"
        start = ["p0"] if schema is not None else []
        lines = [f"p{number}: {rule}" for number, rule in enumerate(parts.values())]
        if arguments:
            start.append("calls")
            lines += chain.from_iterable(styled.values())
            lines += call_rules(form, arguments, self._mark, several=several, opened=opened)
        lark = "\n".join([f"start: {' | '.join(start)}", *lines])
        if len(lark) > LONGEST_SCHEMAS:
            longest = max(parts, key=lambda param: len(parts[param]), default="tools")
            raise GrammarError(_TOO_LONG, param=longest)
        matcher, reason = self._compile(lark, "tools")
        if not reason:
            return matcher
        alone = {param: [f"start: {rule}"] for param, rule in parts.items()}
        for param, rules in styled.items():
            alone[param] = [f"start: {arguments[names[param]]}", BLANK, *rules]
        for param, rules in alone.items():
            _, its_reason = self._compile("\n".join(rules), param)
            if its_reason:
                raise GrammarError(its_reason, param=param).of(param, names.get(param))
        raise GrammarError(reason, param="tools")

    def left_open(
        self, functions: Mapping[int, Mapping[str, Any]], form: CallForm
    ) -> dict[int, list[str]]:
        """What of the functions' schemas the grammar of calls in this form does not enforce, by
        their places: `city.pattern`. Raises GrammarError."""
        found: dict[int, list[str]] = {}
        if form.style is None:
            return found
        for place, function in functions.items():
            grammar = self._argument_grammar(form.style, place)
            grammar.add(parameters_of(function, function_param(place)))
            if grammar.left_open:
                found[place] = grammar.left_open
        return found

    def _argument_grammar(self, style: ArgumentStyle, place: int) -> ArgumentGrammar:
        param = function_param(place)
        as_json = partial(json_rule, param=param)
        return ArgumentGrammar(style, self._mark, as_json, param=param, prefix=f"{place}")

    def _mark(self, text: str) -> str:
        """A mark in Lark: its own token if the vocabulary has one, or else its characters; '' for
        a token that ends the answer, which every grammar allows at its end."""
        ids = self._model.tokenize(text)
        if len(ids) == 1 and self._model.is_end(ids[0]):
            return ""
        if len(ids) == 1 and self._tokenizer().is_special_token(ids[0]):
            return f"<[{ids[0]}]>"
        return json.dumps(text)

    def _compile(self, lark: str, param: str) -> tuple[LLMatcher, str]:
        """(matcher at its beginning, '' or why it can't be used). Raises GrammarError for a text
        that takes too long."""
        return self._bounded(partial(_compiled, self._tokenizer(), lark), param)

    def _tokenizer(self) -> LLTokenizer:
        with self._lock:
            if self._made_tokenizer is None:
                backend()  # before llguidance imports llama_cpp: see llama_module
                from llguidance.llamacpp import lltokenizer_from_vocab

                self._made_tokenizer = lltokenizer_from_vocab(
                    self._model.vocab, eos_token=list(self._model.end_tokens)
                )
            return self._made_tokenizer

    def _bounded(
        self, work: Callable[[], tuple[LLMatcher, str]], param: str
    ) -> tuple[LLMatcher, str]:
        """Do it in a thread with a deep stack. One that takes too long can't be ended, but goes on
        in one of COMPILED_AT_ONCE places."""
        if not self._free.acquire(timeout=COMPILE_SECONDS):
            raise UnavailableError("too many grammars are being read")
        outcome: Future[tuple[LLMatcher, str]] = Future()

        def run() -> None:
            try:
                outcome.set_result(work())
            except BaseException as error:  # a panic of llguidance's is no Exception
                outcome.set_exception(RuntimeError(f"llguidance failed: {error}"))
            finally:
                self._free.release()

        with _stack_size:
            before = threading.stack_size(COMPILE_STACK_BYTES)
            try:
                threading.Thread(target=run, name="grammar", daemon=True).start()
            finally:
                threading.stack_size(before)
        try:
            return outcome.result(COMPILE_SECONDS)
        except TimeoutError:
            seconds = int(COMPILE_SECONDS)
            raise GrammarError(f"it can't be read within {seconds} s", param=param) from None


_stack_size = threading.Lock()
"""The size that new threads get is the process's."""


def _compiled(tokenizer: LLTokenizer, lark: str) -> tuple[LLMatcher, str]:
    """The matcher, tried up to where it leaves the model a first choice."""
    matcher = LLMatcher(tokenizer, lark, log_level=0, limits=LIMITS)
    trial = matcher.deep_copy()
    # Forced tokens are looked for without letting go of the interpreter, the mask is not: it does
    # most of the work of both.
    mask = trial.compute_bitmask()
    if not trial.is_error():
        trial.consume_tokens(trial.compute_ff_tokens()[:MOST_FORCED])
        mask = trial.compute_bitmask()
    reason = matcher.get_error() or trial.get_error()
    return matcher, _told(reason) if reason or any(mask) else "it allows no answer"


def _told(reason: str) -> str:
    """llguidance's reason without its excerpt of the Lark text, which the client never saw."""
    lines = [line.strip() for line in reason.splitlines()]
    told = " ".join(line for line in lines if line and not re.match(r"\d+ \||\^|<", line))
    told = told.replace("; try avoiding single-byte/short lexemes", "")
    told = told.replace("NoExtensionBias", "it allows no text")
    told = re.sub(r".*recursion limit exceeded.*", "it is nested too deep", told)
    told = re.sub(r"^(?:(?:at )?\d+\(\d+\): |failed to compile JSON schema: )+", "", told)
    return told if len(told) <= LONGEST_REASON else told[: LONGEST_REASON - 1] + "…"


def _check_length(schema: Schema, param: str) -> None:
    """Raises GrammarError for a schema that is plainly too long, before work is done on it: a
    million values take seconds, in which others wait."""
    waiting: list[Any] = [schema]
    length = 0
    while waiting and length <= LONGEST_SCHEMAS:
        one = waiting.pop()
        if isinstance(one, str):
            length += len(one)
        elif isinstance(one, Mapping):
            length += sum(map(len, one)) + len('"": 0, ') * len(one)
            waiting += one.values()
        elif isinstance(one, list):
            length += len("0, ") * len(one)
            if length <= LONGEST_SCHEMAS:
                waiting += one
    if length > LONGEST_SCHEMAS:
        raise GrammarError(_TOO_LONG, param=param)
