"""tuneserve: from a base model and a file of examples to a served, measured, quantized model.

The stages are the subpackages `finetune`, `convert`, `serve` and `bench`; each reads what the one
before it left in the run directory. `cli` is the command line. The others are what the stages
share: `base`, `chat`, `gguf` and `llama`, and modules for settings, recipes, the run directory,
files, memory, errors and the terminal. docs/architecture.md shows how they build on each other.
"""

import importlib.metadata

try:
    __version__ = importlib.metadata.version("tuneserve")
except importlib.metadata.PackageNotFoundError:  # a checkout that is run without being installed
    __version__ = "0+unknown"
