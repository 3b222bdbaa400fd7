"""What is served: the engine, its model under its name, and prompts made the model's way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from fastapi import Request

from tuneserve.chat.prompt import encode_text, special_tokens_of, template_of
from tuneserve.chat.template import ChatTemplate
from tuneserve.chat.template_traits import template_traits
from tuneserve.console import say
from tuneserve.errors import TuneserveError
from tuneserve.gguf.reader import GGUFFile
from tuneserve.gguf.system_prompt import SYSTEM_PROMPT, system_prompt_of
from tuneserve.recipe import nearest
from tuneserve.serve.api.errors import LONGEST_SHOWN, ApiError, too_long
from tuneserve.serve.api.json_route import LONG_BODY
from tuneserve.serve.api.lora_scales import LoraScale, chosen_adapter
from tuneserve.serve.api.messages import ChatMessage
from tuneserve.serve.api.metrics import Metrics
from tuneserve.serve.api.prepare import Turn, can_think, prepare_turn, render_request
from tuneserve.serve.api.protocol import ChatRequest, GenerationRequest
from tuneserve.serve.api.replica import Replica
from tuneserve.serve.api.resting import RestingThread
from tuneserve.serve.api.streaming import Answers, Bridge
from tuneserve.serve.chat.structured import COMPILE_SECONDS, COMPILED_AT_ONCE, GrammarCompiler
from tuneserve.serve.engine import (
    Engine,
    PromptTooLongError,
    SamplingParams,
    UnavailableError,
)
from tuneserve.serve.engine.adapter_directory import AdapterDirectory
from tuneserve.settings import ServeSettings

T = TypeVar("T")

CHATS_AT_ONCE = 8
HUGE_BODY = 1 << 20
"""Bytes."""
LONG_TEXT = 50_000
"""Characters that take a tenth of a second to tokenize on an idle machine."""


class Service:
    """A loaded model, ready for requests. Close it."""

    def __init__(
        self,
        model_path: Path,
        name: str,
        settings: ServeSettings,
        *,
        adapters: Mapping[str, Path] | None = None,
        lora: Path | None = None,
        replica: Replica | None = None,
    ) -> None:
        """`adapters` are served under their names too; `lora` belongs to the model itself.
        `replica`: which of several servers behind a proxy this is."""
        self.name = name
        self.replica = replica
        self.settings = settings
        self.created = int(time.time())
        self.bridge = Bridge(settings.max_unread << 20)
        self.engine = Engine(
            model_path, settings, adapters=adapters, lora=lora, after_step=self.bridge.flush
        )
        self.grammars = GrammarCompiler(self.engine.model)
        self._grammar_threads = ThreadPoolExecutor(COMPILED_AT_ONCE, "grammars")
        self._long_texts = ThreadPoolExecutor(1, "long texts")
        self._long_bodies = ThreadPoolExecutor(1, "long bodies")
        self._huge_bodies = RestingThread("huge bodies")
        # Those that wait for a template that takes long hold up no other request.
        self._chats = ThreadPoolExecutor(CHATS_AT_ONCE, "chats")
        self._grammar_places = asyncio.Semaphore(COMPILED_AT_ONCE)
        self.metrics = Metrics(self.engine)
        self.adapter_directory: AdapterDirectory | None = None
        self._default = name
        try:
            self._trained_with = (
                self.engine.model.metadata(SYSTEM_PROMPT) or ""
                if lora is None
                else system_prompt_of(GGUFFile(lora))
            )
            self.template, self.no_template = self._load_template()
            if settings.adapter_dir is not None:
                directory = AdapterDirectory(self.engine, settings.adapter_dir, reserved=name)
                directory.start()
                self.adapter_directory = directory
        except BaseException:
            self.close()
            raise
        self._grammar_threads.submit(self.grammars.warm)

    def _load_template(self) -> tuple[ChatTemplate | None, str]:
        """The chat template, or None and the reason: text completions work without one. One that
        can't be used is told at the start, not to each client."""
        try:
            template = template_of(self.engine.model)
        except TuneserveError as error:
            return None, error.message
        try:
            template.check()
            template_traits(template)
        except TuneserveError as error:
            reason = error.message
            say(f"warning: no chat is answered, only text completions: {reason}")
            return None, reason
        return template, ""

    def close(self) -> None:
        # A thread that reads the vocabulary must not outlive it.
        self._grammar_threads.shutdown(cancel_futures=True)
        self._long_texts.shutdown(cancel_futures=True)
        self._long_bodies.shutdown(cancel_futures=True)
        self._huge_bodies.shutdown(cancel_futures=True)
        self._chats.shutdown(cancel_futures=True)
        if self.adapter_directory is not None:
            self.adapter_directory.close()
        self.engine.close()

    async def compiling(self, work: Callable[[], T]) -> T:
        """Do work that compiles a grammar, apart from the threads of requests without one: a few
        that are made to be slow hold up only each other. Raises UnavailableError after waiting for
        a place as long as a grammar may take."""
        try:
            async with asyncio.timeout(COMPILE_SECONDS):
                await self._grammar_places.acquire()
        except TimeoutError:
            raise UnavailableError("too many grammars are being compiled") from None
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._grammar_threads, work)
        finally:
            self._grammar_places.release()

    def system_prompt(self, name: str) -> str:
        """What stands before the conversations with a served model that have no system message: the
        setting, or what the model was trained with; '' for nothing."""
        if self.settings.system is not None:
            return self.settings.system
        return self._trained_with if name == self.name else self.engine.adapters.system_prompt(name)

    def _with_system_prompt(self, request: ChatRequest, name: str) -> ChatRequest:
        """A request for a served model, with its system prompt unless it has one of its own, which
        may be empty."""
        system = self.system_prompt(name)
        if not system or any(one.role in ("system", "developer") for one in request.messages):
            return request
        first = ChatMessage(role="system", content=system)
        return request.model_copy(update={"messages": [first, *request.messages]})

    async def prepare(self, request: ChatRequest, name: str) -> Turn:
        """`chat_turn` of a served model, with its system prompt, in another thread."""
        request = self._with_system_prompt(request, name)
        if request.is_bounded:
            return await self.compiling(partial(self.chat_turn, request))
        return await self.rendering(request.size, partial(self.chat_turn, request))

    async def rendering(self, size: int, work: Callable[[], T]) -> T:
        """The same as `tokenizing` for work that renders the chat template."""
        pool = self._chats if size <= LONG_TEXT else self._long_texts
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    async def tokenizing(self, size: int, work: Callable[[], T]) -> T:
        """Do work in another thread that tokenizes `size` characters: long texts, which take
        seconds, one after the other, so that short ones never wait for them."""
        if size <= LONG_TEXT:
            return await asyncio.to_thread(work)
        return await asyncio.get_running_loop().run_in_executor(self._long_texts, work)

    async def apart(self, size: int, work: Callable[[], T]) -> T:
        """Do work on the content of a long body of `size` bytes in another thread, one after the
        other, so that the loop goes on with other requests meanwhile. Those that are far longer
        than a conversation have a thread of their own, and hold up none but each other."""
        pool = self._long_bodies if size <= HUGE_BODY else self._huge_bodies
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    async def translating(self, request: Request, work: Callable[[], T]) -> T:
        """Do work that takes as long as a request's body is large, apart if it is long."""
        size = len(await request.body())
        return work() if size <= LONG_BODY else await self.apart(size, work)

    def check_size(self, size: int, *, param: str) -> None:
        """Raises ApiError, naming `param`, for a text of `size` characters that no context bounds
        and that would take its thread for too long."""
        if size > (most := self.settings.max_text):
            raise ApiError(
                400,
                f"The text has more than {most} characters: send it in pieces.",
                code="invalid_value",
                param=param,
            )

    @property
    def thinks(self) -> bool:
        """Can the model have thoughts?"""
        return self.template is not None and can_think(self.template)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that are loaded at this moment."""
        return self.engine.adapters.names

    @property
    def names(self) -> list[str]:
        """The served models: the base under its name, then its adapters."""
        return [self.name, *self.adapters]

    @property
    def default(self) -> str:
        """What answers requests that name no model: the base, unless `set_default` chose an adapter
        that is still there."""
        if self._default not in self.names:
            say(f"warning: '{self._default}' is gone; requests that name no model get the base")
            self._default = self.name
        return self._default

    def set_default(self, name: str | None) -> None:
        """Let this adapter (None: the base) answer requests that name no model."""
        self._default = name or self.name

    def resolve_model(self, asked: str | None, lora: Sequence[LoraScale] | None = None) -> str:
        """The served name a request means by `model` and, in llama-server's way, `lora`; without
        both, the default. Raises ApiError."""
        if lora is not None and asked in (None, *self.names):
            chosen = chosen_adapter(lora, self.engine.adapters.served, param="lora") or self.name
            if asked in (None, self.name, chosen):
                return chosen
            raise ApiError(
                400,
                f"'lora' asks for '{chosen}' and 'model' for '{asked}'.",
                code="invalid_value",
                param="lora",
            )
        if asked is None:
            return self.default
        if asked in self.names:
            return asked
        asked = asked[:LONGEST_SHOWN]  # Of a path it has no bound, and comparing takes its square.
        raise ApiError(
            404,
            f"There is no model '{asked}' here ({nearest(asked, self.names)}).",
            code="model_not_found",
            param="model",
        )

    def chat_turn(self, request: ChatRequest) -> Turn:
        """A conversation's next turn; raises what `prepare_turn` does, ApiError for a prompt that
        is too long."""
        if self.template is None:
            raise ApiError(400, f"{self.no_template}; use /v1/completions.", code="no_template")
        try:
            return prepare_turn(
                self.engine.model,
                self.grammars,
                self.template,
                request,
                default_max_tokens=self.settings.max_tokens,
                most_tokens=self.engine.limit,
            )
        except PromptTooLongError as error:
            raise too_long(error, param="messages") from error

    def conversation_text(self, request: ChatRequest, name: str) -> str:
        """What the chat template makes of a conversation with a served model, up to where the
        answer begins. Raises ApiError without a template, TemplateError."""
        request = self._with_system_prompt(request, name)
        if self.template is None:
            raise ApiError(400, self.no_template, code="no_template", param="messages")
        text, opening = render_request(self.template, request, special_tokens_of(self.engine.model))
        return text + opening

    async def text_prompts(
        self, prompts: Sequence[str | list[int]], *, param: str, most: int
    ) -> list[list[int]]:
        """Token ids of texts, made in another thread; raises what `text_prompt` does."""

        def made() -> list[list[int]]:
            return [self.text_prompt(prompt, param=param, most=most) for prompt in prompts]

        return await self.tokenizing(sum(map(len, prompts)), made)

    def text_prompt(
        self, prompt: str | list[int], *, param: str, most: int | None = None
    ) -> list[int]:
        """Token ids of a text; raises ApiError, naming `param`, if it is empty, for ids the model
        lacks, TooManyTokensError for a text that plainly has more than `most`."""
        if isinstance(prompt, str):
            ids = encode_text(self.engine.model, prompt, most=most)
            if ids:
                return ids
            raise ApiError(400, "The text is empty.", code="invalid_value", param=param)
        # The engine refuses one that is too long by its length, whatever its ids are.
        if most is None or len(prompt) <= most:
            self.check_tokens(prompt, param=param)
        return prompt

    def check_tokens(self, tokens: Iterable[int], *, param: str) -> None:
        """Raises ApiError, naming `param`, for an id that the model lacks."""
        vocabulary = self.engine.model.n_vocab
        unknown = next((token for token in tokens if token >= vocabulary), None)
        if unknown is not None:
            raise ApiError(
                400,
                f"Token id {unknown} is not in the vocabulary of {vocabulary}.",
                code="invalid_value",
                param=param,
            )

    def check_count(self, prompts: int, request: GenerationRequest, *, param: str) -> None:
        """Raises ApiError, naming `param`, for more answers to so many prompts than can wait."""
        most = self.settings.max_queue + self.settings.slots
        if (count := prompts * request.choices) > most:
            raise ApiError(
                400,
                f"At most {most} answers can be asked for at once; here they are {count}.",
                code="invalid_value",
                param="n" if prompts == 1 else param,
            )

    def answer(
        self,
        model: str,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        request: GenerationRequest,
        *,
        param: str,
    ) -> Answers:
        """Start the answers of a served model, as many to each prompt as the request asks for.
        With a seed, each choice has its own. Raises ApiError, naming `param`, for a prompt that is
        too long, more than `check_count` lets pass, and, if the server is strict, for one that does
        not invoke the adapter."""
        self.check_count(len(prompts), request, param=param)
        adapter = model if model in self.adapters else None
        answers = Answers(self.engine, self.bridge, adapter=adapter)
        seeds = [
            None if sampling.seed is None else sampling.seed + choice
            for choice in range(request.choices)
        ]
        asked = [(prompt, replace(sampling, seed=seed)) for prompt in prompts for seed in seeds]
        try:
            answers.start(asked, stream=bool(request.stream))
        except PromptTooLongError as error:
            raise too_long(error, param=param) from error
        if answers.inactive and self.settings.strict:
            answers.cancel()
            raise ApiError(
                400,
                f"The adapter '{model}' is activated by a sequence of tokens that is not in the "
                "prompt, and this server is strict.",
                code="adapter_inactive",
                param=param,
            )
        return answers
