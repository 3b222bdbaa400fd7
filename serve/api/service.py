"""What is served: the engine, its model under its name, and prompts made the model's way."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tuneserve.chat.prompt import encode_text, template_of
from tuneserve.chat.template import ChatTemplate
from tuneserve.errors import TuneserveError
from tuneserve.recipe import nearest
from tuneserve.serve.api.errors import ApiError, too_long
from tuneserve.serve.api.metrics import Metrics
from tuneserve.serve.api.prepare import Turn, prepare_turn
from tuneserve.serve.api.protocol import ChatRequest
from tuneserve.serve.api.streaming import Answers, Bridge
from tuneserve.serve.chat.structured import GrammarCompiler
from tuneserve.serve.engine import Engine, PromptTooLongError, SamplingParams
from tuneserve.settings import ServeSettings


class Service:
    """A loaded model, ready for requests. Close it."""

    def __init__(
        self,
        model_path: Path,
        name: str,
        settings: ServeSettings,
        *,
        adapters: Mapping[str, Path] | None = None,
    ) -> None:
        self.name = name
        self.adapters = tuple(adapters or ())
        self.settings = settings
        self.created = int(time.time())
        self.bridge = Bridge()
        self.engine = Engine(model_path, settings, adapters=adapters, after_step=self.bridge.flush)
        self.grammars = GrammarCompiler(self.engine.model)
        self.metrics = Metrics(self.engine)
        try:
            self.template, self.no_template = self._load_template()
        except BaseException:
            self.engine.close()
            raise

    def _load_template(self) -> tuple[ChatTemplate | None, str]:
        """The chat template, or None and the reason: text completions work without one."""
        try:
            return template_of(self.engine.model), ""
        except TuneserveError as error:
            return None, error.message

    def close(self) -> None:
        self.engine.close()

    @property
    def names(self) -> list[str]:
        """The served models: the base under its name, then its adapters."""
        return [self.name, *self.adapters]

    def resolve_model(self, asked: str | None) -> str:
        """The served name a request means; without one, the base. Raises ApiError."""
        if asked is None:
            return self.name
        if asked in self.names:
            return asked
        raise ApiError(
            404,
            f"There is no model '{asked}' here ({nearest(asked, self.names)}).",
            code="model_not_found",
            param="model",
        )

    def chat_turn(self, request: ChatRequest) -> Turn:
        """A conversation's next turn; raises what `prepare_turn` does."""
        if self.template is None:
            raise ApiError(400, f"{self.no_template}; use /v1/completions.", code="no_template")
        return prepare_turn(
            self.engine.model,
            self.grammars,
            self.template,
            request,
            default_max_tokens=self.settings.max_tokens,
        )

    def text_prompts(self, prompts: Sequence[str | list[int]], *, param: str) -> list[list[int]]:
        """Token ids of texts; raises ApiError, naming `param`, as `text_prompt` does."""
        return [self.text_prompt(prompt, param=param) for prompt in prompts]

    def text_prompt(self, prompt: str | list[int], *, param: str) -> list[int]:
        """Token ids of a text; raises ApiError if it is empty and for ids the model lacks."""
        model = self.engine.model
        if isinstance(prompt, str):
            ids = encode_text(model, prompt)
            if ids:
                return ids
            raise ApiError(400, "The text is empty.", code="invalid_value", param=param)
        unknown = next((token for token in prompt if token >= model.n_vocab), None)
        if unknown is not None:
            raise ApiError(
                400,
                f"Token id {unknown} is not in the vocabulary of {model.n_vocab}.",
                code="invalid_value",
                param=param,
            )
        return prompt

    def answer(
        self,
        model: str,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        choices: int,
        stream: bool,
        param: str,
    ) -> Answers:
        """Start `choices` answers of a served model to each prompt. With a seed, each choice has
        its own. Raises ApiError, naming `param`, for a prompt that is too long."""
        adapter = model if model in self.adapters else None
        answers = Answers(self.engine, self.bridge, adapter=adapter)
        each_prompt = [prompt for prompt in prompts for _ in range(choices)]
        samplings = [
            sampling if sampling.seed is None else sampling.with_seed(sampling.seed + choice)
            for _ in prompts
            for choice in range(choices)
        ]
        try:
            answers.start(each_prompt, samplings, stream=stream)
        except PromptTooLongError as error:
            raise too_long(error, param=param) from error
        return answers
