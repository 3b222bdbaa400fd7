"""Tuned against base on held-out prompts: accuracy, perplexity, speed, with error bars."""
