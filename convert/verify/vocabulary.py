"""Contract: the GGUF's tokenizer gives the ids that training saw."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from tuneserve.convert.verify.checks import Check
from tuneserve.convert.verify.texts import HARD_STRINGS, special_token_strings
from tuneserve.convert.verify.trainer import TrainerTokenizer
from tuneserve.examples import Example
from tuneserve.llama import LlamaModel


def check_token_ids(
    trainer: TrainerTokenizer, model: LlamaModel, examples: Sequence[Example]
) -> Check:
    """Held-out texts, hard strings and written-out special tokens, id by id."""
    texts = [unicodedata.normalize("NFC", text) for text in HARD_STRINGS]
    texts += special_token_strings(trainer.special_tokens)
    for example in examples:
        texts += [str(message["content"]) for message in example.messages]
        if example.prompt:
            rendering = trainer.rendering(example)
            texts += [rendering.prompt, rendering.completion.text if rendering.completion else ""]
    for text in texts:
        ours, theirs = trainer.encode(text), model.tokenize(text)
        if ours != theirs:
            place = next(
                (i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]),
                min(len(ours), len(theirs)),
            )
            return Check(
                "token ids", False,
                f"the GGUF cuts {text[:60]!r} differently: at position {place} the trainer has "
                f"{ours[place : place + 3]}, the GGUF {theirs[place : place + 3]}",
                {"texts": len(texts)},
            )  # fmt: skip
    return Check("token ids", True, f"equal on {len(texts)} texts", {"texts": len(texts)})


def check_special_tokens(trainer: TrainerTokenizer, model: LlamaModel) -> Check:
    """BOS and EOS ids, whether BOS is added, and that EOS ends a generation."""
    problems = []
    if trainer.eos != model.eos:
        problems.append(f"the end token is {trainer.eos} in training, {model.eos} in the GGUF")
    elif not model.is_end(model.eos):
        problems.append(f"the end token {model.eos} does not end a generation")
    if trainer.adds_bos != model.adds_bos:
        problems.append(
            f"BOS is added: {trainer.adds_bos} in training, {model.adds_bos} in the GGUF"
        )
    if trainer.bos is not None and trainer.bos != model.bos:
        problems.append(f"BOS is {trainer.bos} in training, {model.bos} in the GGUF")
    detail = "; ".join(problems) or f"EOS {model.eos}, BOS {model.bos} added: {model.adds_bos}"
    return Check("special tokens", not problems, detail)
