"""TRL's SFTTrainer under Unsloth, set up as the settings say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuneserve.finetune.memory.prefixes import CPU_PADDING
from tuneserve.finetune.memory.schedule import Schedule
from tuneserve.finetune.runtime.libraries import Runtime, quiet
from tuneserve.finetune.tokens.encoder import Encoded, to_dataset
from tuneserve.finetune.tokens.epoch import EpochSampler
from tuneserve.finetune.tokens.sharing import Sharing
from tuneserve.finetune.training.losses import SELECTION_LOSS
from tuneserve.settings import TrainSettings


def build_trainer(
    runtime: Runtime,
    model: Any,
    tokenizer: Any,
    settings: TrainSettings,
    schedule: Schedule,
    train: Sequence[Encoded],
    epochs: EpochSampler,
    evaluation: Sequence[Encoded],
    *,
    general: Sequence[Encoded] = (),
    checkpoints: Path,
    fresh: bool,
    callbacks: Sequence[Any],
    sharing: Sharing | None = None,
) -> Any:
    """A trainer over encoded examples, of which `epochs` says what an epoch visits.

    The loss on `general`, what is held out of the replay set, is measured with that on
    `evaluation`. `fresh` is False when it goes on from a checkpoint. With
    `sharing` what a batch's examples begin with is computed once where that is cheaper.
    """
    with quiet(errors_too=True):
        # Imported late: it takes seconds, and has to come after Unsloth.
        from transformers.trainer_callback import PrinterCallback, ProgressCallback

        from tuneserve.finetune.training.answer_trainer import AnswerTrainer

        trainer = AnswerTrainer(
            model=model,
            args=_arguments(
                runtime, settings, schedule, checkpoints, bool(evaluation), fresh=fresh
            ),
            train_dataset=to_dataset(train),
            eval_dataset=to_dataset(evaluation) if evaluation else None,
            processing_class=tokenizer,
            callbacks=list(callbacks),
            settings=settings,
            epochs=epochs,
            general=general,
            examples=[*train, *evaluation, *general],
            data_collator=collator(runtime, settings, tokenizer, model, sharing),
            families=sharing.families if sharing is not None else (),
        )
        if sharing is not None and runtime.device == "cuda":
            from tuneserve.finetune.training.prefix_sharing import SharingCollator

            # Around that which Unsloth chose and told to lay examples end to end.
            trainer.data_collator = SharingCollator(trainer.data_collator, sharing.costs, "flex")
        for library_output in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(library_output)
    return trainer


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
        # transformers' polynomial schedule ends at 1e-7, and begins at no rate below that.
        lr_scheduler_kwargs={"lr_end": min(1e-7, settings.learning_rate / 10)}
        if settings.scheduler == "polynomial"
        else None,
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
        # A loss that is no number is to be seen: it ends the training.
        logging_nan_inf_filter=False,
        eval_strategy="steps" if every else "no",
        eval_steps=every or None,
        eval_on_start=bool(every) and fresh,
        metric_for_best_model=SELECTION_LOSS if every else None,
        greater_is_better=False if every else None,
        save_strategy="steps",
        save_steps=every or schedule.steps,
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


def collator(
    runtime: Runtime, settings: TrainSettings, tokenizer: Any, model: Any, sharing: Sharing | None
) -> Any:
    """What makes a batch of examples on a CPU; None leaves it to the libraries.

    Unsloth refuses to lay examples end to end there, for fear that they see one another;
    transformers keeps them apart by their positions, and `tuneserve.finetune.runtime.packing`
    proves that before training starts.
    """
    packs = settings.packing == "true"
    if runtime.device == "cuda" or not (packs or sharing):
        return None
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    plain = DataCollatorForLanguageModeling(
        pad_token_id=tokenizer.pad_token_id, padding_free=packs, pad_to_multiple_of=CPU_PADDING
    )
    if sharing is None:
        return plain
    from tuneserve.finetune.training.prefix_sharing import SharingCollator

    # Chunks are for transformers' sdpa, which takes other masks.
    sdpa = model.config.get_text_config()._attn_implementation == "sdpa"
    return SharingCollator(plain, sharing.costs, "chunks" if sdpa else "additive")
