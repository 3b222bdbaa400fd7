"""tuneserve: from a base model and a file of examples to a served, measured, quantized model.

The package holds what the stages share: settings and recipes, the run directory, errors, the
terminal's look, the chat template and the command line. The stages are the packages `finetune`,
`convert`, `serve` and `bench`; each takes what the one before it left in the run directory.
"""

import importlib.metadata

try:
    __version__ = importlib.metadata.version("tuneserve")
except importlib.metadata.PackageNotFoundError:  # a checkout that is run without being installed
    __version__ = "0+unknown"
