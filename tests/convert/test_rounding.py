"""Weights rounded while training are those of the file that is written afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.convert.convert_support import make_adapter, make_base
from tuneserve.convert.gguf.model import CheckpointTensor, GGUFModel
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.quantize import write_quantized
from tuneserve.convert.rounding import StoredWeights
from tuneserve.errors import UsageError
from tuneserve.finetune.training.quantization_aware import RoundedBase, rounding_recipe
from tuneserve.settings import Recipe


@pytest.mark.parametrize("tied", [True, False])
def test_model_computes_with_what_the_file_holds(
    tmp_path: Path, tokenizer_directory: Path, tied: bool
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = make_base(
        tmp_path / "base", tokenizer_directory, hidden_size=256, intermediate_size=256,
        num_hidden_layers=2, tie_word_embeddings=tied,
    )  # fmt: skip
    adapter = make_adapter(tmp_path / "adapter", base, tokenizer_directory)
    merged = MergedCheckpoint(base, Adapter(adapter))
    tuned = GGUFModel(merged, adapter, name="tuned")
    write_quantized(tuned, tmp_path / "tuned.gguf", "Q4_K_M", threads=2)

    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter
    )
    RoundedBase(model, StoredWeights(base, "Q4_K_M", threads=2)).refresh()

    file = TensorFile(tmp_path / "tuned.gguf")
    computed = model.merge_and_unload().state_dict()
    for name, source in tuned.sources.items():
        assert isinstance(source, CheckpointTensor)
        expected = file.dequantized(name)
        found = computed[source.name].numpy()
        order = tuned.row_order(name)
        if order is not None:
            found = found[order]
        assert np.abs(found - expected).max() < 1e-5, name


def test_an_update_below_half_a_step_is_seen_to_be_lost(
    tmp_path: Path, tokenizer_directory: Path
) -> None:
    """The base lies on the grid already, so that a small update rounds back to it: training must
    find that it has no effect."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = make_base(tmp_path / "base", tokenizer_directory, num_hidden_layers=1)
    stored = StoredWeights(base, "Q4_0", threads=2)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    name = "model.layers.0.mlp.down_proj.weight"
    on_grid = np.concatenate([rows for *_, rows in stored.slabs(name, None)])
    model.model.layers[0].mlp.down_proj.weight.data = torch.from_numpy(on_grid.copy())
    model.save_pretrained(base)
    tuned = get_peft_model(model, LoraConfig(r=1, target_modules=["down_proj"]))
    layer = tuned.base_model.model.model.layers[0].mlp.down_proj
    torch.nn.init.constant_(layer.lora_A["default"].weight, 1e-3)
    torch.nn.init.constant_(layer.lora_B["default"].weight, 1e-3)

    RoundedBase(tuned, StoredWeights(base, "Q4_0", threads=2)).refresh()

    effective = layer.base_layer.weight + layer.get_delta_weight("default")
    assert np.abs(effective.detach().numpy() - on_grid).max() < 1e-6


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("model", {"load_in_4bit": True}, "load_in_4bit"),
        ("train", {"use_dora": True}, "use_dora"),
        ("train", {"modules_to_save": ("lm_head",)}, "modules_to_save"),
        ("convert", {"imatrix": True}, "imatrix"),
    ],
)
def test_settings_that_can_not_keep_the_promise(
    section: str, values: dict[str, object], said: str
) -> None:
    recipe = Recipe()
    recipe = recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"quantization_aware": True})}
    )
    changed = getattr(recipe, section).model_copy(update=values)

    with pytest.raises(UsageError, match=r"can't be what is trained") as error:
        rounding_recipe(recipe.model_copy(update={section: changed}))
    assert any(said in problem for problem in error.value.problems)
