"""What a conversion takes and makes, and whether there is disk and memory enough for it.

Known before any slow work starts; the size of the GGUF already before there is a checkpoint.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tuneserve.console import human_bytes
from tuneserve.convert.gguf.quantization import AUTO, choose_types
from tuneserve.convert.gguf.writer import encoded_size
from tuneserve.convert.mixture.limit import size_limit
from tuneserve.convert.slabs import SLAB_VALUES
from tuneserve.convert.verify.make_reference import LOGIT_BYTES
from tuneserve.durable import make_folder
from tuneserve.errors import TuneserveError
from tuneserve.gguf.architectures import ARCHITECTURES
from tuneserve.gguf.architectures.llama import LLAMA
from tuneserve.llama import physical_cores
from tuneserve.memory import main_memory
from tuneserve.model_shape import ModelShape
from tuneserve.settings import ConvertSettings

SPARE_DISK = 256 * 1024 * 1024
# Python with PyTorch, transformers, PEFT and llama.cpp, and llama.cpp's caches and buffers.
LIBRARIES = 1300 * 1024 * 1024
# Of each thread a slab of rows on its way (as read, float32, its low-rank change, float16, float32,
# quantized: 19 bytes a value) and what malloc keeps for the next one. So 1.9 GiB are asked for with
# two threads, 2.8 with 16; measured were 1.33 (a model of 1.5 B) and 2.79 (8 B).
BYTES_PER_VALUE = 32
FIXED_ROUNDING = ("F16", "BF16", "Q8_0")
# Architectures whose query, key and value projections have biases.
_BIASED = ("qwen2", "qwen2moe", "gpt-oss")


def worker_threads(settings: ConvertSettings) -> int:
    """Threads that merge and quantize."""
    return settings.threads or physical_cores()


def uses_imatrix(settings: ConvertSettings) -> bool:
    """Is an importance matrix measured and used? Rounding to the types in FIXED_ROUNDING has no
    free choice that it could steer."""
    wanted = settings.imatrix or settings.quantization == AUTO
    return wanted and settings.quantization not in FIXED_ROUNDING


def needed_memory(threads: int) -> int:
    """Bytes of memory that a conversion takes at its peak, however large the model is."""
    return LIBRARIES + LOGIT_BYTES + threads * SLAB_VALUES * BYTES_PER_VALUE


def check_memory(threads: int) -> None:
    """Raise TuneserveError if less memory is free than a conversion takes."""
    needed, free = needed_memory(threads), main_memory().available
    if free < needed:
        raise TuneserveError(
            f"{human_bytes(needed)} of memory are needed, {human_bytes(free)} are free",
            where="memory",
            hint="Close other programs, or take fewer threads: --threads 4.",
        )


def free_disk(folder: Path) -> int:
    """Free bytes of the disk that `folder` is on, or will be."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def check_disk(folder: Path, needed: int) -> None:
    """Raise TuneserveError if `needed` bytes and a little more do not fit on `folder`'s disk."""
    make_folder(folder)
    free = free_disk(folder)
    if free < needed + SPARE_DISK:
        raise TuneserveError(
            f"{human_bytes(needed + SPARE_DISK)} of disk are needed, {human_bytes(free)} are free",
            where=str(folder),
        )


def gguf_tensor_bytes(shape: ModelShape, settings: ConvertSettings) -> dict[str, int]:
    """Bytes of each tensor, by name, of the GGUF that a model of this shape becomes; of AUTO, whose
    types are not known before, an equal share of the size limit."""
    shapes = _gguf_shapes(shape)
    choices = choose_types(
        shapes, settings.quantization, layers=shape.layers, grouping=shape.grouping,
        experts=shape.experts.count if shape.experts else 0,
        has_imatrix=uses_imatrix(settings),
    )  # fmt: skip
    sizes = {choice.name: encoded_size(shapes[choice.name], choice.type) for choice in choices}
    if settings.quantization == AUTO and not settings.max_divergence:
        usual = sum(sizes.values())
        share = size_limit(settings, usual) / usual
        sizes = {name: int(size * share) for name, size in sizes.items()}
    return sizes


def _gguf_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """The GGUF's tensors and their shapes; an architecture that can't be converted is taken for
    Llama's."""
    architecture = next(
        (known for known in ARCHITECTURES if shape.architecture in known.hf_names), LLAMA
    )
    hidden, wide, query, key = shape.hidden, shape.intermediate, shape.query, shape.key_value
    fused = "gate_up" in architecture.layer_tensors.get("ffn_up", "")
    matrices: dict[str, tuple[int, ...]] = {
        "attn_q": (query, hidden), "attn_k": (key, hidden), "attn_v": (key, hidden),
        "attn_qkv": (query + 2 * key, hidden), "attn_output": (hidden, query),
        "attn_q_norm": (shape.head,), "attn_k_norm": (shape.head,),
        "ffn_gate": (wide, hidden), "ffn_up": (2 * wide if fused else wide, hidden),
        "ffn_down": (hidden, wide),
    }  # fmt: skip
    dense_layers, experts = shape.layers, shape.experts
    of_experts: set[str] = set()
    if experts is not None:
        count, width, dense_layers = experts.count, experts.intermediate, experts.dense_layers
        mixture = {
            "ffn_gate_inp": (count, hidden),
            "ffn_gate_exps": (count, width, hidden), "ffn_up_exps": (count, width, hidden),
            "ffn_down_exps": (count, hidden, width),
            "ffn_gate_shexp": (experts.shared, hidden), "ffn_up_shexp": (experts.shared, hidden),
            "ffn_down_shexp": (hidden, experts.shared),
        }  # fmt: skip
        of_experts = {f"{name}.weight" for name in mixture}
        matrices |= mixture
    names = [f"{name}.weight" for name in architecture.layer_tensors]
    names += [name for name in architecture.stacks if name.removesuffix(".weight") in matrices]
    layer = {name: matrices.get(name.removesuffix(".weight"), (hidden,)) for name in names}
    if architecture.gguf_name in _BIASED:
        layer |= {f"{name}.bias": matrices[name][:1] for name in ("attn_q", "attn_k", "attn_v")}
    embedding = (shape.vocabulary, hidden)

    def belongs(name: str, number: int) -> bool:
        """Is this one of the layer's tensors?"""
        if experts is None or not name.startswith("ffn_") or name == "ffn_norm.weight":
            return True
        return (name in of_experts) == (number >= dense_layers)

    return {
        "token_embd.weight": embedding,
        "output_norm.weight": (hidden,),
        **({} if shape.tied else {"output.weight": embedding}),
        **{
            f"blk.{n}.{name}": of
            for n in range(shape.layers)
            for name, of in layer.items()
            if belongs(name, n)
        },
    }
