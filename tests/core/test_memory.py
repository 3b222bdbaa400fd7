"""Main memory, and what of it a control group leaves to the process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import ROOT
from tuneserve.cli import diagnose as doctor
from tuneserve.cores import allowed_cores
from tuneserve.errors import TuneserveError
from tuneserve.memory import GIB, MainMemory, main_memory

V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"


def machine(root: Path, *, total: int = 64, free: int = 50, groups: str | None = None) -> Path:
    """A root directory whose machine has `total` GiB, and swap that must not count."""
    (root / "proc/self").mkdir(parents=True)
    kilobytes = {"MemTotal": total, "MemFree": 1, "MemAvailable": free, "SwapFree": 99}
    lines = [f"{name}:{gib * GIB // 1024:>15} kB\n" for name, gib in kilobytes.items()]
    (root / "proc/meminfo").write_text("".join(lines) + "HugePages_Total:       0\n")
    if groups is not None:
        (root / "proc/self/cgroup").write_text(groups)
    return root


def group(root: Path, path: str, limit: float | str, used: float = 0, cached: float = 0) -> None:
    """A control group of version 2; sizes in GiB."""
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    written = limit if isinstance(limit, str) else str(int(limit * GIB))
    (folder / "memory.max").write_text(f"{written}\n")
    (folder / "memory.high").write_text("max\n")
    (folder / "memory.current").write_text(f"{int(used * GIB)}\n")
    # `file` holds shared memory too, which can't be given up.
    pages = f"anon 5\nfile {int((cached + 1) * GIB)}\nshmem {GIB}\n"
    pages += f"inactive_file {int(cached * GIB)}\nactive_file 0\n"
    (folder / "memory.stat").write_text(pages)


def group_of_version_1(root: Path, path: str, limit: float, used: float, cached: float) -> None:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{int(limit * GIB)}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{int(used * GIB)}\n")
    (folder / "memory.stat").write_text(
        f"cache 7\ntotal_cache {9 * GIB}\ntotal_inactive_file {int(cached * GIB)}\n"
        "total_active_file 0\n"
    )


def gib(root: Path) -> tuple[float, float, float]:
    found = main_memory(root)
    return found.machine / GIB, found.total / GIB, found.available / GIB


@pytest.mark.parametrize("groups", [None, "", "0::/\n", "0::/user.slice\n4:cpu,cpuacct:/x\n"])
def test_without_a_limit_it_is_the_machines_and_swap_does_not_count(
    tmp_path: Path, groups: str | None
) -> None:
    assert gib(machine(tmp_path, groups=groups)) == (64, 64, 50)


def test_max_is_no_limit(tmp_path: Path) -> None:
    root = machine(tmp_path, groups="0::/a\n")
    group(root, f"{V2}/a", "max", used=3)
    assert gib(root) == (64, 64, 50)


def test_a_container_sees_its_limit_less_what_is_used_and_can_not_be_given_up(
    tmp_path: Path,
) -> None:
    root = machine(tmp_path, groups="0::/\n")
    group(root, V2, 8, used=5, cached=2)
    assert gib(root) == (64, 8, 5)


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [((8, 7), (16, 1), (64, 8, 1)), ((32, 20), (8, 2), (64, 8, 6)), ((32, 30), (8, 2), (64, 8, 2))],
)
def test_the_least_of_nested_groups_holds(
    tmp_path: Path,
    outer: tuple[float, float],
    inner: tuple[float, float],
    expected: tuple[float, float, float],
) -> None:
    root = machine(tmp_path, groups="0::/outer/middle/inner\n")
    group(root, f"{V2}/outer", outer[0], used=outer[1])
    group(root, f"{V2}/outer/middle", "max")
    group(root, f"{V2}/outer/middle/inner", inner[0], used=inner[1])
    group(root, f"{V2}/other", 1)
    assert gib(root) == expected


def test_where_a_group_is_slowed_down_is_a_limit_too(tmp_path: Path) -> None:
    root = machine(tmp_path, groups="0::/a\n")
    group(root, f"{V2}/a", 8, used=1)
    (root / V2 / "a/memory.high").write_text(f"{4 * GIB}\n")
    assert gib(root) == (64, 4, 3)


def test_version_1_with_its_outer_groups(tmp_path: Path) -> None:
    root = machine(tmp_path, groups="4:memory:/outer/inner\n1:cpu:/\n0::/\n")
    group_of_version_1(root, V1, 2**33 - 1, used=30, cached=10)
    group_of_version_1(root, f"{V1}/outer", 6, used=5, cached=1)
    group_of_version_1(root, f"{V1}/outer/inner", 7, used=2, cached=0)
    assert gib(root) == (64, 6, 2)


def test_version_1_of_a_container_that_is_shown_the_hosts_path(tmp_path: Path) -> None:
    root = machine(tmp_path, groups="4:memory:/docker/0123\n")
    group_of_version_1(root, V1, 8, used=2, cached=1)
    assert gib(root) == (64, 8, 7)


def test_a_group_outside_of_the_containers_is_the_one_that_is_mounted(tmp_path: Path) -> None:
    root = machine(tmp_path, groups="0::/../other\n")
    group(root, V2, 8, used=2)
    assert gib(root) == (64, 8, 6)


def test_more_used_than_the_limit_leaves_nothing(tmp_path: Path) -> None:
    root = machine(tmp_path, groups="0::/\n")
    group(root, V2, 4, used=5)
    assert gib(root) == (64, 4, 0)


def test_this_machine_has_memory() -> None:
    found = main_memory()
    assert 0 < found.available <= found.total <= found.machine


def test_where_there_is_no_linux_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TuneserveError) as caught:
        main_memory(tmp_path)
    assert "run on Linux: in WSL on Windows" in caught.value.hint
    assert doctor._system() == []
    monkeypatch.setattr("tuneserve.cli.diagnose.platform.release", lambda: "6.6-microsoft-WSL2")
    (wsl,) = doctor._system()
    assert (wsl.status, wsl.found.endswith(": WSL")) == ("ok", True)
    monkeypatch.setattr("tuneserve.cli.diagnose.sys.platform", "darwin")
    (system,) = doctor._system()
    assert (system.status, system.advice) == ("missing", caught.value.hint)
    monkeypatch.delattr("os.sched_getaffinity")
    assert len(allowed_cores()) == os.cpu_count()


def test_the_doctor_shows_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(total: int) -> str:
        memory = MainMemory(64 * GIB, total * GIB, 5 * GIB)
        monkeypatch.setattr(doctor, "main_memory", lambda: memory)
        return doctor._memory().found

    assert "8.0 GiB (this process's limit; the machine has 64.0 GiB), 5.0 GiB" in found(8)
    assert "64.0 GiB, 5.0 GiB available" in found(64)


@contextmanager
def limited(limit: int) -> Iterator[list[str]]:
    """What to put in front of a command so that it runs in a group limited to `limit` bytes: by
    systemd, or by a group of version 1 within this process's own. Skips where neither is allowed.
    """
    scope = ["systemd-run", "--user", "--scope", "-q", "-p", f"MemoryMax={limit}"]
    if shutil.which(scope[0]):
        tried = subprocess.run([*scope, "true"], capture_output=True, check=False)
        if tried.returncode == 0:
            yield scope
            return
    paths = [
        line.split(":", 2)[2]
        for line in Path("/proc/self/cgroup").read_text().splitlines()
        if "memory" in line.split(":", 2)[1].split(",")
    ]
    if not paths:
        pytest.skip("no systemd for this user, and no memory controller of version 1")
    folder = Path("/", V1) / paths[0].lstrip("/") / f"tuneserve-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no systemd for this user, and no control group may be made: {error}")
    try:
        (folder / "memory.limit_in_bytes").write_text(str(limit))
        yield ["sh", "-c", f'echo $$ > {folder}/cgroup.procs; exec "$@"', "sh"]
    finally:
        folder.rmdir()


def test_a_process_in_a_limited_group_plans_with_its_limit() -> None:
    code = "from tuneserve.memory import main_memory as m; f = m(); print(f.total, f.available)"
    with limited(GIB // 2) as prefix:
        done = subprocess.run(
            [*prefix, sys.executable, "-c", code],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
    total, available = map(int, done.stdout.split())
    assert total == GIB // 2
    assert GIB // 4 < available <= total
