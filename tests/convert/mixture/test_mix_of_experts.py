"""Types chosen for a mixture of experts, from the command line: its stacked experts are tensors
like others."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.convert.convert_support import write_held_out
from tests.convert.gguf.test_experts import make_expert_adapter, make_mixture
from tuneserve.cli import cli
from tuneserve.convert.result import ConvertResult
from tuneserve.finetune.training.result import TrainedBase, TrainOutput
from tuneserve.gguf.reader import GGUFFile
from tuneserve.run import RunDirectory


def test_stacked_experts_get_types_of_their_own(
    tokenizer_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = make_mixture(tmp_path / "base", "qwen3-moe", tokenizer_directory)
    run = RunDirectory.named("experts")
    run.root.mkdir(parents=True)
    make_expert_adapter(run.adapter, "qwen3-moe", base, tokenizer_directory)
    for split, count in (("train", 40), ("eval", 4), ("test", 4)):
        write_held_out(run.split(split), count=count)
    with run.stage("train") as record:
        record.result = TrainOutput(base=TrainedBase(spec=str(base), path=str(base), name="tiny"))
    arguments = "convert --run experts --quantization auto --size-limit 95% --max-quantized-kld 10"
    small = "--mix-tokens 100 --mix-tries 40 --imatrix-tokens 512"
    done = CliRunner().invoke(cli, f"{arguments} {small}".split())
    assert done.exit_code == 0, done.output

    mix = run.require_stage("convert", ConvertResult).mix
    assert mix is not None
    assert mix.bytes <= 0.95 * mix.baseline_bytes
    stacks = {name for name in mix.types if "_exps" in name}
    assert {name.split(".")[2] for name in stacks} == {
        "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps",
    }  # fmt: skip
    assert not any("ffn_gate_inp" in name for name in mix.types)
    for path in (run.tuned_gguf("auto"), run.base_gguf("auto")):
        file = GGUFFile(path)
        assert {name: file.type_name(name) for name in mix.types} == mix.types
    assert "auto, matrices" in done.output
