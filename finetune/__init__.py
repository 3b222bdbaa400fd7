"""From a base model and examples to a LoRA adapter.

Reading order: training/stage.py (what the command does), data/ (files to examples, split), tokens/
(token ids, labels, the order of an epoch), memory/ (what fits), runtime/ (torch, Unsloth, the
loaded model), training/ (trainer, losses, callbacks, checkpoints). Beside them: preview.py (the
data as training will see it) and self_distillation.py (a replay set written by the base model).
"""
