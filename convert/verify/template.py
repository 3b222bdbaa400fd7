"""Contract: the server renders a conversation as training did."""

from __future__ import annotations

from collections.abc import Sequence

from tuneserve.convert.verify.checks import Check
from tuneserve.convert.verify.texts import Conversation
from tuneserve.convert.verify.trainer import TrainerTokenizer
from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaModel
from tuneserve.prompt import template_of


def check_template(
    trainer: TrainerTokenizer, model: LlamaModel, conversations: Sequence[Conversation]
) -> Check:
    """transformers' renderer with the trainer's template against ours with the GGUF's."""
    try:
        template = template_of(model)
        asked = [conversation for conversation in conversations if conversation.prompt]
        for conversation in asked:
            theirs = trainer.render(conversation)
            ours = template.render(
                conversation.prompt, add_generation_prompt=True, tools=conversation.tools
            )
            if ours != theirs:
                place = next(
                    (i for i, pair in enumerate(zip(ours, theirs, strict=False))
                     if pair[0] != pair[1]),
                    min(len(ours), len(theirs)),
                )  # fmt: skip
                return Check(
                    "chat template", False,
                    f"a prompt is rendered differently: training has "
                    f"{theirs[place : place + 40]!r}, the GGUF {ours[place : place + 40]!r}",
                )  # fmt: skip
    except TuneserveError as error:
        return Check("chat template", False, str(error))
    return Check(
        "chat template", True, f"equal on {len(asked)} prompts", {"prompts": len(asked)},
    )  # fmt: skip
