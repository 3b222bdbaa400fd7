"""Do two GGUFs speak of tokens by the same ids? A draft model must, and its memory must be one that
can be cut. The conditions are those of llama.cpp's own speculative decoding."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from tuneserve.errors import UsageError
from tuneserve.llama.library import backend
from tuneserve.llama.model import LlamaModel

MOST_MORE_TOKENS = 128
"""One vocabulary may have so many tokens more: paddings that are never written."""

FIRST_COMPARED = 5
"""The tokens before it are special ones, whose texts differ between otherwise equal models."""


def check_draft(target: Path, draft: Path) -> None:
    """Raise UsageError unless `draft` can guess for `target`. Reads no weights."""
    with LlamaModel(target, vocab_only=True) as one, LlamaModel(draft, vocab_only=True) as other:
        if not can_be_cut(other):
            raise UsageError(
                "this model can't be a draft model: its memory is a recurrent state, and can't "
                "forget guesses",
                where=str(draft),
            )
        different = next(chain(_rules(one, other), _texts(one, other)), None)
    if different is not None:
        raise UsageError(
            f"a draft model needs the vocabulary of {target}, and this one's differs: {different}",
            where=str(draft),
            hint="Take a smaller model of the same family, or leave --draft out.",
        )


def can_be_cut(model: LlamaModel) -> bool:
    """Can the model's memory be cut at any position? A recurrent state can't."""
    api = backend()
    return not (
        api.llama_model_is_recurrent(model.handle) or api.llama_model_is_hybrid(model.handle)
    )


def _rules(one: LlamaModel, other: LlamaModel) -> Iterator[str]:
    """What differs in the vocabularies' kind, ends and size."""
    api = backend()
    kinds = [int(api.llama_vocab_type(model.vocab)) for model in (one, other)]
    if kinds[0] != kinds[1]:
        yield f"tokenizers of different kinds (llama.cpp's types {kinds[1]} and {kinds[0]})"
    for name in ("bos", "eos"):
        adds = getattr(api, f"llama_vocab_get_add_{name}")
        token = getattr(api, f"llama_vocab_{name}")
        # -1: none is added to a prompt.
        added = [token(model.vocab) if adds(model.vocab) else -1 for model in (one, other)]
        if added[0] != added[1]:
            yield f"{name.upper()} that is added to prompts: {added[1]} and {added[0]} (-1: none)"
    if abs(one.n_vocab - other.n_vocab) > MOST_MORE_TOKENS:
        yield (
            f"{other.n_vocab} and {one.n_vocab} tokens, of which at most {MOST_MORE_TOKENS} may be "
            "more"
        )


def _texts(one: LlamaModel, other: LlamaModel) -> Iterator[str]:
    text = backend().llama_vocab_get_text
    for token in range(FIRST_COMPARED, min(one.n_vocab, other.n_vocab)):
        texts = text(other.vocab, token), text(one.vocab, token)
        if texts[0] != texts[1]:
            yield f"token {token} is {_shown(texts[0])} and {_shown(texts[1])}"


def _shown(text: bytes) -> str:
    return repr(text.decode("utf-8", "replace"))
