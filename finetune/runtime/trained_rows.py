"""The output layer on some of a row's places alone, each as often as it is wanted."""

from __future__ import annotations

from typing import Any


class TrainedRows:
    """Cuts the hidden states of a model with an adapter to the places whose next token is trained.

    TRL's fused output layer, and Unsloth's, compute what the body of the model returns: nothing
    else is changed. `layers`: how many the body has.
    """

    def __init__(self, model: Any) -> None:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._places: Any = None
        self.layers = int(inner.config.get_text_config().num_hidden_layers)
        inner.base_model.register_forward_hook(self._cut)

    def log_probs(self, model: Any, places: Any, targets: Any, **inputs: Any) -> Any:
        """The log-likelihood of the tokens `targets` [n] after `places` [n] of the row that
        `inputs` hold, [n] in float32. `model` may be a wrapper of the one given before."""
        self._places = places
        try:
            found = model(**inputs, shift_labels=targets[None], fused_lm_head=True)
        finally:
            self._places = None
        return found.log_probs[0]

    def loss(self, model: Any, places: Any, labels: Any, items: Any, **inputs: Any) -> Any:
        """The loss of the body's output at `places` [n] with `labels` [n], of which each is of the
        row before it, summed and divided by `items`, as the model's own forward computes it."""
        self._places = places
        try:
            found = model(**inputs, labels=labels[None], num_items_in_batch=items)
        finally:
            self._places = None
        return found.loss

    def _cut(self, body: Any, inputs: Any, output: Any) -> Any:
        if self._places is not None:
            output.last_hidden_state = output.last_hidden_state[:, self._places]
        return output
