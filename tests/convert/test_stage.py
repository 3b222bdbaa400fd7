"""The stage as a whole: result, refusals, and what a failure or a kill leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.convert.convert_support import KINDS_OF_FOUR_BIT as KINDS
from tests.convert.convert_support import Trained, make_adapter, make_base, quantized
from tests.support import Runner
from tuneserve.convert.adapter_only import convert_adapter
from tuneserve.convert.model_card import check_handover
from tuneserve.convert.resources import check_disk
from tuneserve.convert.result import ConvertResult
from tuneserve.convert.stage import convert
from tuneserve.convert.verify import VerificationError
from tuneserve.convert.verify.origin import ORIGIN_CONTRACT
from tuneserve.errors import OutputExistsError, TuneserveError, UsageError
from tuneserve.files import OURS, sha256_file
from tuneserve.finetune.training.result import TrainedBase, TrainOutput
from tuneserve.gguf.reader import GGUFFile
from tuneserve.gguf.system_prompt import system_prompt_of
from tuneserve.llama import LlamaModel
from tuneserve.memory import main_memory
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings

SETTINGS = ConvertSettings(quantization="Q8_0")


def gguf_files(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in run.gguf.glob("*")) if run.gguf.exists() else []


def trained_with(run: RunDirectory, system: str) -> None:
    run.update(settings={**run.saved_settings(), "data": {"system": system}})


def test_makes_verified_files_and_remembers_how(run: RunDirectory) -> None:
    trained_with(run, "Be brief.")
    result = convert(run, SETTINGS)
    assert result == run.require_stage("convert", ConvertResult)
    assert {"small-Q8_0.gguf", "base-Q8_0.gguf"} <= set(gguf_files(run))
    assert not any("F16" in name or "partial" in name for name in gguf_files(run))
    for entry in (result.tuned, result.base):
        path = Path(entry.path)
        assert entry.sha256 == sha256_file(path)
        assert entry.size_bytes == path.stat().st_size
        with LlamaModel(path) as model:
            assert model.n_layer == 3
    assert all(check.passed for check in result.verification)
    assert sum(result.tensor_types.values()) == 2 + 9 * 3
    written = {"README.md", "Modelfile", "SHA256SUMS"}
    assert result.handover_sha256 == {name: sha256_file(run.gguf / name) for name in written}
    # The tune's system prompt goes along with it, and is none of the base's.
    assert system_prompt_of(GGUFFile(run.tuned_gguf("Q8_0"))) == "Be brief."
    assert system_prompt_of(GGUFFile(run.base_gguf("Q8_0"))) == ""
    assert "\n## System prompt\n" in (run.gguf / "README.md").read_text()
    assert "- Base: tiny (a folder, `" in (run.gguf / "README.md").read_text()
    assert "\n    Be brief.\n" in (run.gguf / "README.md").read_text()
    assert 'SYSTEM """Be brief."""\n' in (run.gguf / "Modelfile").read_text()

    check_handover(run)  # those of a conversion are
    stamp = run.tuned_gguf("Q8_0").stat().st_mtime_ns
    with pytest.raises(OutputExistsError):
        convert(run, SETTINGS)
    assert convert(run, SETTINGS, skip_done=True) == result
    with pytest.raises(OutputExistsError):
        convert(run, SETTINGS.model_copy(update={"max_kld": 1e-2}), skip_done=True)
    with pytest.raises(VerificationError):
        convert(run, SETTINGS.model_copy(update={"max_kld": 1e-15}), force=True)
    # The files that are there are still its.
    assert run.require_stage("convert", ConvertResult) == result
    (run.adapter / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    with pytest.raises(OutputExistsError) as caught:
        convert(run, SETTINGS, skip_done=True)
    assert caught.value.problems == ["the adapter has changed since"]
    run.tuned_gguf("Q8_0").rename(run.tuned_gguf("Q5_0"))
    with pytest.raises(OutputExistsError) as caught:
        convert(run, SETTINGS.model_copy(update={"quantization": "Q5_0"}))
    assert caught.value.problems == [
        "it is of an earlier conversion; the last one made small-Q8_0.gguf"
    ]
    run.tuned_gguf("Q5_0").rename(run.tuned_gguf("Q8_0"))
    run.update(stages={"train": run.read().stages["train"]})
    with pytest.raises(OutputExistsError) as caught:
        convert(run, SETTINGS)
    assert caught.value.problems == [
        "it is of an earlier training, or of a conversion that was not recorded"
    ]
    assert run.tuned_gguf("Q8_0").stat().st_mtime_ns == stamp


def test_files_of_the_users_beside_the_ggufs_are_not_replaced(run: RunDirectory) -> None:
    run.gguf.mkdir()
    for name in ("README.md", "Modelfile", "SHA256SUMS"):
        (run.gguf / name).write_text("mine")
    with pytest.raises(UsageError, match="no conversion wrote") as caught:
        convert(run, SETTINGS, force=True)
    assert len(caught.value.problems) == 3
    assert {path.read_text() for path in run.gguf.iterdir()} == {"mine"}


def test_an_edited_modelfile_is_kept_beside_the_new_one(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(run, SETTINGS)
    mine = (run.gguf / "Modelfile").read_text() + "# mine\n"
    for aside in ("Modelfile.edited-1", "Modelfile.edited-2"):
        (run.gguf / "Modelfile").write_text(mine)
        convert(run, SETTINGS, force=True)
        assert (run.gguf / aside).read_text() == mine
        assert f"Modelfile was edited; kept as {aside}" in capsys.readouterr().err
        assert "# mine" not in (run.gguf / "Modelfile").read_text()
    assert not (run.gguf / "README.md.edited-1").exists()


def test_a_shut_gate_leaves_nothing(run: RunDirectory) -> None:
    with pytest.raises(VerificationError, match="failed verification") as caught:
        convert(run, SETTINGS.model_copy(update={"max_kld": 1e-15}))
    assert [line.split(":")[0] for line in caught.value.problems] == ["llama.cpp = transformers"]
    assert gguf_files(run) == []
    with pytest.raises(UsageError, match="no finished 'convert' stage"):
        run.require_stage("convert", ConvertResult)


def test_without_training_there_is_nothing_to_convert(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "x")
    run.update()
    with pytest.raises(UsageError, match="no finished 'train' stage"):
        convert(run, SETTINGS)


def test_merges_into_another_base_and_writes_the_checkpoint(
    run: RunDirectory, trained: Trained, tokenizer_directory: Path, tmp_path: Path
) -> None:
    """Trained on a 4-bit copy; merged into it, then into the 16-bit base that is named."""
    copy = tmp_path / "copy-bnb-4bit"
    quantized(trained.base, copy, tokenizer_directory, KINDS["nf4-nested"])
    with run.stage("train") as record:
        base = TrainedBase(spec=str(copy), path=str(copy), name="copy")
        record.result = TrainOutput(base=base)
    result = convert(run, SETTINGS)
    assert result.merged_into.weights == "bitsandbytes 4-bit, dequantized"

    settings = SETTINGS.model_copy(
        update={"merge_base": str(trained.base), "merged_checkpoint": True, "keep_f16": True}
    )
    result = convert(run, settings, force=True)
    assert result.merged_into.to_json() == {"path": str(trained.base), "weights": "F32"}
    contracts = {check.contract for check in result.verification}
    assert {"checkpoint as merged", "F16 written as merged", ORIGIN_CONTRACT} <= contracts
    config = json.loads((run.root / "merged" / "config.json").read_text())
    assert "quantization_config" not in config
    assert (run.root / "merged" / "model.safetensors").is_file()
    with pytest.raises(OutputExistsError):
        convert(run, settings)


def test_tables_trained_whole_on_a_base_of_16_bits(
    run: RunDirectory, tokenizer_directory: Path, tmp_path: Path
) -> None:
    """PEFT keeps them in the type of the adapter's file, beside layers of the check's own."""
    import torch

    base = make_base(
        tmp_path / "base", tokenizer_directory, dtype=torch.bfloat16, tie_word_embeddings=False
    )
    shutil.rmtree(run.adapter)
    make_adapter(
        run.adapter, base, tokenizer_directory, dtype=torch.bfloat16, target_modules=["q_proj"],
        modules_to_save=["embed_tokens", "lm_head"],
    )  # fmt: skip
    with run.stage("train") as record:
        record.result = TrainOutput(base=TrainedBase(spec="b", path=str(base), name="b"))
    result = convert(run, SETTINGS)
    assert all(check.passed for check in result.verification)
    assert {"token_embd.weight", "output.weight"} <= {one.name for one in result.updates}


def test_too_little_memory_or_disk_is_refused_first(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = replace(main_memory(), available=1024**3)
    monkeypatch.setattr("tuneserve.convert.resources.main_memory", lambda: little)
    with pytest.raises(TuneserveError, match=r"of memory are needed, 1\.0 GiB are free"):
        convert(run, SETTINGS)
    monkeypatch.undo()
    assert main_memory().available > 1024**2
    with pytest.raises(TuneserveError, match="of disk are needed"):
        check_disk(run.gguf, 1 << 60)
    assert gguf_files(run) == []


@pytest.mark.parametrize(
    ("sent", "moment"),
    [
        *[
            (sent, moment)
            for sent in (signal.SIGINT, signal.SIGKILL)
            for moment in (".small-Q8_0.gguf.*/*", ".base-Q8_0.gguf.*/*", ".small*/*.probe")
        ],
        (signal.SIGTERM, ".base-Q8_0.gguf.*/*"),
    ],
)
def test_stopped_at_any_moment_leaves_no_half_file(
    run: RunDirectory, sent: signal.Signals, moment: str
) -> None:
    """While the tuned file, the base's, or the probe of the gate is being written."""
    code = (
        "import signal\n"
        "from pathlib import Path\n"
        # A process started in the background is born deaf to it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tuneserve.convert.stage import convert\n"
        "from tuneserve.run import RunDirectory\n"
        "from tuneserve.settings import ConvertSettings\n"
        f"convert(RunDirectory(Path({str(run.root)!r})), ConvertSettings(quantization='Q8_0'))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.DEVNULL, env=os.environ
    )
    deadline = time.monotonic() + 300
    while not list(run.gguf.glob(moment)) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(sent)
    process.wait()
    left = gguf_files(run)
    if sent is not signal.SIGKILL:
        assert left == []
    assert [name for name in left if not name.startswith(".")] == []
    assert "convert" not in json.loads(run.record_path.read_text())["stages"]


def test_leftovers_of_a_killed_process_are_cleared(run: RunDirectory) -> None:
    run.gguf.mkdir()
    for name in ("small-Q8_0.gguf", "base-Q8_0.gguf"):
        folder = run.gguf / f".{name}.tuneserve-abc"
        folder.mkdir()
        (folder / name).write_bytes(b"half")
        (folder / OURS).touch()
    convert(run, SETTINGS)
    assert {"base-Q8_0.gguf", "small-Q8_0.gguf"} <= set(gguf_files(run))
    assert [name for name in gguf_files(run) if name.startswith(".")] == []


def test_adapter_only(run: RunDirectory) -> None:
    trained_with(run, "Be brief.")
    result = convert_adapter(run, SETTINGS)
    assert gguf_files(run) == ["base-Q8_0.gguf", "small-lora-F16.gguf"]
    assert all(check.passed for check in result.verification)
    assert run.read().lora == result.to_json()
    assert system_prompt_of(GGUFFile(run.lora_gguf)) == "Be brief."
    assert system_prompt_of(GGUFFile(run.base_gguf("Q8_0"))) == ""
    with pytest.raises(OutputExistsError):
        convert_adapter(run, SETTINGS)
    template = (run.adapter / "chat_template.jinja").read_text()
    (run.adapter / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    with pytest.raises(OutputExistsError) as caught:
        convert_adapter(run, SETTINGS, skip_done=True)
    assert caught.value.problems == ["the adapter has changed since"]
    (run.adapter / "chat_template.jinja").write_text(template)
    # The base that is there already is used again.
    stamp = run.base_gguf("Q8_0").stat().st_mtime_ns
    with pytest.raises(VerificationError, match="failed verification"):
        convert_adapter(run, SETTINGS.model_copy(update={"max_quantized_kld": 1e-9}), force=True)
    assert run.base_gguf("Q8_0").stat().st_mtime_ns == stamp
    assert gguf_files(run) == ["base-Q8_0.gguf", "small-lora-F16.gguf"]


def test_another_base_is_told_each_time_until_it_is_unset(
    run: RunDirectory, tuneserve: Runner, tmp_path: Path
) -> None:
    """A run keeps the settings of its last conversion."""
    run.update(settings={"convert": {"merge_base": "./gone"}})
    # Needs an importance matrix: it is refused before any work.
    command = ("convert", "--run", "small", "--quantization", "IQ2_XXS")
    again = tuneserve(*command, cwd=tmp_path)
    assert again.returncode == 2
    assert "convert: quantization = IQ2_XXS, merge_base = ./gone" in again.stderr
    assert "convert.merge_base = './gone'" in again.stderr
    unset = tuneserve(*command, "--merge-base", "", cwd=tmp_path)
    assert unset.returncode == 2
    assert "needs an importance matrix" in unset.stderr
    assert "merge_base" not in unset.stderr
