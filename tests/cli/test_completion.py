"""Tab in a shell: commands, options, values and runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import Runner

WORDS = {
    "tuneserve tr": ["train"],
    "tuneserve serve --run se": ["sentiment"],
    "tuneserve compare sentiment ": ["mine", "sentiment"],
    "tuneserve train --max-se": ["--max-seq-length"],
    "tuneserve train --precision b": ["bf16"],
    "tuneserve --vers": ["--version"],
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("sentiment", "mine"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("line", WORDS)
def test_what_tab_gives(tuneserve: Runner, home: Path, line: str) -> None:
    """What the shell's script asks the program for."""
    words = line.split(" ")
    env = {
        "_TUNESERVE_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = tuneserve(cwd=home, env=env)
    assert done.returncode == 0, done.stderr
    assert [given.split(",")[1] for given in done.stdout.split()] == WORDS[line]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_installed_where_shells_look(
    tuneserve: Runner, tmp_path: Path, shell: str
) -> None:
    places = {
        "bash": ".local/share/bash-completion/completions/tuneserve",
        "zsh": ".zfunc/_tuneserve",
        "fish": ".config/fish/completions/tuneserve.fish",
    }
    env = {
        "HOME": str(tmp_path),
        "SHELL": f"/bin/{shell}",
        "XDG_DATA_HOME": "",
        "XDG_CONFIG_HOME": "",
    }
    printed = tuneserve("completion", shell, env=env)
    for _ in range(2):  # its own earlier one is replaced
        done = tuneserve("completion", "--install", env=env)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / places[shell]).read_text() == printed.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(tmp_path / places[shell])], check=True)
    (tmp_path / places[shell]).write_text("# mine\n")
    done = tuneserve("completion", "--install", env=env)
    assert (done.returncode, "is not replaced" in done.stderr) == (2, True)


def test_a_shell_that_is_not_known_is_one_error(tuneserve: Runner) -> None:
    for env in ({"SHELL": "/bin/tcsh"}, {"SHELL": ""}):
        done = tuneserve("completion", env={**os.environ, **env})
        assert done.returncode == 2
        assert "tuneserve completion bash, zsh or fish" in done.stderr
