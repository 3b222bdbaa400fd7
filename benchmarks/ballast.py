"""Make a large GPU a small one: a process of its own holds what a smaller card would not have.

Limiting torch alone is not the same: libraries that ask the driver how much memory is free, and
what CUDA itself takes, would still have the large card's room.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

GIB = 2**30
# Only the driver is needed, so it starts at once and takes nothing but its context.
_HOLD = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code:
        sys.exit(f"{name} failed with {code}")
device, context = ctypes.c_int(), ctypes.c_void_p()
call("cuInit", 0)
call("cuDeviceGet", ctypes.byref(device), 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
call("cuCtxSetCurrent", context)
free, total, block = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_uint64()
call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
call("cuMemAlloc_v2", ctypes.byref(block), ctypes.c_size_t(max(1, free.value - int(sys.argv[1]))))
print("held", flush=True)
sys.stdin.read()
"""


def free_bytes() -> int:
    """Memory free on the first GPU; taken without a context of our own."""
    command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout) * 2**20


class Card:
    """The GPU as it was when nothing ran on it. Make it before anything uses the GPU."""

    def __init__(self) -> None:
        self.free = free_bytes()

    @contextlib.contextmanager
    def of(self, gib: float) -> Iterator[None]:
        """While the block runs, everything but the ballast has `gib` GiB, what it holds by now
        and its CUDA contexts included."""
        in_use = self.free - free_bytes()
        left = int(gib * GIB) - in_use
        command = [sys.executable, "-c", _HOLD, str(left)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                if process.stdout is None or process.stdout.readline().strip() != "held":
                    raise RuntimeError("the ballast could not be taken")
                yield
            finally:
                process.kill()
