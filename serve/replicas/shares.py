"""What of the machine each replica has: GPUs, threads.

Run as a module it prints how many GPUs llama.cpp finds. Asking takes memory of each of them for as
long as the process lives, so the supervisor asks in another one.
"""

from __future__ import annotations

from collections.abc import Mapping

from tuneserve.child import own_module, run_child
from tuneserve.console import print_json
from tuneserve.errors import UsageError
from tuneserve.llama import free_gpu_memory, physical_cores
from tuneserve.settings import EACH_GPU, ServeSettings

VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES")
"""Variables by which llama.cpp's backends are told which GPUs they see, in this order."""


def count_gpus() -> int:
    """GPUs of this machine that llama.cpp can use."""
    return int(run_child(own_module(__name__), what="the search for GPUs"))


def wanted_replicas(settings: ServeSettings, gpus: int) -> int:
    """How many replicas there are to be, on so many `gpus`. Raises UsageError if there are fewer
    GPUs than replicas."""
    if settings.replicas == EACH_GPU:
        return max(1, gpus)
    if 0 < gpus < settings.replicas:
        raise UsageError(
            f"{gpus} of {settings.replicas} replicas would have a GPU", where="serve.replicas",
            hint="--replicas auto starts one for each; --gpu-layers 0 computes on the CPU.",
        )  # fmt: skip
    return settings.replicas


def gpu_environment(
    number: int, replicas: int, gpus: int, given: Mapping[str, str]
) -> dict[str, str]:
    """Variables that show a replica (from 1) its own GPUs, of those that `given` variables show
    this process."""
    share = range((number - 1) * gpus // replicas, number * gpus // replicas)
    shown: dict[str, str] = {}
    for name in VISIBLE if gpus else ():
        visible = [one.strip() for one in given.get(name, "").split(",") if one.strip()]
        # As many as were found, or it is not this variable that these GPUs go by.
        names = visible if len(visible) == gpus else [str(index) for index in range(gpus)]
        shown[name] = ",".join(names[index] for index in share)
    return shown


def threads_of_each(settings: ServeSettings, replicas: int) -> int:
    return max(1, (settings.threads or physical_cores()) // replicas)


if __name__ == "__main__":
    print_json(len(free_gpu_memory()))
