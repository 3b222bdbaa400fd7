"""How a child of tuneserve.child begins: it gets its limits, then runs its module or its script.

It is run as a file, with the standard library alone. Arguments: the process that it ends with, or
0; its limits as JSON, by their names; a folder to find modules in, nothing, or '-'; the module, the
script's path, or the program that takes this one's place; its own arguments.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import runpy
import sys
from collections.abc import Mapping

_KINDS = {
    "memory": resource.RLIMIT_AS,  # bytes of address space
    "processor": resource.RLIMIT_CPU,  # seconds
    "files": resource.RLIMIT_NOFILE,  # open at once
    "written": resource.RLIMIT_FSIZE,  # bytes of a file
    "core": resource.RLIMIT_CORE,  # bytes of memory written to disk when it is ended
}


def limit(most: Mapping[str, int]) -> None:
    """Limit this process from now on; a limit that it has already is not raised."""
    for name, value in most.items():
        hard = resource.getrlimit(_KINDS[name])[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(_KINDS[name], (value, value))


def _end_with(parent: int) -> None:
    """Let the kernel (Linux) end this process when the thread ends that has started it."""
    # PR_SET_PDEATHSIG of linux/prctl.h; a parent that has ended before is another one by then.
    if prctl := getattr(ctypes.CDLL(None), "prctl", None):
        prctl(1, 9)
        if os.getppid() != parent:
            os._exit(1)


def _main() -> None:
    parent, most, folder, what = (sys.argv.pop(1) for _ in range(4))
    if int(parent):
        _end_with(int(parent))
    limit(json.loads(most))
    if folder == "-":
        os.execvp(what, [what, *sys.argv[1:]])  # noqa: S606 - no shell
    if folder:
        sys.path.insert(0, folder)
        runpy.run_module(what, run_name="__main__", alter_sys=False)
    else:
        runpy.run_path(what, run_name="__main__")


if __name__ == "__main__":
    _main()
