"""A replay set written by the base model itself: its answers before training are what it should
keep.

The answers are generated in tuneserve.serve.self_distillation, or here with torch; here are also
the prompts, and the rule by which an answer becomes an example.

Each prompt is answered by sampling from the base at temperature 1, unfiltered. Replaying such
answers pulls the model towards the base and nothing else, and the rise of the loss on those that
are held out estimates the Kullback-Leibler divergence of the tuned model from the base, per token.
(Self-distillation: the idea of Li and Hoiem, "Learning without Forgetting", 2016.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneserve.base.loaded import all_weights_read
from tuneserve.chat.examples import Example
from tuneserve.chat.thinking import opens_thoughts, split_thoughts
from tuneserve.errors import UsageError
from tuneserve.files import LARGEST_TEXT, read_text
from tuneserve.finetune.runtime.libraries import quiet
from tuneserve.finetune.tokens.encoder import Encoder
from tuneserve.settings import ModelSettings

QUESTIONS = Path(__file__).with_name("questions.txt")


@dataclass(frozen=True)
class ReplayPrompt:
    """A question to the base model, and the kind of question that it is."""

    group: str
    text: str


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: `samples` to each prompt, of `max_tokens` at most (a longer one is
    dropped: its end would teach to stop midway)."""

    samples: int = 1
    max_tokens: int = 256
    temperature: float = 1.0
    seed: int = 3407


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt of the replay set, and its token ids."""

    source: ReplayPrompt
    prompt: list[int]


def read_replay_prompts(path: Path) -> list[ReplayPrompt]:
    """The questions of a text file, one a line; a line '# kind' names the kind of those below it.

    Raises UsageError if it can't be read or holds none.
    """
    lines = read_text(path, "file of questions", most=LARGEST_TEXT).splitlines()
    group, found = "general", []
    for line in map(str.strip, lines):
        if line.startswith("#"):
            group = line.lstrip("# ") or group
        elif line:
            found.append(ReplayPrompt(group, line))
    if not found:
        raise UsageError("holds no question", where=str(path))
    return found


def encode_prompts(
    encoder: Encoder, questions: Sequence[ReplayPrompt], samples: int
) -> list[EncodedPrompt]:
    """Every prompt `samples` times, shortest first."""
    asked = [
        EncodedPrompt(question, encoder.prompt_ids([{"role": "user", "content": question.text}]))
        for question in questions
    ]
    return sorted(asked * samples, key=lambda one: len(one.prompt))


def replay_example(
    encoder: Encoder, asked: EncodedPrompt, answer: list[int]
) -> dict[str, str] | None:
    """The example {group, instruction, output} of an answer's ids, without its end token; None
    where the answer is empty or has thoughts only."""
    text: str = encoder.tokenizer.decode(answer, skip_special_tokens=True).strip()
    opened = opens_thoughts(encoder.tokenizer.decode(asked.prompt))
    if not split_thoughts(text, opened=opened).answer.strip():
        return None
    source = asked.source
    return {"group": source.group, "instruction": source.text, "output": text}


def generate_by_torch(
    model: Any, encoder: Encoder, prompts: Sequence[list[int]], **how: Any
) -> list[list[int]]:
    """The ids that a model of transformers writes after each prompt, the end token included if it
    comes in time; `how` are the arguments of its `generate`."""
    import torch

    ends = end_tokens(encoder)
    width = max(map(len, prompts))
    padding = ends[0]
    ids = [[padding] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    with torch.no_grad():
        whole = model.generate(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            eos_token_id=ends, pad_token_id=padding, **how,
        )  # fmt: skip
    answers = []
    for row in whole[:, width:].tolist():
        end = next((place for place, token in enumerate(row) if token in ends), None)
        answers.append(row if end is None else row[: end + 1])
    return answers


def end_tokens(encoder: Encoder) -> list[int]:
    """What the trained model ends an answer with, and the tokenizer's end token."""
    turn = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    last = encoder.encode(Example("x", turn)).labels[-1]
    eos = encoder.tokenizer.eos_token_id
    return [last] if eos is None or eos == last else [last, eos]


_BATCH = 24


def answers_by_torch(
    path: Path,
    settings: ModelSettings,
    encoder: Encoder,
    asked: Sequence[EncodedPrompt],
    sampling: Sampling,
    answered: Callable[[int], None],
) -> list[list[int] | None]:
    """The answers' ids without their end tokens, None for one that did not come to its end;
    `answered` is told after each batch how many it had."""
    import torch

    model = load_for_generation(path, settings)
    torch.manual_seed(sampling.seed)
    ends = end_tokens(encoder)
    found: list[list[int] | None] = []
    for start in range(0, len(asked), _BATCH):
        # The model's own distribution: no top-k, no top-p, no penalty, whatever its files say.
        answers = generate_by_torch(
            model, encoder, [one.prompt for one in asked[start : start + _BATCH]],
            do_sample=True, temperature=sampling.temperature, top_k=0, top_p=1.0,
            repetition_penalty=1.0, max_new_tokens=sampling.max_tokens,
        )  # fmt: skip
        found += [ids[:-1] if ids and ids[-1] in ends else None for ids in answers]
        answered(len(answers))
    return found


def load_for_generation(path: Path, settings: ModelSettings) -> Any:
    """The base as transformers loads it, ready to generate, on the GPU if there is one. Raises
    UsageError if the checkpoint lacks weights."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    on_gpu = torch.cuda.is_available()
    if settings.load_in_4bit and not on_gpu:
        raise UsageError("4-bit needs a GPU", where="model.load_in_4bit")
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    with all_weights_read(path), quiet(errors_too=True):
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=torch.bfloat16 if on_gpu else torch.float32,
            quantization_config=four_bit if settings.load_in_4bit else None,
            device_map="auto" if on_gpu else None,
            trust_remote_code=False,
        )
    return model.eval()
