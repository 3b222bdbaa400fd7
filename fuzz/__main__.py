"""Run the targets: `python -m fuzz --seconds 60 [name …]`.

Each target runs in a process of its own, with atheris (coverage-guided; the extra `fuzz`) where it
is installed, else with the mutator of this folder. An input that breaks something is written to
fuzz/found/; put it into fuzz/corpus/NAME/ once it is mended, where tests read it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random

from fuzz.mutate import mutated
from fuzz.target import SECONDS, Target

FOLDER = Path(__file__).parent
FOUND, CORPUS = FOLDER / "found", FOLDER / "corpus"


def main() -> int:
    """Exit code 1 if an input broke something."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", help="targets; all without")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--own", action="store_true", help="the own mutator, not atheris")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else int(time.time())
    guided = not given.own and importlib.util.find_spec("atheris") is not None
    if given.inside:
        return (
            _run_guided(given.names[0], given.seconds, seed)
            if guided
            else _run_own(given.names[0], given.seconds, seed)
        )
    from fuzz.targets import TARGETS

    names = given.names or list(TARGETS)
    if unknown := set(names) - TARGETS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(TARGETS)}")
    engine = "atheris" if guided else "the own mutator (atheris is not installed)"
    print(f"seed {seed}, {given.seconds:g} s each, {engine}", flush=True)
    failed = [name for name in names if not _in_process(name, given, seed)]
    if failed:
        print(f"broken: {', '.join(failed)}; inputs in {FOUND}")
    return 1 if failed else 0


def _in_process(name: str, given: argparse.Namespace, seed: int) -> bool:
    """Run a target in a process of its own, which may die; what it says is shown if it fails."""
    command = [sys.executable, "-m", "fuzz", name, "--inside", "--seed", str(seed)]
    command += ["--seconds", str(given.seconds), *(["--own"] if given.own else [])]
    started = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=FOLDER.parent)
        try:
            code = process.wait(given.seconds + 20 * SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        log.seek(0)
        lines = log.read().decode(errors="replace").splitlines()
    last = next((line for line in lines[::-1] if " inputs" in line or "DONE" in line), "")
    print(f"{name}: {'ok' if not code else f'BROKEN ({code})'}, "
          f"{time.monotonic() - started:.0f} s. {last}", flush=True)  # fmt: skip
    if code:
        print("\n".join(lines[-40:]), flush=True)
    return not code


def corpus_of(target: Target) -> list[bytes]:
    """The good inputs, and those that once broke something."""
    kept = sorted((CORPUS / target.name).glob("*"))
    return [*target.seeds().values(), *(path.read_bytes() for path in kept)]


def keep(name: str, data: bytes) -> Path:
    """Write an input that broke something to fuzz/found/."""
    FOUND.mkdir(exist_ok=True)
    path = FOUND / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


def _run_own(name: str, seconds: float, seed: int) -> int:
    from fuzz.targets import TARGETS

    target, random = TARGETS[name], Random(seed)
    corpus = corpus_of(target)
    inputs = accepted = 0
    ends = time.monotonic() + seconds
    # The input at work lies in a file: the process may die of it.
    current = FOUND / f"{name}-last"
    FOUND.mkdir(exist_ok=True)
    while time.monotonic() < ends:
        data = mutated(random.choice(corpus), corpus, target.words, random)
        current.write_bytes(data)
        try:
            accepted += target.run(data)
        except Exception:
            traceback.print_exc()
            print(f"input: {keep(name, data)}")
            return 1
        inputs += 1
    current.unlink()
    print(f"{inputs} inputs, {accepted} accepted")
    return 0


def _run_guided(name: str, seconds: float, seed: int) -> int:
    import atheris

    with atheris.instrument_imports(include=["tuneserve", "jinja2"]):
        from fuzz.targets import TARGETS
    target = TARGETS[name]
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    for number, data in enumerate(corpus_of(target)):
        (folder / f"seed-{number}").write_bytes(data)
    (folder.with_suffix(".words")).write_text(
        "".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in target.words)
    )
    FOUND.mkdir(exist_ok=True)
    options = [
        f"-max_total_time={max(1, round(seconds))}", f"-seed={seed}", "-max_len=65536",
        f"-timeout={round(2 * SECONDS)}", "-rss_limit_mb=4096", f"-artifact_prefix={FOUND}/{name}-",
        f"-dict={folder.with_suffix('.words')}", "-print_final_stats=1",
    ]  # fmt: skip

    def once(data: bytes) -> None:
        target.run(data)

    atheris.Setup([sys.argv[0], *options, str(folder)], once)
    atheris.Fuzz()  # ends the process
    return 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
