"""The check of a conversion in a process of its own.

It takes transformers, which a training must not import before Unsloth, and llama.cpp, which may end
its process over a vocabulary that it can't take.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from tuneserve.base import ResolvedBase, hub_config, is_hub_id
from tuneserve.chat.examples import Example
from tuneserve.child import own_module, run_child
from tuneserve.console import human_seconds, say, waiting
from tuneserve.convert.preflight.untrainable import UntrainableError
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.extras import missing_packages
from tuneserve.findings import Finding
from tuneserve.finetune.data.reading import raise_problems
from tuneserve.settings import Recipe

EXAMPLES = 200
# Nothing is fetched, no GPU is taken, and transformers is not to speak of its own parallelism.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip


def check_apart(
    recipe: Recipe,
    base: ResolvedBase,
    examples: Sequence[Example],
    *,
    place: Path,
    quantizes: bool = True,
) -> list[Finding]:
    """`check_conversion` with EXAMPLES of the examples, from the first to the last, in another
    process."""
    return _asked(recipe, base, _sample(examples), place=place, quantizes=quantizes, trains=False)


def _asked(
    recipe: Recipe,
    base: ResolvedBase,
    sample: Sequence[Example],
    *,
    place: Path,
    quantizes: bool,
    trains: bool,
) -> list[Finding]:
    if missing := missing_packages("convert"):
        return [
            Finding(
                "conversion", "note", f"not checked; not installed: {', '.join(missing)}",
                "pip install 'tuneserve[convert]'",
            )
        ]  # fmt: skip
    other = recipe.convert.merge_base
    if other and is_hub_id(other):
        # Here, for the other process fetches nothing; it tells what is missing then.
        with suppress(TuneserveError):
            hub_config(other, setting="convert.merge_base")
    request = {
        # What nobody set stays so: max_seq_length follows the base then.
        "recipe": recipe.model_dump(mode="json", exclude_unset=True),
        "base": {"path": str(base.path), "name": base.name, "spec": base.spec},
        "examples": [[example.to_row(), example.where] for example in sample],
        "place": str(place),
        "quantizes": quantizes,
        "trains": trains,
    }
    try:
        with waiting("checking that this base can be converted"):
            told = run_child(
                own_module("tuneserve.convert.preflight"), what="its check",
                stdin=json.dumps(request), env=_ENVIRONMENT,
            )  # fmt: skip
    except TuneserveError as error:
        return [Finding("conversion", "refused", error.render().replace("\n", " "))]
    answer = json.loads(told)
    if "untrainable" in answer:
        raise UntrainableError("examples can't be trained on", problems=answer["untrainable"])
    return [Finding(**one) for one in answer["findings"]]


def _sample(examples: Sequence[Example]) -> Sequence[Example]:
    return examples[:: max(1, len(examples) // EXAMPLES)][:EXAMPLES]


def require_convertible(
    recipe: Recipe,
    base: ResolvedBase,
    examples: Sequence[Example],
    *,
    place: Path,
    quantizes: bool = True,
) -> None:
    """Tell what stands in the way of a conversion. Raises UsageError if something would fail it,
    and for those of EXAMPLES of the examples that a training would refuse.

    `recipe.convert.preflight` off: nothing is checked; not `quantizes`: a small base is not
    quantized as a whole.
    """
    if not recipe.convert.preflight:
        return
    started, sample = time.monotonic(), _sample(examples)
    try:
        findings = _asked(recipe, base, sample, place=place, quantizes=quantizes, trains=True)
    except UntrainableError as error:
        _raise_untrainable(error.problems, recipe, base, looked_at=len(sample), of=len(examples))
    for finding in findings:
        if finding.status == "note":
            say(f"note: {finding.name}: {finding.found}. {finding.advice}".rstrip())
    refuse(findings, base.spec)
    passed = sum(finding.status == "ok" for finding in findings)
    seconds = human_seconds(time.monotonic() - started)
    say(f"the conversion can be done: {passed} of {len(findings)} checks without a note, {seconds}")


def _raise_untrainable(
    problems: Sequence[str], recipe: Recipe, base: ResolvedBase, *, looked_at: int, of: int
) -> NoReturn:
    try:
        raise_problems(problems, looked_at, where=str(recipe.data.file), what="trained on")
    except UsageError as error:
        if looked_at < of:
            error.hint += (
                f" Of {of:,} examples {looked_at:,} were looked at; all that is wrong: tuneserve "
                f"data check --base {shlex.quote(base.spec)}, with this recipe."
            )
        raise
    raise AssertionError("an answer without problems")


def refuse(findings: Sequence[Finding], where: str) -> None:
    """Raise UsageError with those that are 'refused', if there are any."""
    refused = [finding for finding in findings if finding.status == "refused"]
    if refused:
        raise UsageError(
            "what is trained here can't be converted to a GGUF",
            where=where,
            problems=[
                line
                for finding in refused
                for line in (f"{finding.name}: {finding.found}", f"  {finding.advice}")
                if line.strip()
            ],
            hint="To train without a conversion: --no-preflight (convert.preflight = false).",
        )
