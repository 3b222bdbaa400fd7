"""The training libraries: imported in the right order, without their output, offline.

Unsloth patches torch, transformers, TRL and PEFT, so it has to be imported before them, and it
writes the modules it compiles into the working directory unless told where else.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneserve.errors import TuneserveError, UsageError
from tuneserve.files import cache_directory
from tuneserve.finetune.runtime.processes import local_rank
from tuneserve.finetune.runtime.shards import prepare_dividing
from tuneserve.in_use import use
from tuneserve.settings import TrainSettings

FIRST_ON_CPU = (2026, 10, 8)
"""The first release of Unsloth that trains without a GPU."""

_PINNED = Path(__file__).with_name("unsloth.txt")

_NVIDIA = Path("/dev/nvidiactl")
_DRIVERS = (_NVIDIA, Path("/dev/nvmap"), Path("/dev/dxg"), Path("/dev/kfd"))
"""What drivers make: NVIDIA's on a PC and on a Jetson, that of WSL, AMD's."""

_CHATTY_LOGGERS = (
    "transformers", "datasets", "trl", "peft", "accelerate", "unsloth", "bitsandbytes",
)  # fmt: skip


def unsloth_command() -> str:
    """The command that installs the release of Unsloth that this package is tested with."""
    lines = _PINNED.read_text(encoding="utf-8").splitlines()
    return " ".join(["pip install --no-deps", *(line for line in lines if line[:1] != "#")])


class _Nowhere(io.TextIOBase):
    """A stream that drops what is written. Loggers made meanwhile hold it: it is never closed."""

    def write(self, text: str) -> int:
        return len(text)

    def writable(self) -> bool:
        return True


@contextlib.contextmanager
def quiet(*, errors_too: bool = False) -> Iterator[None]:
    """Keep what libraries print off stdout; with `errors_too` off stderr as well."""
    sink = _Nowhere()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sink))
        if errors_too:
            stack.enter_context(contextlib.redirect_stderr(sink))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class Runtime:
    """The imported training libraries and what the hardware can do.

    `device` is 'cuda' or 'cpu'; `precision` 'bf16', 'fp16' or 'fp32' is what training computes in.
    """

    fast_model: Any
    torch: Any
    device: str
    precision: str

    @property
    def dtype(self) -> Any:
        """torch dtype of the frozen base weights."""
        names = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
        return getattr(self.torch, names[self.precision])


def load_runtime(precision: str = "auto", *, divided: bool = False) -> Runtime:
    """Import Unsloth and torch. `precision` 'auto' takes bf16 where the hardware computes in it;
    `divided`: the base is to be divided among the processes.

    Raises TuneserveError if Unsloth can't run on this machine.
    """
    _set_environment()
    if divided:
        prepare_dividing()
    fast_model, torch = _import_unsloth()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Runtime(fast_model, torch, device, _choose_precision(precision, device))


def check_hardware(runtime: Runtime, settings: TrainSettings) -> None:
    """Raise UsageError for settings that this hardware can't honour: Unsloth would quietly take
    others instead."""
    import unsloth

    if settings.precision == "bf16" and not unsloth.is_bfloat16_supported():
        raise UsageError("this hardware does not compute in bf16", where="train.precision")
    check_device(runtime.device, settings)


def may_have_gpu() -> bool:
    """Is there the driver of a GPU that training could run on? Without one torch finds none, and
    need not be imported to know."""
    return any(driver.exists() for driver in _DRIVERS)


def has_gpu() -> bool:
    """Is there a GPU that training could run on? Without torch: one whose driver is there."""
    if importlib.util.find_spec("torch") is None:
        return _NVIDIA.exists()
    if not may_have_gpu():
        return False
    import torch

    return torch.cuda.is_available()


def check_device(device: str, settings: TrainSettings) -> None:
    """Raise UsageError for settings that no device of this kind ('cuda' or 'cpu') can honour."""
    on_cpu = device == "cpu"
    if settings.precision == "fp16" and on_cpu:
        raise UsageError("fp16 needs a GPU; a CPU takes bf16 or fp32", where="train.precision")
    if settings.optimizer == "adamw_8bit" and on_cpu:
        raise UsageError("the 8-bit optimizer needs a GPU", where="train.optimizer")


def value_bytes(precision: str, device: str) -> int:
    """Size of a value that training computes in, told without torch; `precision` may be 'auto'."""
    if precision == "auto" and device == "cpu":
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
        return 2 if {"amx_bf16", "avx512_bf16"} & {*flags} else 4  # as Unsloth chooses
    return 4 if precision == "fp32" else 2


def peak_memory() -> dict[str, int]:
    """Largest memory use of this process so far, in bytes: resident, and on the GPU if any."""
    status = Path("/proc/self/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    peak = {"resident_bytes": int(kilobytes) * 1024}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak["gpu_bytes"] = int(torch.cuda.max_memory_reserved())
    return peak


def memory_in_use() -> int:
    """Bytes on the GPU that torch holds, or resident memory where it trains on a CPU."""
    torch = sys.modules["torch"]
    if torch.cuda.is_available():
        return int(torch.cuda.memory_reserved())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def limit_memory(runtime: Runtime, vram: float) -> None:
    """Let torch take no more than `vram` GiB of this process's GPU (0: all of it)."""
    if runtime.device == "cuda" and vram:
        gpu = local_rank()
        total = runtime.torch.cuda.get_device_properties(gpu).total_memory
        runtime.torch.cuda.set_per_process_memory_fraction(min(1.0, vram * 2**30 / total), gpu)


def free_memory(runtime: Runtime) -> None:
    """Give back what is no longer used, and forget the peak so far."""
    gc.collect()
    if runtime.device == "cuda":
        runtime.torch.cuda.empty_cache()
        runtime.torch.cuda.reset_peak_memory_stats()


def _set_environment() -> None:
    compiled = cache_directory() / "unsloth_compiled"
    compiled.mkdir(parents=True, exist_ok=True)
    use(compiled)
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(compiled))
    # A download from the hub that only counts users.
    os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # The base is on this machine by now (tuneserve.base): nothing is looked up any more.
    os.environ["HF_HUB_OFFLINE"] = "1"


def _import_unsloth() -> tuple[Any, Any]:
    with quiet(errors_too=True):
        try:
            import unsloth
            import torch  # isort: skip
        except (ImportError, NotImplementedError, RuntimeError) as error:
            raise TuneserveError(
                f"Unsloth can't be used here: {error}",
                hint=f"Without a GPU it takes unsloth {'.'.join(map(str, FIRST_ON_CPU))} or newer; "
                "`tuneserve doctor` says what is installed.",
            ) from error
        import datasets
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        datasets.disable_progress_bars()
    for name in _CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    return unsloth.FastLanguageModel, torch


def _choose_precision(wanted: str, device: str) -> str:
    import unsloth

    if wanted != "auto":
        return wanted
    if unsloth.is_bfloat16_supported():
        return "bf16"
    # GPUs before Ampere have half-precision units for fp16 only.
    return "fp16" if device == "cuda" else "fp32"
