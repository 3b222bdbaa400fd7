"""What would fail a conversion is refused before training, by name, and what would not is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuneserve.base import ResolvedBase
from tuneserve.base.tokenizer import write_tokenizer
from tuneserve.chat.examples import Example
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.preflight.apart import EXAMPLES, check_apart, require_convertible
from tuneserve.convert.preflight.before_training import BeforeTraining
from tuneserve.convert.preflight.check import check_conversion
from tuneserve.convert.preflight.rounded import check_rounded
from tuneserve.convert.route import require_own_architecture
from tuneserve.errors import UsageError
from tuneserve.files import write_json
from tuneserve.findings import Finding
from tuneserve.finetune.runtime.model import check_loadable
from tuneserve.gguf.reader import GGUFFile
from tuneserve.safetensors import SafetensorsWriter, TensorSpec, checkpoint_tensors
from tuneserve.settings import Recipe

ROWS = 2048
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": ROWS, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (ROWS, 32), "model.norm.weight": (32,),
    **{f"model.layers.0.{norm}.weight": (32,)
       for norm in ("input_layernorm", "post_attention_layernorm")},
    **{f"model.layers.0.self_attn.{side}_proj.weight": (32, 32) for side in "qkvo"},
    "model.layers.0.mlp.gate_proj.weight": (64, 32), "model.layers.0.mlp.up_proj.weight": (64, 32),
    "model.layers.0.mlp.down_proj.weight": (32, 64),
}  # fmt: skip
QUERIES = "model.layers.0.self_attn.q_proj"
Change = Callable[[Path], None]


@pytest.fixture(scope="session")
def small_base(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that can be converted, with a real tokenizer; made without torch."""
    folder = tmp_path_factory.mktemp("preflight") / "base"
    folder.mkdir()
    write_tokenizer(GGUFFile(demo_gguf), folder)
    edited(folder / "tokenizer.json", _first_tokens)
    write_json(folder / "config.json", CONFIG)
    _write_weights(folder, SHAPES)
    return folder


def _first_tokens(content: Any) -> None:
    """Leave the first ROWS tokens: what is looked at is quicker than with all of them."""
    model = content["model"]
    model["vocab"] = {token: n for token, n in model["vocab"].items() if n < ROWS}
    pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    model["merges"] = [
        pair for pair in pairs if {*pair, "".join(pair)} <= model["vocab"].keys()
    ]  # fmt: skip


def _write_weights(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    random = np.random.default_rng(0)
    specs = [TensorSpec(name, "F16", shape) for name, shape in shapes.items()]
    with SafetensorsWriter(folder / "model.safetensors", specs) as writer:
        for spec in specs:
            values = random.standard_normal(spec.shape).astype("<f2")
            writer.write(spec.name, [values.tobytes()])


def check(
    base: Path, tmp_path: Path, examples: tuple[Example, ...] = (), **tables: dict[str, Any]
) -> list[Finding]:
    recipe = Recipe.model_validate(tables)
    return check_conversion(
        recipe, ResolvedBase(base, "small", str(base)), examples, place=tmp_path / "runs" / "x"
    )


def refusals(found: list[Finding]) -> str:
    return "\n".join(
        f"{one.name}: {one.found} {one.advice}" for one in found if one.status == "refused"
    )


def edited(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    write_json(path, change(content) or content)


def config(**changes: Any) -> Change:
    return lambda base: edited(base / "config.json", lambda content: {**content, **changes})


def template(source: str) -> Change:
    def change(base: Path) -> None:
        (base / "chat_template.jinja").write_text(source)

    return change


def tokenizer(change: Callable[[Any], Any]) -> Change:
    return lambda base: edited(base / "tokenizer.json", change)


def _without(*names: str) -> Change:
    shapes = {name: shape for name, shape in SHAPES.items() if name not in names}
    return lambda base: _write_weights(base, shapes)


def _short_embedding(base: Path) -> None:
    _write_weights(base, {**SHAPES, "model.embed_tokens.weight": (ROWS - 10, 32)})


def _narrow_values(base: Path) -> None:
    """Only llama.cpp looks at the shape of this one."""
    _write_weights(base, {**SHAPES, "model.layers.0.self_attn.v_proj.weight": (16, 32)})


def _no_number(base: Path) -> None:
    """In the row of one token."""
    path = base / "model.safetensors"
    embedding = checkpoint_tensors(base)["model.embed_tokens.weight"]
    with path.open("r+b") as file:
        file.seek(embedding.offset + 2 * 32 * 2000)
        file.write(np.float16(np.nan).tobytes())


def _other_pretokenizer(content: Any) -> None:
    content["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "[aeiou]+"}, "behavior": "Isolated",
             "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": False},
        ],
    }  # fmt: skip


def _normalized(content: Any) -> None:
    content["normalizer"] = {"type": "Lowercase"}


def _unigram(content: Any) -> None:
    content["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}


def _no_end(base: Path) -> None:
    edited(base / "tokenizer_config.json", lambda content: {**content, "eos_token": None})
    edited(
        base / "config.json",
        lambda content: {k: v for k, v in content.items() if k != "eos_token_id"},
    )
    (base / "special_tokens_map.json").unlink(missing_ok=True)
    (base / "generation_config.json").unlink(missing_ok=True)


REFUSED: dict[str, tuple[Change, str]] = {
    "GPT-NeoX": (config(architectures=["GPTNeoXForCausalLM"]), "'GPTNeoXForCausalLM' is not supp"),
    "Bloom": (config(architectures=["BloomForCausalLM"]), r"\[convert\] converter = "),
    "an encoder": (config(architectures=["BertForMaskedLM"]), "'BertForMaskedLM' is not supported"),
    "another model's weights": (config(hidden_size=4096), "embed_tokens.weight: .* by config.json"),
    "more tokens than in the file": (config(vocab_size=60_000), r"\[60000, .*\] by config.json"),
    "weights of AWQ": (config(quantization_config={"quant_method": "awq"}), "'awq' are not read"),
    "no architecture": (config(architectures=None), "config.json names no architecture"),
    "RoPE scaling": (config(rope_scaling={"rope_type": "dynamic", "factor": 2.0}),
                     "RoPE scaling 'dynamic'"),
    "another activation": (config(hidden_act="gelu"), "config.json: hidden_act: .* silu .* gelu"),
    "a window that llama.cpp ignores": (
        config(architectures=["Qwen2ForCausalLM"], model_type="qwen2", use_sliding_window=True,
               sliding_window=16, max_window_layers=0), "config.json: use_sliding_window: .* 16"),
    "RoPE scaling without a factor": (config(rope_parameters={"rope_type": "yarn"}),
                                      "config.json: rope_parameters.factor is missing"),
    "RoPE scaling by its name": (config(rope_parameters="yarn"), "rope_parameters is 'yarn', no"),
    "a number as text": (config(num_attention_heads="2"), "num_attention_heads is '2', no pos"),
    "no heads": (config(num_attention_heads=0), "num_attention_heads is 0, no positive integer"),
    "a window as text": (config(sliding_window="16"), "sliding_window is '16', no number"),
    "an architecture as text": (config(architectures="LlamaForCausalLM"),
                                "architectures is 'LlamaForCausalLM', no list"),
    "a missing tensor": (_without("model.layers.0.mlp.up_proj.weight"),
                         "missing from the checkpoint: model.layers.0.mlp.up_proj"),
    "a foreign tensor": (lambda base: _write_weights(base, {**SHAPES, "visual.a.weight": (4, 4)}),
                         "visual.a.weight"),
    "a shape that llama.cpp refuses": (
        _narrow_values, r"computation: llama.cpp can't load it: .*'blk.0.attn_v.weight' has wrong"),
    "more tokens than rows": (_short_embedding, "the embedding only 2038 rows"),
    "a weight that is no number": (_no_number, "weights are no finite numbers: model.embed_tok"),
    "a pre-tokenizer": (tokenizer(_other_pretokenizer), "pre-tokenizer"),
    "a normalizer": (tokenizer(_normalized), "normalizer"),
    "a Unigram vocabulary": (tokenizer(_unigram), "."),
    "no end token": (_no_end, "end token|EOS|eos"),
    "a template that raises": (template("{{ raise_exception('no, never') }}"), "no, never"),
    "a template that ends in our renderer alone": (
        template("{{ messages }}{{ (messages|length + 8) ** (10 ** 9) if documents is defined }}"),
        "a question, in training: chat template takes longer than"),
    "a template that can't be compiled": (template("{% if %}"), "can't be compiled"),
    "a factor of YaRN that llama.cpp derives": (
        config(rope_parameters={
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64,
            "rope_theta": 10000.0, "attention_factor": 1.7,
        }), "llama.cpp = transformers: F32, 1 of 1 layers: KL divergence",
    ),
    "a bias that config.json does not speak of": (
        lambda base: _write_weights(base, {**SHAPES, f"{QUERIES}.bias": (32,)}),
        r"biases: model\.layers\.0\.self_attn\.q_proj\.bias in the weights, which .* "
        r"\(attention_bias = true\)"),
    "biases that the weights have not": (
        config(attention_bias=True, mlp_bias=True),
        r"biases: config\.json asks for model\.layers\.0\.mlp\.down_proj\.bias, .* \(\+4\), which "
        r".*\(attention_bias = false, mlp_bias = false\)"),
    "a whole number for a fraction": (
        config(rms_norm_eps=0),
        r"configuration: transformers does not take .*rms_norm_eps.* got int .* written 0\.0"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_not_be_converted_is_refused_before_training(
    kind: str, small_base: Path, tmp_path: Path
) -> None:
    import re

    change, words = REFUSED[kind]
    base = tmp_path / "base"
    shutil.copytree(small_base, base)
    change(base)
    shown = refusals(check(base, tmp_path))
    assert re.search(words, shown), shown
    assert "/tmp/tuneserve-" not in shown  # no place that the user does not know


def test_a_training_says_too_what_transformers_does_not_take(
    small_base: Path, tmp_path: Path
) -> None:
    """Where its check is left out."""
    base = tmp_path / "base"
    shutil.copytree(small_base, base)
    check_loadable(base)
    config(rms_norm_eps=0)(base)
    with pytest.raises(UsageError, match=r"can't load this base: .*expected float, got int"):
        check_loadable(base)


def test_what_can_be_converted_is_not_refused(small_base: Path, tmp_path: Path) -> None:
    examples = (Example.of_turn("1", "What is two plus two? Größe 你好", "4"),)
    # Random weights are farther from themselves when they are rounded than learned ones.
    found = check(small_base, tmp_path, examples, convert={"max_quantized_kld": 100})
    assert not refusals(found)
    names = [one.name for one in found if one.status == "ok"]
    assert {"architecture", "tensors and vocabulary", "disk", "token ids", "special tokens",
            "chat template", "template", "adapter",
            "llama.cpp = transformers"} <= {*names}  # fmt: skip
    assert not (tmp_path / "runs").exists()


def test_a_template_for_one_question_is_a_note(small_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(small_base, base)
    (base / "chat_template.jinja").write_text(
        "{% if messages|length > 2 %}{{ raise_exception('one question') }}{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    found = check(base, tmp_path)
    assert not refusals(found)
    note = next(one for one in found if one.name == "template")
    assert note.status == "note"
    assert "equal with a question; it refuses a system prompt, several turns" in note.found


def test_a_window_that_llama_cpp_ignores_is_refused_where_training_reaches_it(
    small_base: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(small_base, base)
    config(architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=128)(base)
    longer = check(base, tmp_path, model={"max_seq_length": 129})
    assert "made for 128 tokens (config.json: sliding_window" in refusals(longer)
    within = check(base, tmp_path, model={"max_seq_length": 128})
    assert not refusals(within)
    assert "window" in [one.name for one in within if one.status == "note"]
    # What nobody set follows the window, in a process of its own too.
    assert not refusals(check(base, tmp_path))
    assert not refusals(check_apart(Recipe(), ResolvedBase(base, "s", "s"), [], place=tmp_path))


def test_more_positions_than_the_base_has_are_refused(small_base: Path, tmp_path: Path) -> None:
    longer = refusals(check(small_base, tmp_path, model={"max_seq_length": 257}))
    assert longer.startswith("window: max_seq_length is 257")
    assert "made for 256 tokens (config.json: max_position_embeddings)" in longer
    assert not refusals(check(small_base, tmp_path, model={"max_seq_length": 256}))


def test_a_base_that_its_quantization_takes_too_far_is_refused(
    small_base: Path, tmp_path: Path
) -> None:
    """`base Q4_K_M ≈ base` of a conversion, which would fail after the training."""
    examples = tuple(Example.of_turn(str(n), f"What is {n} plus {n}?", str(2 * n)) for n in (2, 7))

    model = GGUFModel(MergedCheckpoint(small_base), small_base, name="small")

    def measured(given: tuple[Example, ...] = examples, **convert: Any) -> Finding | None:
        recipe = Recipe.model_validate({"convert": convert})
        return check_rounded(model, small_base, given, recipe, tmp_path)

    within, finer = (
        measured(max_quantized_kld=100, quantization=kind) for kind in ("Q4_K_M", "Q8_0")
    )
    assert within is not None
    assert finer is not None
    assert within.status == "ok"
    assert within.found.startswith("Q4_K_M, 2 examples: KL divergence mean ")
    means = [float(one.found.split("mean ")[1].split(",")[0]) for one in (within, finer)]
    assert means[0] > 3 * means[1] > 0
    assert measured(()) is None
    assert measured(quantization="F16", max_quantized_kld=1e-6) is None
    assert measured(imatrix=True, max_quantized_kld=1e-6) is None
    assert not list(tmp_path.glob("*.gguf"))
    refused = refusals(check(small_base, tmp_path, examples, convert={"max_quantized_kld": 1e-6}))
    assert refused.startswith("quantized base, measured: Q4_K_M, 2 examples")
    assert "at most 1e-06 (max_quantized_kld)" in refused


def test_settings_that_can_not_work_are_told(small_base: Path, tmp_path: Path) -> None:
    missing = {"converter": str(tmp_path / "no_such.py")}
    assert "no_such.py" in refusals(check(small_base, tmp_path, convert=missing))
    needs = {"quantization": "IQ2_XXS"}
    assert "needs an importance matrix" in refusals(check(small_base, tmp_path, convert=needs))
    small = {"quantization": "auto", "size_limit": "20kB"}
    assert "20kB is allowed" in refusals(check(small_base, tmp_path, convert=small))
    gone = {"merge_base": str(tmp_path / "gone.gguf")}
    assert "no such file" in refusals(check(small_base, tmp_path, convert=gone))


def test_the_other_base_to_merge_into(small_base: Path, tmp_path: Path) -> None:
    def told(spec: str) -> str:
        return refusals(check(small_base, tmp_path, convert={"merge_base": spec}))

    for missing in ("gone/away", str(tmp_path / "gone")):
        shown = told(missing)
        assert f"convert.merge_base = '{missing}'" in shown
        assert "model.base" not in shown
    other = tmp_path / "other"
    shutil.copytree(small_base, other)
    assert not told(str(other))
    config(model_type="qwen2", architectures=["Qwen2ForCausalLM"])(other)
    assert "'qwen2'" in told(str(other))


def test_a_converter_that_is_none(small_base: Path, tmp_path: Path) -> None:
    missing = check(small_base, tmp_path, convert={"converter": str(tmp_path / "no_such.py")})
    assert [one.name for one in missing if "no_such.py" in one.found] == ["converter"]
    base, script = tmp_path / "base", tmp_path / "some.py"
    shutil.copytree(small_base, base)
    config(architectures=["BloomForCausalLM"])(base)
    script.write_text("")
    shown = refusals(check(base, tmp_path, convert={"converter": str(script)}))
    assert f"convert.converter = '{script}': the converter wrote no such file" in shown
    assert "convert_hf_to_gguf.py is expected" in shown


def test_disk_and_memory(small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr("tuneserve.convert.resources.shutil.disk_usage", lambda _: usage)
    memory = "tuneserve.convert.resources.main_memory"
    monkeypatch.setattr(memory, lambda: type("Memory", (), {"available": 2**20})())
    shown = refusals(check(small_base, tmp_path))
    assert "1.0 MiB are free" in shown
    assert "disk: " in shown
    assert "memory: " in shown


def test_notes_about_the_adapter_and_no_held_out_examples(small_base: Path, tmp_path: Path) -> None:
    found = check(
        small_base, tmp_path, train={"use_dora": True, "modules_to_save": ["embed_tokens"]},
        data={"test_fraction": 0.0},
    )  # fmt: skip
    assert not refusals(found)
    notes = {one.name: one.found for one in found if one.status == "note"}
    assert "be no GGUF of its own: use_dora, modules_to_save" in notes["adapter"]
    assert "verified with eval examples" in notes["held-out examples"]


def test_a_training_is_stopped_in_another_process(
    small_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(small_base, base)
    config(architectures=["BloomForCausalLM"])(base)
    resolved = ResolvedBase(base, "bloom", "./bloom")
    with pytest.raises(UsageError, match="can't be converted to a GGUF") as caught:
        require_convertible(Recipe(), resolved, [], place=tmp_path)
    assert caught.value.where == "./bloom"
    assert "'BloomForCausalLM' is not supported" in caught.value.problems[0]
    assert "--no-preflight" in caught.value.hint
    with pytest.raises(UsageError) as at_once:
        BeforeTraining(tmp_path).configuration(Recipe(), resolved)
    assert at_once.value.render() == caught.value.render()
    off = Recipe.model_validate({"convert": {"preflight": False}})
    require_convertible(off, resolved, [], place=tmp_path)
    BeforeTraining(tmp_path).configuration(off, resolved)
    require_convertible(Recipe(), ResolvedBase(small_base, "s", "s"), [], place=tmp_path)
    said = capsys.readouterr().err
    assert said.index("checking that this base can be converted") < said.index(
        "the conversion can be done"
    )


def test_examples_that_a_training_refuses_are_told_before_anything_slow(
    small_base: Path, tmp_path: Path
) -> None:
    questions = ["a\x16b", *(f"{number}?" for number in range(1, 300))]
    examples = [
        replace(Example.of_turn(str(n), question, "Yes."), where=f"x.jsonl:{n}")
        for n, question in enumerate(questions)
    ]
    base = ResolvedBase(small_base, "s", "./s")

    def refused(**settings: Any) -> UsageError:
        recipe = Recipe.model_validate(settings)
        with pytest.raises(UsageError) as caught:
            require_convertible(recipe, base, examples, place=tmp_path)
        return caught.value

    error = refused()
    assert error.where == "x.jsonl:0"
    assert "'\\x16' (U+0016) has no token" in error.message
    assert f"Of 300 examples {EXAMPLES} were looked at" in error.hint
    assert "tuneserve data check --base ./s" in error.hint
    short = refused(model={"max_seq_length": 16})
    assert f"{EXAMPLES} of {EXAMPLES} examples can't be trained on" in short.message
    assert "x.jsonl:1: no token to train on" in short.problems[1]
    left_out = Recipe.model_validate({"data": {"skip_bad": True}})
    require_convertible(left_out, base, examples, place=tmp_path, quantizes=False)


def test_an_unknown_architecture_is_told_the_nearest_ones_once() -> None:
    with pytest.raises(UsageError, match="'GraniteMoeHybridModel' is not supported") as caught:
        require_own_architecture("GraniteMoeHybridModel", where="base")
    shown = caught.value.render()
    assert shown.count("GraniteMoeHybridForCausalLM") == 1
    assert shown.count("docs/own-model.md") == 1
    assert "[convert] converter" in shown
    assert len(shown) < 400
