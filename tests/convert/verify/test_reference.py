"""The gate's streamed model computes what transformers and PEFT compute, for every architecture.

And llama.cpp agrees with transformers on the weights of a file of it (the probe).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.convert.convert_support import Trained, make_adapter
from tests.convert.gguf.test_dense import make_dense, write
from tests.convert.gguf.test_exact import CASES, make_checkpoint
from tests.convert.merge.test_merge import KINDS
from tuneserve.console import Advance
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.stage import convert
from tuneserve.convert.verify import streamed_model
from tuneserve.convert.verify.probe import check_probe, probe_layers
from tuneserve.convert.verify.reference import transformers_config
from tuneserve.convert.verify.streamed_model import StreamedModel, Variant
from tuneserve.convert.verify.weights import FileWeights, TrainerWeights
from tuneserve.errors import UsageError
from tuneserve.finetune.training.result import TrainedBase, TrainOutput
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings

SEQUENCES = [[5, 17, 300, 4, 99, 230, 1], [7, 8, 9]]


ARCHITECTURES = [
    case for case in CASES if CASES[case][1] in ("demo", "qwen2", "gpt-2", "llama-bpe")
]


@pytest.mark.parametrize("case", ARCHITECTURES)
def test_every_architecture(
    tokenizer_directory: Path, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    held: list[int] = []
    layers: list[float] = []

    @contextmanager
    def progress(label: str, total: float, *, unit: str) -> Iterator[Advance]:
        def advance(amount: float) -> None:
            """After each layer: how many results of layers are still held."""
            held.append(sum("result" in vars(part) for part in streamed._model.modules()))

        layers.append(total)
        yield advance

    model_class, _, changes = CASES[case]
    base = make_checkpoint(tmp_path / "base", model_class, tokenizer_directory, changes)
    lora: dict[str, Any] = (
        {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]}
        if case.startswith("phi3")
        else {}
    )
    adapter = make_adapter(tmp_path / "adapter", base, tokenizer_directory, **lora)
    checkpoint = MergedCheckpoint(base, Adapter(adapter))
    model = GGUFModel(checkpoint, adapter, name="x")
    trainer = TrainerWeights(base, tied=checkpoint.tied)
    variants = [Variant(trainer), Variant(trainer, adapted=True), Variant(checkpoint)]
    streamed = StreamedModel(transformers_config(model), variants, adapter=adapter, threads=2)
    monkeypatch.setattr(streamed_model, "progress", progress)
    plain, adapted, merged = streamed.logits(SEQUENCES)
    assert layers == [model.config["num_hidden_layers"]] == [len(held)]
    assert not any(held)

    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        expected = [loaded(torch.tensor([ids])).logits[0].numpy() for ids in SEQUENCES]
        peft = PeftModel.from_pretrained(loaded, adapter).eval()
        with_adapter = [peft(torch.tensor([ids])).logits[0].numpy() for ids in SEQUENCES]
    assert np.abs(expected[0] - with_adapter[0]).max() > 1e-3
    for n in range(len(SEQUENCES)):
        np.testing.assert_allclose(plain[n], expected[n], atol=1e-4)
        np.testing.assert_allclose(adapted[n], with_adapter[n], atol=1e-4)
        np.testing.assert_allclose(merged[n], with_adapter[n], atol=1e-4)

    right = tmp_path / "right.gguf"
    write_gguf(right, model.metadata("Q8_0"), model.sources, model.choices("Q8_0"), threads=2)
    checks = check_probe(
        TensorFile(right), model, SEQUENCES, folder=tmp_path, limit=1e-3, threads=2
    )
    for check in checks:
        assert check.passed, check.detail
        assert check.figures["mean_kld"] < check.figures["limit"] / 20
    assert not list(tmp_path.glob("*.probe"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_every_kind_of_adapter(
    tokenizer_directory: Path, tmp_path: Path, kind: str, tied: bool
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.convert.convert_support import make_base

    base = make_base(
        tmp_path / "base", tokenizer_directory, tie_word_embeddings=tied, vocab_size=512,
        attention_bias=kind == "bias",
    )  # fmt: skip
    adapter = make_adapter(tmp_path / "adapter", base, tokenizer_directory, **KINDS[kind])
    variants = [Variant(TrainerWeights(base, tied=tied), adapted=True)]
    streamed = StreamedModel(AutoConfig.from_pretrained(base), variants, adapter=adapter, threads=2)
    (found,) = streamed.logits(SEQUENCES)
    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    peft = PeftModel.from_pretrained(loaded, adapter).eval()
    with torch.no_grad():
        for n, ids in enumerate(SEQUENCES):
            expected = peft(torch.tensor([ids])).logits[0].numpy()
            np.testing.assert_allclose(found[n], expected, atol=1e-4)


def test_an_attention_scale_that_llama_cpp_does_not_have(
    run: RunDirectory, tokenizer_directory: Path, tmp_path: Path
) -> None:
    """llama.cpp computes something else than what was trained, so no file is made."""
    bases, models = {}, {}
    for scale in (32, 64):
        # Weights wide enough that attention shows in the logits.
        changes = {"query_pre_attn_scalar": scale, "initializer_range": 0.3}
        bases[scale] = make_checkpoint(
            tmp_path / str(scale), "Gemma3ForCausalLM", tokenizer_directory,
            {**CASES["gemma3"][2], **changes},
        )  # fmt: skip
        models[scale] = GGUFModel(MergedCheckpoint(bases[scale]), bases[scale], name="x")
    file = tmp_path / "x.gguf"
    metadata, choices = models[32].metadata("F16"), models[32].choices("F16")
    write_gguf(file, metadata, models[32].sources, choices, threads=2)
    for scale, model in models.items():
        checks = check_probe(
            TensorFile(file), model, SEQUENCES, folder=tmp_path, limit=1e-3, threads=2
        )
        assert {check.passed for check in checks} == {scale == 32}

    make_adapter(run.adapter, bases[64], tokenizer_directory)
    with run.stage("train") as record:
        base = TrainedBase(spec="wide", path=str(bases[64]), name="wide")
        record.result = TrainOutput(base=base)
    with pytest.raises(UsageError, match="computes with 32 where this model has 64") as caught:
        convert(run, ConvertSettings(quantization="Q8_0"))
    assert caught.value.where == "config.json: query_pre_attn_scalar"
    assert not list(run.gguf.glob("*"))
    assert "convert" not in run.read().stages


def test_a_probe_has_every_kind_of_layer(
    trained: Trained, tokenizer_directory: Path, tmp_path: Path
) -> None:
    kinds = ["sliding_attention"] * 2 + ["full_attention"]
    changes = {**CASES["gemma3"][2], "num_hidden_layers": 3, "layer_types": kinds}
    base = make_checkpoint(tmp_path / "b", "Gemma3ForCausalLM", tokenizer_directory, changes)
    model = GGUFModel(MergedCheckpoint(base), base, name="x")
    assert probe_layers(model) == 3
    assert probe_layers(model, room=1) == 3
    assert probe_layers(trained.model(), room=1) == 1


def test_an_output_matrix_that_no_file_of_this_kind_has_is_the_embedding(
    tokenizer_directory: Path, tmp_path: Path
) -> None:
    base = make_dense(tmp_path / "base", "gemma", tokenizer_directory)
    checkpoint = MergedCheckpoint(base)
    model = GGUFModel(checkpoint, base, name="x")
    file = TensorFile(write(model, tmp_path / "x.gguf"))
    weights = FileWeights(file, model, np.array([7, 300]), layers=4)
    expected = checkpoint.rows("model.embed_tokens.weight")[[7, 300]]
    np.testing.assert_allclose(weights.rows("lm_head.weight"), expected, rtol=1e-3, atol=1e-6)
