"""tuneserve: from a base model and a file of examples to a served, measured, quantized model.

The package holds what the stages share: settings and recipes, the run directory, errors, the
terminal's look, the chat template and the command line. The stages are the packages `finetune`,
`convert`, `serve` and `bench`; each takes what the one before it left in the run directory.
"""

__version__ = "0.1.0"
