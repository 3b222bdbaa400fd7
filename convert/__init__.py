"""From base and adapter to verified GGUFs: merge, write, quantize, check.

Reading order: stage.py (what the command does), merge.py and adapter.py (base + LoRA as one
checkpoint, computed as it is read; four_bit.py for bitsandbytes bases), model.py (a checkpoint as
GGUF metadata and tensors), vocabulary.py, quantization.py (which type each tensor gets),
gguf_output.py (the file, quantized in one pass), gate/ (the proof that the result is
the model that was trained). Beside them: adapter_only.py and lora_gguf.py (the adapter as a GGUF),
checkpoint_output.py (the merged Hugging Face checkpoint), imatrix/, handover.py.
"""
