"""An Ollama Modelfile.

Ollama does not render the chat template in a GGUF: without a TEMPLATE it takes the most similar of
a few of its own, or none at all. It has its own template language, so the chat template is probed
with marked messages and written down as the texts around them. Where the probe does not reproduce
the chat template, no Modelfile is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tuneserve.chat.template import ChatTemplate, Message, TemplateError

_MARKS = {"system": "\u2402sys\u2403", "user": "\u2402usr\u2403", "assistant": "\u2402ast\u2403"}


@dataclass(frozen=True)
class Turns:
    """A chat template as the texts before and after each message. `default` stands where no system
    prompt is given; `opening` is where the assistant begins to speak."""

    system: tuple[str, str]
    default: str
    user: tuple[str, str]
    assistant: tuple[str, str]
    opening: str

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt, as the Modelfile's template would render it."""
        first = messages[0]
        text = self.default
        if first["role"] == "system":
            text, messages = first["content"].join(self.system), messages[1:]
        for message in messages:
            around = self.user if message["role"] == "user" else self.assistant
            text += str(message["content"]).join(around)
        return text + self.opening

    def without_bos(self, bos: str) -> Turns:
        """The same, where someone else puts BOS in front."""
        before, after = self.system
        return replace(
            self,
            system=(before.removeprefix(bos), after),
            default=self.default.removeprefix(bos),
        )

    def to_ollama(self) -> str:
        """As an Ollama (Go) template."""
        system = "{{ .System }}".join(map(_literal, self.system))
        user = "{{ .Content }}".join(map(_literal, self.user))
        assistant = "{{ .Content }}".join(map(_literal, self.assistant))
        return (
            f"{{{{ if .System }}}}{system}{{{{ else }}}}{_literal(self.default)}{{{{ end }}}}"
            f'{{{{ range .Messages }}}}{{{{ if eq .Role "user" }}}}{user}'
            f'{{{{ else if eq .Role "assistant" }}}}{assistant}{{{{ end }}}}{{{{ end }}}}'
            f"{_literal(self.opening)}"
        )


def probe(template: ChatTemplate) -> Turns | None:
    """The template as Turns; None if it is not made of such turns."""
    system, user, assistant = _MARKS["system"], _MARKS["user"], _MARKS["assistant"]

    def said(*roles: str, opening: bool = False) -> str:
        messages = [{"role": role, "content": _MARKS[role]} for role in roles]
        return template.render(messages, add_generation_prompt=opening)

    try:
        asked, answered = said("user"), said("user", "assistant")
        again, with_system = said("user", "assistant", "user"), said("system", "user")
        opening = said("user", opening=True)
    except TemplateError:
        return None
    second = again.removeprefix(answered)
    if not again.startswith(answered) or not answered.startswith(asked) or user not in second:
        return None
    around_user = tuple(second.split(user, 1))
    turn = user.join(around_user)
    reply = answered.removeprefix(asked)
    before = with_system.removesuffix(turn)
    if not asked.endswith(turn) or reply.count(assistant) != 1 or before.count(system) != 1:
        return None
    pre_system, post_system = before.split(system)
    pre_assistant, post_assistant = reply.split(assistant)
    return Turns(
        (pre_system, post_system), asked.removesuffix(turn), (around_user[0], around_user[1]),
        (pre_assistant, post_assistant), opening.removeprefix(asked),
    )  # fmt: skip


CONTEXT = 8192  # tokens of Ollama's context at most; its own default is shorter


def modelfile(
    gguf: Path,
    template: ChatTemplate,
    prompts: Sequence[Sequence[Message]],
    *,
    adapter: Path | None = None,
    adds_bos: bool = False,
    context: int = CONTEXT,
    system: str = "",
) -> str | None:
    """An Ollama Modelfile beside `gguf` and the LoRA GGUF `adapter` on it, with the `system` prompt
    of conversations that have none; None where it would not render `prompts` the same.

    `adds_bos`: the vocabulary puts BOS in front, which Ollama does then, so that the template may
    not. `context`: what the model was made for, in tokens.
    """
    turns = probe(template)
    if turns is None or any(
        turns.render(prompt) != template.render(prompt, add_generation_prompt=True)
        for prompt in prompts
    ):
        return None
    text = (turns.without_bos(template.bos_token) if adds_bos else turns).to_ollama()
    template_text, system_text = _quoted(text), _quoted(system)
    if template_text is None or system_text is None:
        return None
    return (
        f"FROM ./{gguf.name}\n"
        + (f"ADAPTER ./{adapter.name}\n" if adapter else "")
        + f"TEMPLATE {template_text}\n"
        + (f"SYSTEM {system_text}\n" if system else "")
        + f'PARAMETER stop "{template.eos_token}"\n'
        f"PARAMETER num_ctx {min(context, CONTEXT)}\n"
        "PARAMETER temperature 0\n"
    )


def _quoted(text: str) -> str | None:
    """A text as a Modelfile has it; None if it can't be written in one, whose texts end with three
    quotation marks."""
    if '"""' not in text and not text.endswith('"'):
        return f'"""{text}"""'
    bare = "\n" not in text and text == text.strip() and not text.startswith('"')
    return text if bare else None


def _literal(text: str) -> str:
    # Braces would be read as template code.
    return text.replace("{{", '{{ "{{" }}')
