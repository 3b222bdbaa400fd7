"""Training on several GPUs starts itself: torchrun's launcher starts a process for each of them."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tuneserve.child import own_module
from tuneserve.console import say
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.finetune.runtime.processes import is_launched
from tuneserve.hosts import Host
from tuneserve.settings import ALL_GPUS

_STOPPED = 130
_JOIN_SECONDS = 900
_MEETING_HINT = "Give all of them --rendezvous HOST:PORT, a free port of the first machine."
_STOP_SECONDS = 600  # for the step at hand and its checkpoint


@dataclass(frozen=True)
class Machines:
    """Of how many machines this one is which (from 0), and where they meet: HOST:PORT of the first
    of them."""

    count: int = 1
    number: int = 0
    meeting: str = ""

    def __post_init__(self) -> None:
        if self.count == 1 and (self.number or self.meeting):
            raise UsageError("there is but one machine", hint="Add --nodes N.")
        if self.count > 1 and not self.meeting:
            raise UsageError(
                f"{self.count} machines need a place where they meet", where="--rendezvous",
                hint=_MEETING_HINT,
            )  # fmt: skip
        if self.count > 1:
            _check_meeting(self.meeting)
        if not 0 <= self.number < self.count:
            raise UsageError(f"{self.number} is none of 0 to {self.count - 1}", where="--node-rank")


def _check_meeting(text: str) -> None:
    """Raise UsageError for what is no HOST:PORT: the launcher would try it for a quarter of an
    hour."""
    try:
        port = Host.parse(text).port
    except ValueError as error:
        raise UsageError(
            f"{error} (got {text!r})", where="--rendezvous", hint=_MEETING_HINT
        ) from None
    if not port:
        raise UsageError(
            f"a port is missing (got {text!r})", where="--rendezvous", hint=_MEETING_HINT
        )


def processes_wanted(gpus: int, machines: Machines) -> int:
    """How many processes have to be started on this machine; 0: this one trains by itself. `gpus`
    is train.gpus. Raises UsageError if there are fewer GPUs."""
    if is_launched() or (gpus == 1 and machines.count == 1):
        return 0
    import torch

    there = torch.cuda.device_count()
    if not there:
        if gpus == ALL_GPUS and machines.count == 1:
            return 0  # all of none: the CPU
        raise UsageError("torch sees no GPU here", where="train.gpus", hint="See tuneserve doctor.")
    if gpus > there:
        said = f"{there} GPUs are here" if there > 1 else "one GPU is here"
        raise UsageError(f"{said}, not {gpus}", where="train.gpus")
    wanted = there if gpus == ALL_GPUS else gpus
    return 0 if wanted * machines.count == 1 else wanted


def launch(arguments: Sequence[str], processes: int, machines: Machines) -> int:
    """Run `tuneserve` with these arguments in so many processes here, one for each GPU; returns the
    exit code. What stops this one stops them all, after the step at hand and with a checkpoint;
    where one of them fails the others are ended."""
    from torch.distributed.elastic.multiprocessing import api
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    say(f"{processes} processes here, as by: {as_torchrun(arguments, processes, machines)}")
    # The launcher tells by log and traceback what is told here in a line.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # One that waits for a dead one never ends its step, which is what SIGTERM asks for; files are
    # whole at every moment.
    api._get_default_signal = lambda: signal.SIGKILL
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_STOP_SECONDS))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    command = own_module("tuneserve", *arguments)
    try:
        elastic_launch(_configured(processes, machines), command[0])(*command[1:])
    except SignalException:
        return _STOPPED
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise TuneserveError(
                f"process {number} of the training was killed ({name}); the others were ended",
                hint="Run the same command again to go on from the last checkpoint.",
            ) from None
        return int(failure.exitcode)
    return 0


def _configured(processes: int, machines: Machines) -> Any:
    from torch.distributed.launcher.api import LaunchConfig

    alone = machines.count == 1
    return LaunchConfig(
        min_nodes=machines.count,
        max_nodes=machines.count,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex if alone else "tuneserve",
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint="localhost:0" if alone else machines.meeting,
        rdzv_configs={"rank": machines.number, "timeout": _JOIN_SECONDS},
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
        local_addr="localhost" if alone else None,
    )


def as_torchrun(arguments: Sequence[str], processes: int, machines: Machines) -> str:
    """The line that starts the same by torchrun."""
    line = ["torchrun", f"--nproc-per-node={processes}"]
    if machines.count == 1:
        line.append("--standalone")
    else:
        host, _, port = machines.meeting.rpartition(":")
        line += [f"--nnodes={machines.count}", f"--node-rank={machines.number}"]
        line += [f"--master-addr={host}", f"--master-port={port}"]
    return shlex.join([*line, "--no-python", "tuneserve", *arguments])
