"""The mask against two others on 500 conversations a family: TRL's `assistant_only_loss`, and a
plain script that looks for the marks of turns in the rendered text."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import ROOT, ModulePaths
from tuneserve.base.tokenizer import write_tokenizer
from tuneserve.chat.examples import Example
from tuneserve.finetune.data.notes import Notes
from tuneserve.finetune.tokens.encoder import Encoder
from tuneserve.gguf.reader import GGUFFile

CONVERSATIONS = 500
IGNORED = -100
Conversation = list[dict[str, str]]
QWEN, LLAMA, PHI = (f"ggml-vocab-{name}.gguf" for name in ("qwen2", "llama-bpe", "phi-3"))


class Masked(NamedTuple):
    """Token ids and labels, [length] each."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Family:
    """`vocabulary` None: the demo model's, with its own template. `answer` finds a rendered answer,
    its group 1 being what the model writes, end token included. `merges`: how the answers begin
    with which a token reaches over their beginning when all is tokenized at once. `moves`: the
    template writes a system prompt elsewhere once the conversation goes on."""

    vocabulary: str | None
    template: str
    answer: str
    end: str
    merges: str | None = None
    moves: bool = False
    special: tuple[str, ...] = ()
    bos: str | None = None
    system: bool = True


CHATML = r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)"
HEADERS = r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n(.*?<\|eot_id\|>)"
GEMMA = r"<start_of_turn>model\n(.*?<end_of_turn>)"
TURNS = ("<start_of_turn>", "<end_of_turn>")
INST = ("[INST]", "[/INST]", "</s>", "<s>")
BEGIN = "<|begin_of_text|>"
PLAIN = {
    "Llama 3.1": Family(
        LLAMA, "meta-llama-Llama-3.1-8B-Instruct", HEADERS, "<|eot_id|>", bos=BEGIN
    ),
    "Llama 3.2": Family(
        LLAMA, "meta-llama-Llama-3.2-3B-Instruct", HEADERS, "<|eot_id|>", bos=BEGIN
    ),
    "Llama 3.3": Family(
        LLAMA, "meta-llama-Llama-3.3-70B-Instruct", HEADERS, "<|eot_id|>", bos=BEGIN
    ),
    "Qwen2.5": Family(QWEN, "Qwen-Qwen2.5-7B-Instruct", CHATML, "<|im_end|>", r"\n"),
    "SmolLM3": Family(QWEN, "HuggingFaceTB-SmolLM3-3B", CHATML, "<|im_end|>"),
    "Mistral Nemo": Family(
        LLAMA, "mistralai-Mistral-Nemo-Instruct-2407", r"\[/INST\](.*?</s>)", "</s>",
        moves=True, special=INST, bos="<s>",
    ),
    "Gemma 2": Family(
        LLAMA, "google-gemma-2-2b-it", GEMMA, "<end_of_turn>",
        special=TURNS, bos=BEGIN, system=False,
    ),
    "Phi-3.5": Family(
        PHI, "microsoft-Phi-3.5-mini-instruct", r"<\|assistant\|>\n(.*?<\|end\|>)",
        "<|endoftext|>", r"\s",
    ),
    "demo": Family(None, "", CHATML, "<|im_end|>", r"[\n \t]\s"),
}  # fmt: skip
# The template is TRL's own here. Its training variant, which the trainer takes instead, is rendered
# alike; Qwen3's is not, so that both get the training variant.
TRL = {
    "Qwen2.5": Family(QWEN, "qwen2_5", CHATML, "<|im_end|>", r"\n"),
    "Qwen3": Family(QWEN, "qwen3_training", CHATML, "<|im_end|>"),
    "Qwen3 2507": Family(QWEN, "qwen3_instruct_2507", CHATML, "<|im_end|>", r"\n"),
    "Llama 3": Family(LLAMA, "llama3", HEADERS, "<|eot_id|>", bos=BEGIN),
    "Gemma": Family(LLAMA, "gemma", GEMMA, "<end_of_turn>", special=TURNS, bos=BEGIN, system=False),
}


@cache
def texts() -> list[str]:
    """Questions, answers and paragraphs of the project, and texts of many scripts."""
    found = [
        str(value)
        for path in sorted((ROOT / "bench/tasks/questions").glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
        for key, value in json.loads(line).items()
        if key in ("prompt", "answer")
    ]
    for path in sorted((ROOT / "docs").glob("*.md")):
        found += path.read_text(encoding="utf-8").split("\n\n")
    marks = re.compile(r"<\||</?s>|_of_turn|think>|\[/?[A-Z_]+\]")
    found = [text[:400] for text in found if text.strip() and not marks.search(text)]
    odd = [
        "Straße, naïve café", "日本語の文章です。", "नमस्ते दुनिया", "Привет, мир!", "שלום עולם",
        "👩🏽‍🚀🚀",
        "def f(x):\n\treturn x  # twice\n\n\n", "  indented\n    more", "\nbegins with a line",
        "\n\n  two lines", "\r\nDOS\r\n", "ends with spaces   ", "...", "1234567890", "</b><b>",
        '{"a": [1, 2]}', "e\u0301 and \u00e9", "\u00a0no-break\u3000wide", "\t tab", "-",
        "1 + 1 = 2\n", "assistant", "system\nuser", "It's", " leading", "|", "<", "im_end",
    ]  # fmt: skip
    return found + odd * 12


@cache
def conversations() -> list[Conversation]:
    """500 conversations of 1 to 4 turns, every other with a system prompt."""
    chance = random.Random(500)
    made: list[Conversation] = []
    for number in range(CONVERSATIONS):
        system = [{"role": "system", "content": chance.choice(texts())}] if number % 2 else []
        turns = [
            {"role": role, "content": chance.choice(texts())}
            for _ in range(1 + number // 2 % 4)
            for role in ("user", "assistant")
        ]
        made.append(system + turns)
    return made


def merges(family: Family, messages: Conversation) -> bool:
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    return family.merges is not None and any(re.match(family.merges, text) for text in answers)


def of(family: Family) -> list[Conversation]:
    if family.system:
        return conversations()
    return [[m for m in messages if m["role"] != "system"] for messages in conversations()]


@pytest.fixture(scope="module")
def tokenizers(llama_cpp_source: Path, demo_base: Path, module_paths: ModulePaths) -> Any:
    """The tokenizer of a family, whose template is in `templates`."""
    from transformers import AutoTokenizer

    @cache
    def directory(vocabulary: str) -> Path:
        made = module_paths.mktemp("vocabulary")
        write_tokenizer(GGUFFile(llama_cpp_source / "models" / vocabulary), made)
        return made

    def get(family: Family, templates: Path) -> Any:
        if family.vocabulary is None:
            return AutoTokenizer.from_pretrained(demo_base)
        tokenizer = AutoTokenizer.from_pretrained(directory(family.vocabulary))
        if family.special:
            tokenizer.add_special_tokens({"additional_special_tokens": list(family.special)})
        if family.vocabulary != PHI:
            tokenizer.bos_token = family.bos
        tokenizer.eos_token = family.end
        source = templates / f"{family.template}.jinja"
        tokenizer.chat_template = source.read_text(encoding="utf-8")
        return tokenizer

    return get


def product(encoder: Encoder, messages: Conversation) -> list[Masked]:
    example = Example("x", tuple(messages), where="x.jsonl:1")
    found = encoder.sequences(example, Notes())
    return [Masked(encoded.input_ids, encoded.labels) for _, encoded in found]


class Script:
    """The plain script: what has to be trained, found by the marks of turns."""

    def __init__(self, tokenizer: Any, family: Family) -> None:
        self.tokenizer = tokenizer
        self.answer = re.compile(family.answer, re.DOTALL)
        bos = tokenizer.bos_token_id
        self.bos = [bos] if bos is not None and tokenizer("a")["input_ids"][0] == bos else []

    def render(self, messages: Sequence[Mapping[str, str]], *, prompt: bool = False) -> str:
        text: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompt
        )
        return text

    def tokens(self, text: str) -> list[tuple[int, int, int]]:
        """(id, start, end) of each token."""
        coded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        pairs = zip(coded["input_ids"], coded["offset_mapping"], strict=True)
        return [(token, *place) for token, place in pairs]

    def ids(self, text: str) -> list[int]:
        return [token for token, _, _ in self.tokens(text)]

    def with_bos(self, ids: list[int]) -> list[int]:
        return ids if ids[:1] == self.bos else self.bos + ids

    def at_once(self, messages: Conversation) -> tuple[Masked, bool]:
        """The whole text tokenized at once, up to the last end token, and whether a token reaches
        over the beginning of an answer in it."""
        text = self.render(messages)
        spans = [match.span(1) for match in self.answer.finditer(text)]
        tokens = [token for token in self.tokens(text) if token[1] < spans[-1][1]]
        # Phi's special tokens take the line end behind them with them.
        trained = [any(a <= start < b for a, b in spans) for _, start, _ in tokens]
        merged = any(start < a < end for _, start, end in tokens for a, _ in spans)
        ids = [token for token, _, _ in tokens]
        labels = [id_ if taught else IGNORED for id_, taught in zip(ids, trained, strict=True)]
        added = len(self.with_bos(ids)) - len(ids)
        return Masked(self.with_bos(ids), [IGNORED] * added + labels), merged

    def changes(self, messages: Conversation) -> bool:
        """Does the template render what stands before an answer otherwise behind it?"""
        text = self.render(messages)
        places = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        return not all(text.startswith(self.render(messages[:n], prompt=True)) for n in places)

    def as_served(self, messages: Conversation) -> list[Masked]:
        """Each answer by itself, behind the prompt that a server renders for it."""
        made = []
        for place, message in enumerate(messages):
            if message["role"] == "assistant":
                prompt = self.render(messages[:place], prompt=True)
                answer = self.answer.findall(self.render(messages[: place + 1]))[-1]
                before, after = self.with_bos(self.ids(prompt)), self.ids(answer)
                made.append(Masked(before + after, [IGNORED] * len(before) + after))
        return made


def runs(sequence: Masked) -> list[tuple[list[int], list[int]]]:
    """(all ids before, ids trained) of each stretch of trained ids that ends with its end token."""
    found: list[tuple[list[int], list[int]]] = []
    start: int | None = None
    for place, label in enumerate([*sequence.labels, IGNORED]):
        if label != IGNORED and start is None:
            start = place
        if label == IGNORED and start is not None:
            found.append((sequence.ids[:start], sequence.ids[start:place]))
            start = None
    return found


def check(
    encoder: Encoder, script: Script, messages: Conversation, whole: Masked, *, differs: bool
) -> None:
    """The product's sequences are `whole`, or if it differs by right, train each answer once as a
    server's prompt leads to it."""
    got = product(encoder, messages)
    if not differs:
        assert got == [whole]
        return
    assert got != [whole]
    served = script.as_served(messages)
    answers = [runs(sequence)[0] for sequence in served]
    trained = [run for sequence in got for run in runs(sequence)]
    assert sorted(answer for _, answer in trained) == sorted(answer for _, answer in answers)
    # The last sequence is the whole conversation; what can't be taught in it has its own.
    assert got[-1].ids == served[-1].ids
    for sequence in got[:-1]:
        assert sequence in served
    for before, answer in runs(got[-1]):
        assert script.tokenizer.decode(before) in {
            script.tokenizer.decode(prompt) for prompt, wanted in answers if wanted == answer
        }


@pytest.mark.parametrize("name", PLAIN)
def test_the_mask_is_that_of_a_plain_script(
    tokenizers: Any, llama_cpp_source: Path, name: str
) -> None:
    family = PLAIN[name]
    script = Script(tokenizers(family, llama_cpp_source / "models/templates"), family)
    encoder = Encoder(script.tokenizer, max_length=1 << 16)
    for messages in of(family):
        whole, merged = script.at_once(messages)
        moved = script.changes(messages)
        assert merged == merges(family, messages), messages
        assert moved == (family.moves and messages[0]["role"] == "system")
        check(encoder, script, messages, whole, differs=merged or moved)


def test_an_answer_that_stands_in_the_question_too_is_found_in_its_own_turn(
    tokenizers: Any, llama_cpp_source: Path
) -> None:
    # Mistral Nemo's template writes the system prompt into the last question, and leaves it out
    # where an answer follows.
    family = PLAIN["Mistral Nemo"]
    tokenizer = tokenizers(family, llama_cpp_source / "models/templates")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is it yes or no?"},
        {"role": "assistant", "content": "yes"},
    ]
    [(ids, labels)] = product(Encoder(tokenizer, max_length=512), messages)
    trained = [label for label in labels if label != IGNORED]
    assert tokenizer.decode(ids[: -len(trained)]).endswith("Be brief.\n\nIs it yes or no?[/INST]")
    assert tokenizer.decode(trained) == "yes</s>"


def by_trl(tokenizer: Any, rows: list[Conversation], directory: Path) -> list[Masked]:
    """What TRL's trainer makes of conversations with `assistant_only_loss`."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    smallest = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1,
    )  # fmt: skip
    settings = SFTConfig(
        output_dir=str(directory), assistant_only_loss=True, max_length=None, use_cpu=True,
        bf16=False, report_to=[], disable_tqdm=True, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=LlamaForCausalLM(smallest), args=settings, processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"messages": row} for row in rows]),
    )  # fmt: skip
    made = []
    for row in trainer.train_dataset:
        batch = trainer.data_collator([row])
        made.append(Masked(batch["input_ids"][0].tolist(), batch["labels"][0].tolist()))
    return made


@pytest.mark.parametrize("name", TRL)
def test_the_mask_is_that_of_trl_but_for_line_ends_outside_the_answer(
    tokenizers: Any, tmp_path: Path, name: str
) -> None:
    import trl

    family = TRL[name]
    tokenizer = tokenizers(family, Path(trl.__file__).parent / "chat_templates")
    script = Script(tokenizer, family)
    rows = of(family)
    line, end = script.ids("\n"), tokenizer.eos_token_id
    behind = 0 if name == "Llama 3" else 1  # TRL trains the template's "\n" behind the end token,
    before = 1 if name == "Qwen2.5" else 0  # and Qwen2.5's in front of the answer.
    encoder = Encoder(script.tokenizer, max_length=1 << 16)
    for messages, (ids, labels) in zip(rows, by_trl(tokenizer, rows, tmp_path), strict=True):
        whole, merged = script.at_once(messages)
        assert merged == merges(family, messages), messages
        answers = sum(message["role"] == "assistant" for message in messages)
        extra = 0
        for place, label in enumerate(labels):
            if behind and label != IGNORED and ids[place - 1] == end:
                assert [label] == line
                labels[place] = IGNORED
                extra += 1
        assert extra == behind * answers
        if before and not merged:
            starts = [n for n, label in enumerate(labels) if label != IGNORED]
            starts = [n for n in starts if labels[n - 1] == IGNORED]
            assert [ids[n] for n in starts] == line * answers
            for place in starts:
                labels[place] = IGNORED
        if behind:
            assert ids.pop() == line[0]
            assert labels.pop() == IGNORED
        if not merged:
            assert (ids, labels) == whole
        check(encoder, script, messages, Masked(ids, labels), differs=merged)
