"""A run whose directory was renamed after its conversion."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuneserve.bench.against import find_rivals
from tuneserve.convert.result import ConvertOutput, GGUFRecord, verified_hash
from tuneserve.errors import UsageError
from tuneserve.files import sha256_file
from tuneserve.run import RunDirectory


def converted(work: Path, *, as_adapter: bool = False) -> tuple[RunDirectory, ConvertOutput]:
    """A run that was called 'old' when it was converted and is called 'new' now."""
    old = RunDirectory(work / "runs" / "old")
    old.gguf.mkdir(parents=True)
    paths = {
        "tuned": old.lora_gguf if as_adapter else old.tuned_gguf("Q4_0"),
        "base": old.base_gguf("Q4_0"),
    }
    for name, path in paths.items():
        path.write_bytes(name.encode())
    made = {
        name: GGUFRecord(
            path=str(path), size_bytes=5, sha256=sha256_file(path), quantization="Q4_0"
        )
        for name, path in paths.items()
    }
    output = ConvertOutput(tuned=made["tuned"], base=made["base"], as_adapter=as_adapter)
    with old.stage("convert") as running:
        running.result = output
    return RunDirectory(old.root.rename(old.root.with_name("new"))), output


@pytest.mark.parametrize("as_adapter", [False, True])
def test_its_gguf_is_found_by_the_name_that_it_was_made_with(
    tmp_path: Path, as_adapter: bool
) -> None:
    run, output = converted(tmp_path, as_adapter=as_adapter)
    weights, lora = output.files(run)
    made = lora or weights
    assert made == run.gguf / ("old-lora-F16.gguf" if as_adapter else "old-Q4_0.gguf")
    assert verified_hash(made, output.tuned, run) == output.tuned.sha256
    made.write_bytes(b"other")
    with pytest.raises(UsageError, match="not the file that the conversion made"):
        verified_hash(made, output.tuned, run)
    # One of the run's present name comes first; without any, it is the one that is missed.
    usual = run.lora_gguf if as_adapter else run.tuned_gguf("Q4_0")
    made.rename(usual)
    assert usual in output.files(run)
    usual.unlink()
    assert usual in output.files(run)


def test_what_looks_for_the_present_name_says_how_to_rename_the_file(tmp_path: Path) -> None:
    run, output = converted(tmp_path)
    with pytest.raises(UsageError, match="no such GGUF") as caught:
        verified_hash(run.tuned_gguf("Q4_0"), output.tuned, run)
    old = run.gguf / "old-Q4_0.gguf"
    assert f"The run was renamed: mv {old} {run.tuned_gguf('Q4_0')}" in caught.value.hint


def test_a_recorded_name_leads_to_no_other_folder(tmp_path: Path) -> None:
    run, output = converted(tmp_path)
    (run.gguf / "old-Q4_0.gguf").rename(run.root / "old-Q4_0.gguf")
    for path in ("../old-Q4_0.gguf", "..", "", "x" * 5000, "a\0.gguf"):
        recorded = output.tuned.model_copy(update={"path": path})
        moved = output.model_copy(update={"tuned": recorded})
        assert moved.files(run) == (run.tuned_gguf("Q4_0"), None)


def test_a_benchmark_beside_it_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run, output = converted(Path())
    own = output.model_copy(update={"tuned": output.tuned.model_copy(update={"sha256": "0" * 64})})
    rivals = find_rivals(["new"], RunDirectory.named("mine"), own)
    assert [(rival.name, rival.path) for rival in rivals] == [("new", run.gguf / "old-Q4_0.gguf")]
