"""A checkpoint or an adapter as a GGUF: metadata, vocabulary, tensors, quantization."""
