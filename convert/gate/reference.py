"""The trainer's logits: base with the PEFT adapter on it, base alone, and the merged weights.

Computed by transformers and PEFT in float32 on the CPU, so that neither our merge nor llama.cpp
has a part in them.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.merge import HEAD, MergedCheckpoint

Floats = npt.NDArray[np.float32]


class ReferenceModel:
    """One float32 model in memory that can be each of the three in turn."""

    def __init__(self, base: Path, adapter: Path) -> None:
        import torch

        # Notes of these libraries to their own developers.
        for name in ("torch.utils._pytree", "bitsandbytes", "bitsandbytes.backends.cpu.ops"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from peft import PeftModel
        from transformers import AutoModelForCausalLM
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        model = AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, local_files_only=True
        )
        self._model: Any = PeftModel.from_pretrained(model, adapter).eval()

    def adapted(self, sequences: Sequence[Sequence[int]]) -> list[Floats]:
        """Logits [tokens, vocabulary] of each sequence, adapter on base."""
        return self._logits(sequences)

    def base(self, sequences: Sequence[Sequence[int]]) -> list[Floats]:
        """Logits of the base alone."""
        with self._model.disable_adapter():
            return self._logits(sequences)

    def merged(
        self, sequences: Sequence[Sequence[int]], checkpoint: MergedCheckpoint
    ) -> list[Floats]:
        """Logits of the merged weights. The adapter is gone afterwards."""
        import torch

        self._model = self._model.unload().eval()
        if HEAD in checkpoint.names:
            self._untie()
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                parameter.copy_(torch.from_numpy(checkpoint.rows(name)))
        return self._logits(sequences)

    def close(self) -> None:
        self._model = None
        gc.collect()

    def _untie(self) -> None:
        import torch

        head = self._model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())

    def _logits(self, sequences: Sequence[Sequence[int]]) -> list[Floats]:
        import torch

        with torch.no_grad():
            return [
                self._model(input_ids=torch.tensor([list(ids)])).logits[0].float().numpy()
                for ids in sequences
            ]
