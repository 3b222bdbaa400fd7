"""The trainer's tokenizer as GGUF keys: sentencepiece without a tokenizer.model, special ids,
sizes, and what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.convert.convert_support import copy_tokenizer, make_base, write_sentencepiece_model
from tests.gguf.cut_vocabulary import cut_vocabulary
from tests.support import ModulePaths
from tuneserve.base.tokenizer import write_tokenizer
from tuneserve.convert.gguf.vocabulary import Vocabulary
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.errors import UsageError
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import LlamaModel

Edit = Callable[[dict[str, Any]], None]
TEXTS = [
    "Hello, world!",
    "  two  spaces",
    "<s>[INST] a\n b [/INST]</s>",
    "日本語 🚀 Größe",
    "\t\n x",
]


@pytest.fixture(scope="module")
def llama_2(llama_cpp_source: Path, module_paths: ModulePaths) -> Path:
    directory = module_paths.mktemp("llama-2")
    gguf = GGUFFile(llama_cpp_source / "models" / "ggml-vocab-llama-spm.gguf")
    write_tokenizer(gguf, directory)
    return directory


@pytest.fixture
def editable(llama_2: Path, tmp_path: Path) -> Path:
    copy_tokenizer(llama_2, tmp_path)
    return tmp_path


def read(directory: Path, *, rows: int = 32000, architecture: str = "llama",
         **config: Any) -> Vocabulary:  # fmt: skip
    return Vocabulary(directory, rows=rows, architecture=architecture, config=config)


def edit(directory: Path, change: Edit, name: str = "tokenizer.json") -> Path:
    content = json.loads((directory / name).read_text())
    change(content)
    (directory / name).write_text(json.dumps(content))
    return directory


def as_gguf(vocabulary: Vocabulary, path: Path, name: str = "x") -> Path:
    """A GGUF of the vocabulary alone."""
    metadata = {"general.architecture": ("string", "llama"), "general.name": ("string", name)}
    write_gguf(path, metadata | vocabulary.metadata(), {}, [], threads=1)
    return path


def test_scores_made_of_merges_give_the_trainers_ids(llama_2: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(llama_2 / "tokenizer.json"))
    choose = random.Random(3)
    texts = [*TEXTS, *(" " * n + "x" + " " * (40 - n) for n in range(40))]
    texts += ["".join(choose.choices("aeht .,1\n▁é", k=30)) for _ in range(200)]
    with LlamaModel(as_gguf(read(llama_2), tmp_path / "v.gguf"), vocab_only=True) as model:
        for text in texts:
            assert tokenizer.encode(text, add_special_tokens=False).ids == model.tokenize(text)
        assert (model.bos, model.eos, model.adds_bos) == (1, 2, True)


def test_ids_only_config_json_names_are_written(editable: Path) -> None:
    edit(editable, lambda content: content.pop("eos_token"), "tokenizer_config.json")
    keys = read(editable, eos_token_id=7, pad_token_id=2, bos_token_id=9).metadata()
    assert keys["tokenizer.ggml.eos_token_id"] == ("UINT32", 7)
    assert keys["tokenizer.ggml.padding_token_id"] == ("UINT32", 2)
    assert keys["tokenizer.ggml.bos_token_id"] == ("UINT32", 1)  # the tokenizer's own comes first


def test_gemmas_end_of_a_turn_is_written_where_there_is_one(editable: Path) -> None:
    key = "tokenizer.ggml.eot_token_id"
    assert key not in read(editable, architecture="gemma").metadata()
    end = {"id": 107, "content": "<end_of_turn>", "special": True}

    def add(content: dict[str, Any]) -> None:
        content["added_tokens"].append({**content["added_tokens"][0], **end})

    assert read(edit(editable, add), architecture="gemma").metadata()[key] == ("UINT32", 107)


def test_added_tokens_and_missing_ones(editable: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        added = content["added_tokens"]
        like = {**added[0], "special": False}
        added.append({**like, "id": 32001, "content": "▁note"})
        added.append({**like, "id": 32002, "content": "<|x|>"})

    tokens = read(edit(editable, change), rows=32004).tokens
    assert [(t.text, t.type.name, t.score) for t in tokens[32000:]] == [
        ("[PAD32000]", "UNUSED", -10000.0), (" note", "USER_DEFINED", -1000.0),
        ("<|x|>", "CONTROL", -1000.0), ("[PAD32003]", "UNUSED", -10000.0),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="ids up to 32002, the embedding only 32002 rows"):
        read(editable, rows=32002)


def test_a_tokenizer_model_of_another_tokenizer_is_refused(
    llama_cpp_source: Path, editable: Path
) -> None:
    other = GGUFFile(llama_cpp_source / "models" / "ggml-vocab-baichuan.gguf")
    write_sentencepiece_model(other, editable / "tokenizer.model", pieces=1000)
    with pytest.raises(UsageError, match="of different tokenizers"):
        read(editable)
    (editable / "tokenizer.model").write_bytes(b"no protobuf")
    with pytest.raises(UsageError, match="no sentencepiece model"):
        read(editable)


def lose_a_merge(content: dict[str, Any]) -> None:
    del content["model"]["merges"][40]


def metaspace(scheme: str) -> Edit:
    def change(content: dict[str, Any]) -> None:
        content["normalizer"] = None
        content["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "split": False,
                                    "prepend_scheme": scheme}  # fmt: skip

    return change


def test_metaspace_without_a_prefix_is_known(editable: Path) -> None:
    keys = read(edit(editable, metaspace("never"))).metadata()
    assert keys["tokenizer.ggml.add_space_prefix"] == ("BOOL", False)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (metaspace("first"), "puts a space in front of text only where"),
        (metaspace("always"), "puts a space in front of text only where"),
        (lose_a_merge, "merges are not those of a sentencepiece model"),
        (lambda c: c.update(normalizer={"type": "Lowercase"}), "unknown to llama.cpp's sentence"),
        (lambda c: c.update(normalizer=None), "unknown to llama.cpp's sentence"),
        (lambda c: c["added_tokens"][1].update(rstrip=True), "swallow the whitespace"),
        (lambda c: c["model"].update(type="Unigram"), "of type Unigram can't be converted"),
        (lambda c: c.pop("model"), "model is no object"),
        (lambda c: c["added_tokens"].append(5), "added_tokens is no list of tokens"),
    ],
)
def test_what_llama_cpp_would_do_otherwise_is_refused(
    editable: Path, change: Edit, problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        read(edit(editable, change)).metadata()


def test_only_a_phi_3_is_named_so(llama_cpp_source: Path, llama_2: Path, tmp_path: Path) -> None:
    write_tokenizer(GGUFFile(llama_cpp_source / "models" / "ggml-vocab-phi-3.gguf"), tmp_path)
    phi = read(tmp_path, rows=32064, architecture="phi3")
    assert phi.model_name("mine") == "mine (Phi-3)"
    assert phi.model_name("phi-3-mine") == "phi-3-mine"
    assert read(llama_2).model_name("not-Phi3") == "not-Phi_3"
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "<|user|>\nHi<|end|>\n<|assistant|>\n"
    made = as_gguf(phi, tmp_path / "v.gguf", phi.model_name("mine"))
    with LlamaModel(made, vocab_only=True) as model:
        assert tokenizer.encode(text, add_special_tokens=False).ids == model.tokenize(text)


@given(
    broken=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(["model", "added_tokens", "vocab"]), inner, max_size=3
            )
        ),
        max_leaves=8,
    )
)
def test_any_json_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, broken: object
) -> None:
    directory = tmp_path_factory.getbasetemp()
    (directory / "tokenizer.json").write_text(json.dumps(broken))
    with pytest.raises(UsageError):
        read(directory)


def test_a_checkpoint_keeps_its_vocabulary_size(tokenizer_directory: Path, tmp_path: Path) -> None:
    """More rows than tokens, as models padded to a multiple of 64 have."""
    from tuneserve.convert.gguf.model import GGUFModel
    from tuneserve.convert.merge.checkpoint import MergedCheckpoint

    base = make_base(tmp_path / "base", tokenizer_directory, vocab_size=49152 + 64)
    model = GGUFModel(MergedCheckpoint(base), base, name="padded")
    assert len(model.vocabulary.tokens) == 49152 + 64
    assert model.vocabulary.tokens[-1].text == "[PAD49215]"


def test_the_gate_reads_the_tokenizer_that_training_saved(llama_2: Path, tmp_path: Path) -> None:
    """transformers forgets "legacy" when it saves, and would load another pre-tokenizer."""
    from transformers import AutoTokenizer

    from tuneserve.convert.verify.vocabulary import TrainerTokenizer

    base = tmp_path / "base"
    base.mkdir()
    copy_tokenizer(llama_2, base)
    edit(base, lambda c: c.update(tokenizer_class="LlamaTokenizer", legacy=True),
         "tokenizer_config.json")  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(tmp_path / "adapter")
    trainer = TrainerTokenizer(tmp_path / "adapter")
    for text in TEXTS:
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == trainer.encode(text)
    assert (trainer.bos, trainer.eos, trainer.adds_bos) == (1, 2, True)
    with pytest.raises(UsageError, match="only where none stands already"):
        read(tmp_path / "adapter").metadata()


def with_stripping(llama_cpp_source: Path, target: Path, template: str) -> Path:
    """Phi-4's tokenizer: special tokens that swallow whitespace on both sides."""
    tokens = ("<|im_start|>", "<|im_end|>", "<|im_sep|>")
    source = llama_cpp_source / "models" / "ggml-vocab-llama-bpe.gguf"
    cut = cut_vocabulary(source, target / "v.gguf", pre="dbrx", special=tokens)
    write_tokenizer(GGUFFile(cut), target)

    def strip(content: dict[str, Any]) -> None:
        for entry in content["added_tokens"]:
            entry.update(lstrip=True, rstrip=True)

    edit(target, strip)
    (target / "chat_template.jinja").write_text(template)
    return target


PHI_4 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
)


def test_tokens_that_swallow_whitespace_where_there_is_none(
    llama_cpp_source: Path, tmp_path: Path
) -> None:
    from tuneserve.chat.examples import Example
    from tuneserve.chat.prompt import EncodingError
    from tuneserve.finetune.runtime.model import load_tokenizer
    from tuneserve.finetune.tokens.encoder import Encoder
    from tuneserve.settings import ModelSettings

    directory = with_stripping(llama_cpp_source, tmp_path, PHI_4)
    assert read(directory, rows=9000, architecture="phi3").strips_right is False
    encoder = Encoder(load_tokenizer(directory, ModelSettings()), max_length=99)

    def example(text: str) -> Example:
        return Example(
            "x", ({"role": "user", "content": text}, {"role": "assistant", "content": "b"})
        )

    assert encoder.encode(example("a b")).trained
    for text in ("a ", "\na"):
        with pytest.raises(EncodingError, match="begins or ends with whitespace"):
            encoder.encode(example(text))


def test_a_template_with_whitespace_beside_such_tokens_is_refused(
    llama_cpp_source: Path, tmp_path: Path
) -> None:
    template = PHI_4.replace("<|im_end|>", "<|im_end|>\n")
    directory = with_stripping(llama_cpp_source, tmp_path, template)
    with pytest.raises(UsageError, match="the chat template has whitespace there"):
        read(directory, rows=9000, architecture="phi3")


def test_whole_tokens_first_or_merges_where_both_give_the_same(
    llama_cpp_source: Path, tmp_path: Path
) -> None:
    """gpt-oss's file takes whole tokens first, llama.cpp's 'gpt-4o' does not."""
    source = llama_cpp_source / "models" / "ggml-vocab-gpt-2.gguf"
    write_tokenizer(
        GGUFFile(cut_vocabulary(source, tmp_path / "v.gguf", pre="gpt-4o", tokens=3000)), tmp_path
    )
    edit(tmp_path, lambda c: c["model"].update(ignore_merges=True))
    assert read(tmp_path, rows=9000).metadata()["tokenizer.ggml.pre"] == ("STRING", "gpt-4o")
    edit(tmp_path, lambda c: c["model"]["merges"].pop())
    with pytest.raises(UsageError, match="is unknown to") as caught:
        read(tmp_path, rows=9000).metadata()
    assert "The nearest is 'gpt-4o'" in caught.value.hint


@pytest.mark.slow  # a vocabulary of 262,144 tokens
def test_gemma_4_comes_back_as_it_was(llama_cpp_source: Path, tmp_path: Path) -> None:
    gguf = GGUFFile(llama_cpp_source / "models" / "ggml-vocab-gemma-4.gguf")
    write_tokenizer(gguf, tmp_path)
    made = read(tmp_path, rows=262144, architecture="gemma4").metadata()
    for key in ("model", "tokens", "token_type", "scores", "merges", "add_bos_token",
                "add_space_prefix", "bos_token_id", "eos_token_id"):  # fmt: skip
        assert list_or(made[f"tokenizer.ggml.{key}"][1]) == gguf.get(f"tokenizer.ggml.{key}"), key
    assert "tokenizer.ggml.pre" not in made


def list_or(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
