"""Answers from a model behind an OpenAI-compatible endpoint.

Endpoints fail now and then, and take other fields than OpenAI's own: a prompt that fails is
recorded and the rest goes on, and a field that is refused is left out.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tuneserve.bench.measure.failures import UNASKED, Before, Failure, Tally, failure_of
from tuneserve.bench.measure.interrupts import Interrupts
from tuneserve.chat.examples import Example
from tuneserve.chat.template import api_message
from tuneserve.console import listed, say
from tuneserve.errors import TuneserveError
from tuneserve.settings import BenchSettings

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAIError

QUIET_SECONDS = 60.0  # without an answer, after which it is said that one is waited for
LIST_SECONDS = 30.0  # for the list of models
TRIES = 4  # of a prompt whose fields are refused, or whose answer is none
RETRIES = 4  # of the client, with growing pauses, for 408, 409, 429, 5xx and lost connections
LONGEST_REPLY = 64 * 1024 * 1024  # bytes
MOST_TOKENS = 100_000_000  # of an answer, that an endpoint may say
_refusals: ContextVar[list[int]] = ContextVar("refusals")
"""Statuses of 400 and above that a prompt met, tries of the client included"""


@dataclass(frozen=True)
class EndpointAnswer:
    """What an endpoint answered; `thoughts` where it hands them out apart. `sampled`: it was not
    asked for its most probable tokens (temperature 0)."""

    text: str
    finish_reason: str
    tokens: int
    thoughts: str = ""
    sampled: bool = False


Outcome = EndpointAnswer | Failure


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Part(_Lenient):
    type: str = "text"
    text: str | None = None
    thinking: str | list[_Part] | None = None


def _if_text(value: object) -> object:
    return value if isinstance(value, str) else None


def _if_count(value: object) -> object:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS
    return value if is_count else None


# What is beside the answer doesn't cost it, whatever form it has.
_Beside = Annotated[str | None, BeforeValidator(_if_text)]


class _Message(_Lenient):
    content: str | list[_Part] | None = None
    reasoning_content: _Beside = None
    reasoning: _Beside = None
    refusal: _Beside = None


class _Choice(_Lenient):
    message: _Message
    finish_reason: _Beside = None


class _Usage(_Lenient):
    completion_tokens: Annotated[int | None, BeforeValidator(_if_count)] = None


def _if_object(value: object) -> object:
    return value if isinstance(value, dict) else None


class _Reply(_Lenient):
    choices: list[_Choice] = Field(min_length=1)
    usage: Annotated[_Usage | None, BeforeValidator(_if_object)] = None


@dataclass
class _Fields:
    """The fields of a request that not every endpoint takes; changed once one is refused."""

    values: dict[str, Any]

    def without_what_is_refused(self, sent: dict[str, Any], message: str) -> bool:
        """Change the field that an error message names; False if there is none to change."""
        said = message.lower()
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
    examples: Sequence[Example], settings: BenchSettings, before: Before = UNASKED
) -> Iterator[tuple[Example, dict[str, Any]]]:
    """Ask the endpoint every prompt greedily, `settings.parallel` at a time.

    Yields each example as soon as it is answered, with its answer (`EndpointAnswer`'s fields) or
    with the reason why it has none (failed). `before`: what it did when it was asked
    before. After Ctrl-C no further prompt is asked, and what is under way is waited for and
    yielded. The API key is taken from OPENAI_API_KEY. Raises
    TuneserveError if the endpoint can't be reached, takes no key or knows no such model, if many
    prompts in a row fail that did not before, or all of them where none was answered before either.
    """
    import openai

    key = os.environ.get("OPENAI_API_KEY", "none")
    # In this thread: what else interrupts it ends all that is under way.
    with asyncio.Runner() as runner:
        client = openai.AsyncOpenAI(
            base_url=settings.endpoint,
            api_key=key,
            timeout=settings.endpoint_timeout,
            max_retries=RETRIES,
            # The client tells of none that it tries again.
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [_note_refusal]}),
        )
        try:
            model = settings.endpoint_model or runner.run(_first_model(client, settings))
            fields = _Fields({"temperature": 0.0, "max_tokens": settings.max_tokens})
            loop = runner.get_loop()
            turns = _Turns(asyncio.Semaphore(settings.parallel))
            waiting: dict[asyncio.Task[Outcome], Example] = {
                loop.create_task(turns.take(_ask(client, model, one, settings, fields))): one
                for one in examples
            }
            interrupts = Interrupts(loop)
            pressed = loop.create_task(interrupts.pressed())
            try:
                with interrupts.noted():
                    done_of = partial(_done, runner, pressed)
                    tally = Tally(settings, len(examples), before)
                    yield from _as_they_come(done_of, waiting, turns, interrupts, tally)
            finally:
                for task in (*waiting, pressed):
                    task.cancel()
                runner.run(_ended([*waiting, pressed]))
        finally:
            runner.run(client.close())


@dataclass
class _Turns:
    """Who asks; `begun` are those that have, in any order."""

    asking: asyncio.Semaphore
    begun: set[asyncio.Task[Any] | None] = field(default_factory=set)

    async def take(self, work: Coroutine[Any, Any, Outcome]) -> Outcome:
        try:
            async with self.asking:
                self.begun.add(asyncio.current_task())
                return await work
        finally:
            work.close()  # one that was never begun


async def _ended(tasks: Sequence[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def _done(
    runner: asyncio.Runner, pressed: asyncio.Task[None], tasks: Collection[asyncio.Task[Outcome]]
) -> set[asyncio.Task[Outcome]]:
    """Those that are done, after one is, Ctrl-C was pressed (once) or QUIET_SECONDS have passed."""
    others = () if pressed.done() else (pressed,)
    runner.run(_first_of([*tasks, *others]))
    return {task for task in tasks if task.done()}


async def _first_of(tasks: Sequence[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks, timeout=QUIET_SECONDS, return_when=asyncio.FIRST_COMPLETED)


def _as_they_come(
    done_of: Callable[[Collection[asyncio.Task[Outcome]]], set[asyncio.Task[Outcome]]],
    waiting: dict[asyncio.Task[Outcome], Example],
    turns: _Turns,
    interrupts: Interrupts,
    tally: Tally,
) -> Iterator[tuple[Example, dict[str, Any]]]:
    """Every example with its answer or failure; then the error that ends the benchmark, if any."""
    settings, fatal = tally.settings, None
    last, stopping = time.monotonic(), False
    while waiting:
        done = done_of(waiting)
        if interrupts.came and not stopping:
            stopping = True
            waiting = _under_way(waiting, turns)
            _say_stopping(len(waiting), settings)
            done &= waiting.keys()
        elif not done:
            _say_silent(time.monotonic() - last, settings)
            continue
        last = time.monotonic() if done else last
        for task in done:
            example = waiting.pop(task)
            try:
                outcome = task.result()
            except asyncio.CancelledError:
                continue
            except TuneserveError as error:
                fatal = fatal or error
                continue
            if isinstance(outcome, EndpointAnswer):
                tally.answer()
                yield example, asdict(outcome)
            else:
                tally.fail(example.id, outcome)
                yield example, {"failed": outcome.reason}
        fatal = fatal or tally.fault
        if fatal is not None:
            # What is under way is paid for: it is waited for and kept.
            waiting = _under_way(waiting, turns)
    if interrupts.came:
        say("what was answered is kept: the same command goes on")
        raise KeyboardInterrupt
    fatal = fatal or tally.fault_at_the_end
    if fatal is not None:
        raise fatal


def _under_way(
    waiting: dict[asyncio.Task[Outcome], Example], turns: _Turns
) -> dict[asyncio.Task[Outcome], Example]:
    """Those whose request is under way; the others are not asked any more."""
    for task in waiting.keys() - turns.begun:
        task.cancel()
    return {task: example for task, example in waiting.items() if task in turns.begun}


def _say_stopping(count: int, settings: BenchSettings) -> None:
    if count:
        say(
            f"Ctrl-C: no more is asked. {count} request{'s are' if count > 1 else ' is'} under way "
            f"and waited for, {settings.endpoint_timeout:g} s at most (--endpoint-timeout), since "
            "they are paid for; Ctrl-C again ends at once"
        )


def _say_silent(seconds: float, settings: BenchSettings) -> None:
    say(
        f"{settings.endpoint}: no answer for {seconds:.0f} s. A prompt is given up after "
        f"{settings.endpoint_timeout:g} s (--endpoint-timeout); Ctrl-C keeps what was answered"
    )


async def _first_model(client: AsyncOpenAI, settings: BenchSettings) -> str:
    import openai

    name = "Name one: --endpoint-model"
    try:
        # Whoever doesn't list its models in this time is not asked a thousand prompts.
        async with asyncio.timeout(min(LIST_SECONDS, settings.endpoint_timeout)):
            found = await client.models.with_raw_response.list()
        return str(json.loads(found.text)["data"][0]["id"])
    except TimeoutError:
        raise failure_of("Request timed out (of its list of models)", settings) from None
    except openai.OpenAIError as error:
        raise failure_of(_said(error), settings, _refused(error)) from error
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise TuneserveError("lists no model", where=settings.endpoint, hint=name) from None


async def _ask(
    client: AsyncOpenAI, model: str, example: Example, settings: BenchSettings, fields: _Fields
) -> Outcome:
    """The answer, or why there is none, within the time that a prompt has. Raises TuneserveError
    for a key that is not taken."""
    refusals: list[int] = []
    _refusals.set(refusals)  # of this prompt's task
    try:
        async with asyncio.timeout(settings.endpoint_timeout):
            return await _asked(client, model, example, settings, fields)
    except TimeoutError:
        reason = f"Request timed out: no whole answer in {settings.endpoint_timeout:g} s"
        if refusals:
            reason += f", after {listed([f'error {status}' for status in sorted(set(refusals))])}"
        return Failure(reason)


async def _note_refusal(response: Any) -> None:
    if response.status_code >= 400:
        _refusals.get([]).append(response.status_code)


async def _asked(
    client: AsyncOpenAI, model: str, example: Example, settings: BenchSettings, fields: _Fields
) -> Outcome:
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
            text = await _reply(client, sent)
        except openai.BadRequestError as error:
            outcome = Failure(_said(error))
            if not fields.without_what_is_refused(sent, error.message):
                return outcome
            continue
        except openai.AuthenticationError as error:
            raise failure_of(_said(error), settings, _refused(error)) from error
        except openai.OpenAIError as error:
            return Failure(_said(error), _refused(error), _unreachable(error))
        if text is None:
            return Failure(f"its answer is longer than {LONGEST_REPLY >> 20} MiB")
        outcome = read_reply(text)
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


async def _reply(client: AsyncOpenAI, sent: dict[str, Any]) -> str | None:
    """The body of a reply; None for one that is too long."""
    request = client.chat.completions.with_streaming_response.create(
        messages=sent["messages"],
        model=sent["model"],
        extra_body={name: sent[name] for name in sent if name not in ("messages", "model")},
    )
    body = bytearray()
    async with request as response:
        async for part in response.iter_bytes(1 << 16):
            body += part
            if len(body) > LONGEST_REPLY:
                return None
    return body.decode("utf-8", "replace")


def _refused(error: OpenAIError) -> str:
    """What is to be done about an error that every prompt may meet; '' for that of a prompt. A
    content filter, too, may forbid one prompt among others."""
    import openai

    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return "Set OPENAI_API_KEY to a key that may use this model."
    if isinstance(error, openai.NotFoundError):
        return "Does the URL end with /v1, and is the model's name right? (--endpoint-model)"
    return ""


def _unreachable(error: OpenAIError) -> bool:
    """Was there no connection at all, so that it can't be for the prompt?"""
    # By name: which HTTP library the client has, httpx or httpx2, depends on its release.
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")


def _said(error: OpenAIError) -> str:
    status = getattr(error, "status_code", None)
    said = " ".join(str(error).split())[:300]
    return said if status is None or str(status) in said else f"{status}: {said}"
