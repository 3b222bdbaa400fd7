"""What a regular expression captures, in a process of its own: one JSON object a line in, one out.

Started as a script, with the standard library alone: the pattern is the argument. Each line in,
{"answer", "reference"}, is answered by what is captured in both, or by {"failed"}.
"""

from __future__ import annotations

import json
import re
import sys

_MOST = 64
"""Different captures that are told; whether there is more than one is all that is asked."""


def main() -> None:
    compiled = re.compile(sys.argv[1])
    group = 1 if compiled.groups else 0

    def captured(text: str) -> list[str]:
        """Different captures, the last one first."""
        different: dict[str, None] = {}
        for match in compiled.finditer(text):
            found = match.group(group) or ""
            different.pop(found, None)
            different[found] = None
        return list(different)[: -_MOST - 1 : -1]

    print("{}", flush=True)
    for line in sys.stdin:
        try:
            reply = {name: captured(text) for name, text in json.loads(line).items()}
        except Exception as error:
            print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), flush=True)
            continue
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
