"""Every stage failed at its failpoints, in five ways, and run again: is the result the same?

    python benchmarks/kill_matrix.py [--stages train,convert] [--every 5] [--seconds 60]

A stage is killed, told of a full or broken disk, or cut off from power at each failpoint that it
passes (--every N: at each N-th), then the same command is given again. What a kill or a power cut
leaves at each point is taken from one run, and remains that are equal are tried once; errors of the
disk are tried at each place in the code, the first and the last time that it is passed
(--all-errors: each time). "equal": the files or
figures are those of a stage that nothing happened to. "recovered": only after --force. Models are
tiny and random; training, conversion and benchmark are the real ones. The proof of an import and
the check before a training (processes of their own, which write nothing that stays) are left out.
Takes minutes for each stage. Exit code 1: something was not equal, or stayed behind half-written.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork has no threads of its parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.fault_stages import BATCHES, DATA, EXPORT, JOURNAL, RUN_RECORD, SPLIT
from tests.faults import WAYS, Stage, counted, run_forked, try_stage
from tuneserve.cli import main as tuneserve
from tuneserve.files import sha256_file
from tuneserve.run import RunDirectory

LIGHT = (DATA, RUN_RECORD, SPLIT, JOURNAL, BATCHES, EXPORT)
RUN = Path("runs") / "a"
KIND = "Q8_0"
TRAIN = (
    "train", "--run", "a", "--file", "colours.jsonl", "--compile", "false", "--max-seq-length",
    "64", "--r", "4", "--batch-size", "2", "--max-steps", "3", "--evaluations", "1",
    "--test-fraction", "0.3", "--eval-fraction", "0.3", "--checkpoint-minutes", "1e-6",
    "--near-duplicates", "1", "--no-preflight",
)  # fmt: skip
CONVERT = ("convert", "--run", "a", "--quantization", KIND)
BENCH = (
    "bench", "--run", "a", "--general", "0", "--max-tokens", "4", "--ctx", "128", "--parallel", "2",
    "--clients", "1", "--speed-repetitions", "2", "--bootstrap", "1000",
    "--cache-type-k", "f16", "--cache-type-v", "f16", "--rescore",
)  # fmt: skip


def call(*arguments: str) -> Callable[[], None]:
    """The command as a user gives it."""
    return lambda: tuneserve(list(arguments))


def hashes(folder: Path, *inner: str) -> dict[str, str]:
    """SHA-256 of the files in folders of the run."""
    found = [path for name in inner for path in (folder / RUN / name).rglob("*")]
    return {str(path.relative_to(folder)): sha256_file(path) for path in found if path.is_file()}


def trained(folder: Path) -> Any:
    """Adapter and split, byte for byte, and the steps."""
    result = RunDirectory(folder / RUN).read().stages["train"].result
    steps = {name: result["steps"][name] for name in ("planned", "done", "best")}
    return hashes(folder, "adapter", "data"), steps, result["losses"]["eval"]


def converted(folder: Path) -> Any:
    """The GGUFs, byte for byte, and what was verified of them."""
    result = RunDirectory(folder / RUN).read().stages["convert"].result
    made = {name: digest for name, digest in hashes(folder, "gguf").items() if "gguf" in name[-5:]}
    return made, [check["passed"] for check in result["verification"]], result["tuned"]["sha256"]


def measured(folder: Path) -> Any:
    """The answers and the scores."""
    rows = (folder / RUN / "bench" / "answers.jsonl").read_text().splitlines()
    result = RunDirectory(folder / RUN).read().stages["bench"].result
    answers = [
        {name: part.get("text") for name, part in json.loads(row).items() if isinstance(part, dict)}
        for row in rows
    ]
    return answers, result.get("accuracy"), result.get("perplexity")


class Workshop:
    """The models, and the folders that stages begin with: each is what the stages before made."""

    def __init__(self, root: Path) -> None:
        self.root, self.base = root, root / "base"
        self._made: dict[str, Path] = {}

    def make_base(self) -> None:
        from tests.finetune.training.variants import make_small
        from tuneserve.base import resolve_base

        self.base.mkdir()
        make_small(resolve_base("demo").path, self.base)

    def start(self, *commands: tuple[str, ...]) -> Path:
        """A folder in which these commands were done."""
        name = "+".join(command[0] for command in commands) or "nothing"
        if name not in self._made:
            folder = self.root / name
            if commands:
                shutil.copytree(self.start(*commands[:-1]), folder)
                status, said = run_forked(call(*commands[-1]), folder, None, self.root / "log")
                assert status == 0, said
            else:
                folder.mkdir()
                rows = [{"instruction": f"Number {n}?", "output": "red" * (n % 3 + 1)}
                        for n in range(16)]  # fmt: skip
                lines = [json.dumps(row) + "\n" for row in rows]
                (folder / "colours.jsonl").write_text("".join(lines))
            self._made[name] = folder
        return self._made[name]

    def stage(
        self,
        name: str,
        before: tuple[tuple[str, ...], ...],
        command: tuple[str, ...],
        result: Callable[[Path], Any],
        *repeat: str,
    ) -> Stage:
        """`repeat`: options that the command is given, so that it can be given again."""

        def prepare(folder: Path) -> None:
            shutil.copytree(self.start(*before), folder, dirs_exist_ok=True)

        return Stage(
            name, prepare, call(*command, *repeat), result, forced=call(*command, "--force")
        )


def stages_of(shop: Workshop) -> dict[str, Stage]:
    """All stages by name."""
    train = (*TRAIN, "--base", str(shop.base))
    other = (*train, "--seed", "5")

    def imported(folder: Path) -> Any:
        return {path.name: sha256_file(path) for path in (folder / "model").iterdir()}

    gguf = str(RUN / "gguf" / f"base-{KIND}.gguf")
    found = [
        *LIGHT,
        shop.stage("train", (), train, trained, "--skip-done"),
        shop.stage("train --force", (other,), train, trained, "--force"),
        shop.stage("convert", (train,), CONVERT, converted, "--skip-done"),
        shop.stage("convert --force", (train, CONVERT), CONVERT, converted, "--force"),
        shop.stage("bench", (train, CONVERT), BENCH, measured),
        shop.stage("import", (train, CONVERT), ("import", gguf, "model"), imported, "--force"),
    ]  # fmt: skip
    return {stage.name: stage for stage in found}


def import_ahead(names: list[str]) -> None:
    """What the forks would otherwise import, each by itself."""
    import gguf  # noqa: F401
    import llama_cpp  # noqa: F401

    if any(name.startswith("train") for name in names):
        from tuneserve.finetune.runtime.libraries import load_runtime

        load_runtime("fp32")
    from transformers import AutoConfig, AutoTokenizer  # noqa: F401

    # A process of its own, which takes seconds and leaves nothing.
    module: Any = importlib.import_module("tuneserve.base.import_gguf")
    module.check_imported = lambda *_: None


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", default="", help="names, with commas (default: all)")
    parser.add_argument("--every", type=int, default=1, help="each N-th failpoint")
    parser.add_argument(
        "--seconds", type=float, default=math.inf,
        help="for each stage: as many trials, drawn by chance, as there is time for",
    )  # fmt: skip
    parser.add_argument(
        "--all-errors", action="store_true",
        help="errors of the disk at each point, not the first and last time of each place",
    )  # fmt: skip
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    return parser.parse_args()


def run() -> int:
    options = parse()
    ways = options.ways.split(",")
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        shop = Workshop(Path(folder))
        stages = stages_of(shop)
        names = options.stages.split(",") if options.stages else list(stages)
        if not {stage.name for stage in LIGHT}.issuperset(names):
            import_ahead(names)
            shop.make_base()
        table, problems = {}, []
        for name in names:
            began = time.monotonic()
            scratch = shop.root / "trials" / name
            found = try_stage(
                stages[name], scratch, ways, options.every, options.seconds, told=print,
                errors_at_places=not options.all_errors,
            )  # fmt: skip
            shutil.rmtree(scratch)
            seconds = time.monotonic() - began
            points, trials = len(found.points), found.trials
            print(
                f"{name}: {points} failpoints, {trials} of {found.planned} trials "
                f"in {seconds:.0f} s"
            )
            print("\n".join(f"  {line}" for line in counted(found, ways)), flush=True)
            table[name] = {
                "failpoints": points, "trials": trials, "seconds": round(seconds, 1),
                "outcomes": {f"{way}: {end}": n for (way, end), n in found.outcomes.items()},
                "points": found.points,
            }  # fmt: skip
            problems += found.problems
    if options.json:
        options.json.write_text(json.dumps({"stages": table, "problems": problems}, indent=1))
    return bool(problems)


if __name__ == "__main__":
    sys.exit(run())
