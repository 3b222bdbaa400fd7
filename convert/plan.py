"""What a conversion of a run will read and write, and whether it can: known before slow work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tuneserve.base import check_checkpoint, is_of_file, resolve_base
from tuneserve.chat.examples import read_split
from tuneserve.console import say
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import AUTO
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.adapter_config import check_scale_as_trained
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.merge.four_bit import FourBitTensor
from tuneserve.convert.merge.merge_base import check_merge_base, tell_other_config
from tuneserve.convert.merge.same_weights import Tokens, check_same_weights
from tuneserve.convert.merge.writer import check_writable, checkpoint_bytes
from tuneserve.convert.mixture import check_limit
from tuneserve.convert.quantize import planned_bytes, quantized_bytes, temporary_quantization
from tuneserve.convert.resources import check_disk, check_memory, uses_imatrix, worker_threads
from tuneserve.convert.result import ConvertInputs
from tuneserve.convert.route import check_quantization, require_own_architecture
from tuneserve.convert.verify.logits import PROBE_BYTES
from tuneserve.convert.verify.recorded import Origin, TrainedLosses
from tuneserve.convert.verify.verify import TOKEN_EXAMPLES
from tuneserve.errors import UsageError
from tuneserve.files import sha256_file
from tuneserve.finetune.training.result import TrainOutput
from tuneserve.finetune.training.trained_files import check_trained_files
from tuneserve.run import RunDirectory
from tuneserve.settings import ConvertSettings


@dataclass(frozen=True)
class Plan:
    """What a conversion of this run will read and write."""

    run: RunDirectory
    settings: ConvertSettings
    base_checkpoint: Path
    base_name: str

    @property
    def tuned(self) -> Path:
        return self.run.tuned_gguf(self.settings.quantization)

    @property
    def base(self) -> Path:
        return self.run.base_gguf(self.settings.quantization)

    @property
    def f16(self) -> Path:
        return self.run.tuned_gguf("F16")

    @property
    def imatrix(self) -> Path:
        return self.run.gguf / f"{self.run.name}.imatrix.gguf"

    @property
    def merged(self) -> Path:
        """The merged Hugging Face checkpoint, if it is asked for."""
        return self.run.root / "merged"

    @property
    def recorded(self) -> TrainedLosses:
        """The losses that training recorded, which the merged weights must have."""
        other = bool(self.settings.merge_base)
        return TrainedLosses(self.run.data, other, self._origin() if other else None)

    @property
    def trained_checkpoint(self) -> Path:
        """The directory of the base that was trained on, which may be gone."""
        return Path(self.run.require_stage("train", TrainOutput).base.path)

    def _origin(self) -> Origin | None:
        """The 4-bit base whose origin is merged into: `checked_models` has refused another one.
        None if training had no such base, or it can't be read any more."""
        copy = self.trained_checkpoint
        if copy == self.base_checkpoint:
            return None
        try:
            stored = MergedCheckpoint(copy).stored
        except UsageError:
            return None  # `checked_models` has said so
        if not any(isinstance(tensor, FourBitTensor) for tensor in stored.values()):
            return None
        return Origin(copy, self.settings.min_gain_kept)

    def check_as_trained(self) -> None:
        """Raise TuneserveError if adapter, splits or base have changed since the training, or the
        adapter has another scale than run.json's settings."""
        trained = self.run.require_stage("train", TrainOutput)
        # Another base to merge into is another one on purpose.
        base = None if self.settings.merge_base else self.base_checkpoint
        check_trained_files(self.run, trained, base)
        check_scale_as_trained(self.run.adapter, self.run.saved_settings().get("train", {}))

    def tell_other_base(self) -> None:
        """Say so where nothing can compare the configuration of the base that is merged into."""
        if self.settings.merge_base:
            trained = self.run.require_stage("train", TrainOutput).base
            tell_other_config(self.base_checkpoint, Path(trained.path), trained.sha256)

    @property
    def threads(self) -> int:
        return worker_threads(self.settings)

    def outputs(self, *, as_adapter: bool = False) -> list[Path]:
        """What must not be there already; `as_adapter`: where the adapter stayed beside the
        base."""
        merged = [self.merged] if self.settings.merged_checkpoint else []
        return [self.run.lora_gguf if as_adapter else self.tuned, self.base, *merged]

    def inputs(self) -> ConvertInputs:
        """What the result depends on, for telling whether it is still up to date."""
        names = ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json",
                 "tokenizer_config.json", "chat_template.jinja")  # fmt: skip
        files = [self.run.adapter / name for name in names]
        return ConvertInputs(
            base=str(self.base_checkpoint),
            adapter={path.name: sha256_file(path) for path in files if path.is_file()},
        )


def plan_of(run: RunDirectory, settings: ConvertSettings) -> Plan:
    """What a conversion of this trained run will read and write."""
    trained = run.require_stage("train", TrainOutput).base
    if settings.merge_base:
        base = resolve_base(settings.merge_base, setting="convert.merge_base")
        check_merge_base(Path(trained.path), base.path)
        return Plan(run, settings, base.path, base.name)
    return Plan(run, settings, Path(trained.path), trained.name)


def checked_models(plan: Plan) -> tuple[GGUFModel, GGUFModel]:
    """Tuned and base. Raises UsageError or TuneserveError for all that can be known to be wrong
    before slow work starts: base, adapter, tokenizer, held-out examples, memory, disk."""
    check_quantization(plan.settings)
    check_checkpoint(plan.base_checkpoint)
    plan.check_as_trained()
    read_split(plan.run.held_out, limit=TOKEN_EXAMPLES)
    if plan.run.held_out != plan.run.split("test"):
        say(f"convert: no test examples are held out; verified with {plan.run.held_out}")
    adapter = plan.run.adapter
    base = MergedCheckpoint(plan.base_checkpoint)
    # Before the adapter is read: what is unknown is the architecture, not what is adapted in it.
    require_own_architecture(base.architecture, where=str(base.directory))
    tell_left_out(base)
    if plan.settings.merge_base:
        _check_merged_into(plan, base)
    tuned = MergedCheckpoint(plan.base_checkpoint, Adapter(adapter))
    if tuned.resized:
        say(f"convert: the base gets the tuned model's {tuned.vocabulary:,} rows of tokens too")
        base = tuned.base()
    if plan.settings.merged_checkpoint:
        check_writable(tuned)
    models = (
        GGUFModel(tuned, adapter, name=plan.run.name, system=plan.run.system_prompt),
        GGUFModel(base, adapter, name=plan.base_name),
    )
    if plan.settings.quantization == AUTO:
        check_limit(models[0], plan.settings)
    _check_resources(plan, models)
    return models


def _check_merged_into(plan: Plan, base: MergedCheckpoint) -> None:
    """Raise UsageError if the base that is merged into is another model than the training's, by its
    weights, as far as the training's are there."""
    record = plan.run.require_stage("train", TrainOutput).base
    trained = Path(record.path)
    if trained == base.directory:
        plan.tell_other_base()
        return
    try:
        stored = MergedCheckpoint(trained).stored
    except UsageError as error:
        say(
            f"note: merge_base = {base.directory}: the base that was trained on can't be read any "
            f"more ({error.message}: {trained}), so only the losses that training recorded tell "
            "whether it is the same model"
        )
        return
    plan.tell_other_base()
    check_same_weights(
        stored, base.stored, base.directory, plan.threads, tokens=Tokens.of(plan.run.adapter),
        of_file=is_of_file(record.spec),
    )  # fmt: skip


def tell_left_out(base: MergedCheckpoint) -> None:
    """Say which tensors are none of the text model's, if there are any."""
    parts = ", ".join(f"{count} of {part}" for part, count in base.left_out.items())
    if parts:
        say(f"convert: the text model alone; tensors left out: {parts}")


def _check_resources(plan: Plan, models: tuple[GGUFModel, GGUFModel]) -> None:
    """Raise TuneserveError if memory, or the most that is on disk at any moment, does not fit."""
    check_memory(plan.threads)
    check_disk(plan.run.gguf, needed_disk(plan.settings, *models))


def needed_disk(settings: ConvertSettings, tuned: GGUFModel, base: GGUFModel) -> int:
    """The most bytes that a conversion has on disk at any moment."""
    needed = sum(planned_bytes(model, settings) for model in (tuned, base))
    if settings.keep_f16 and settings.quantization != "F16":
        needed += quantized_bytes(tuned, "F16")
    if uses_imatrix(settings):
        needed += quantized_bytes(tuned, temporary_quantization(tuned))
    if settings.merged_checkpoint:
        needed += checkpoint_bytes(tuned.checkpoint)
    return needed + PROBE_BYTES
