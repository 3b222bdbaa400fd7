"""From a base model and examples to a LoRA adapter: data, split, mask, training."""
