"""What goes along with the GGUFs: an Ollama Modelfile (ollama.py), a model card, SHA-256 sums."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tuneserve.chat.examples import read_split
from tuneserve.chat.prompt import template_of
from tuneserve.console import human_bytes, percent, say
from tuneserve.convert.ollama import modelfile
from tuneserve.convert.result import ConvertResult
from tuneserve.errors import UsageError
from tuneserve.files import set_aside, sha256_file, write_text
from tuneserve.finetune.training.result import TrainOutput
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import LlamaModel
from tuneserve.run import RunDirectory


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


def set_aside_edited(run: RunDirectory, written: Mapping[str, str]) -> None:
    """Rename card and Modelfile where they are not as the conversion before wrote them (`written`:
    SHA-256 by name), and say so: what was changed is the user's."""
    for name in ("README.md", "Modelfile"):
        path = run.gguf / name
        if name not in written or not path.is_file() or sha256_file(path) == written[name]:
            continue
        say(f"note: {path} was edited; kept as {set_aside(path, 'edited').name}")


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
    of_folder = trained.repository is None and Path(spec).name == Path(trained.path).name
    on = f"{base} (a folder, `{spec}`)" if of_folder else f"{base} (`{spec}`)"
    if Path(merged_into) != Path(trained.path):
        on = f"{base} (`{merged_into}`); trained on {trained.name} (`{spec}`)"
    train = run.saved_settings().get("train", {})
    length = "max_steps" if train.get("max_steps") else "epochs"
    keys = ["r", "alpha", length, "learning_rate", "target_modules"]
    if train.get("last_layers"):
        keys.append("last_layers")
    settings = ", ".join(f"{key} {train[key]}" for key in keys if key in train)
    ollama = f"ollama create {run.name} -f Modelfile\n" if has_modelfile else ""
    no_ollama = "" if has_modelfile else NO_MODELFILE
    of_hub = f"base_model: {trained.repository}\n" if trained.repository else ""
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
        f"- Types: chosen for each tensor {limit}; {percent(mix.bytes / mix.baseline_bytes)} of "
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
