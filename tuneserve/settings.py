"""Every setting of every stage, defined once.

A recipe (TOML) has one table per model below. The command line's options, the recipe's keys,
`--help` and docs/settings.md are all derived from these fields: name, type, default, bounds,
description. Import stays light (no torch, no llama_cpp), so that `--help` is immediate.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    field_validator,
    model_validator,
)

from tuneserve.hosts import ANY, OPAQUE, HostPattern, Origin
from tuneserve.sizes import parse_size


def _checked(parse: Callable[[str], object], text: str) -> None:
    """Raises ValueError, naming the text."""
    try:
        parse(text)
    except ValueError as error:
        raise ValueError(f"'{text[:100]}' is {error}") from None


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
KVCacheType = Annotated[
    Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"],
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
]


_LEAST_PREFIX_DISK = 10**6


def _kept_split(value: object) -> object:
    if value == "row":
        raise ValueError(
            "llama.cpp has no split by rows any more: take tensor, which splits the KV cache too, "
            "or layer"
        )
    return value


SplitMode = Annotated[Literal["layer", "tensor", "none"], BeforeValidator(_kept_split)]
_Quantization = Literal[
    "auto", "Q4_K_M", "Q4_K_S", "Q5_K_M", "Q5_K_S", "Q6_K", "Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1",
    "IQ4_NL", "IQ4_XS", "MXFP4_MOE", "Q3_K_L", "Q3_K_M", "Q3_K_S", "IQ3_M", "IQ3_S", "IQ3_XS",
    "IQ3_XXS", "Q2_K", "Q2_K_S", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "F16", "BF16",
]  # fmt: skip
QUANTIZATIONS: tuple[str, ...] = tuple(kind for kind in get_args(_Quantization) if kind != "auto")
"""What a file's name says that it holds."""

BenchTask = Literal[
    "exact", "contains", "number", "regex", "choice", "labels", "json", "rouge_l", "chrf", "python",
    "likelihood", "likelihood_per_token",
]  # fmt: skip


def _switch_word(value: object) -> object:
    """TOML's booleans as the words of a setting that has 'auto' beside them."""
    return str(value).lower() if isinstance(value, bool) else value


def _listed(value: object) -> object:
    """A text as the list that the command line makes of it: names between commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _as_spelled(value: object) -> object:
    """q4_k_m for Q4_K_M."""
    spelled = {name.lower(): name for name in get_args(_Quantization)}
    return spelled.get(value.lower(), value) if isinstance(value, str) else value


QuantizationType = Annotated[_Quantization, BeforeValidator(_as_spelled)]
Switch = Annotated[Literal["auto", "true", "false"], BeforeValidator(_switch_word)]
Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]

ALL_LINEAR = "all-linear"
ALL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALL_GPUS = 0
"""`train.gpus`: every GPU of the machine."""
EACH_GPU = 0
"""`serve.replicas`: one for each GPU of the machine. Of both, users write the word alone."""
GPU_LAYER_WORDS: dict[str, JsonValue] = {"auto": -1, "all": 10_000}


AUTO_ONLY = ("size_limit", "max_divergence", "mix_tokens", "mix_tries")
"""Settings of [convert] that mean nothing without quantization = 'auto'."""


class Section(BaseModel):
    """Base of all settings: unknown keys are errors, values can't be changed after loading.

    No number may be infinite: run.json, which keeps them, has no way to write one.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )


class ModelSettings(Section):
    """The base model."""

    base: str = Field(
        "demo",
        min_length=1,
        description="Base model: a Hugging Face checkpoint directory, a .gguf file, a hub id, or "
        "'demo' (SmolLM2-135M-Instruct from the extra 'demo').",
    )
    load_in_4bit: bool | None = Field(
        None,
        description="Load the base in bitsandbytes 4-bit to train in less GPU memory; not set = "
        "4-bit where 16-bit would not fit or be slower (16-bit on a CPU).",
    )
    max_seq_length: int = Field(
        2048,
        ge=16,
        le=1_048_576,
        description="Longest example in tokens; longer ones are cut. Not set = 2048, or what "
        "the base is made for if that is less.",
    )
    chat_template: Path | None = Field(
        None,
        description="Chat template in place of the base's, in the GGUF too: a Jinja file, or one "
        "that comes along (chatml, alpaca, instruction).",
    )


class DataSettings(Section):
    """The examples and how they are split."""

    file: Path = Field(
        Path("data/sentiment.jsonl"),
        description="Examples: a JSONL, JSON, CSV, TSV, Parquet, Arrow or text file (or packed), "
        "a folder of them, a pattern (data/*.jsonl), or a data set of the hub (hub:owner/name, "
        "hub:owner/name:config@split). Records with "
        "instruction and output, prompt and completion, messages, conversations or text; optional "
        "keys: system, group, source, id.",
    )
    more: tuple[str, ...] = Field(
        (),
        description="Further files, folders or patterns; 'path*2' trains on each of its examples "
        "twice, 'path*0.5' on half of them.",
    )
    fields: tuple[str, ...] = Field(
        (),
        description="Other names of the keys in the files, as ours=theirs: output=answer. source= "
        "and group= leave the files' keys of that name unused.",
    )
    skip_bad: bool = Field(
        False, description="Leave out records that can't be used instead of stopping."
    )
    system: str = Field(
        "", description="System prompt put before every example that has none of its own."
    )
    train_on: Literal["all", "last"] = Field(
        "all", description="Answers of a conversation the loss counts: all of them, or the last."
    )
    thoughts: Literal["train", "mask", "drop"] = Field(
        "train",
        description="What becomes of thoughts (<think>…</think> or reasoning_content): train on "
        "them, keep them but mask them, or drop them.",
    )
    special_tokens: Literal["text", "control", "refuse"] = Field(
        "text",
        description="What becomes of the base's special tokens where a record's own text spells "
        "them out: text = they are trained and served as plain text, control = trained as the "
        "tokens they spell, refuse = the record is refused.",
    )
    too_long: Literal["cut", "drop", "refuse"] = Field(
        "cut",
        description="What becomes of an example that is longer than max_seq_length: cut = it loses "
        "its end, drop = it is left out, refuse = it is an error. All are counted. A text without "
        "a prompt is cut into pieces, of which none is lost.",
    )
    eval_fraction: float = Field(
        0.05,
        ge=0.0,
        lt=1.0,
        description="Share of examples that steer training (early stopping); 0 = none do.",
    )
    test_fraction: float = Field(
        0.2,
        ge=0.0,
        lt=1.0,
        description="Share of examples held out for the benchmark; never trained on. 0 = none are, "
        "and there is no benchmark.",
    )
    least_held_out: int = Field(
        16,
        ge=0,
        le=100_000,
        description="Smallest number of examples in eval and in test where their fractions give "
        "fewer, as far as 15 % of all are so many; training goes on without an eval split of fewer "
        "than 4. 0 = the fractions alone.",
    )
    near_duplicates: float = Field(
        0.7,
        gt=0.0,
        le=1.0,
        description="Likeness of prompts from which an example is removed because a held-out one "
        "says nearly the same (1 = exactly the same prompts only).",
    )
    balance: Literal["off", "group", "answer"] = Field(
        "off",
        description="Draw every group, or every answer, equally often in training, however many "
        "examples it has; an epoch stays as long as it is.",
    )
    wordings: Path | None = Field(
        None,
        description="Text file of wordings of an instruction, one a line (an empty line begins "
        "another instruction's): where a prompt holds one of them, training draws one of them for "
        "each epoch.",
    )
    general: Path | None = Field(
        None,
        description="General examples, of what the model must not forget: a file, folder or hub "
        "data set as above (`tuneserve data general` makes one). The loss on a held-out part of "
        "them is measured beside the task's.",
    )
    replay: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Share of the general examples in what is trained on; 0 = only measure them.",
    )
    general_fraction: float = Field(
        0.2,
        gt=0.0,
        le=1.0,
        description="Share of the general examples that is held out to measure the loss; the rest "
        "is there to replay. 1 = all, which leaves none to replay.",
    )


class TrainSettings(Section):
    """LoRA training."""

    r: int = Field(16, ge=1, le=1024, description="LoRA rank.")
    alpha: int = Field(16, ge=1, le=4096, description="LoRA alpha; the update is scaled alpha/r.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout on the LoRA input.")
    target_modules: Names = Field(
        ALL_PROJECTIONS,
        min_length=1,
        description="Linear layers that get a LoRA adapter; all-linear = all but lm_head.",
    )
    last_layers: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Only so many of the last decoder layers get an adapter: those before are "
        "computed forward alone, which takes less time and memory and learns less; 0 = all.",
    )
    bias: Literal["none", "all", "lora_only"] = Field("none", description="Which biases train.")
    use_rslora: bool = Field(False, description="Scale by alpha/sqrt(r) (rank-stabilised LoRA).")
    use_dora: bool = Field(
        False,
        description="Learn the weights' magnitudes too (DoRA); slower, without fused kernels.",
    )
    modules_to_save: Names = Field(
        (), description="Modules trained whole beside the adapter: embed_tokens, lm_head, norms."
    )
    speed: Literal["auto", "as_given"] = Field(
        "auto",
        description="auto = the precision of the base, what is recomputed and how many examples "
        "are computed at a time follow from the memory at hand; examples per step stay the same.",
    )
    compile: Switch = Field(
        "auto",
        description="Compile the layers for training on a CPU (needs a C++ compiler; takes about "
        "a minute the first time); auto = where the tokens to train on make up for that.",
    )
    gradient_checkpointing: Annotated[
        Literal["auto", "unsloth", "true", "false"], BeforeValidator(_switch_word)
    ] = Field(
        "auto",
        description="Recompute activations to save memory: Unsloth's (offloaded), plain, or off; "
        "auto = the fastest of these that fits the memory at hand.",
    )
    kept_layers: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Layers that keep their activations although gradient checkpointing is on "
        "(GPU); auto checkpointing decides it.",
    )
    offload_embeddings: Switch = Field(
        "auto",
        description="Keep the token embeddings in main memory and look them up there (GPU; not "
        "where the output layer shares them or they are trained); auto = where the room they leave "
        "makes training faster.",
    )
    vram: float = Field(
        0.0,
        ge=0.0,
        description="GPU memory in GiB that training may take; 0 = what is free on the GPU.",
    )
    gpus: int = Field(
        1,
        ge=0,
        le=1024,
        json_schema_extra={"words": {"all": ALL_GPUS}, "least_number": 1},
        description="GPUs of this machine to train on, a process for each: a number, or all. They "
        "share out the examples of a step, of which there are as many as with one.",
    )
    shard: bool = Field(
        False,
        description="Divide the base among the GPUs (gpus), so that each holds a part of every "
        "layer: for bases that one card can't hold. Slower where one can.",
    )
    packing: Switch = Field(
        "auto",
        description="Lay a batch's examples end to end in one row, each seeing only itself, "
        "instead of padding them; auto = on a GPU.",
    )
    prefix_sharing: Switch = Field(
        "auto",
        description="Compute what several examples of a batch begin with once (the loss and its "
        "gradients stay the same); auto = on a CPU in fp32 and on a GPU in bf16, where that saves "
        "time and the model can.",
    )
    epochs: float = Field(1.0, gt=0.0, le=1000.0, description="Passes over the training examples.")
    max_steps: int = Field(
        0, ge=0, description="Stop after this many optimizer steps; 0 = by epochs."
    )
    batch_size: int = Field(
        8, ge=1, le=4096, description="Examples computed at a time on a GPU (see speed)."
    )
    gradient_accumulation: int = Field(1, ge=1, le=4096, description="Batches per optimizer step.")
    learning_rate: float = Field(2e-4, gt=0.0, le=1.0, description="Peak learning rate.")
    loraplus_ratio: float = Field(
        0.0,
        ge=0.0,
        le=1000.0,
        description="LoRA+: the B matrices learn at this many times the learning rate (16 is the "
        "paper's); 0 = all at the same rate.",
    )
    neftune_alpha: float = Field(
        0.0,
        ge=0.0,
        le=1000.0,
        description="NEFTune: noise on the embeddings while training (5 is the paper's); 0 = none.",
    )
    scheduler: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt", "constant",
        "constant_with_warmup",
    ] = Field("cosine", description="Learning-rate schedule after the warm-up.")  # fmt: skip
    warmup_fraction: Fraction = Field(
        0.05,
        description="Share of steps that warm up; the first one learns at a rate above 0, the last "
        "one at the peak at the latest.",
    )
    weight_decay: float = Field(0.01, ge=0.0, le=1.0, description="AdamW weight decay.")
    max_grad_norm: float = Field(1.0, ge=0.0, description="Gradient norm clip; 0 = no clipping.")
    optimizer: Literal["auto", "adamw_torch", "adamw_8bit"] = Field(
        "auto", description="AdamW variant; auto = 8-bit on CUDA, PyTorch's elsewhere."
    )
    evaluations: int = Field(
        4, ge=0, le=1000, description="Evaluations on the eval split, spread over training."
    )
    early_stopping_patience: int = Field(
        3, ge=0, description="Stop after this many evaluations without improvement; 0 = never."
    )
    max_general_rise: float = Field(
        0.0,
        ge=0.0,
        description="Stop if the loss on general examples has risen by more than this (nats per "
        "answer token), and keep the best adapter from before; 0 = no limit.",
    )
    keep_checkpoints: int = Field(
        2, ge=2, le=100, description="Checkpoints kept on disk: the best and the latest ones."
    )
    checkpoint_minutes: float = Field(
        10.0, gt=0.0, description="Longest time between checkpoints, in minutes."
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="What training computes in; auto = bf16 where the hardware has it."
    )
    quantization_aware: bool = Field(
        False,
        description="Train on the weights as [convert] quantization rounds them, with the adapter "
        "in them, so that what is learned survives the rounding; needs a base in 16 bits.",
    )
    rounding_steps: int = Field(
        16,
        ge=1,
        le=100_000,
        description="Optimizer steps after which quantization_aware rounds anew: it takes as long "
        "as quantizing the model.",
    )
    seed: int = Field(3407, ge=0, le=2**31 - 1, description="Seed of all random choices.")
    record_eval_losses: bool = Field(
        False,
        description="Record the best adapter's loss on each example of the eval split "
        "(data/eval_losses.json), so that two runs can be compared example by example; takes "
        "longer than an evaluation.",
    )

    @field_validator("gpus", mode="before")
    @classmethod
    def _gpus_in_words(cls, value: object) -> object:
        return ALL_GPUS if value == "all" else value

    @property
    def examples_per_step(self) -> int:
        """Examples of an optimizer step, however they are divided."""
        return self.batch_size * self.gradient_accumulation


class ConvertSettings(Section):
    """Merge, GGUF and quantization."""

    quantization: QuantizationType = Field(
        "Q4_K_M",
        description="Quantization type of the GGUF; auto = a type for each tensor, chosen so that "
        "your examples' answers change least within size_limit.",
    )
    size_limit: str = Field(
        "100%",
        description="Of auto: the largest size, in bytes (90M) or as a share of what Q4_K_M takes "
        "(80%).",
    )
    max_divergence: float = Field(
        0.0,
        ge=0.0,
        description="Of auto: take the smallest size whose mean KL divergence (nats) from F16 on "
        "the answers is at most this, instead of size_limit; 0 = by size.",
    )
    mix_tokens: int = Field(
        1024, ge=64, description="Of auto: tokens of the examples that types are measured on."
    )
    mix_tries: int = Field(
        40,
        ge=8,
        le=10_000,
        description="Of auto: passes over mix_tokens. A third of them measures groups of tensors, "
        "the others measure the types found.",
    )
    merge_base: str = Field(
        "",
        description="Base to merge into instead of the one trained on: the 16-bit checkpoint of "
        "which training used a 4-bit copy (a directory, a .gguf file or a hub id). "
        "Empty = the one trained on.",
    )
    preflight: bool = Field(
        True,
        description="Before training, check all that the conversion needs and that takes no "
        "trained weights; off where the adapter is not to be converted.",
    )
    converter: Path | None = Field(
        None,
        description="llama.cpp's convert_hf_to_gguf.py, for a base whose architecture tuneserve "
        "can't convert itself; it is run on the merged checkpoint.",
    )
    merged_checkpoint: bool = Field(
        False, description="Write the merged model as a Hugging Face checkpoint too."
    )
    threads: int = Field(0, ge=0, le=1024, description="Quantization threads; 0 = all cores.")
    keep_f16: bool = Field(False, description="Keep the merged F16 GGUF beside the quantized one.")
    max_kld: float = Field(
        1e-3,
        gt=0.0,
        description="Refuse the result if the mean KL divergence of an unquantized GGUF's next-"
        "token distribution from the merged checkpoint's is above this; llama.cpp compared with "
        "transformers has a limit of its own, and this one.",
    )
    imatrix: bool = Field(
        False, description="Quantize with an importance matrix measured on the training examples."
    )
    imatrix_tokens: int = Field(
        16_384, ge=512, description="Tokens of training examples the importance matrix is made of."
    )
    max_quantized_kld: float = Field(
        0.5,
        gt=0.0,
        description="Refuse the result if the mean KL divergence of the quantized GGUF from the "
        "F16 one is above this.",
    )
    min_gain_kept: float = Field(
        0.9,
        ge=0.0,
        le=1.0,
        description="Refuse the result if the quantized GGUF, or with a merge_base the merged "
        "weights, keep less than this share of what the tune gained in log-likelihood of held-out "
        "answers; 0 = keep any.",
    )
    keep_gain: bool = Field(
        True,
        description="Where quantization loses the tune, give the tensors that lose most a finer "
        "type, or if that makes the file too large, keep the adapter beside the quantized base.",
    )
    max_growth: float = Field(
        1.25,
        ge=1.0,
        le=8.0,
        description="How much larger than plain quantization finer types may make the GGUF; auto's "
        "stays within size_limit.",
    )

    @field_validator("size_limit")
    @classmethod
    def _is_a_size(cls, text: str) -> str:
        parse_size(text)
        return text

    @model_validator(mode="after")
    def _limits_are_of_auto(self) -> Self:
        fields = type(self).model_fields
        given = [name for name in AUTO_ONLY if getattr(self, name) != fields[name].default]
        if given and self.quantization != "auto":
            raise ValueError(
                f"{given[0]} is a setting of quantization = 'auto', this one is "
                f"{self.quantization!r}: add --quantization auto, or leave {given[0]} out"
            )
        if set(given) >= {"size_limit", "max_divergence"}:
            raise ValueError(
                "size_limit and max_divergence exclude each other: give the size, or the divergence"
            )
        return self


class ServeSettings(Section):
    """The OpenAI-compatible server."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 = any free one.")
    insecure: bool = Field(
        False,
        description="Start without API keys although other machines, or any web page "
        "(cors_origins), can reach the server.",
    )
    replicas: int = Field(
        1,
        ge=0,
        le=64,
        json_schema_extra={"words": {"auto": EACH_GPU}, "least_number": 1},
        description="Processes that serve the model behind one port, through HAProxy: a number, or "
        "auto = one for each GPU. Requests that begin alike go to the same one; limits and memory "
        "(slots, prefix_ram) are each one's.",
    )
    ctx: int = Field(
        8192, ge=64, le=16_777_216, description="KV cache size in tokens, shared by all slots."
    )
    slots: int = Field(8, ge=1, le=255, description="Requests decoded at the same time.")
    cache_type_k: KVCacheType = Field("q8_0", description="KV cache type for keys.")
    cache_type_v: KVCacheType = Field(
        "q8_0", description="KV cache type for values; a quantized one needs flash attention."
    )
    flash_attention: bool = Field(True, description="Use flash attention.")
    gpu_layers: int = Field(
        -1,
        ge=-1,
        le=10_000,
        json_schema_extra={"words": GPU_LAYER_WORDS},
        description="Layers offloaded to the GPU: a number, all, or auto (-1) = as many as fit the "
        "free GPU memory.",
    )
    vram: float = Field(
        0.0,
        ge=0.0,
        description="GPU memory in GiB that auto layers may use at most; 0 = what is free.",
    )
    tensor_split: tuple[float, ...] = Field(
        (), description="Share of the layers for each GPU, as 3,1; empty = by their free memory."
    )
    split_mode: SplitMode = Field(
        "layer",
        description="How several GPUs share the model: by layers, by parts of each tensor and of "
        "the KV cache, which all compute at the same time (tensor; needs flash_attention), or not "
        "at all (main_gpu has it whole).",
    )
    main_gpu: int = Field(
        0, ge=0, le=1023, description="GPU that has the whole model (split_mode none)."
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0 = physical cores.")
    batch: int = Field(2048, ge=32, le=65536, description="Tokens decoded in one call at most.")
    micro_batch: int = Field(512, ge=32, le=65536, description="Tokens computed at a time.")
    max_tokens: int = Field(
        2048,
        ge=1,
        description="Longest answer when a request does not say (the context permitting).",
    )
    system: str | None = Field(
        None,
        description="System prompt of conversations that have no system message; an empty one: "
        "none. Without this setting it is the one that the model, or the adapter, was trained "
        "with, if its file says so.",
    )
    max_queue: int = Field(
        256, ge=1, le=100_000, description="Requests waiting for a slot before 429 is returned."
    )
    prefix_share: Fraction = Field(
        0.5,
        description="Share of the KV cache that finished requests may keep, so that one that "
        "begins alike need not compute its beginning again; 0 = keep none.",
    )
    prefix_ram: float = Field(
        1.0,
        ge=0.0,
        description="RAM in GiB for beginnings of finished requests that the KV cache has no room "
        "for; not used where layers are on a GPU.",
    )
    prefix_disk: str = Field(
        "0",
        description="Disk space, as 500M or 2G, for beginnings of finished requests that RAM has "
        "no room for, and for all of them when the server stops; found again after a restart. "
        "0 = none.",
    )
    prefix_directory: Path | None = Field(
        None,
        description="Folder for them, this user's alone; without it one in tuneserve's cache.",
    )
    speculate: Literal["auto", "always", "off"] = Field(
        "auto",
        description="Compute tokens that the text so far lets expect beside those that are known, "
        "for answers that repeat their prompt: where it makes them faster (auto; not where a seed "
        "asks for the same answer again), wherever there is room (always), or never.",
    )
    draft: Path | None = Field(
        None,
        description="GGUF of a small model with the same vocabulary, which guesses what the served "
        "one writes next.",
    )
    draft_tokens: int = Field(
        8, ge=1, le=32, description="Tokens that the draft model guesses in a row at most."
    )
    draft_gpu_layers: int = Field(
        -1,
        ge=-1,
        le=10_000,
        json_schema_extra={"words": GPU_LAYER_WORDS},
        description="The draft model's layers on the GPU: a number, all, or auto (-1) = as many as "
        "fit; the served model's auto layers get what is left.",
    )
    max_body: int = Field(
        16_777_216, ge=1024, description="Largest request body in bytes; a larger one gets 413."
    )
    max_bodies: int = Field(
        128,
        ge=1,
        le=1_048_576,
        description="RAM in MiB for request bodies that are arriving (and max_body at least); when "
        "it is full, the one that began first gets 503.",
    )
    max_json_depth: int = Field(
        100, ge=8, le=500, description="Lists and objects in each other, in a request's JSON."
    )
    max_json_containers: int = Field(
        50_000, ge=100, le=5_000_000, description="Lists and objects in a request's JSON."
    )
    max_json_values: int = Field(
        1_250_000,
        ge=1000,
        le=100_000_000,
        description="Values in a request's JSON; one with a name counts as four.",
    )
    max_text: int = Field(
        2_000_000,
        ge=1000,
        description="Characters of a text that is tokenized without being a prompt, which the "
        "context bounds (/tokenize, counts of tokens).",
    )
    max_url: int = Field(8192, ge=256, le=65_536, description="Longest URL of a request; 414.")
    max_header_bytes: int = Field(
        65_536,
        ge=1024,
        le=1_048_576,
        description="Bytes of a request's headers in all, before a key is asked for; 431.",
    )
    max_headers: int = Field(100, ge=16, le=10_000, description="Headers of a request; 431.")
    max_connections: int = Field(
        1024,
        ge=8,
        le=1_000_000,
        description="Open connections in all, as far as the limit of open files allows. For one "
        "more, the one that has kept the server waiting longest is closed; if all are being "
        "answered, the new one gets 503.",
    )
    max_client_connections: int = Field(
        512,
        ge=4,
        le=1_000_000,
        description="The same for the connections of one client's address (of IPv6, its /64).",
    )
    drain_seconds: int = Field(
        30, ge=0, le=86_400, description="Time that running answers get to end when stopped."
    )
    api_key_file: Path | None = Field(
        None, description="File with one API key per line; without it no key is asked for."
    )
    queue_seconds: int = Field(
        120, ge=1, le=86_400, description="Longest wait for a slot; after it a request gets 503."
    )
    answer_seconds: int = Field(
        0, ge=0, le=86_400, description="Longest time an answer may take; 0 = no limit."
    )
    step_seconds: int = Field(
        60,
        ge=5,
        le=86_400,
        description="Longest time a step of the engine may take, and as much again for every 64 "
        "tokens of prompts in it; then /ready says 503, and the process ends so that it can be "
        "started again.",
    )
    ping_seconds: float = Field(
        10.0,
        ge=0.0,
        le=3600.0,
        description="Pause in a stream after which a comment is sent, so that nobody takes the "
        "connection for dead; 0 = none. Once one is sent, a failure is an event, not a status.",
    )
    keep_alive_seconds: int = Field(
        75, ge=1, le=86_400, description="Time an idle connection is kept for its next request."
    )
    receive_seconds: int = Field(
        60,
        ge=1,
        le=86_400,
        description="Time a request's headers, and then each MiB of its body, get to arrive.",
    )
    send_seconds: int = Field(
        120,
        ge=1,
        le=86_400,
        description="Time that a client may leave its answer unread before it is cut off.",
    )
    max_unread: int = Field(
        64,
        ge=1,
        le=1_048_576,
        description="RAM in MiB for parts of streams that their clients have not read yet, beyond "
        "the buffers of the connections; when it is full, the stream that has most of it ends with "
        "an error.",
    )
    embeddings: bool = Field(
        False, description="Serve /v1/embeddings too (takes a second, context of its own)."
    )
    response_store: int = Field(
        64,
        ge=0,
        le=1_048_576,
        description="RAM in MiB for responses that later ones may go on from (/v1/responses); the "
        "oldest are dropped.",
    )
    adapter_dir: Path | None = Field(
        None,
        description="Directory of LoRA adapters, watched while the server runs: each NAME.gguf in "
        "it is served as NAME.",
    )
    max_adapters: int = Field(
        32, ge=1, le=1024, description="LoRA adapters that may be loaded at the same time."
    )
    adapter_memory: float = Field(
        4.0, gt=0.0, le=1024.0, description="Memory in GiB that loaded adapters may take in all."
    )
    admin_key_file: Path | None = Field(
        None,
        description="File with one admin key per line, which /v1/load_lora_adapter and "
        "/v1/unload_lora_adapter ask for (needs adapter_dir); without it these paths are off.",
    )
    batch_dir: Path | None = Field(
        None,
        description="Directory in which /v1/files and /v1/batches keep their files; without it "
        "these paths are off.",
    )
    batch_storage: float = Field(
        4.0, gt=0.0, le=1_048_576.0, description="GiB that all files of batches may take."
    )
    tls_cert: Path | None = Field(None, description="TLS certificate (PEM); with tls_key.")
    tls_key: Path | None = Field(None, description="Private key of the TLS certificate (PEM).")
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts under which the server is reached, beside this machine and the address "
        "it listens on: name, name:port, *.domain; * = any (only with keys or insecure).",
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        description="Web origins whose pages may call the API, as https://app.example; none by "
        "default, * = any.",
    )
    strict: bool = Field(
        False,
        description="Refuse what is otherwise taken and told in a header: fields that have no "
        "effect, and parts of tools' schemas that can't be enforced.",
    )
    log: Literal["line", "json", "off"] = Field(
        "line",
        description="What is logged of each request: a line, a JSON object, or nothing. With json "
        "all else that is said is an object too.",
    )
    log_prompts: bool = Field(False, description="Put prompts and answers into the JSON log.")
    mmap: bool = Field(True, description="Map the model file instead of reading it.")
    mlock: bool = Field(False, description="Keep the model in RAM.")

    @field_validator("prefix_disk")
    @classmethod
    def _is_space(cls, text: str) -> str:
        if text == "0":
            return text
        try:
            share, size = parse_size(text)
        except ValueError:
            share, size = None, 0
        if share is not None or size < _LEAST_PREFIX_DISK:
            raise ValueError("write bytes with a unit, 1M at least (500M, 2G), or 0 for none")
        return text

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            _checked(HostPattern.parse, host)
        return hosts

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin not in (ANY, OPAQUE):
                _checked(Origin.parse, origin)
        return origins

    @property
    def drafts(self) -> bool:
        """Is a draft model loaded?"""
        return self.draft is not None and self.speculate != "off"

    @property
    def prefix_disk_bytes(self) -> int:
        return 0 if self.prefix_disk == "0" else parse_size(self.prefix_disk)[1]

    @field_validator("replicas", mode="before")
    @classmethod
    def _replicas_in_words(cls, value: object) -> object:
        return EACH_GPU if value == "auto" else value

    @field_validator("gpu_layers", "draft_gpu_layers", mode="before")
    @classmethod
    def _layers_in_words(cls, value: object) -> object:
        return GPU_LAYER_WORDS.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _tensors_are_split_with_flash_attention(self) -> Self:
        if self.split_mode == "tensor" and not self.flash_attention:
            raise ValueError("split_mode = 'tensor' needs flash_attention")
        return self

    @field_validator("tensor_split")
    @classmethod
    def _shares_of_something(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if shares and (min(shares) < 0.0 or not 0.0 < sum(shares) < float("inf")):
            raise ValueError("shares can't be negative, and one must be above 0")
        return shares


class BenchSettings(Section):
    """The comparison of tuned against base."""

    task: BenchTask = Field(
        "exact",
        description="How an answer is scored against the reference: the same text, the reference "
        "in it, a number, what a pattern captures, the choice it settles on, the set of labels it "
        "names, JSON fields, ROUGE-L, chrF, a Python function; or not generated, but the likeliest "
        "choice (in all, or per token).",
    )
    choices: tuple[str, ...] = Field(
        (),
        description="Answers to choose from (choice, labels, likelihood); empty = all references.",
    )
    separator: str = Field(
        "",
        max_length=16,
        description="What stands between several references of one prompt, of which an answer "
        "needs one: '|' for 'Paris|City of Paris'; empty = each is one reference.",
    )
    unordered: bool = Field(False, description="Lists in JSON may be in any order (json).")
    pattern: str = Field("", description="Regular expression that captures the answer (regex).")
    tolerance: float = Field(
        1e-6, ge=0.0, lt=1.0, description="Relative tolerance of equal numbers (number)."
    )
    scorer: str = Field("", description="'file.py:function' that scores an answer (python).")
    scorer_seconds: float = Field(
        10.0,
        gt=0.0,
        le=3600.0,
        description="Longest time that it gets for an answer (python, regex).",
    )
    scorer_total_seconds: float = Field(
        3600.0,
        gt=0.0,
        le=1e6,
        description="Longest time that it gets for all answers (python, regex).",
    )
    scorer_memory: float = Field(
        8.0,
        ge=0.0,
        le=65_536.0,
        description="Address space in GiB that its process gets (python, regex); 0 = no limit.",
    )
    general: int = Field(
        300,
        ge=0,
        description="Ask both models this many of the benchmark's own general questions too (it "
        "has 266, of all kinds), to see what was forgotten; 0 = none.",
    )
    tasks: tuple[str, ...] = Field(
        (),
        description="Further held-out files that must not suffer, as file.jsonl=score, where score "
        "is one of the tasks above; or tasks of lm-evaluation-harness, as task.yaml (all its "
        "metrics) or task.yaml=metric.",
    )
    task_chat_template: bool = Field(
        False,
        description="Ask tasks of lm-evaluation-harness through the chat template, as its "
        "--apply_chat_template does; else as plain text.",
    )
    texts: tuple[str, ...] = Field(
        (), description="Text files whose perplexity under both models shows what was forgotten."
    )
    noise_floor: bool = Field(
        False,
        description="Let the base answer all prompts twice, to see what chance alone changes.",
    )
    against: tuple[str, ...] = Field(
        (),
        description="Further models to ask the held-out prompts: the tuned models of other runs, "
        "by the run's name, and GGUF files.",
    )
    endpoint: str = Field(
        "",
        description="OpenAI-compatible base URL (http://…/v1) whose model answers the prompts too.",
    )
    endpoint_model: str = Field(
        "", description="Model name at the endpoint; empty = the first that it lists."
    )
    endpoint_body: str = Field(
        "",
        description="JSON object of further fields for every request to the endpoint, as "
        '\'{"reasoning_effort": "low"}\'; null takes a field away.',
    )
    endpoint_timeout: float = Field(
        600.0,
        ge=1.0,
        le=86_400.0,
        description="Seconds in which the endpoint, or the judge, has to answer a prompt, all "
        "tries together; then the prompt has no answer.",
    )
    judge: str = Field(
        "",
        description="OpenAI-compatible base URL of a model that says of every prompt which of the "
        "two answers is better, in both orders; told apart from all scores.",
    )
    judge_model: str = Field(
        "", description="The judge's name at its endpoint; empty = the first that it lists."
    )
    judge_criteria: str = Field(
        "It is correct, it does what was asked, and it says no more than that needs.",
        max_length=10_000,
        description="What the judge is told that a good answer is.",
    )
    judge_labels: str = Field(
        "",
        description="JSONL file of people's preferences (id, better: tuned, base or tie), which "
        "the judge's agreement with is reported.",
    )
    think_tags: tuple[str, ...] = Field(
        (),
        description="Marks of thoughts beside those that are known: the opening and the closing "
        "one, as <plan>,</plan>.",
    )
    limit: int = Field(0, ge=0, description="Use at most this many held-out prompts; 0 = all.")
    max_tokens: int = Field(512, ge=1, description="Longest generated answer in tokens.")
    ctx: int = Field(2048, ge=64, description="Context of one prompt with its answer, in tokens.")
    parallel: int = Field(8, ge=1, le=255, description="Prompts answered at the same time.")
    confidence: float = Field(
        0.95, gt=0.5, lt=1.0, description="Confidence level of every interval."
    )
    margin: float = Field(
        2.0,
        ge=0.0,
        le=100.0,
        description="Nothing counts as forgotten if a loss of more than this many points of "
        "accuracy is excluded (of more than a tenth of what the base scores, if that is less).",
    )
    perplexity_margin: float = Field(
        1.05,
        ge=1.0,
        le=10.0,
        description="The same for texts: the ratio of perplexities that must be excluded.",
    )
    bootstrap: int = Field(
        10_000, ge=1000, le=1_000_000, description="Resamples for the gap between groups."
    )
    seed: int = Field(
        0, ge=0, le=2**31 - 1, description="Seed of resamples and of the sign-flip test."
    )
    speed_repetitions: int = Field(
        5, ge=2, le=1000, description="Repetitions of the speed measurement, after a warm-up."
    )
    clients: tuple[Annotated[int, Field(ge=1, le=255)], ...] = Field(
        (1, 4, 8),
        description="Numbers of clients at a time that the served model's speed is measured with; "
        "empty = not measured.",
    )
    price: float = Field(
        0.0,
        ge=0.0,
        description="Price of this machine an hour, in any currency: the report then has the price "
        "of 1,000 answers; 0 = not known.",
    )
    watts: float = Field(
        0.0,
        ge=0.0,
        description="Power in watts that this machine takes while it answers, as you measured it: "
        "the report then has the energy of 1,000 answers; 0 = not known.",
    )
    ladder: bool = Field(
        False,
        description="Measure the tuned model as F16, Q8_0, Q4_K_M and Q4_K_M with an importance "
        "matrix too, each with an f16 and a q8_0 KV cache.",
    )
    fail_if_worse: bool = Field(
        False,
        description="Exit with code 3 if the tuned model is shown to be worse, on all held-out "
        "prompts or on a group of them.",
    )
    fail_below: tuple[str, ...] = Field(
        (),
        description="Exit with code 1 if a figure of the tuned model is below its least value, as "
        "accuracy=0.75: accuracy, gain (over the base), general, or the name of a further task.",
    )

    @field_validator("endpoint", "judge")
    @classmethod
    def _is_a_url(cls, text: str) -> str:
        parts = urlsplit(text)
        if text and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("expected a URL, as http://127.0.0.1:8080/v1")
        return text

    @field_validator("endpoint_body")
    @classmethod
    def _is_an_object(cls, text: str) -> str:
        try:
            body = json.loads(text or "{}")
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from None
        if not isinstance(body, dict):
            raise ValueError('expected a JSON object, as {"reasoning_effort": "low"}')
        return text

    @field_validator("think_tags")
    @classmethod
    def _are_pairs(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        if len(tags) % 2 or not all(tags):
            raise ValueError("expected pairs of an opening and a closing mark, as <plan>,</plan>")
        return tags


class TrackingSettings(Section):
    """Where figures are tracked, beside runs/ and TensorBoard's files."""

    track: Annotated[
        tuple[Literal["mlflow", "wandb", "trackio"], ...], BeforeValidator(_listed)
    ] = Field(
        (),
        description="Trackers that get the curves of a training, and the figures and hashes of "
        "every stage: mlflow, wandb, trackio.",
    )
    track_project: str = Field(
        "tuneserve", min_length=1, max_length=100, description="Project (MLflow: experiment) there."
    )
    track_address: str = Field(
        "",
        description="Tracking server of MLflow, as http://127.0.0.1:5000; empty = a file beside "
        "the runs (runs/mlflow.db).",
    )
    track_online: bool = Field(
        False,
        description="Let Weights & Biases send as it goes; else it writes files, for `wandb sync`.",
    )


class Recipe(Section):
    """One TOML file: the settings of all stages."""

    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
    convert: ConvertSettings = ConvertSettings()
    serve: ServeSettings = ServeSettings()
    bench: BenchSettings = BenchSettings()
    tracking: TrackingSettings = TrackingSettings()

    @field_validator("data")
    @classmethod
    def _something_left_to_train_on(cls, data: DataSettings) -> DataSettings:
        if data.eval_fraction + data.test_fraction >= 1.0:
            raise ValueError("eval_fraction + test_fraction must leave examples to train on")
        if data.replay and not data.general:
            raise ValueError("replay needs general examples: set general, or replay = 0")
        if data.replay and data.general_fraction == 1.0:
            raise ValueError("general_fraction = 1 leaves no general examples to replay")
        return data

    @model_validator(mode="after")
    def _general_loss_is_measured_where_it_is_limited(self) -> Self:
        watched = self.data.general and self.data.eval_fraction and self.train.evaluations
        if self.train.max_general_rise and not watched:
            raise ValueError(
                "train.max_general_rise needs data.general, data.eval_fraction and "
                "train.evaluations"
            )
        return self
