"""The chat template on conversations of every kind: transformers' text against ours."""

from __future__ import annotations

from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import render_example
from tuneserve.chat.template import ChatTemplate, TemplateError, TemplateLimitError
from tuneserve.convert.verify.conversations import PLAIN, PROBES
from tuneserve.convert.verify.vocabulary import TrainerTokenizer
from tuneserve.findings import Finding

_ANOTHER = "Name a template that both render alike in [model] chat_template."


def check_probes(trainer: TrainerTokenizer, template: ChatTemplate) -> Finding:
    """Do transformers with the trainer's template and our renderer with the GGUF's write the same
    prompts, and refuse the same conversations?"""
    refused: dict[str, str] = {}
    for kind, example in PROBES.items():
        ours: str | None = None
        try:
            ours = render_example(template, example, thoughts=trainer.thoughts).prompt
        except TemplateError as error:
            refused[kind] = str(error)
        try:
            theirs = _by_transformers(trainer, example)
        except TemplateLimitError as error:
            return Finding("template", "refused", f"{kind}, in training: {error}", _ANOTHER)
        if ours != theirs and not (ours is None and theirs is None):
            return Finding(
                "template", "refused", f"{kind} is rendered as {_shown(theirs)} in training, as "
                f"{_shown(ours)} from the GGUF",
                _ANOTHER,
            )  # fmt: skip
    if PLAIN in refused:
        return Finding(
            "template", "refused", refused[PLAIN],
            "Mend it, or name another in [model] chat_template.",
        )  # fmt: skip
    rendered = ", ".join(kind for kind in PROBES if kind not in refused)
    if refused:
        return Finding(
            "template", "note", f"equal with {rendered}; it refuses {', '.join(refused)}",
            "Records with them are refused, in training as when served.",
        )  # fmt: skip
    return Finding("template", "ok", f"equal with {rendered}")


def _by_transformers(trainer: TrainerTokenizer, example: Example) -> str | None:
    """The prompt by transformers' renderer; None if it, or ours before it, refuses."""
    try:
        return trainer.render(example)
    except TemplateLimitError:
        raise
    except TemplateError:
        return None


def _shown(prompt: str | None) -> str:
    return "an error" if prompt is None else repr(prompt[:60])
