"""Train two steps of several bases, in a process of its own; print each one's losses as JSON.

    python families.py BASE...

A step has all of variants.py's examples, in fp32.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.finetune.training.variants import EXAMPLES, losses


def main(bases: list[Path]) -> None:
    from tuneserve.finetune.runtime.libraries import load_runtime

    runtime = load_runtime("fp32")
    given = {"batch_size": EXAMPLES, "max_steps": 2}
    print(json.dumps({str(base): losses(runtime, base, given)["losses"] for base in bases}))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
