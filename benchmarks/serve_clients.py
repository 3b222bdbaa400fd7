"""Real clients against one server: what of each works, with its version, in one table.

Each script in benchmarks/clients/ uses one library's own calls and asserts what a user of it would
look at: the shape of an answer, never a small model's wisdom. The libraries are installed into
environments of their own under --cache, once (about 9 GB with the torch that guidellm asks
for); some can't share one. The server runs
on the demo model or on --model, with a KV cache in which the largest catalogue of tools has room;
--url takes one that runs already.

    python benchmarks/serve_clients.py --model model.gguf --only try_openai.py --json result.json

Exit code 1 if a check failed. `make clients` runs all of it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from serve_peers import Peer, free_port, running

from tuneserve.base.resolve import demo_gguf
from tuneserve.base.tokenizer import write_tokenizer
from tuneserve.gguf.reader import GGUFFile

SCRIPTS = Path(__file__).resolve().parent / "clients"

ENVIRONMENTS = {
    "apis": [
        "openai.py", "litellm.py", "langchain.py", "pydantic_ai.py", "llm.py", "dspy.py",
        "smolagents.py", "openai_agents.py", "haystack.py", "outlines.py", "semantic_kernel.py",
        "inspect_ai.py", "anthropic.py", "mcp.py",
    ],
    "evals": ["llama_index.py", "instructor.py", "lm_eval.py"],
    "guidellm": ["guidellm.py"],
    "aider": ["aider.py"],
    "node": ["openai.mjs", "ai_sdk.mjs", "promptfoo.mjs"],
}  # fmt: skip
"""The scripts (after their `try_`) by the environment that has their libraries."""


@dataclass
class Check:
    """One line of a script's output."""

    client: str
    version: str
    check: str
    ok: bool
    reason: str
    seconds: float


class Environments:
    """Libraries under one folder, installed when their list of requirements is a new one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self, name: str) -> None:
        wanted = SCRIPTS / ("package.json" if name == "node" else f"requirements-{name}.txt")
        content = hashlib.sha256(wanted.read_bytes()).hexdigest()
        stamp = self.folder / name / "installed"
        if stamp.is_file() and stamp.read_text() == content:
            return
        print(f"installing {name} into {stamp.parent}", file=sys.stderr, flush=True)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        self._install_node(wanted) if name == "node" else self._install_python(name, wanted)
        stamp.write_text(content)

    def _install_python(self, name: str, wanted: Path) -> None:
        target = self.folder / name
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(target)], check=True)
        command = [self.program(name, ""), "-m", "pip", "install", "--quiet"]
        subprocess.run([*command, "--requirement", str(wanted)], check=True)

    def _install_node(self, wanted: Path) -> None:
        target = self.folder / "node"
        (target / "package.json").write_bytes(wanted.read_bytes())
        command = ["npm", "install", "--no-audit", "--no-fund", "--omit=optional", "--silent"]
        subprocess.run(command, cwd=target, check=True)
        # promptfoo's database is an optional package; all the optional ones take 1.7 GB.
        database = json.loads((target / "node_modules/libsql/package.json").read_text())
        native = f"@libsql/linux-{'arm64' if platform.machine() == 'aarch64' else 'x64'}-gnu"
        package = f"{native}@{database['optionalDependencies'][native]}"
        subprocess.run([*command, "--no-save", package], cwd=target, check=True)

    def program(self, name: str, script: str) -> str:
        return "node" if script.endswith(".mjs") else str(self.folder / name / "bin" / "python")


def run_script(
    script: str, name: str, environments: Environments, variables: dict[str, str], seconds: int
) -> list[Check]:
    """The checks of one script. One that breaks off counts as a failed check."""
    path = SCRIPTS / f"try_{script}"
    environment = {
        **os.environ,
        **variables,
        "PATH": f"{environments.folder / name / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    try:
        done = subprocess.run(
            [environments.program(name, script), str(path)],
            env=environment, capture_output=True, text=True, timeout=seconds,
        )  # fmt: skip
        output, problem = done.stdout, done.stderr.strip().rpartition("\n")[2]
    except subprocess.TimeoutExpired as error:
        given = error.stdout or b""
        output = given.decode() if isinstance(given, bytes) else given
        problem = f"no end within {seconds} s"
    found = [Check(**json.loads(line)) for line in output.splitlines() if line.startswith("{")]
    if not found or problem.startswith("no end"):
        client = found[0].client if found else Path(script).stem
        version = found[0].version if found else ""
        found.append(Check(client, version, "the script", False, problem[:300], seconds))
    return found


@contextlib.contextmanager
def server(arguments: argparse.Namespace) -> Iterator[str]:
    """Its address, while it runs."""
    if arguments.url:
        yield arguments.url.rstrip("/").removesuffix("/v1")
        return
    port = free_port()
    command = [
        sys.executable, "-m", "tuneserve", "serve", str(arguments.model), "--port", str(port),
        "--ctx", str(arguments.ctx), "--slots", "4", "--embeddings",
        "--batch-dir", str(arguments.cache / "batches"),
    ]  # fmt: skip
    with running(Peer("tuneserve", command, port), arguments.cache / "server.log"):
        yield f"http://127.0.0.1:{port}"


def first_model(url: str) -> str:
    with urllib.request.urlopen(f"{url}/v1/models", timeout=30) as answer:
        return str(json.load(answer)["data"][0]["id"])


def write_tokenizer_of(model: Path, target: Path) -> None:
    """The model's tokenizer as Hugging Face's libraries read it: lm-eval and guidellm count with
    it."""
    target.mkdir(parents=True, exist_ok=True)
    write_tokenizer(GGUFFile(model), target)


def table(checks: list[Check]) -> str:
    """Markdown: a row for each client, its failed checks with their reasons below."""
    clients: dict[str, list[Check]] = {}
    for check in checks:
        clients.setdefault(check.client, []).append(check)
    lines = ["| client | version | works | fails |", "| --- | --- | --- | --- |"]
    for client, found in sorted(clients.items()):
        works = ", ".join(check.check for check in found if check.ok)
        fails = ", ".join(check.check for check in found if not check.ok)
        lines.append(f"| {client} | {found[0].version} | {works} | {fails} |")
    failed = [check for check in checks if not check.ok]
    lines += ["", f"{len(checks) - len(failed)} of {len(checks)} checks passed."]
    lines += [f"- {check.client}, {check.check}: {check.reason}" for check in failed]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--model", type=Path, help="GGUF to serve (default: the demo model)")
    given.add_argument("--url", help="server that runs already")
    parser.add_argument("--tokenizer", type=Path, help="GGUF of the model behind --url")
    parser.add_argument("--only", nargs="+", metavar="SCRIPT", help="as try_openai.py")
    parser.add_argument("--cache", type=Path, default=Path(".cache/clients").resolve())
    parser.add_argument("--ctx", type=int, default=65536)
    parser.add_argument("--seconds", type=int, default=900, help="longest time of a script")
    parser.add_argument("--json", type=Path, help="write the checks to this file")
    arguments = parser.parse_args()
    if not arguments.model and not arguments.url:
        arguments.model = demo_gguf()
    return arguments


def main() -> int:
    arguments = parse()
    arguments.cache = arguments.cache.resolve()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    wanted = {name.removeprefix("try_") for name in arguments.only or []}
    chosen = [
        (name, script)
        for name, scripts in ENVIRONMENTS.items()
        for script in scripts
        if not wanted or script in wanted
    ]
    environments = Environments(arguments.cache)
    for name in dict.fromkeys(name for name, _ in chosen):
        environments.prepare(name)
    tokenizer = arguments.cache / "tokenizer"
    write_tokenizer_of(arguments.model or arguments.tokenizer or demo_gguf(), tokenizer)
    checks: list[Check] = []
    with server(arguments) as url:
        variables = {
            "TUNESERVE_URL": url,
            "TUNESERVE_MODEL": first_model(url),
            "TUNESERVE_NODE": str(arguments.cache / "node"),
            "TUNESERVE_TOKENIZER": str(tokenizer),
        }
        for name, script in chosen:
            print(f"{script} …", file=sys.stderr, flush=True)
            checks += run_script(script, name, environments, variables, arguments.seconds)
            (arguments.cache / "clients.md").write_text(f"{table(checks)}\n")
            if arguments.json:
                arguments.json.write_text(json.dumps([asdict(c) for c in checks], indent=1))
    print(table(checks))
    return 0 if all(check.ok for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
