"""Has the base ever seen what the chat template ends an answer with?

A token that a vocabulary holds in reserve has weights that nothing trained. LoRA on the layers
learns them badly: such a training begins at many nats a token, and its answers may never stop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from jinja2 import TemplateError

from tuneserve.console import say
from tuneserve.finetune.tokens.encoder import IGNORED, Encoded, to_dataset
from tuneserve.finetune.training.losses import measured_loss

_EXAMPLES = 4
_LONGEST = 512
# Nats above a guess among all tokens. A model that has not learned anything yet is at about 0.
_ABOVE_CHANCE = 1.0
# A model that was taught to answer ends these as good as always. Behind answers as it would never
# give them (a label, a word of another language) it finds any end unlikely.
USUAL = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Say hello.", "Hello! How can I help you today?"),
)
_KNOWN = math.log(10)  # nats


def tell_unseen_end(trainer: Any, tokenizer: Any, examples: Sequence[Encoded]) -> None:
    """Warn if the model finds the end tokens of the shortest examples less likely than by chance,
    and doesn't end usual answers with them either.

    A loss that is no number is left to the training to tell. Random numbers are drawn afterwards
    as if this had not been. All processes have to take part.
    """
    import torch

    whole = [e for e in examples if not e.truncated and len(e.input_ids) <= _LONGEST]
    special = {n for n, token in tokenizer.added_tokens_decoder.items() if token.special}
    # A piece of a text that goes on has no end token.
    ended = [e for e in whole if e.labels[-1] in {*special, tokenizer.eos_token_id}]
    chosen = sorted(ended, key=lambda e: len(e.input_ids))[:_EXAMPLES]
    if not chosen:
        return
    ends = [replace(e, labels=[IGNORED] * (len(e.labels) - 1) + e.labels[-1:]) for e in chosen]
    chance = math.log(len(tokenizer))
    with torch.random.fork_rng():
        loss, _, _ = measured_loss(trainer, to_dataset(ends))
        if not math.isfinite(loss) or loss <= chance + _ABOVE_CHANCE:
            return
        for one in _usual_ends(tokenizer, ends[0]):
            if measured_loss(trainer, to_dataset([one]))[0] < _KNOWN:
                return
    end = tokenizer.convert_ids_to_tokens(chosen[0].labels[-1])
    say(
        f"WARNING: the base finds {end!r}, with which the chat template ends an answer, less "
        f"likely than a token by chance ({loss:.1f} nats; chance: {chance:.1f}): it has "
        "never seen it, and its answers may not stop. Choose a template that ends with what "
        "the base knows (chat_template = alpaca or instruction), or train its embeddings too "
        "(modules_to_save = embed_tokens, lm_head)"
    )


def _usual_ends(tokenizer: Any, like: Encoded) -> Iterator[Encoded]:
    """Usual exchanges up to the token that `like` ends with, which alone counts."""
    end = like.labels[-1]
    if tokenizer.chat_template is None:
        return
    for question, answer in USUAL:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False)
        except TemplateError:  # it has demands of its own, which the examples fulfil
            continue
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if end in ids:
            ids = ids[: len(ids) - ids[::-1].index(end)]
            yield replace(like, input_ids=ids, labels=[IGNORED] * (len(ids) - 1) + [end])
