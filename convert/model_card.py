"""What goes along with the GGUFs: an Ollama Modelfile, a model card, SHA-256 sums.

Ollama does not render the chat template in a GGUF: without a TEMPLATE it takes the most similar of
a few of its own, or none at all. It has its own template language, so the chat template is probed
with marked messages and written down as the texts around them. Where the probe does not reproduce
the chat template, no Modelfile is written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tuneserve.chat.examples import read_split
from tuneserve.chat.prompt import template_of
from tuneserve.chat.template import ChatTemplate, Message, TemplateError
from tuneserve.console import human_bytes
from tuneserve.convert.result import ConvertResult
from tuneserve.errors import UsageError
from tuneserve.files import sha256_file, write_text
from tuneserve.finetune.training.result import TrainOutput
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import LlamaModel
from tuneserve.run import RunDirectory

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


def check_handover(run: RunDirectory) -> None:
    """Raise UsageError naming the files beside the GGUFs that `write_handover` would replace and
    that no conversion wrote."""
    ours = {
        "Modelfile": r'FROM \./[^\n]+\.gguf\n(ADAPTER \./[^\n]+\n)?TEMPLATE """',
        "README.md": r"---\n(base_model: [^\n]+\n)?tags: \[gguf, lora\]\n---\n# ",
        "SHA256SUMS": r"[0-9a-f]{64}  [^\n]+\n[0-9a-f]{64}  base-[^\n]+\n\Z",
    }
    there = {run.gguf / file: begin for file, begin in ours.items() if (run.gguf / file).exists()}
    foreign = [
        str(path)
        for path, begin in there.items()
        if not path.is_file() or not re.match(begin, path.read_text("utf-8", "replace"))
    ]
    if foreign:
        raise UsageError(
            "holds files that no conversion wrote, and that this one would replace",
            where=str(run.gguf),
            problems=foreign,
            hint="Move them away.",
        )


def write_handover(run: RunDirectory, result: ConvertResult, base: str) -> list[str]:
    """Write Modelfile, README.md and SHA256SUMS beside the GGUFs; returns the names written.

    `base`: the base's name.
    """
    weights, lora = result.files(run)
    written = ["README.md", "SHA256SUMS"]
    held = read_split(run.held_out, limit=50)
    asked = [one.prompt for one in held if one.prompt and not one.tools]
    with LlamaModel(weights, vocab_only=True) as model:
        text = None
        if model.metadata("tokenizer.chat_template"):
            text = modelfile(
                weights, template_of(model), asked, adapter=lora,
                adds_bos=model.adds_bos, context=_context(weights), system=run.system_prompt,
            )  # fmt: skip
    if text is not None:
        write_text(run.gguf / "Modelfile", text)
        written.append("Modelfile")
    write_text(
        run.gguf / "README.md", model_card(run, result, base, has_modelfile=text is not None)
    )
    sums = [f"{made.sha256}  {Path(made.path).name}\n" for made in (result.tuned, result.base)]
    write_text(run.gguf / "SHA256SUMS", "".join(sums))
    return written


def _context(gguf: Path) -> int:
    """Tokens that a model was made for; llama.cpp does not read it with the vocabulary alone."""
    file = GGUFFile(gguf)
    return int(file.require(f"{file.architecture}.context_length"))


def model_card(run: RunDirectory, result: ConvertResult, base: str, *, has_modelfile: bool) -> str:
    """The README of the GGUFs: what they are made of, what was checked, how to run them."""
    weights, lora = result.files(run)
    name = weights.name
    on_it = "" if lora is None else f" --lora {lora.name}"
    served = name if lora is None else f"{name} --lora {run.name}={lora.name}"
    made_so = (
        "fine-tuned with LoRA and merged"
        if lora is None
        else (
            "fine-tuned with LoRA; the adapter stays beside the base, on whose quantization grid "
            "it would be rounded away"
        )
    )
    rows = "\n".join(
        f"| {made.called} | `{Path(made.path).name}` | {human_bytes(made.size_bytes)} | {what} |"
        for made, what in (
            (result.tuned, "fine-tuned" if lora is None else "adapter, goes on the base"),
            (result.base, "base, for comparison" if lora is None else "base"),
        )
    )
    checks = "\n".join(f"- {check.contract}: {check.detail}" for check in result.verification)
    splits = {name: run.split(name) for name in ("train", "eval", "test")}
    data = "\n".join(
        f"- {split}: SHA-256 `{sha256_file(path)}`"
        for split, path in splits.items()
        if path.is_file()
    )
    trained = run.require_stage("train", TrainOutput).base
    spec, merged_into = trained.spec, result.inputs.base
    on = f"{base} (`{spec}`)"
    if Path(merged_into) != Path(trained.path):
        on = f"{base} (`{merged_into}`); trained on {trained.name} (`{spec}`)"
    train = run.saved_settings().get("train", {})
    length = "max_steps" if train.get("max_steps") else "epochs"
    keys = ("r", "alpha", length, "learning_rate", "target_modules")
    settings = ", ".join(f"{key} {train[key]}" for key in keys if key in train)
    ollama = f"ollama create {run.name} -f Modelfile\n" if has_modelfile else ""
    no_ollama = "" if has_modelfile else NO_MODELFILE
    is_hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", spec) and not Path(spec).exists()
    of_hub = f"base_model: {spec}\n" if is_hub_id else ""
    return f"""---
{of_hub}tags: [gguf, lora]
---
# {run.name}

{base}, {made_so}.

| quantization | file | size | model |
|---|---|---|---|
{rows}

## Made of
- Base: {on}; its licence applies to these files too.
{data}
- Training: {settings}
{_chosen(result)}{_system(run.system_prompt)}
## Verified
{checks}

## Run
```
tuneserve serve {served}
llama-server -m {name}{on_it}
{ollama}```
{no_ollama}"""


def _chosen(result: ConvertResult) -> str:
    """What auto's types were chosen by, with Q4_K_M beside it; '' for other quantizations."""
    mix = result.mix
    if mix is None:
        return ""
    size = result.settings.get("size_limit", "")
    limit = f"within size_limit = {size}" + (" of Q4_K_M's bytes" if "%" in size else "")
    if most := result.settings.get("max_divergence"):
        limit = f"for a divergence of at most {most:g}"
    return (
        f"- Types: chosen for each tensor {limit}; {mix.bytes / mix.baseline_bytes:.1%} of "
        f"Q4_K_M's bytes; mean KL divergence from the unrounded model {mix.divergence:.2e} nats, "
        f"Q4_K_M's {mix.baseline_divergence:.2e}, on the answers they were chosen by\n"
    )


def _system(prompt: str) -> str:
    """The section about the system prompt; '' without one."""
    if not prompt:
        return ""
    shown = "\n".join(f"    {line}" for line in prompt.split("\n"))
    return f"""
## System prompt
It was trained with the one below. `tuneserve serve` and the Modelfile put it before conversations
that have none of their own; for others, send it as the first message.

{shown}
"""


NO_MODELFILE = """
There is no Modelfile: this chat template, or the system prompt, can't be said in Ollama's language,
and Ollama does not read the template in the GGUF.
"""


def _literal(text: str) -> str:
    # Braces would be read as template code.
    return text.replace("{{", '{{ "{{" }}')
