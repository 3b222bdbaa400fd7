"""Contract: the server renders a conversation as training did."""

from __future__ import annotations

from collections.abc import Sequence

from tuneserve.chat.prompt import render_example, template_of
from tuneserve.convert.verify.checks import Check
from tuneserve.convert.verify.trainer import TrainerTokenizer
from tuneserve.errors import TuneserveError
from tuneserve.examples import Example
from tuneserve.llama import LlamaModel


def check_template(
    trainer: TrainerTokenizer, model: LlamaModel, examples: Sequence[Example]
) -> Check:
    """transformers' renderer with the trainer's template against ours with the GGUF's."""
    try:
        template = template_of(model)
        asked = [example for example in examples if example.prompt]
        for example in asked:
            theirs = trainer.render(example)
            ours = render_example(template, example, thoughts=trainer.thoughts).prompt
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
