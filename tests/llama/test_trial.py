"""A GGUF is tried in a process of its own: what would end this one is an error."""

from __future__ import annotations

import math
import signal
import sys
from pathlib import Path

import pytest

from tests.base.gguf_support import write_tiny
from tests.support import ROOT
from tuneserve.child import ended_child
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.gguf.reader import GGUFFile
from tuneserve.gguf.vocabulary import vocabulary_problems
from tuneserve.llama import LlamaContext, LlamaModel, trial
from tuneserve.serve.engine import GREEDY, Engine, NotCausalError
from tuneserve.settings import ServeSettings


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / "cache"))


def test_what_passed_is_not_tried_again(
    tmp_path: Path, demo_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", GGUFFile(demo_gguf))
    with LlamaModel(path) as model:
        assert model.n_layer == 2

    def tried(*_: object, **__: object) -> None:
        raise AssertionError("tried")

    monkeypatch.setattr(trial, "_try", tried)
    monkeypatch.setattr(trial, "_loadable", set())  # as in another process
    path.rename(tmp_path / "renamed.gguf")
    trial.check_loadable(tmp_path / "renamed.gguf")
    write_tiny(path, GGUFFile(demo_gguf), layers=1)
    with pytest.raises(AssertionError, match="tried"):
        trial.check_loadable(path)


def test_the_end_of_llama_cpps_process_is_an_error(tmp_path: Path, demo_gguf: Path) -> None:
    entries = {"attention.layer_norm_rms_epsilon": math.nan}
    path = write_tiny(tmp_path / "tiny.gguf", GGUFFile(demo_gguf), entries=entries)
    with pytest.raises(UsageError, match="layer_norm_rms_epsilon is not a number"):
        LlamaModel(path)
    with pytest.raises(UsageError, match=r"llama\.cpp ends its process with this file") as caught:
        trial._try(path, weights=True)
    assert caught.value.problems == ["GGML_ASSERT(eps >= 0.0f) failed"]


def test_llama_cpps_own_reason_is_shown(tmp_path: Path, demo_gguf: Path) -> None:
    lacking = "blk.1.attn_q.weight"
    path = write_tiny(tmp_path / "tiny.gguf", GGUFFile(demo_gguf), without=[lacking])
    with pytest.raises(TuneserveError, match=rf"tiny\.gguf: llama\.cpp can't load.*{lacking}"):
        LlamaModel(path)


def test_a_cache_that_cant_be_written_is_no_obstacle(
    tmp_path: Path, demo_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", GGUFFile(demo_gguf))
    (tmp_path / "file").touch()
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / "file"))
    trial.check_loadable(path)


def test_a_model_whose_tokens_see_later_ones_is_for_embeddings_alone(
    tmp_path: Path, demo_gguf: Path
) -> None:
    path = write_tiny(
        tmp_path / "tiny.gguf", GGUFFile(demo_gguf), entries={"attention.causal": False}
    )
    with LlamaModel(path) as model:
        with pytest.raises(UsageError, match="attend to later ones"):
            LlamaContext(model, n_ctx=256, n_batch=64, n_ubatch=16, threads=1)
        with LlamaContext(
            model, n_ctx=256, n_batch=64, n_ubatch=16, threads=1, causal=False
        ) as context:
            # More than a micro-batch of what was asked for: llama.cpp would end the process.
            assert context.logits(list(range(3, 67))).shape == (64, model.n_vocab)
    settings = ServeSettings(
        ctx=512,
        batch=128,
        micro_batch=32,
        threads=1,
        embeddings=True,
        cache_type_k="f16",
        cache_type_v="f16",
    )
    with Engine(path, settings) as engine:
        (vector,) = engine.embed([list(range(3, 203))]).result(30)
        assert len(vector) == model.n_embd
        with pytest.raises(NotCausalError):
            engine.submit([3] * 200, GREEDY)


def _bytes_vocabulary(path: Path, lacking: int, instead: str | None = None) -> Path:
    """Sentencepiece's tokens for all bytes but one."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256) if byte != lacking]
    ordinary = ["▁", "a", *([instead] if instead else [])]
    tokens = ["<unk>", "<s>", "</s>", *bytes_, *ordinary]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-1.0] * len(tokens))
    writer.add_token_types([2, 3, 3] + [6] * len(bytes_) + [1] * len(ordinary))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


TOKENIZE = """
import sys
from pathlib import Path
from tuneserve.llama import LlamaModel
with LlamaModel(Path(sys.argv[1]), vocab_only=True, tried=True) as model:
    for text in sys.argv[2:]:
        print(len(model.tokenize(text)), flush=True)
"""


def test_llama_cpp_dies_of_a_byte_without_a_token_so_such_a_vocabulary_is_refused(
    tmp_path: Path,
) -> None:
    path = _bytes_vocabulary(tmp_path / "lacking.gguf", 0xA9)
    problems = [*vocabulary_problems(GGUFFile(path))]
    assert len(problems) == 1
    assert "1 of the 256 tokens of one byte are missing, the first of them <0xA9>" in problems[0]
    command = [sys.executable, "-c", TOKENIZE, str(path), "a", "aé"]
    done = ended_child(command, seconds=60, env={"GGML_NO_BACKTRACE": "1", "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout) == (-signal.SIGABRT, "2\n"), done.stderr  # é is C3 A9
    # The byte itself as a token is as good.
    path = _bytes_vocabulary(tmp_path / "written.gguf", ord("q"), "q")
    assert [*vocabulary_problems(GGUFFile(path))] == []
    with LlamaModel(path, vocab_only=True) as model:
        assert len(model.tokenize("aqé")) == 5
