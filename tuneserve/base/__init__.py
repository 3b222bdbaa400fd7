"""Base models: what a recipe's `model.base` names, as a Hugging Face checkpoint on disk.

- `resolve_base(spec)`: the checkpoint directory for 'demo', a .gguf file, a directory or a hub id.
- `read_base_config(spec)`: config.json alone, where nothing else of the base is needed.
- `import_gguf(source, target)`: a checkpoint made of a GGUF.

weights.py and tokenizer.py write the checkpoint's parts, import_gguf.py puts them together.
Reading a GGUF, and what its tensors are called and how they are laid out, is tuneserve.gguf's.
"""

from __future__ import annotations

from tuneserve.base.config_only import BaseConfig, read_base_config
from tuneserve.base.import_gguf import import_gguf
from tuneserve.base.resolve import (
    ResolvedBase,
    check_checkpoint,
    hub_config,
    is_hub_id,
    is_of_file,
    resolve_base,
)

__all__ = [
    "BaseConfig",
    "ResolvedBase",
    "check_checkpoint",
    "hub_config",
    "import_gguf",
    "is_hub_id",
    "is_of_file",
    "read_base_config",
    "resolve_base",
]
