"""From examples to token ids, loss masks and the order of an epoch."""
