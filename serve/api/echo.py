"""Text completions that begin with their prompt (`echo`), its log probabilities among theirs."""

from __future__ import annotations

from collections.abc import Sequence

from tuneserve.llama import LlamaModel
from tuneserve.serve.api.logprobs import TextOffsets, text_logprobs
from tuneserve.serve.api.replies import TextChoice, TextLogprobs
from tuneserve.serve.api.writers import TextWriter
from tuneserve.serve.engine import Completion, TokenLogprob


class EchoWriter(TextWriter):
    """Puts its prompt (token ids) before each answer, whole and streamed."""

    def __init__(
        self,
        model_name: str,
        model: LlamaModel,
        *,
        choices: int,
        prompts: Sequence[Sequence[int]],
        logprobs: bool,
    ) -> None:
        super().__init__(model_name, model, choices=choices, logprobs=logprobs)
        self._prompts = prompts

    def first(self, index: int) -> bytes:
        text = b"".join(self._shown(index))
        self._offsets[index].place(text)
        return self._chunk([self._piece(index, _as_text(text), None, None)])

    def _choice(self, index: int, completion: Completion) -> TextChoice:
        shown = self._shown(index)
        self._offsets[index].place(b"".join(shown))
        choice = super()._choice(index, completion)
        choice["text"] = _as_text(b"".join(shown)) + choice["text"]
        if self._logprobs:
            prompt = self._prompt_logprobs(index, completion.prompt_logprobs, shown)
            answer = choice["logprobs"]
            assert answer is not None
            choice["logprobs"] = _joined(prompt, answer)
        return choice

    def _prompt_logprobs(
        self, index: int, known: Sequence[TokenLogprob], shown: Sequence[bytes]
    ) -> TextLogprobs:
        # Nothing stands before the first token, so nothing is known of its probability.
        first = TokenLogprob(self._prompt(index)[0], 0.0)
        told = text_logprobs(self._model, (first, *known), TextOffsets())
        offsets = TextOffsets()
        return {
            "tokens": told["tokens"],
            "token_logprobs": [None, *told["token_logprobs"][1:]],
            "top_logprobs": [None, *told["top_logprobs"][1:]],
            "text_offset": [offsets.place(data) for data in shown],
        }

    def _prompt(self, index: int) -> Sequence[int]:
        return self._prompts[index // self.choices]

    def _shown(self, index: int) -> list[bytes]:
        """The prompt's tokens as they stand in the text: without a BOS, which texts do not have."""
        first, *others = self._prompt(index)
        shown = b"" if first == self._model.bos else self._model.token_bytes(first)
        return [shown, *map(self._model.token_bytes, others)]


def _joined(one: TextLogprobs, other: TextLogprobs) -> TextLogprobs:
    return {
        "tokens": one["tokens"] + other["tokens"],
        "token_logprobs": one["token_logprobs"] + other["token_logprobs"],
        "top_logprobs": one["top_logprobs"] + other["top_logprobs"],
        "text_offset": one["text_offset"] + other["text_offset"],
    }


def _as_text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
