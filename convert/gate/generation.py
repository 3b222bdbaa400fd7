"""Contract: the served model stops where it was trained to stop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from convert.gate.checks import Check
from convert.gate.texts import Conversation
from convert.gate.trainer import TrainerTokenizer
from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaContext

Floats = npt.NDArray[np.float32]
EXTRA_TOKENS = 16


def greedy(context: LlamaContext, prompt: Sequence[int], max_tokens: int) -> tuple[list[int], bool]:
    """The most likely continuation, token by token, and whether the model ended it itself."""
    api, model = context._api, context.model
    answer: list[int] = []
    row = context.logits(prompt, start=len(prompt) - 1)[0]
    batch = api.llama_batch_init(1, 0, 1)
    try:
        while len(answer) < max_tokens and len(prompt) + len(answer) < context.n_ctx:
            token = int(row.argmax())
            if model.is_end(token):
                return answer, True
            answer.append(token)
            batch.n_tokens = 1
            batch.token[0], batch.pos[0] = token, len(prompt) + len(answer) - 1
            batch.n_seq_id[0], batch.seq_id[0][0], batch.logits[0] = 1, 0, True
            if api.llama_decode(context.handle, batch) != 0:
                raise TuneserveError("llama_decode failed", where=str(model.path))
            pointer = api.llama_get_logits_ith(context.handle, 0)
            row = np.ctypeslib.as_array(pointer, (model.n_vocab,))
    finally:
        api.llama_batch_free(batch)
    return answer, False


def check_ending(
    trainer: TrainerTokenizer,
    context: LlamaContext,
    conversations: Sequence[Conversation],
    reference: Sequence[Floats],
) -> tuple[Check, str]:
    """Greedy answers to held-out prompts end by themselves, if the trainer's model does so.

    `reference`: the trainer's logits of each prompt with its answer; their last row says what it
    would put after the answer. Returns the check and the first answer as a sample.
    """
    expected = [context.model.is_end(int(logits[-1].argmax())) for logits in reference]
    answers = []
    for conversation in conversations:
        prompt = trainer.encode_prompt(trainer.render(list(conversation.prompt)))
        longest = 2 * len(trainer.encode(conversation.answer)) + EXTRA_TOKENS
        answers.append(greedy(context, prompt[: context.n_ctx - longest], longest))
    ended = sum(end for _, end in answers)
    sample = b"".join(context.model.token_bytes(token) for token in answers[0][0])
    detail = (
        f"{ended} of {len(answers)} greedy answers end by themselves; the trainer's model ends "
        f"{sum(expected)} of {len(expected)} reference answers"
    )
    figures = {"ended": ended, "prompts": len(answers), "reference_ended": sum(expected)}
    passed = ended > 0 or 2 * sum(expected) < len(expected)
    return Check("end token", passed, detail, figures), sample.decode("utf-8", "replace")
