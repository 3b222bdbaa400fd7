"""Convert an 8B-shaped model to Q4_K_M: ours against llama.cpp's own two steps, time and memory.

    python benchmarks/convert_8b.py --source llama.cpp --work /tmp/convert-8b

Metrics: wall seconds, and the peak resident memory of the whole process tree (of all of it, and of
what is no copy of a file on disk), sampled every 50 ms from /proc. Ours is one command's work in
three timed parts: merge and quantize the tuned model (one pass), the base's file for comparison,
the gate. Theirs starts from a merged checkpoint, which they need and we don't: making it is not
counted. The checkpoint has random weights: nothing here depends on what they are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, int]] = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256},
    "wide vocabulary": {"hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 2,
                        "num_attention_heads": 8, "num_key_value_heads": 2,
                        "vocab_size": 128_256},
    "small": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4,
              "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 49_152},
}  # fmt: skip
SAMPLE_SECONDS = 0.05
THEIR_CONVERTER = """
import runpy, sys
folder = sys.argv[1]
sys.path[:0] = [folder + "/gguf-py", folder]
sys.argv = ["convert_hf_to_gguf.py", sys.argv[2], "--outfile", sys.argv[3], "--outtype", "f16"]
runpy.run_path(folder + "/convert_hf_to_gguf.py", run_name="__main__")
"""
THEIR_QUANTIZER = """
import sys, llama_cpp
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = 15, int(sys.argv[3])
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), params))
"""
OURS = """
import sys
from pathlib import Path
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings
from tuneserve.convert.stage import convert
# Random weights leave nearly flat logits, which rounding moves far.
settings = ConvertSettings(threads=int(sys.argv[2]), max_quantized_kld=5)
result = convert(RunDirectory(Path(sys.argv[1])), settings, force=True)
import json
print(json.dumps(result.seconds))
for check in result.verification:
    print(check.contract, "|", check.detail, file=sys.stderr)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, help="llama.cpp's source, for its converter")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True,
                        help="directory with tokenizer.json and chat template")  # fmt: skip
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--targets", default="q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    )
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    base, run = options.work / "base", options.work / "runs" / "bench"
    if not base.is_dir():
        make_base(base, SHAPES[options.shape], options.tokenizer)
    make_run(run, base, SHAPES[options.shape], options.tokenizer, options.targets.split(","))
    figures: dict[str, Any] = {"shape": options.shape, "threads": options.threads}
    figures["ours"] = measured(
        [sys.executable, "-c", OURS, str(run), str(options.threads)], options.work
    )
    figures["ours"]["parts"] = json.loads(figures["ours"].pop("output").strip().splitlines()[-1])
    if options.source:
        f16, quantized = options.work / "theirs-F16.gguf", options.work / "theirs-Q4_K_M.gguf"
        figures["theirs, convert"] = measured(
            [
                sys.executable,
                "-c",
                THEIR_CONVERTER,
                str(options.source.resolve()),
                str(base),
                str(f16),
            ],
            options.work,
        )
        figures["theirs, quantize"] = measured(
            [sys.executable, "-c", THEIR_QUANTIZER, str(f16), str(quantized), str(options.threads)],
            options.work,
        )
        f16.unlink()
    show(figures)


def make_base(directory: Path, shape: dict[str, int], tokenizer: Path) -> None:
    """A random bfloat16 Llama checkpoint in shards, written tensor by tensor."""
    import torch
    from safetensors.torch import save_file

    directory.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", **shape,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    copy_tokenizer(tokenizer, directory)
    hidden, vocabulary = shape["hidden_size"], shape["vocab_size"]
    torch.manual_seed(0)
    index: dict[str, str] = {}

    def save(number: int, tensors: dict[str, tuple[int, ...]]) -> None:
        name = f"model-{number:05d}.safetensors"
        values = {
            key: torch.ones(size, dtype=torch.bfloat16) if len(size) == 1
            else torch.empty(size, dtype=torch.bfloat16).normal_(std=0.02)
            for key, size in tensors.items()
        }  # fmt: skip
        save_file(values, directory / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, name))

    save(0, {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,),
             "lm_head.weight": (vocabulary, hidden)})  # fmt: skip
    for layer in range(shape["num_hidden_layers"]):
        sizes = layer_shapes(shape)
        save(layer + 1, {f"model.layers.{layer}.{key}": size for key, size in sizes.items()})
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )


def layer_shapes(shape: dict[str, int]) -> dict[str, tuple[int, ...]]:
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    narrow = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    return {
        "self_attn.q_proj.weight": (hidden, hidden), "self_attn.k_proj.weight": (narrow, hidden),
        "self_attn.v_proj.weight": (narrow, hidden), "self_attn.o_proj.weight": (hidden, hidden),
        "mlp.gate_proj.weight": (inner, hidden), "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,),
    }  # fmt: skip


def make_run(
    run: Path, base: Path, shape: dict[str, int], tokenizer: Path, targets: list[str]
) -> None:
    """What training leaves: an adapter of rank 16, held-out examples, the record."""
    import torch
    from safetensors.torch import save_file

    adapter = run / "adapter"
    adapter.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 16, "lora_alpha": 32,
              "target_modules": targets, "base_model_name_or_path": str(base)}  # fmt: skip
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    copy_tokenizer(tokenizer, adapter)
    torch.manual_seed(1)
    tensors = {}
    for layer in range(shape["num_hidden_layers"]):
        for key, (rows, *columns) in layer_shapes(shape).items():
            module = key.removesuffix(".weight")
            if module.rpartition(".")[2] in targets:
                name = f"base_model.model.model.layers.{layer}.{module}"
                tensors[f"{name}.lora_A.weight"] = torch.randn(16, columns[0]) * 0.02
                tensors[f"{name}.lora_B.weight"] = torch.randn(rows, 16) * 0.02
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    (run / "data").mkdir(exist_ok=True)
    with (run / "data" / "test.jsonl").open("w") as file:
        for n in range(32):
            messages = [{"role": "user", "content": f"What is {n} plus {n}, in words?"},
                        {"role": "assistant", "content": f"It is {2 * n}."}]  # fmt: skip
            file.write(json.dumps({"id": str(n), "messages": messages}) + "\n")
    trained = {"base": {"path": str(base), "name": "random", "spec": str(base)}, "examples": {}}
    record = {"name": "bench", "stages": {"train": {"result": trained}}}
    (run / "run.json").write_text(json.dumps(record))


def copy_tokenizer(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if path.name.startswith(("tokenizer", "chat_template")):
            (target / path.name).write_bytes(path.read_bytes())


def measured(command: list[str], work: Path) -> dict[str, Any]:
    """Run a command; its wall time, and the peak memory of it and its children."""
    log = work / "log.txt"
    with log.open("ab") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        peak = Peak(process.pid)
        output = process.communicate()[0].decode()
        seconds = time.perf_counter() - started
    peak.stop()
    if process.returncode != 0:
        sys.exit(f"{command[:3]} failed:\n{log.read_text()[-3000:]}")
    return {"seconds": round(seconds, 1), "peak_gib": peak.gib(peak.all),
            "peak_anonymous_gib": peak.gib(peak.anonymous), "output": output}  # fmt: skip


class Peak:
    """Samples the memory of a process tree until stopped."""

    def __init__(self, root: int) -> None:
        self.all = self.anonymous = 0
        self._root = root
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    @staticmethod
    def gib(kilobytes: int) -> float:
        return round(kilobytes / 1024**2, 2)

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            found = [memory_of(pid) for pid in tree(self._root)]
            self.all = max(self.all, sum(total for total, _ in found))
            self.anonymous = max(self.anonymous, sum(anonymous for _, anonymous in found))


def tree(root: int) -> list[int]:
    """A process and its descendants."""
    found = [root]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue  # it has ended meanwhile
    return found


def memory_of(pid: int) -> tuple[int, int]:
    """Resident memory, and that part of it which is no copy of a file, in KiB."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    fields = {
        line.split(":")[0]: line.split()[1]
        for line in lines
        if line.startswith(("VmRSS", "RssAnon"))
    }
    return int(fields.get("VmRSS", 0)), int(fields.get("RssAnon", 0))


def show(figures: dict[str, Any]) -> None:
    print(f"{'':24}{'seconds':>9}{'peak GiB':>10}{'anonymous':>11}")
    for name, row in figures.items():
        if isinstance(row, dict):
            row.pop("output", None)
            print(
                f"{name:24}{row['seconds']:9.1f}{row['peak_gib']:10.2f}{row['peak_anonymous_gib']:11.2f}"
            )
            for part, seconds in row.get("parts", {}).items():
                print(f"  {part:22}{seconds:9.1f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
