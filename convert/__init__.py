"""From base and adapter to verified GGUFs: merge, write, quantize, check."""
