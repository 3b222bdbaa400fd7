"""An architecture without a module of ours: llama.cpp's converter and quantizer, verified."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.convert.convert_support import SHAPE, copy_tokenizer, make_adapter, write_held_out
from tests.support import ModulePaths
from tuneserve.convert.stage import convert
from tuneserve.convert.upstream import convert_run, run_converter, stage_checkpoint
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.files import read_json, write_json
from tuneserve.finetune.training.result import TrainedBase, TrainOutput
from tuneserve.gguf.reader import GGUFFile
from tuneserve.gguf.system_prompt import system_prompt_of
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings


@pytest.fixture(scope="module")
def phi2(tokenizer_directory: Path, module_paths: ModulePaths) -> RunDirectory:
    """A run on a tiny Phi-2 whose training is done."""
    import torch
    from transformers import PhiConfig, PhiForCausalLM

    run = RunDirectory(module_paths.mktemp("runs") / "stable")
    run.root.mkdir()
    base = run.root / "base"
    torch.manual_seed(1)
    # llama.cpp's converter takes these two from the others.
    heads, width = SHAPE["num_attention_heads"], 4 * SHAPE["hidden_size"]
    sizes = {"num_hidden_layers": 2, "num_key_value_heads": heads, "intermediate_size": width}
    model = PhiForCausalLM(PhiConfig(**{**SHAPE, **sizes}))
    model.to(torch.bfloat16).save_pretrained(base)
    copy_tokenizer(tokenizer_directory, base)
    make_adapter(run.adapter, base, tokenizer_directory)
    write_held_out(run.split("test"))
    with run.stage("train") as record:
        record.result = TrainOutput(base=TrainedBase(spec="s", path=str(base), name="tiny"))
    return run


@pytest.fixture(scope="module")
def converter(llama_cpp_source: Path, module_paths: ModulePaths) -> Path:
    """The converter in a folder with a space in its name."""
    folder = module_paths.mktemp("a folder") / "llama.cpp"
    folder.symlink_to(llama_cpp_source)
    return folder / "convert_hf_to_gguf.py"


def test_the_converter_makes_what_is_verified(phi2: RunDirectory, converter: Path) -> None:
    # Two runs of the converter and three models of transformers: about 20 s.
    settings = ConvertSettings(quantization="Q8_0", converter=converter, threads=2)
    phi2.update(settings={**phi2.saved_settings(), "data": {"system": "Be brief."}})
    result = convert_run(phi2, settings)
    contracts = {check.contract for check in result.verification if check.passed}
    assert {"token ids", "special tokens", "chat template", "changed tensors",
            "merged = adapter on base", "tuned differs from base", "llama.cpp = transformers",
            "Q8_0 ≈ merged", "the gain is kept"} <= contracts  # fmt: skip
    file = GGUFFile(Path(result.tuned.path))
    assert file.architecture == "phi2"
    assert file.metadata["general.name"] == phi2.name
    assert system_prompt_of(file) == "Be brief."
    assert system_prompt_of(GGUFFile(Path(result.base.path))) == ""
    assert result.tensor_types["Q8_0"] > 0
    made = {path.name for path in phi2.gguf.iterdir()}
    assert made == {"stable-Q8_0.gguf", "base-Q8_0.gguf", *result.handover}


def test_without_a_converter_the_way_out_is_told(phi2: RunDirectory, tmp_path: Path) -> None:
    for attempt in (convert, convert_run):
        with pytest.raises(UsageError, match="'PhiForCausalLM' is not supported") as caught:
            attempt(phi2, ConvertSettings(), force=True)
        assert "[convert] converter = " in caught.value.hint
    gone = ConvertSettings(converter=tmp_path / "gone.py")
    with pytest.raises(UsageError, match=re.escape("gone.py")):
        convert_run(phi2, gone, force=True)
    script = tmp_path / "converter.py"
    script.write_text("")
    auto = ConvertSettings(converter=script, quantization="auto")
    with pytest.raises(UsageError, match="can't be chosen by their divergence"):
        convert_run(phi2, auto, force=True)


def test_the_architecture_is_told_before_the_adapter(phi2: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "stable")
    shutil.copytree(phi2.root, run.root, ignore=shutil.ignore_patterns("gguf"))
    config = run.adapter / "adapter_config.json"
    write_json(config, {**read_json(config), "lora_bias": True})
    with pytest.raises(UsageError, match="'PhiForCausalLM' is not supported"):
        convert(run, ConvertSettings())


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            "import sys; sys.exit('Model Strange is not supported')",
            "Model Strange is not supported",
        ),
        ("raise KeyError('rotary_pct')", "KeyError: 'rotary_pct'"),
        ("print('all done')", "the converter wrote no such file"),
        ("import os; os.abort()", "killed by SIGABRT"),
    ],
)
def test_a_converter_that_fails_says_why(tmp_path: Path, script: str, words: str) -> None:
    converter = tmp_path / "convert it.py"
    converter.write_text(script)
    with pytest.raises(TuneserveError) as caught:
        run_converter(converter, tmp_path, tmp_path / "out.gguf")
    assert words in caught.value.render()
    assert "Try it by hand on the base" in caught.value.hint


def test_a_staged_checkpoint_has_the_trainers_tokenizer(tmp_path: Path) -> None:
    for folder, name, text in (
        ("base", "config.json", "{}"), ("base", "tokenizer.json", "the base's"),
        ("base", "tokenizer.model", "pieces"), ("trained", "tokenizer.json", "the trainer's"),
    ):  # fmt: skip
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(text)
    made = stage_checkpoint(tmp_path / "base", tmp_path / "trained", tmp_path / "made")
    texts = {path.name: path.read_text() for path in made.iterdir()}
    assert texts == {
        "config.json": "{}", "tokenizer.json": "the trainer's", "tokenizer.model": "pieces",
    }  # fmt: skip


def test_what_training_did_not_read_is_not_handed_on(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    index = '{"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}'
    names = ("config.json", "model.safetensors", "model-00001-of-00001.safetensors",
             "consolidated.safetensors", "tokenizer.json")  # fmt: skip
    for name in names:
        (base / name).write_text("{}")
    (base / "model.safetensors.index.json").write_text(index)
    made = stage_checkpoint(base, base, tmp_path / "made")
    weights = sorted(path.name for path in made.iterdir() if "safetensors" in path.name)
    assert weights == ["model.safetensors"]
    (base / "model.safetensors").unlink()
    made = stage_checkpoint(base, base, tmp_path / "again")
    weights = sorted(path.name for path in made.iterdir() if "safetensors" in path.name)
    assert weights == ["model-00001-of-00001.safetensors", "model.safetensors.index.json"]
