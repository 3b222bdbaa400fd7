"""The chat template on conversations of every kind: transformers' text against ours."""

from __future__ import annotations

from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import render_example
from tuneserve.chat.template import ChatTemplate, Message, TemplateError
from tuneserve.chat.thinking import REASONING
from tuneserve.convert.verify.vocabulary import TrainerTokenizer
from tuneserve.findings import Finding

_ASKED: Message = {"role": "user", "content": "Hello, who are you?"}
_ANSWERED: Message = {"role": "assistant", "content": "An assistant."}
_SYSTEM: Message = {"role": "system", "content": "You answer in one sentence."}
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Its name"}},
            "required": ["city"],
        },
    },
}
_CALL = {
    "id": "call00001", "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Łódź"}},
}  # fmt: skip
_CALLS: Message = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_RESULT: Message = {
    "role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": '{"c": 21}',
}  # fmt: skip
_THOUGHT: Message = {**_ANSWERED, REASONING: "The user asks who I am."}

PLAIN = "a question"
PROBES = {
    PLAIN: Example("plain", (_ASKED, _ANSWERED)),
    "a system prompt": Example("system", (_SYSTEM, _ASKED, _ANSWERED)),
    "several turns": Example("turns", (_ASKED, _ANSWERED, _ASKED, _ANSWERED)),
    "tools": Example("tools", (_ASKED, _CALLS, _RESULT, _ANSWERED), tools=(_TOOL,)),
    "thoughts": Example("thoughts", (_ASKED, _THOUGHT, _ASKED, _THOUGHT)),
}


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
        theirs = _by_transformers(trainer, example)
        if ours != theirs and not (ours is None and theirs is None):
            return Finding(
                "template", "refused", f"{kind} is rendered as {_shown(theirs)} in training, as "
                f"{_shown(ours)} from the GGUF",
                "Name a template that both render alike in [model] chat_template.",
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
    import jinja2

    try:
        return trainer.render(example)
    except (TemplateError, jinja2.TemplateError):
        return None


def _shown(prompt: str | None) -> str:
    return "an error" if prompt is None else repr(prompt[:60])
