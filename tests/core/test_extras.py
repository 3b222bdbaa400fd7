"""Packages that are installed and not needed."""

from __future__ import annotations

import subprocess
import sys

from tests.support import ROOT


def test_what_is_left_out_is_missing_to_others() -> None:
    """As transformers asks, which would import it where it is found."""
    script = (
        "import importlib.util, sys\n"
        "import json\n"
        "from tuneserve.extras import leave_out\n"
        "leave_out('wave', 'json')\n"
        "print(importlib.util.find_spec('wave'), json is sys.modules['json'])\n"
        "import wave\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stdout.strip() == "None True"
    assert "ModuleNotFoundError: import of wave halted" in done.stderr
