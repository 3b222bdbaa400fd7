"""The trainer itself. Import it late, after Unsloth: the class derives from TRL's."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from trl import SFTTrainer

from tuneserve.finetune.memory.schedule import warmed_up
from tuneserve.finetune.runtime.trained_rows import TrainedRows
from tuneserve.finetune.tokens.encoder import Encoded, to_dataset
from tuneserve.finetune.tokens.epoch import EpochSampler, LengthGroupedSampler
from tuneserve.finetune.training.losses import (
    EVAL_LOSS,
    SELECTION_LOSS,
    HeldOutLoss,
    general_rise,
    held_out_loss,
    no_number,
    places_of,
)
from tuneserve.finetune.training.prefix_sharing import SHARED, shared_loss
from tuneserve.settings import TrainSettings


def _tell_nobody(name: str, done: int, batches: int) -> None:
    """Nobody watches this evaluation."""


def _not_gathered(figures: Any, *_: Any) -> Any:
    """The figures of this process alone."""
    return figures


class AnswerTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that counts tokens, groups by length and weighs evaluation by tokens."""

    optimizer: Any

    def __init__(
        self,
        settings: TrainSettings,
        epochs: EpochSampler,
        general: Sequence[Encoded],
        examples: Sequence[Encoded],
        families: Sequence[Sequence[int]] = (),
        **arguments: Any,
    ) -> None:
        """`examples` are all that it meets, in training and in evaluations. Of the training set,
        those of one of the `families` are visited together."""
        super().__init__(**arguments)
        # TRL gathers figures, which nobody reads here, at each batch that it computes itself, and
        # those whose beginning is shared are not: processes with different batches would wait for
        # each other for ever.
        self.accelerator.gather_for_metrics = _not_gathered
        self._general = to_dataset(general) if general else None
        self.examples = examples
        # The tokens of the step at hand, batch by batch.
        self._batches: list[Any] = []
        self._settings = settings
        # On the device, so that counting does not wait for the GPU at every batch.
        self.tokens_seen: Any = 0
        # Those of all processes, as of the last step that was logged.
        self.tokens_in_all = 0
        # Their tokens a second in the steps after the first, as the first process measured it.
        self.steady_rate = 0.0
        self.evaluation_seconds = 0.0
        # Told what is evaluated, the batches that are done, and how many there are.
        self.on_batch: Callable[[str, int, int], None] = _tell_nobody
        # Figures by step and by what was evaluated: the best ones need not be measured again.
        self.evaluated: dict[int, dict[str, HeldOutLoss]] = {}
        self._epochs, self._families = epochs, families
        self._lengths = [len(ids) for ids in arguments["train_dataset"]["input_ids"]]

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self._batches.append(inputs["input_ids"])
        mask = inputs.get("attention_mask")
        self.tokens_seen += inputs["input_ids"].numel() if mask is None else mask.sum()
        return super().training_step(model, inputs, *args, **kwargs)

    @cached_property
    def _trained_rows(self) -> TrainedRows:
        """Made with the first tree: its hook is passed in every forward after that."""
        return TrainedRows(self.model)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        shared = inputs.pop(SHARED, None)
        if shared is None:
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        loss = shared_loss(self._trained_rows, model, shared, num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # The items are those of all processes, whose gradients are averaged.
            loss = loss * self.accelerator.num_processes
        return loss

    def check_step(self, figures: Mapping[str, float]) -> None:
        """Raise TuneserveError if a figure of the step that was just made (its loss, the gradient's
        norm) is no finite number, naming the step and its examples."""
        batches, self._batches = self._batches, []
        for name, value in figures.items():
            if not math.isfinite(value):
                places = places_of(batches, self.examples)
                raise no_number(f"the {name}", value, self.state.global_step, places)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        started = time.monotonic()
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        datasets = {"eval": dataset}
        if self._general is not None:
            datasets["general"] = self._general
        found = {
            name: held_out_loss(self, data, name, on_batch=partial(self.on_batch, name))
            for name, data in datasets.items()
        }
        self.evaluated[self.state.global_step] = found
        self.evaluation_seconds += time.monotonic() - started
        metrics = {f"{name}_loss": measured.loss for name, measured in found.items()}
        self.log(dict(metrics))
        metrics[SELECTION_LOSS] = metrics[EVAL_LOSS]
        if 0 < self._settings.max_general_rise < general_rise(self.state.log_history):
            metrics[SELECTION_LOSS] = math.inf
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        # A step has the same examples however few of them are computed at a time, and by however
        # many processes.
        at_once = self.args.per_device_train_batch_size * self.accelerator.num_processes
        return LengthGroupedSampler(
            self._lengths, self._epochs, at_once * self.args.gradient_accumulation_steps,
            self.args.data_seed, self._families,
        )  # fmt: skip

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        made = self.lr_scheduler is None
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        warmup = self.args.get_warmup_steps(num_training_steps)
        if made and warmup and self._settings.scheduler != "constant":
            scheduler.lr_lambdas = [
                partial(warmed_up, usual=usual, warmup=warmup) for usual in scheduler.lr_lambdas
            ]
            for group, rate in zip(
                scheduler.optimizer.param_groups, scheduler.base_lrs, strict=True
            ):
                group["lr"] = rate * warmed_up(0, scheduler.lr_lambdas[0], warmup=warmup)
            scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]
        return scheduler

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        ratio = self._settings.loraplus_ratio
        if not ratio:
            return super().create_optimizer(*args, **kwargs)
        if self.optimizer is None:
            # LoRA+ (Hayou et al. 2024): the B matrices learn faster than the A matrices.
            from peft.optimizers import create_loraplus_optimizer

            kind, arguments = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = create_loraplus_optimizer(
                self.model, kind, loraplus_lr_ratio=ratio,
                loraplus_weight_decay=self.args.weight_decay, **arguments,
            )  # fmt: skip
        return self.optimizer

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No README beside every checkpoint: it would describe a hub model."""
