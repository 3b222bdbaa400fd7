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
import math
import re
import sys
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from functools import partial
from itertools import chain, pairwise
from typing import Any
from urllib.parse import unquote

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from tuneserve.chat.call_formats import HERMES, CallForm
from tuneserve.errors import UsageError
from tuneserve.llama import LlamaModel, backend
from tuneserve.serve.chat.argument_grammar import ArgumentGrammar
from tuneserve.serve.chat.call_grammar import BLANK, call_rules
from tuneserve.serve.engine import UnavailableError

Schema = Mapping[str, Any]

LONGEST_SCHEMAS = 256 * 1024
"""Characters of all schemas of a request; a grammar's length is bounded where requests are read."""

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

DEAREST_MULTIPLE = 10_000
"""multipleOf, its digits without zeros at the ends, of all places together: llguidance makes a
state for each remainder (0.07 s for 10,000; it has no limit of its own)."""

LARGEST_MULTIPLES = 2**32
"""llguidance multiplies two multipleOf that a number must satisfy together in 32 bits."""

LARGEST_INTEGER = 2**53 - 1
"""What a number with limits or `multipleOf`, and any integer, lies between: every JSON parser holds
these integers exactly, llguidance too, and a model can't go on with digits for ever."""

COMPACT = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""At most one space behind a comma or a colon, no other white space: both common compact forms are
allowed, so that a model can write what it was trained on, and no small model can fill its answer
with line breaks. It also overrides what a client's schema says of llguidance's options."""

LONGEST_REASON = 160
_HALF_CHARACTER = "half a character (a surrogate without its pair)"


class GrammarError(UsageError):
    """A schema or grammar can't be used; `param` is the request's field that has it."""

    def __init__(self, reason: str, *, param: str, tool: str | None = None) -> None:
        what = "the schema can't be enforced"
        if param.endswith(("grammar", "ebnf", "regex", "choice")):
            what = "the grammar can't be used"
        if tool is not None:
            what = f"{param} ('{tool}') can't be enforced"
        super().__init__(f"{what}: {reason}", where=param)
        self.reason = reason
        self.param = param

    def of(self, param: str, tool: str | None = None) -> GrammarError:
        """The same of another field, which may be that of a tool."""
        return GrammarError(self.reason, param=param, tool=tool)


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
            raise GrammarError(f"it has {_HALF_CHARACTER}", param=param)
        written = re.sub(r"\\(.)|(/)|(\n)|(\r)", _in_lark, regex, flags=re.DOTALL)
        return self._compiled_or_refused(f"start: TEXT\nTEXT: /{written}/", param)

    def compile_choice(self, texts: Sequence[str], param: str) -> LLMatcher:
        """One of some texts. Raises GrammarError, UnavailableError."""
        if any(re.search("[\ud800-\udfff]", text) for text in texts):
            raise GrammarError(f"it has {_HALF_CHARACTER}", param=param)
        written = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
        return self._compiled_or_refused(f"start: {written}", param)

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
            rule = _json_rule(schema, "schema")
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
            rules = _read_gbnf(grammar, self._model)
            _check_rules_end(rules)
        except GrammarError as error:
            raise error.of(param) from None
        for regular in (True, False):
            matcher, reason = self._compile(_lark_of_rules(rules, regular=regular), "grammar")
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
            parts[schema_param] = _json_rule(schema, schema_param)
        arguments: dict[str, str] = {}
        names: dict[str, str] = {}
        styled: dict[str, list[str]] = {}
        for place, function in functions.items():
            param = f"tools[{place}].function.parameters"
            try:
                parameters = _parameters(function, param)
                if form.style is not None:
                    grammar = ArgumentGrammar(
                        form.style, self._mark, partial(_json_rule, param=param), prefix=f"{place}"
                    )
                    arguments[function["name"]] = grammar.add(parameters)
                    names[param], styled[param] = function["name"], grammar.lines
                    continue
                parts[param] = _json_rule(parameters, param)
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
            reason = f"the request's schemas have more than {LONGEST_SCHEMAS} characters"
            raise GrammarError(reason, param=longest)
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


def _in_lark(match: re.Match[str]) -> str:
    """A character of a regular expression between slashes."""
    escaped, slash, newline, _ = match.groups()
    if escaped is not None:
        return "\\n" if escaped == "\n" else f"\\{escaped}"
    return "\\/" if slash else "\\n" if newline else "\\r"


_stack_size = threading.Lock()
"""The size that new threads get is the process's."""


def _compiled(tokenizer: LLTokenizer, lark: str) -> tuple[LLMatcher, str]:
    """The matcher, tried up to where it leaves the model a first choice."""
    matcher = LLMatcher(tokenizer, lark, log_level=0, limits=LIMITS)
    trial = matcher.deep_copy()
    trial.consume_tokens(trial.compute_ff_tokens())
    mask = trial.compute_bitmask()
    reason = matcher.get_error() or trial.get_error()
    return matcher, _told(reason) if reason or any(mask) else "it allows no answer"


def _told(reason: str) -> str:
    """llguidance's reason without its excerpt of the Lark text, which the client never saw."""
    lines = [line.strip() for line in reason.splitlines()]
    told = " ".join(line for line in lines if line and not re.match(r"\d+ \||\^|<", line))
    told = told.replace("; try avoiding single-byte/short lexemes", "")
    told = told.replace("NoExtensionBias", "it allows no text")
    told = re.sub(r"^(?:(?:at )?\d+\(\d+\): |failed to compile JSON schema: )+", "", told)
    return told if len(told) <= LONGEST_REASON else told[: LONGEST_REASON - 1] + "…"


# -- JSON Schema ------------------------------------------------------------------------------

_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLE = ("items", "additionalProperties")
_LOWER, _UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
_BOUNDLESS: Mapping[str, tuple[Any, ...]] = {
    "propertyNames": ({"type": "string"}, {}, True),
    "uniqueItems": (False,),
    "not": (False,),
    "if": (True, {}),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
    "minContains": (0,),
}
"""What bounds nothing, though llguidance would refuse the keyword; zod writes the first."""
_FOURS = "(?:[2468][048]|[13579][26])"
_YEAR, _LEAP = "[1-9][0-9]{3}", f"(?:[1-9][0-9](?:0[48]|{_FOURS})|{_FOURS}00)"
_DATE = (
    f"{_YEAR}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)"
    f"|(?:0[13578]|1[02])-31)|{_LEAP}-02-29"
)
_TIME = (
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:[.][0-9]{1,6})?"
    "(?:Z|[+-](?:0[0-9]|1[0-4]):[0-5][0-9])"
)
_HEX = "[0-9a-fA-F]"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"(?:{_DATE})T{_TIME}",
    **{
        f"uuid{version}": f"{_HEX}{{8}}-{_HEX}{{4}}-{version}{_HEX}{{3}}-[89abAB]{_HEX}{{3}}"
        f"-{_HEX}{{12}}"
        for version in range(1, 9)
    },
    "email": "[A-Za-z0-9_%+'-]{1,32}(?:[.][A-Za-z0-9_%+'-]{1,32}){0,3}"
    f"@(?:{_LABEL}[.]){{1,3}}[A-Za-z]{{2,12}}",
}
"""Formats that llguidance takes at their word: fractions of a second, a mailbox or a domain without
end, 29 February of any year. Here they are what date libraries and mail servers take, and end. The
versions of UUID are pydantic's, and unknown to llguidance."""
_ANNOTATIONS = {"password", "path", "file-path", "directory-path", "binary"}
"""Formats that any text has: they say what it is for."""
_COMBINING = {"allOf", "anyOf", "oneOf", "$ref"}
_APPLYING = {"properties", "patternProperties", *_SINGLE, "prefixItems", "multipleOf"}
"""With what a combining keyword beside them can meet in the same number."""


def _parameters(function: Mapping[str, Any], param: str) -> Schema:
    parameters = function.get("parameters") or {"properties": {}}
    if parameters.get("type", "object") != "object":
        raise GrammarError("the parameters of a function must be an object", param=param)
    return {**parameters, "type": "object"}


def _json_rule(schema: Schema, param: str) -> str:
    """A schema as Lark. Where it leaves freedom that serves no one, less of it is taken: objects
    have the properties that are named and no others, unless `additionalProperties` says so, and
    numbers, dates and addresses come to an end."""
    try:
        own = json.loads(json.dumps(schema, allow_nan=False))
    except (ValueError, RecursionError):
        raise GrammarError(
            "it is nested too deep, or has a number that JSON lacks", param=param
        ) from None
    if re.search("[\ud800-\udfff]", json.dumps(own, ensure_ascii=False)):
        raise GrammarError(f"it has {_HALF_CHARACTER}", param=param)
    parts = list(subschemas(own))
    merges = any(_merges(part) for part in parts)
    multiples = _check_multiples(parts, param, merges=merges)
    _check_parts_end(own, parts, param)
    closed = not any(_combines(part) for part in parts)
    for part in parts:
        if closed and "properties" in part:
            part.setdefault("additionalProperties", False)
        _limit_digits(part, param, limit_decimals=not (merges and multiples))
        _set_format(part)
        for keyword in [key for key, values in _BOUNDLESS.items() if part.get(key) in values]:
            del part[keyword]
        _say_otherwise(part)
        _drop_text_of_decimal(part)
    return f"%json {json.dumps({**own, 'x-guidance': COMPACT})}"


def _say_otherwise(part: dict[str, Any]) -> None:
    """What llguidance does not know, in words that it knows: nothing, null too (OpenAPI 3.0), and
    names of properties where no property is described."""
    if part.get("not") in ({}, True):
        del part["not"]
        part["enum"] = []
    if part.get("nullable") is True and isinstance(part.get("type"), str):
        part["type"] = [part["type"], "null"]
        if isinstance(part.get("enum"), list) and None not in part["enum"]:
            part["enum"] = [*part["enum"], None]
    names = part.get("propertyNames")
    if isinstance(names, dict) and not {"properties", "patternProperties"} & set(part):
        described = {key: value for key, value in names.items() if key != "type"}
        match described:
            case {"enum": [*texts], **rest} if not rest and all(isinstance(t, str) for t in texts):
                pattern = f"^(?:{'|'.join(map(_literal, texts))})$"
            case {"pattern": str(pattern), **rest} if not rest:
                pass
            case _:
                return
        del part["propertyNames"]
        part["patternProperties"] = {pattern: part.get("additionalProperties", {})}
        part["additionalProperties"] = False


def _literal(text: str) -> str:
    """A text as a regular expression."""
    return re.sub(r"([.^$*+?()\[\]{}|\\/-])", r"\\\1", text)


def _set_format(part: dict[str, Any]) -> None:
    """A format as llguidance enforces it."""
    name = part.get("format")
    if name in _ANNOTATIONS:
        del part["format"]
    elif "pattern" not in part and (known := _FORMATS.get(str(name))):
        part["pattern"] = f"^(?:{known})$"
        del part["format"]
    elif name == "ipvanyaddress" and "anyOf" not in part:
        part["anyOf"] = [{"format": "ipv4"}, {"format": "ipv6"}]
        del part["format"]


def subschemas(root: Any) -> Iterator[dict[str, Any]]:
    """The schema, all in it and what it refers to, each once, without recursion."""
    left = [root]
    seen = set()
    while left:
        part = left.pop()
        if not isinstance(part, dict) or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        if isinstance(part.get("$ref"), str):
            left.append(_referred(root, part["$ref"]))
        for key in _NAMED:
            left += part[key].values() if isinstance(part.get(key), dict) else ()
        for key in _LISTED:
            left += part[key] if isinstance(part.get(key), list) else ()
        left += [part[key] for key in _SINGLE if key in part]


def _combines(part: Schema) -> bool:
    """Is a value to satisfy this and another schema? To close one would forbid the other's
    properties. And one with required properties that it does not describe is not closed either."""
    properties = part.get("properties")
    several = isinstance(part.get("allOf"), list) and len(part["allOf"]) > 1
    if not isinstance(properties, dict):
        return several
    required = part.get("required")
    return (
        several
        or bool(_COMBINING & set(part))
        or (isinstance(required, list) and not set(map(str, required)) <= set(properties))
    )


def _merges(part: Schema) -> bool:
    """Can a number in a value have to satisfy this and another schema?"""
    combining = _COMBINING & set(part)
    return (
        len(combining) > 1
        or (isinstance(part.get("allOf"), list) and len(part["allOf"]) > 1)
        or bool(combining and _APPLYING & set(part))
        or {"properties", "patternProperties"} <= set(part)
    )


def _limit_digits(part: dict[str, Any], param: str, *, limit_decimals: bool) -> None:
    """Ends for the digits of a number, and limits that llguidance enforces: it reads them as 64-bit
    floats, to 15 digits surely, and takes 0 for more than 0 where the other limit is below 1. A
    number without limits and `multipleOf` stays free: it may be 6.02e23."""
    given = part.get("type")
    kinds = set(map(str, given)) if isinstance(given, list) else {str(given)}
    whole = "integer" in kinds and "number" not in kinds
    limits = {key for key in (*_LOWER, *_UPPER) if key in part}
    if given is not None and not kinds & {"integer", "number"}:
        return
    if {"enum", "const"} & set(part) or not (whole or limits or "multipleOf" in part):
        return
    if not all(_is_limit(key, part[key]) for key in limits):
        return  # llguidance tells what is wrong
    lower = _limits(part, _LOWER, 1)
    upper = _limits(part, _UPPER, -1)
    sizes = [abs(one) for one, _ in lower + upper]
    sizes += [abs(low + high) for low, _ in lower for high, _ in upper]
    places = max([9, *(3 - size.adjusted() for size in sizes if size)])
    low, above = _tightest(lower, places, whole=whole)
    high, below = _tightest(upper, places, whole=whole)
    high = -high
    if low > LARGEST_INTEGER or high < -LARGEST_INTEGER:
        reason = (
            f"its limits allow only numbers beyond ±{LARGEST_INTEGER}, which floats hold inexactly"
        )
        raise GrammarError(reason, param=param)
    for key in limits:
        del part[key]
    part[_LOWER[above]], part[_UPPER[below]] = (
        int(one) if one == one.to_integral_value() else float(one) for one in (low, high)
    )
    step = Decimal(1).scaleb(-places)
    # llguidance reads no step below 1e-10, and no step right in a range of a few steps.
    exact = places > 10 or high - low < 10 * step
    if not whole and limit_decimals and "multipleOf" not in part and not exact:
        part["multipleOf"] = float(step)


def _is_limit(key: str, value: Any) -> bool:
    """A number, or true or false as JSON Schema had it up to draft 4."""
    return type(value) in (int, float) or (key.startswith("exclusive") and type(value) is bool)


Limit = tuple[Decimal, bool]
"""A lower limit (of an upper one its negative), and whether it is excluded itself."""


def _limits(part: Schema, keys: tuple[str, str], sign: int) -> list[Limit]:
    inclusive, exclusive = (part.get(key) for key in keys)
    limits = [(inclusive, exclusive is True), (exclusive, True)]
    return [(sign * Decimal(repr(one)), out) for one, out in limits if type(one) in (int, float)]


def _tightest(limits: Sequence[Limit], places: int, *, whole: bool) -> Limit:
    """What llguidance enforces of `limits`; one from 0 that is excluded moves by so many decimals,
    or fewer if they are more than 15 digits."""
    limit, excluded = max([*limits, (Decimal(-LARGEST_INTEGER), False)])
    if limit > LARGEST_INTEGER:
        return limit, excluded
    if whole:
        rounding = ROUND_FLOOR if excluded else ROUND_CEILING
        return limit.to_integral_value(rounding) + excluded, False
    if limit != limit.to_integral_value():
        limit = Context(prec=15, rounding=ROUND_CEILING).plus(limit)
    if not excluded or limit < 0:
        return limit, excluded
    steps = (limit + Decimal(1).scaleb(-fewer) for fewer in range(places, 0, -1))
    exact = (one for one in steps if one > limit and len(one.normalize().as_tuple().digits) <= 15)
    return next(exact, limit + 1), False


def _drop_text_of_decimal(part: dict[str, Any]) -> None:
    """A Decimal of pydantic's is a number or a text. Up to 2.13 the text has a look-ahead, which
    can't be enforced: only the number is left. From 2.14 on it is any text, which is allowed."""
    ways = part.get("anyOf")
    if not isinstance(ways, list):
        return
    numbers = [way for way in ways if isinstance(way, dict) and way.get("type") == "number"]
    if numbers:
        part["anyOf"] = [
            way
            for way in ways
            if not (isinstance(way, dict) and str(way.get("pattern", "")).startswith("^(?!"))
        ]


def _check_multiples(parts: Sequence[Schema], param: str, *, merges: bool) -> bool:
    """Are there multipleOf? Raises GrammarError if there are some that llguidance can't follow."""
    given = [part["multipleOf"] for part in parts if type(part.get("multipleOf")) in (int, float)]
    if not given:
        return False
    if min(given) <= 0:
        raise GrammarError("multipleOf must be above 0", param=param)
    numbers = [Decimal(repr(one)).normalize().as_tuple() for one in given]
    digits = [int("".join(map(str, number.digits))) for number in numbers]
    if len(given) * math.lcm(*digits) > DEAREST_MULTIPLE:
        raise GrammarError("its multipleOf are too large, or too many", param=param)
    lowest = min([0, *(int(number.exponent) for number in numbers)])
    scaled = [
        digit * 10 ** (int(number.exponent) - lowest)
        for digit, number in zip(digits, numbers, strict=True)
    ]
    if merges and len(given) > 1 and math.lcm(*scaled) * max(scaled) >= LARGEST_MULTIPLES:
        raise GrammarError("its multipleOf are too unlike to be combined", param=param)
    return True


def _check_parts_end(root: Schema, parts: Sequence[Schema], param: str) -> None:
    """Refuses what no answer can finish, such as an object that must contain itself."""
    needs: dict[Hashable, list[list[Hashable]]] = {
        id(part): list(_needs(root, part)) for part in parts
    }
    if len(_ending(needs)) < len(needs):
        reason = "it must contain itself, or refers to nothing but itself: no answer can end"
        raise GrammarError(reason, param=param)


def _needs(root: Schema, part: Schema) -> Iterator[list[Hashable]]:
    """Groups of subschemas, by id: a value of `part` needs a value of one in each group."""
    if {"enum", "const"} & set(part):
        return
    needed: list[Any] = []
    kind = part.get("type")
    properties, required = part.get("properties"), part.get("required")
    if kind == "object" and isinstance(properties, dict) and isinstance(required, list):
        needed += [properties.get(str(name)) for name in required]
    least = part.get("minItems")
    if kind == "array" and type(least) is int and least > 0:
        first = part.get("prefixItems")
        needed += first[:least] if isinstance(first, list) else [part.get("items")]
    if isinstance(part.get("allOf"), list):
        needed += part["allOf"]
    if isinstance(part.get("$ref"), str):
        needed.append(_referred(root, part["$ref"]))
    for one in needed:
        if isinstance(one, dict):
            yield [id(one)]
    for key in ("anyOf", "oneOf"):
        ways = part.get(key)
        if isinstance(ways, list) and ways and all(isinstance(way, dict) for way in ways):
            yield [id(way) for way in ways]


def _referred(root: Any, reference: str) -> Any:
    """What a reference within the schema points to; None for others."""
    if not reference.startswith("#"):
        return None
    for written in unquote(reference[1:]).split("/")[1:]:
        name = written.replace("~1", "/").replace("~0", "~")
        if isinstance(root, dict):
            root = root.get(name)
        elif isinstance(root, list) and re.fullmatch("[0-9]{1,9}", name):
            root = root[int(name)] if int(name) < len(root) else None
        else:
            return None
    return root


def refers_nowhere(root: Schema, reference: Any) -> bool:
    """Does a `$ref` point to nothing in the schema, or out of it?"""
    return not isinstance(reference, str) or _referred(root, reference) is None


def _ending(needs: Mapping[Hashable, Sequence[Sequence[Hashable]]]) -> set[Hashable]:
    """Of `needs`' keys those that come to an end: in each of their groups is one that does. What
    is no key does. In time proportional to its size."""
    open_groups = {key: len(groups) for key, groups in needs.items()}
    waiting: dict[Hashable, list[tuple[Hashable, int]]] = {}
    for key, groups in needs.items():
        for number, group in enumerate(groups):
            for one in group:
                waiting.setdefault(one, []).append((key, number))
    ended = {key for key, count in open_groups.items() if not count}
    ended |= set(waiting) - set(needs)
    closed = set()
    left = list(ended)
    while left:
        for key, number in waiting.get(left.pop(), ()):
            if (key, number) not in closed:
                closed.add((key, number))
                open_groups[key] -= 1
                if not open_groups[key]:
                    ended.add(key)
                    left.append(key)
    return ended & set(needs)


# -- GBNF -------------------------------------------------------------------------------------

DEEPEST_NESTING = 500
LONGEST_SEQUENCE = 2_000
"""Parts of a rule, signs of repetition among them, that follow one another: llguidance's time grows
with the square of those that may be empty (0.5 s for 2,000, 6 s for 14,000)."""
LONGEST_SHOWN = 64
"""Characters of a rule's name in a message."""

_ESCAPE = r'\\(?:[tnr\\"\[\]-]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})'
_GBNF = re.compile(
    rf"""(?P<space>(?:[ \t]|\#[^\r\n]*)+)
    |(?P<newline>\r\n|\r|\n)
    |"(?P<literal>(?:{_ESCAPE}|[^"\\])*)"
    |\[(?P<class>\^?(?:{_ESCAPE}|[^\]\\])*)\]
    |(?P<token>!?<[^>]*>)
    |(?P<rule>[A-Za-z0-9-]+)[ \t]*::=
    |(?P<name>[A-Za-z0-9-]+)
    |(?P<times>[*+?]|\{{[ \t]*[0-9]+[ \t]*(?:,[ \t]*[0-9]*[ \t]*)?\}})
    |(?P<other>[().|])""",
    re.VERBOSE,
)
_MAY_BE_ABSENT = re.compile(r"lark(?:[*?]|\{0+[,}])")
_CHARACTER = re.compile(rf"{_ESCAPE}|.", re.DOTALL)

Item = tuple[str, str]
"""('text', what it stands for), ('rule', its name) or ('lark', as Lark writes it)."""
Rules = dict[str, list[Item]]


def _read_gbnf(text: str, model: LlamaModel) -> Rules:
    """The rules of a grammar; a parenthesis becomes a rule of its own. Without recursion, in time
    proportional to the text."""
    rules: Rules = {}
    open_rules: list[str] = []
    place = 0

    def refused(reason: str) -> GrammarError:
        line = text.count("\n", 0, place) + 1
        return GrammarError(f"line {line}: {reason}", param="grammar")

    while place < len(text):
        found = _GBNF.match(text, place)
        kind = found.lastgroup if found else None
        if found is None or kind is None:
            raise refused("a character, an escape or a quote is not expected here")
        inside = found[kind]
        current = rules[open_rules[-1]] if open_rules else None
        if kind == "newline" and len(open_rules) == 1 and current and current[-1] != ("lark", "|"):
            open_rules.clear()
        elif kind == "rule" and not open_rules:
            rules[inside] = []
            open_rules.append(inside)
        elif kind not in ("space", "newline"):
            if current is None or kind == "rule":
                raise refused("a rule 'name ::= …' is expected")
            if found[0] == "(":
                if len(open_rules) > DEEPEST_NESTING:
                    raise refused(f"parentheses are nested more than {DEEPEST_NESTING} deep")
                open_rules.append(f"({len(rules)}")
                rules[open_rules[-1]] = []
            elif found[0] == ")":
                if len(open_rules) == 1:
                    raise refused("a parenthesis is closed that was not opened")
                closed = open_rules.pop()
                rules[open_rules[-1]].append(("rule", closed))
            else:
                try:
                    current.append(_item(kind, inside, model))
                except ValueError as error:
                    raise refused(str(error)) from None
        place = found.end()
    if len(open_rules) > 1:
        raise refused("a parenthesis is not closed")
    for name, items in rules.items():
        ends = [-1, *(at for at, item in enumerate(items) if item == ("lark", "|")), len(items)]
        if max(after - before for before, after in pairwise(ends)) > LONGEST_SEQUENCE:
            reason = (
                f"rule '{name[:LONGEST_SHOWN]}' has more than {LONGEST_SEQUENCE} parts in a row"
            )
            raise GrammarError(reason, param="grammar")
    used = {name for items in rules.values() for kind, name in items if kind == "rule"}
    for name in ({"root"} | used) - set(rules):
        raise GrammarError(f"it has no rule '{name[:LONGEST_SHOWN]}'", param="grammar")
    return rules


def _check_rules_end(rules: Rules) -> None:
    """Refuses a rule that goes on for ever, such as `root ::= "a" root`."""
    needs: dict[Hashable, list[list[Hashable]]] = {}
    for name, items in rules.items():
        ways: list[Hashable] = []
        for number, item in enumerate([("lark", "|"), *items]):
            following = items[number] if number < len(items) else ("", "")
            if item == ("lark", "|"):
                ways.append((name, number))
                needs[ways[-1]] = []
            elif item[0] == "rule" and not _MAY_BE_ABSENT.match("".join(following)):
                needs[ways[-1]].append([item[1]])
        needs[name] = [ways]
    ending = _ending(needs)
    endless = sorted((name for name in rules if name not in ending), key=_is_parenthesis)
    if endless:
        name = endless[0][:LONGEST_SHOWN]
        of = "a parenthesis" if _is_parenthesis(name) else f"rule '{name}'"
        raise GrammarError(f"no text of {of} can ever end", param="grammar")


def _is_parenthesis(name: str) -> bool:
    return name.startswith("(")


def _item(kind: str, inside: str, model: LlamaModel) -> Item:
    """Raises ValueError."""
    match kind:
        case "literal":
            return "text", "".join(map(_character, _CHARACTER.findall(inside)))
        case "class":
            return "lark", _class(inside)
        case "name":
            return "rule", inside
        case "token":
            negated, name = "^" * inside.startswith("!"), inside.removeprefix("!")
            ids = model.tokenize(name)
            if number := re.fullmatch(r"<\[([0-9]{1,9})\]>", name):
                ids = [int(number[1])]
            if len(ids) != 1:
                raise ValueError("what is between '<' and '>' is no token of this model")
            if ids[0] in model.end_tokens and not negated:
                raise ValueError("an end token is allowed where the grammar ends, not named in it")
            return "lark", f"<[{negated}{ids[0]}]>"
    return "lark", "/(?s:.)/" if inside == "." else re.sub(r"[ \t]", "", inside)


def _class(inside: str) -> str:
    """A set of characters as a regular expression, every one by its number."""
    negated = inside.startswith("^")
    written = _CHARACTER.findall(inside[negated:])
    codes = [f"\\u{{{ord(_character(one)):x}}}" for one in written]
    for number in range(1, len(written) - 1):
        if written[number] == "-" and codes[number - 1] != "-":
            codes[number] = "-"
    return f"/[{'^' * negated}{''.join(codes)}]/"


def _character(written: str) -> str:
    """The character that an escape, or itself, stands for. Raises ValueError for one that Unicode
    lacks."""
    code = ord(written[-1])
    if len(written) > 1 and written[1] in "xuU":
        code = int(written[2:], 16)
    elif len(written) > 1:
        code = ord({"t": "\t", "n": "\n", "r": "\r"}.get(written[1], written[1]))
    if code > sys.maxunicode:
        raise ValueError(f"{written} is beyond the characters of Unicode")
    if 0xD800 <= code <= 0xDFFF:
        raise ValueError(f"it has {_HALF_CHARACTER}")
    return chr(code)


def _lark_of_rules(rules: Rules, *, regular: bool) -> str:
    """As terminals, which are regular expressions, or else as rules whose terminals are single
    characters."""
    names = {name: f"{'R' if regular else 'r'}{number}" for number, name in enumerate(rules)}

    def written(kind: str, value: str) -> str:
        if kind == "rule":
            return names[value]
        if kind == "lark":
            return value
        parts = [value] if regular or not value else value
        return f"({' '.join(map(json.dumps, parts))})"

    lines = [f"start: {names['root']}"]
    lines += [
        f"{names[name]}: {' '.join(written(*item) for item in items)}"
        for name, items in rules.items()
    ]
    return "\n".join(lines)
