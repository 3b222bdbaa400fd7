"""Train two steps of several bases, in a process of its own; print what came of each as JSON.

    python families.py BASE...

A step has all of variants.py's examples, in fp32, each computed apart and with shared beginnings.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.finetune.training.variants import EXAMPLES, losses


def main(bases: list[Path]) -> None:
    from tuneserve.finetune.runtime.libraries import load_runtime
    from tuneserve.finetune.training.prefix_sharing import CannotShareError

    runtime = load_runtime("fp32")
    given = {"batch_size": EXAMPLES, "max_steps": 2}
    found = {}
    for base in bases:
        apart = losses(runtime, base, given)["losses"]
        try:
            shared = losses(runtime, base, {**given, "prefix_sharing": "true"})
        except CannotShareError as error:
            shared = {"losses": None, "difference": str(error)}
        found[str(base)] = {
            "apart": apart, "shared": shared["losses"], "difference": shared["difference"],
        }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
