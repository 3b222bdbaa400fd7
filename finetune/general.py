"""General examples made by the base model itself: what it must not forget is what it says today.

Each question is answered by sampling from the base at temperature 1, unfiltered. Replaying such
answers pulls the model towards the base and nothing else, and the rise of the loss on those that
are held out estimates the Kullback-Leibler divergence of the tuned model from the base, per token.
(Self-distillation: the idea of Li and Hoiem, "Learning without Forgetting", 2016.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.examples import Example
from finetune.mask import Encoder
from tuneserve.errors import UsageError
from tuneserve.thoughts import CLOSE, OPEN

QUESTIONS = Path(__file__).with_name("questions.txt")


@dataclass(frozen=True)
class Question:
    """A question to the base, and the kind of question that it is."""

    group: str
    text: str


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: `samples` to each question, of `max_tokens` at most (a longer one is
    dropped: its end would teach to stop midway)."""

    samples: int = 1
    max_tokens: int = 256
    temperature: float = 1.0
    batch_size: int = 24
    seed: int = 3407


def read_questions(path: Path) -> list[Question]:
    """The questions of a text file, one a line; a line '# kind' names the kind of those below it.

    Raises UsageError if it can't be read or holds none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UsageError("no such file of questions", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't be read: {error}", where=str(path)) from error
    group, found = "general", []
    for line in map(str.strip, lines):
        if line.startswith("#"):
            group = line.lstrip("# ") or group
        elif line:
            found.append(Question(group, line))
    if not found:
        raise UsageError("holds no question", where=str(path))
    return found


def answer_questions(
    model: Any,
    encoder: Encoder,
    questions: Sequence[Question],
    sampling: Sampling,
    answered: Callable[[int], None],
) -> Iterator[dict[str, str]]:
    """Examples {group, instruction, output} with the model's own answers, batch by batch.

    `model` is a causal language model of transformers, `encoder` has its tokenizer and template;
    `answered` is told how many questions were answered, usable or not.
    """
    import torch

    torch.manual_seed(sampling.seed)
    prompts = [_prompt(encoder, question) for question in questions] * sampling.samples
    asked = [*questions] * sampling.samples
    # Prompts of like length together: short ones are padded little.
    order = sorted(range(len(asked)), key=lambda place: len(prompts[place]))
    for start in range(0, len(order), sampling.batch_size):
        places = order[start : start + sampling.batch_size]
        # The model's own distribution: no top-k, no top-p, no penalty, whatever its files say.
        answers = generate(
            model, encoder, [prompts[place] for place in places],
            do_sample=True, temperature=sampling.temperature, top_k=0, top_p=1.0,
            repetition_penalty=1.0, max_new_tokens=sampling.max_tokens,
        )  # fmt: skip
        for place, ids in zip(places, answers, strict=True):
            text = _usable(encoder, prompts[place], ids)
            if text is not None:
                question = asked[place]
                yield {"group": question.group, "instruction": question.text, "output": text}
        answered(len(places))


def _prompt(encoder: Encoder, question: Question) -> list[int]:
    messages = [{"role": "user", "content": question.text}]
    return encoder.prompt_ids(messages)


def generate(
    model: Any, encoder: Encoder, prompts: Sequence[list[int]], **how: Any
) -> list[list[int]]:
    """The ids that a model of transformers writes after each prompt, the end token included if it
    comes in time; `how` are the arguments of its `generate`."""
    import torch

    ends = _end_tokens(encoder)
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


def _end_tokens(encoder: Encoder) -> list[int]:
    """What the trained model ends an answer with, and the tokenizer's end token."""
    turn = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    last = encoder.encode(Example("x", turn)).labels[-1]
    eos = encoder.tokenizer.eos_token_id
    return [last] if eos is None or eos == last else [last, eos]


def _usable(encoder: Encoder, prompt: list[int], ids: list[int]) -> str | None:
    """The answer's text, or None if it is empty or has not come to its end."""
    if not ids or ids[-1] not in _end_tokens(encoder):
        return None
    text: str = encoder.tokenizer.decode(ids[:-1], skip_special_tokens=True).strip()
    thinks = encoder.tokenizer.decode(prompt).rstrip().endswith(OPEN) or text.startswith(OPEN)
    if thinks and not text.partition(CLOSE)[2].strip():
        return None
    return text or None
