"""Answers from a model behind an OpenAI-compatible endpoint.

Endpoints fail now and then, and take other fields than OpenAI's own: a prompt that fails is
recorded and the rest goes on, and a field that is refused is left out.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tuneserve.chat.examples import Example
from tuneserve.chat.template import api_message
from tuneserve.console import say
from tuneserve.errors import TuneserveError
from tuneserve.settings import BenchSettings

if TYPE_CHECKING:
    from openai import OpenAI, OpenAIError

QUIET_SECONDS = 60.0  # without an answer, after which it is said that one is waited for
LIST_SECONDS = 30.0  # for the list of models
TRIES = 4  # of a prompt whose fields are refused, or whose answer is none
RETRIES = 4  # of the client, with growing pauses, for 408, 409, 429, 5xx and lost connections
FAILED_IN_A_ROW = 20  # prompts after which the endpoint, not the prompt, is taken to be at fault


@dataclass(frozen=True)
class EndpointAnswer:
    """What an endpoint answered; `thoughts` where it hands them out apart. `sampled`: it was not
    asked for its most probable tokens (temperature 0)."""

    text: str
    finish_reason: str
    tokens: int
    thoughts: str = ""
    sampled: bool = False


@dataclass(frozen=True)
class Failure:
    """Why a prompt has no answer."""

    reason: str


Outcome = EndpointAnswer | Failure


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Part(_Lenient):
    type: str = "text"
    text: str | None = None
    thinking: str | list[_Part] | None = None


class _Message(_Lenient):
    content: str | list[_Part] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


class _Choice(_Lenient):
    message: _Message
    finish_reason: str | None = None


class _Usage(_Lenient):
    completion_tokens: int | None = None


class _Reply(_Lenient):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


@dataclass
class _Fields:
    """The fields of a request that not every endpoint takes; changed once one is refused."""

    values: dict[str, Any]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def without_what_is_refused(self, sent: dict[str, Any], message: str) -> bool:
        """Change the field that an error message names; False if there is none to change."""
        said = message.lower()
        with self.lock:
            if "max_tokens" in sent and "max_completion_tokens" in said:
                if "max_tokens" in self.values:
                    self.values["max_completion_tokens"] = self.values.pop("max_tokens")
                return True
            if "max_completion_tokens" in sent and "max_completion_tokens" in said:
                if "max_completion_tokens" in self.values:
                    self.values["max_tokens"] = self.values.pop("max_completion_tokens")
                    return "max_tokens" not in said
                return True
            if "temperature" in sent and "temperature" in said:
                if self.values.pop("temperature", None) is not None:
                    say("the endpoint takes no temperature 0: its answers are sampled, not greedy")
                return True
        return False


def ask_endpoint(
    examples: Sequence[Example], settings: BenchSettings
) -> Iterator[tuple[Example, dict[str, Any]]]:
    """Ask the endpoint every prompt greedily, `settings.parallel` at a time.

    Yields each example as soon as it is answered, with its answer (`EndpointAnswer`'s fields) or
    with the reason why it has none (failed). The API key is taken from OPENAI_API_KEY. Raises
    TuneserveError if the endpoint can't be reached, takes no key or knows no such model, if many
    prompts in a row fail, or all of them.
    """
    import openai

    key = os.environ.get("OPENAI_API_KEY", "none")
    with openai.OpenAI(
        base_url=settings.endpoint,
        api_key=key,
        timeout=settings.endpoint_timeout,
        max_retries=RETRIES,
    ) as client:
        model = settings.endpoint_model or _first_model(client, settings)
        fields = _Fields({"temperature": 0.0, "max_tokens": settings.max_tokens})
        pool = ThreadPoolExecutor(settings.parallel)
        try:
            waiting = {
                pool.submit(_ask, client, model, example, settings, fields): example
                for example in examples
            }
            yield from _as_they_come(waiting, settings)
        finally:
            pool.shutdown(cancel_futures=True)


def _as_they_come(
    waiting: dict[Future[Outcome], Example], settings: BenchSettings
) -> Iterator[tuple[Example, dict[str, Any]]]:
    """Every example with its answer or failure; then the error that ends the benchmark, if any."""
    asked, answered, in_a_row, reason = len(waiting), 0, 0, ""
    fatal: TuneserveError | None = None
    last = time.monotonic()
    while waiting:
        done, _ = wait(waiting, timeout=QUIET_SECONDS, return_when=FIRST_COMPLETED)
        if not done:
            _say_silent(time.monotonic() - last, settings)
            continue
        last = time.monotonic()
        for future in done:
            example = waiting.pop(future)
            try:
                outcome = future.result()
            except TuneserveError as error:
                fatal = fatal or error
                continue
            if isinstance(outcome, EndpointAnswer):
                answered, in_a_row = answered + 1, 0
                yield example, asdict(outcome)
            else:
                in_a_row, reason = in_a_row + 1, outcome.reason
                yield example, {"failed": reason}
        if in_a_row >= FAILED_IN_A_ROW and fatal is None:
            fatal = _failure(f"{in_a_row} prompts in a row; the last: {reason}", settings)
        if fatal is not None:
            # What is under way is paid for: it is waited for and kept.
            waiting = {one: example for one, example in waiting.items() if not one.cancel()}
    if fatal is None and asked and not answered:
        fatal = _failure(reason, settings)
    if fatal is not None:
        raise fatal


def _say_silent(seconds: float, settings: BenchSettings) -> None:
    say(
        f"{settings.endpoint}: no answer for {seconds:.0f} s. A prompt has {RETRIES + 1} tries of "
        f"{settings.endpoint_timeout:g} s each (--endpoint-timeout); Ctrl-C keeps what was answered"
    )


def _failure(reason: str, settings: BenchSettings, hint: str = "") -> TuneserveError:
    return TuneserveError(
        f"the endpoint failed: {reason}", where=settings.endpoint, hint=hint or _hint_of(reason)
    )


def _hint_of(reason: str) -> str:
    """What may be done about what single prompts failed with."""
    kept = "What was answered is kept: the same command goes on."
    if "Connection" in reason or "timed out" in reason:
        return f"Is a server listening there? The URL ends with /v1, as a rule. {kept}"
    return f"Further fields, or null for one that is not taken: --endpoint-body. {kept}"


def _first_model(client: OpenAI, settings: BenchSettings) -> str:
    import openai

    name = "Name one: --endpoint-model"
    try:
        # Whoever doesn't list its models in this time is not asked a thousand prompts.
        quick = client.with_options(timeout=min(LIST_SECONDS, settings.endpoint_timeout))
        listed = json.loads(quick.models.with_raw_response.list().text)
        return str(listed["data"][0]["id"])
    except openai.OpenAIError as error:
        raise _fatal(error, settings) or _failure(str(error), settings) from error
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise TuneserveError("lists no model", where=settings.endpoint, hint=name) from None


def _ask(
    client: OpenAI, model: str, example: Example, settings: BenchSettings, fields: _Fields
) -> Outcome:
    """The answer, or why there is none. Raises TuneserveError for what every prompt meets."""
    import openai

    further: dict[str, Any] = json.loads(settings.endpoint_body or "{}")
    outcome: Outcome = Failure("")
    for _ in range(TRIES):
        sent = {
            "messages": [api_message(message) for message in example.prompt],
            "model": model,
            **({"tools": list(example.tools)} if example.tools else {}),
            **fields.values,
            **further,
        }
        sent = {name: value for name, value in sent.items() if value is not None}
        try:
            raw = client.chat.completions.with_raw_response.create(
                messages=sent.pop("messages"), model=sent.pop("model"), extra_body=sent
            )
        except openai.BadRequestError as error:
            outcome = Failure(_said(error))
            if not fields.without_what_is_refused(sent, error.message):
                return outcome
            continue
        except openai.OpenAIError as error:
            if fatal := _fatal(error, settings):
                raise fatal from error
            return Failure(_said(error))
        outcome = read_reply(raw.text)
        if isinstance(outcome, EndpointAnswer):
            return replace(outcome, sampled=sent.get("temperature") != 0)
    return outcome


def read_reply(text: str) -> Outcome:
    """A chat completion's JSON as an answer, or what it is instead."""
    try:
        reply = _Reply.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        start = " ".join(text.split())[:60]
        return Failure(f"no chat completion ({place or 'JSON'}: {first['msg']}): {start!r}")
    choice = reply.choices[0]
    message = choice.message
    text_parts, thoughts = _parts(message.content)
    thoughts = message.reasoning_content or message.reasoning or thoughts
    return EndpointAnswer(
        text=text_parts or message.refusal or "",
        finish_reason=choice.finish_reason or "unknown",
        tokens=(reply.usage.completion_tokens or 0) if reply.usage else 0,
        thoughts=thoughts,
    )


def _parts(content: str | list[_Part] | None) -> tuple[str, str]:
    """The text and the thoughts of a message's content."""
    if content is None or isinstance(content, str):
        return content or "", ""
    text = "".join(part.text or "" for part in content if part.type in ("text", "output_text"))
    thoughts = "".join(
        part.thinking if isinstance(part.thinking, str) else _parts(part.thinking)[0]
        for part in content
        if part.thinking
    )
    return text, thoughts


def _fatal(error: OpenAIError, settings: BenchSettings) -> TuneserveError | None:
    """The error of an endpoint that no prompt gets an answer from, None for that of a prompt."""
    import openai

    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        hint = "Set OPENAI_API_KEY to a key that may use this model."
    elif isinstance(error, openai.NotFoundError):
        hint = "Does the URL end with /v1, and is the model's name right? (--endpoint-model)"
    else:
        return None
    return _failure(_said(error), settings, hint)


def _said(error: OpenAIError) -> str:
    status = getattr(error, "status_code", None)
    said = " ".join(str(error).split())[:300]
    return said if status is None or str(status) in said else f"{status}: {said}"
