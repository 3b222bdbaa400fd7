"""TRL's SFTTrainer under Unsloth, with the loss measured per answer token.

The trainer of the libraries averages the mean losses of evaluation batches, which weighs a token
of a short answer more than one of a long answer. Here every trained token counts the same, so
exp(loss) is the perplexity of the answers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.budget import CPU_PADDING
from finetune.draw import EpochDraw
from finetune.encode import to_dataset
from finetune.mask import IGNORED, Encoded
from finetune.runtime import Runtime, quiet
from finetune.sampling import LengthGroupedOrder
from finetune.schedule import Schedule
from tuneserve.settings import TrainSettings

EVAL_LOSS = "eval_loss"
GENERAL_LOSS = "general_loss"
# What the best checkpoint has least of: the eval loss where the general loss is within its limit.
_CHOICE = "eval_choice"


def build_trainer(
    runtime: Runtime,
    model: Any,
    tokenizer: Any,
    settings: TrainSettings,
    schedule: Schedule,
    train: Sequence[Encoded],
    draw: EpochDraw,
    evaluation: Sequence[Encoded],
    *,
    general: Sequence[Encoded] = (),
    checkpoints: Path,
    fresh: bool,
    callbacks: Sequence[Any],
) -> Any:
    """A trainer over encoded examples, of which `draw` says what an epoch visits.

    The loss on `general` examples is measured with that on the `evaluation` examples. `fresh` is
    False when it goes on from a checkpoint.
    """
    with quiet(errors_too=True):
        arguments = _arguments(
            runtime, settings, schedule, checkpoints, bool(evaluation), fresh=fresh
        )
        trainer = _trainer_class()(
            model=model,
            args=arguments,
            train_dataset=to_dataset(train),
            eval_dataset=to_dataset(evaluation) if evaluation else None,
            processing_class=tokenizer,
            callbacks=list(callbacks),
            draw=draw,
            general=general,
            max_general_rise=settings.max_general_rise,
            loraplus_ratio=settings.loraplus_ratio,
            data_collator=collator(runtime, settings, tokenizer),
        )
    _remove_library_output(trainer)
    return trainer


def general_rise(history: Sequence[Mapping[str, float]]) -> float:
    """How far the loss on general examples is above what it was at the first evaluation."""
    losses = [entry[GENERAL_LOSS] for entry in history if GENERAL_LOSS in entry]
    return losses[-1] - losses[0] if losses else 0.0


def held_out_loss(trainer: Any, encoded: Sequence[Encoded]) -> dict[str, float]:
    """Mean loss per answer token over a set, its exponential, and the number of tokens."""
    return figures(*token_weighted_loss(trainer, to_dataset(encoded)))


def figures(loss: float, tokens: int) -> dict[str, float]:
    """Loss, its exponential, and the number of tokens they are the mean of."""
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "tokens": tokens}


def token_weighted_loss(trainer: Any, dataset: Any) -> tuple[float, int]:
    """(sum of the loss of all trained tokens / their number, their number), on every device."""
    import torch

    model = trainer.model
    was_training = model.training
    model.eval()
    total = torch.zeros(2, dtype=torch.float64, device=trainer.args.device)
    for batch in trainer.get_eval_dataloader(dataset):
        inputs = trainer._prepare_inputs(batch)
        # The first token is predicted from nothing, so its label counts in no loss.
        count = (inputs["labels"][..., 1:] != IGNORED).sum()
        with torch.no_grad(), trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, inputs)
        total += torch.stack([loss.double() * count, count.double()]).to(total.device)
    model.train(was_training)
    total = trainer.accelerator.reduce(total, reduction="sum")
    return (total[0] / total[1]).item(), int(total[1].item())


def _arguments(
    runtime: Runtime,
    settings: TrainSettings,
    schedule: Schedule,
    checkpoints: Path,
    evaluates: bool,
    *,
    fresh: bool,
) -> Any:
    from trl import SFTConfig

    every = schedule.evaluate_every if evaluates else 0
    return SFTConfig(
        output_dir=str(checkpoints),
        max_steps=schedule.steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.scheduler,
        neftune_noise_alpha=settings.neftune_alpha or None,
        warmup_steps=schedule.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim=_optimizer(settings, runtime),
        bf16=runtime.precision == "bf16",
        fp16=runtime.precision == "fp16",
        gradient_checkpointing=settings.gradient_checkpointing != "false",
        seed=settings.seed,
        data_seed=settings.seed,
        logging_steps=1,
        eval_strategy="steps" if every else "no",
        eval_steps=every or None,
        eval_on_start=bool(every) and fresh,
        metric_for_best_model=_CHOICE if every else None,
        greater_is_better=False if every else None,
        save_strategy="steps",
        save_steps=every or schedule.steps,
        save_total_limit=settings.keep_checkpoints,
        # Examples arrive tokenized, masked and cut: nothing is left for TRL to prepare.
        max_length=None,
        packing=False,
        # None leaves it to Unsloth, which knows where it can keep the examples of a row apart.
        padding_free={"auto": None, "true": True, "false": False}[settings.packing],
        dataset_kwargs={"skip_prepare_dataset": True},
        # oneDNN compiles and keeps kernels and buffers for every shape it meets.
        pad_to_multiple_of=CPU_PADDING if runtime.device == "cpu" else None,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=runtime.device == "cuda",
    )


def _optimizer(settings: TrainSettings, runtime: Runtime) -> str:
    if settings.optimizer == "auto":
        return "adamw_8bit" if runtime.device == "cuda" else "adamw_torch_fused"
    return "adamw_torch_fused" if settings.optimizer == "adamw_torch" else settings.optimizer


def collator(runtime: Runtime, settings: TrainSettings, tokenizer: Any) -> Any:
    """What lays a batch's examples end to end on a CPU; None leaves it to the libraries.

    Unsloth refuses to do it there, for fear that examples see one another; transformers keeps
    them apart by their positions, and `finetune.packing` proves that before training starts.
    """
    if runtime.device == "cuda" or settings.packing != "true":
        return None
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    return DataCollatorForLanguageModeling(
        pad_token_id=tokenizer.pad_token_id, padding_free=True, pad_to_multiple_of=CPU_PADDING
    )


def _loraplus_optimizer(trainer: Any, ratio: float) -> Any:
    """LoRA+ (Hayou et al. 2024): the B matrices learn faster than the A matrices."""
    from peft.optimizers import create_loraplus_optimizer

    kind, arguments = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    return create_loraplus_optimizer(
        trainer.model, kind, loraplus_lr_ratio=ratio,
        loraplus_weight_decay=trainer.args.weight_decay, **arguments,
    )  # fmt: skip


def _remove_library_output(trainer: Any) -> None:
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)


def _trainer_class() -> Any:
    from trl import SFTTrainer

    class AnswerTrainer(SFTTrainer):  # type: ignore[misc]
        """SFTTrainer that counts tokens, groups by length and weighs evaluation by tokens."""

        optimizer: Any

        def __init__(
            self,
            draw: EpochDraw,
            general: Sequence[Encoded] = (),
            max_general_rise: float = 0.0,
            loraplus_ratio: float = 0.0,
            **arguments: Any,
        ) -> None:
            super().__init__(**arguments)
            self._general = to_dataset(general) if general else None
            self._max_general_rise = max_general_rise
            self._loraplus_ratio = loraplus_ratio
            # On the device, so that counting does not wait for the GPU at every batch.
            self.tokens_seen: Any = 0
            self.evaluation_seconds = 0.0
            # Figures by step and by what was evaluated: the best ones need not be measured again.
            self.evaluated: dict[int, dict[str, dict[str, float]]] = {}
            self._draw = draw
            self._lengths = [len(ids) for ids in arguments["train_dataset"]["input_ids"]]

        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            mask = inputs.get("attention_mask")
            self.tokens_seen += inputs["input_ids"].numel() if mask is None else mask.sum()
            return super().training_step(model, inputs, *args, **kwargs)

        def evaluate(
            self,
            eval_dataset: Any = None,
            ignore_keys: Any = None,
            metric_key_prefix: str = "eval",
        ) -> dict[str, float]:
            started = time.monotonic()
            dataset = self.eval_dataset if eval_dataset is None else eval_dataset
            found = {"eval": figures(*token_weighted_loss(self, dataset))}
            if self._general is not None:
                found["general"] = figures(*token_weighted_loss(self, self._general))
            self.evaluated[self.state.global_step] = found
            self.evaluation_seconds += time.monotonic() - started
            metrics = {f"{name}_loss": measured["loss"] for name, measured in found.items()}
            self.log(dict(metrics))
            metrics[_CHOICE] = metrics[EVAL_LOSS]
            if 0 < self._max_general_rise < general_rise(self.state.log_history):
                metrics[_CHOICE] = math.inf
            self.control: Any = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, metrics
            )
            return metrics

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return LengthGroupedOrder(
                self._lengths, self._draw,
                # A step has the same examples however few of them are computed at a time.
                self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps,
                self.args.data_seed,
            )  # fmt: skip

        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            if not self._loraplus_ratio:
                return super().create_optimizer(*args, **kwargs)
            if self.optimizer is None:
                self.optimizer = _loraplus_optimizer(self, self._loraplus_ratio)
            return self.optimizer

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """No README beside every checkpoint: it would describe a hub model."""

    return AnswerTrainer
