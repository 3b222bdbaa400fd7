"""The two GGUFs of a conversion, tuned and base, always of the same types: written and verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tuneserve.arrays import Floats
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import Choice
from tuneserve.convert.gguf.writer import CopiedTensor
from tuneserve.convert.imatrix import ImportanceMatrix
from tuneserve.convert.plan import Plan
from tuneserve.convert.quantize import write_quantized
from tuneserve.convert.result import Check, Mix, types_in_words
from tuneserve.convert.verify import Candidate, verify
from tuneserve.convert.verify.gain import GAIN_CONTRACT
from tuneserve.convert.verify.measured import Measured


@dataclass(frozen=True)
class Verdict:
    """What a verification found, and what it measured."""

    checks: list[Check]
    sample: str
    measured: Measured

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def with_advice(self, contract: str, advice: str) -> Verdict:
        """The same, the check of this contract saying besides what to do."""
        checks = [
            replace(check, detail=f"{check.detail}. {advice}")
            if check.contract == contract
            else check
            for check in self.checks
        ]
        return replace(self, checks=checks)

    def lost_only(self, contracts: Sequence[str]) -> bool:
        """Have only the gain contract or those `contracts` failed, which say that rounding lost the
        tune?"""
        failed = {check.contract for check in self.checks if not check.passed}
        return bool(failed) and failed <= {GAIN_CONTRACT, *contracts}


@dataclass(frozen=True)
class Pair:
    """The files under temporary names, and the models that they are made of.

    `f16` and `checkpoint` are made where the settings ask for them; `overrides`: types of tensors,
    in both files, other than the quantization's; `mix`: those that auto stands for; `written`: by
    file, the hashes of what was written into it.
    """

    plan: Plan
    tuned_model: GGUFModel
    base_model: GGUFModel
    tuned: Path
    base: Path
    f16: Path | None = None
    checkpoint: Path | None = None
    matrix: ImportanceMatrix | None = None
    mix: Mix | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)
    written: dict[Path, dict[str, Sequence[bytes]]] = field(default_factory=dict)

    @property
    def importance(self) -> Mapping[str, Floats] | None:
        return self.matrix.means() if self.matrix else None

    @property
    def mixture(self) -> str:
        """In words the types that are not the quantization's."""
        found = [f"matrices {types_in_words(self.mix.types.values())}"] if self.mix else []
        if self.overrides:
            count = len(self.overrides)
            finer = types_in_words(self.overrides.values())
            found.append(f"{count} tensors finer to keep the tune: {finer}")
        return "; ".join(found)

    def choices(self, model: GGUFModel) -> list[Choice]:
        """The types of the tensors of one of the two models."""
        return model.choices(
            self.plan.settings.quantization,
            has_imatrix=self.matrix is not None,
            overrides=self.overrides,
        )

    def write_tuned(self, copied: Mapping[str, CopiedTensor] | None = None) -> None:
        self._write(self.tuned_model, self.tuned, copied)

    def write_base(self, copied: Mapping[str, CopiedTensor] | None = None) -> None:
        self._write(self.base_model, self.base, copied)

    def _write(
        self, model: GGUFModel, path: Path, copied: Mapping[str, CopiedTensor] | None
    ) -> None:
        write_quantized(
            model, path, self.plan.settings.quantization,
            threads=self.plan.threads, matrix=self.matrix, matrix_file=self.plan.imatrix.name,
            copied=copied, overrides=self.overrides, digests=self.written.setdefault(path, {}),
        )  # fmt: skip

    def verify(self, measured: Measured) -> Verdict:
        """Run all checks; `measured` may bring the reference along."""
        plan = self.plan
        candidate = Candidate(
            self.tuned, self.tuned_model, plan.run.adapter, plan.run.held_out, self.base,
            self.base_model, self.importance, self.checkpoint, self.f16, plan.run.thoughts,
            self.overrides, plan.recorded, self.written,
        )  # fmt: skip
        checks, sample = verify(candidate, plan.settings, measured)
        return Verdict(checks, sample, measured)
