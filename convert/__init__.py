"""From base and adapter to verified GGUFs: merge, write, quantize, check.

Reading order: stage.py (what the command does), plan.py, make.py and pair.py (its steps), merge/
(base and LoRA adapter as one checkpoint, computed as it is read; four_bit.py for bitsandbytes
bases), gguf/ (model.py: a checkpoint as GGUF metadata and tensors; vocabulary.py; quantization.py:
the type of each tensor; writer.py: the file, quantized in one pass), quantize.py (one GGUF with its
progress), verify/ (the checks that the result is the model that was trained), keep_gain.py and
repair.py (what is done where quantization rounds the tune away; grid.py tells before training).
Beside them: adapter_only.py and gguf/lora.py (the adapter as a GGUF), merge/writer.py (the merged
Hugging Face checkpoint), imatrix/, resources.py (memory and disk), model_card.py and ollama.py.
"""
