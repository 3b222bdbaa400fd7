"""deploy/: its command lines are this program's, its metrics this server's, its files agree."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.command_lines import parsed
from tests.distribution.distribution_support import build
from tests.serve.engine.tiny_llama import write_tiny_llama
from tests.support import ROOT, ModulePaths
from tuneserve.errors import UsageError
from tuneserve.finetune.runtime.launch import Machines
from tuneserve.serve.api.metrics import Metrics
from tuneserve.serve.api.middleware import OPEN_PATHS
from tuneserve.serve.engine import Engine
from tuneserve.serve.start_checks import check_reach
from tuneserve.settings import ALL_GPUS, ServeSettings

DEPLOY = ROOT / "deploy"
PORT = ServeSettings().port
REPLICAS = ("serve-1", "serve-2")
YAML_FILES = sorted(str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*.yaml"))
SERVED = ["Dockerfile", "compose", "kubernetes", "skypilot/serve", "systemd"]
SHIM = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
"""


@cache
def text_of(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all(text_of(name)))


def document(name: str) -> Any:
    (only,) = documents(name)
    return only


def instructions(name: str) -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines put together."""
    text = re.sub(r"^\s*#.*\n", "", text_of(name), flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (kind, rest.strip())
        for kind, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())
    ]


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for kind, rest in instructions("Dockerfile"):
        if kind == "FROM":
            found[rest.split(" AS ")[1]] = []
        if found:
            list(found.values())[-1].append((kind, rest))
    return found


def container(name: str, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod's and its container's specification in a manifest."""
    pod = next(one for one in documents(name) if one["kind"] == kind)["spec"]["template"]["spec"]
    return pod, pod["containers"][0]


def unit() -> dict[str, str]:
    lines = [line for line in text_of("systemd/tuneserve.service").splitlines() if "=" in line]
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def called(script: str, folder: Path, env: dict[str, str], *arguments: str) -> list[list[str]]:
    """What a shell script has tuneserve do: it runs with a `tuneserve` that notes its arguments."""
    binaries = folder / "tuneserve" / "bin"
    binaries.mkdir(parents=True)
    programs = {
        "tuneserve": SHIM,
        # More than a pipe holds: a reader that ends after the first line would kill it.
        "scontrol": "#!/bin/sh\nseq -f node-%.0f 20000\n",
        "srun": '#!/bin/sh\ncase $1 in -*) shift;; esac\nSLURM_NODEID=1 exec "$@"\n',
    }
    for name, text in programs.items():
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)
    calls = folder / "calls"
    path = f"{binaries}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-c", script, "script", *arguments], check=True, timeout=60, cwd=folder,
        env={"PATH": path, "HOME": str(folder), "CALLS": str(calls), **env},
    )  # fmt: skip
    return [json.loads(line) for line in calls.read_text().splitlines()]


def of_slurm(folder: Path, nodes: int) -> list[list[str]]:
    env = {"SLURM_JOB_NUM_NODES": str(nodes), "SLURM_JOB_NODELIST": "x", "SLURM_JOB_ID": "4711"}
    return called(text_of("slurm/train.sbatch"), folder, env, "mine.toml")


def command_lines(name: str, folder: Path) -> list[list[str]]:
    """The arguments that tuneserve gets in a file of deploy/."""
    if name == "Dockerfile":
        return [json.loads(rest) for kind, rest in instructions(name) if kind == "CMD"]
    if name == "compose":
        services = document("compose.yaml")["services"]
        lines = [services[one]["command"] for one in REPLICAS]
        return [shlex.split(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", line)) for line in lines]
    if name == "kubernetes":
        return [container("kubernetes/deployment.yaml", "Deployment")[1]["args"]]
    if name == "kubernetes/training":
        args = container("kubernetes/training/job.yaml", "Job")[1]["args"]
        return [[word.replace("$(NODE_RANK)", "1") for word in args]]
    if name == "systemd":
        return [shlex.split(unit()["ExecStart"])[1:]]
    if name == "llama-swap":
        models = document("llama-swap.yaml")["models"].values()
        return [shlex.split(one["cmd"].replace("${PORT}", "5800"))[1:] for one in models]
    if name.startswith("slurm"):
        return of_slurm(folder, int(name[-1]))
    return called(document(f"{name}.yaml")["run"], folder, {})


@pytest.mark.parametrize(
    "name",
    [*SERVED, "kubernetes/training", "llama-swap", "slurm-1", "slurm-2", "skypilot/train"],
)
def test_command_lines_are_this_programs(name: str, tmp_path: Path) -> None:
    lines = command_lines(name, tmp_path)
    assert lines
    for words in lines:
        settings, params = parsed(words)
        if words[0] == "serve":
            if settings.serve.api_key_file is None:
                check_reach(settings.serve.host, settings.serve)
            assert params["model"] is not None
            assert settings.serve.port == (5800 if name == "llama-swap" else PORT)
        elif words[0] == "train":
            Machines(params["nodes"], params["node_rank"], params["rendezvous"])
            assert settings.train.gpus == ALL_GPUS
            assert str(params["config"]) == "mine.toml"


def test_an_option_that_is_not_there_is_found() -> None:
    with pytest.raises(click.UsageError, match="no-such"):
        parsed(["serve", "a.gguf", "--no-such"])
    with pytest.raises(click.UsageError, match="1<=x<=255"):
        parsed(["serve", "a.gguf", "--slots", "100000"])
    settings, _ = parsed(["serve", "a.gguf", "--host", "0.0.0.0"])
    with pytest.raises(UsageError, match="no API key"):
        check_reach(settings.serve.host, settings.serve)


def test_machines_of_a_training_are_numbered_and_meet(tmp_path: Path) -> None:
    (words,) = of_slurm(tmp_path, 2)
    _, params = parsed(words)
    assert (params["nodes"], params["node_rank"]) == (2, 1)
    assert params["rendezvous"] == "node-1:30211"
    service, job = documents("kubernetes/training/job.yaml")
    name, spec = job["metadata"]["name"], job["spec"]
    _, params = parsed(command_lines("kubernetes/training", tmp_path)[0])
    assert params["nodes"] == spec["completions"] == spec["parallelism"]
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert params["rendezvous"].split(":")[0] == f"{name}-0.{service['metadata']['name']}"


@pytest.fixture(scope="module")
def exposed(module_paths: ModulePaths) -> tuple[set[str], set[str]]:
    """Names and labels of what a server's /metrics has."""
    model = write_tiny_llama(module_paths.mktemp("deploy") / "tiny.gguf")
    settings = ServeSettings(ctx=256, slots=1, threads=1)
    with Engine(model, settings) as engine:
        metrics = Metrics(engine)
        metrics.requested("/v1/models", 200)
        metrics.refused("full")
        text = metrics.text().decode()
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    return {one.name for one in samples}, {label for one in samples for label in one.labels}


def expressions(name: str) -> list[str]:
    if name == "alerts.yaml":
        return [rule["expr"] for group in document(name)["groups"] for rule in group["rules"]]
    panels = json.loads(text_of(name))["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("name", ["alerts.yaml", "grafana/tuneserve.json"])
def test_metrics_named_are_the_servers(name: str, exposed: tuple[set[str], set[str]]) -> None:
    names, labels = exposed
    found = [set(re.findall(r"\btuneserve_\w+", one)) for one in expressions(name)]
    assert set().union(*found) <= names
    assert all(found) or name == "alerts.yaml"
    of_prometheus = {"instance", "job"}
    for one in expressions(name):
        grouped = [label for by in re.findall(r"by \(([^)]*)\)", one) for label in by.split(", ")]
        matched = re.findall(r'[{,](\w+)[=!]~?"', one)
        assert {*grouped, *matched} <= labels | of_prometheus, one


def test_the_autoscalers_metric_is_the_servers(exposed: tuple[set[str], set[str]]) -> None:
    spec = document("kubernetes/hpa.yaml")["spec"]
    (metric,) = spec["metrics"]
    assert metric["pods"]["metric"]["name"] in exposed[0]
    deployment = document("kubernetes/deployment.yaml")
    assert spec["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]


@pytest.mark.parametrize("name", YAML_FILES)
def test_yaml_is_read(name: str) -> None:
    assert all(isinstance(one, dict) for one in documents(name))


def test_ports_and_names_agree(tmp_path: Path) -> None:
    proxy = text_of("haproxy.cfg")
    servers = re.findall(r"^\s+server (\S+) (\S+):(\d+)", proxy, flags=re.MULTILINE)
    assert [one[:2] for one in servers] == [(name, name) for name in REPLICAS] * 2
    targets = document("prometheus.yaml")["scrape_configs"][0]["static_configs"][0]["targets"]
    bases = [one["litellm_params"]["api_base"] for one in document("litellm.yaml")["model_list"]]
    assert targets == [f"{name}:{PORT}" for name in REPLICAS]
    assert bases == [f"http://{name}:{PORT}/v1" for name in REPLICAS]
    assert {int(port) for *_, port in servers} == {PORT}
    services = document("compose.yaml")["services"]
    bound = re.search(r"bind :(\d+)", proxy)
    assert bound is not None
    assert services["proxy"]["ports"] == [f"127.0.0.1:8080:{bound[1]}"]
    for words in command_lines("compose", tmp_path):
        assert set(REPLICAS) <= set(parsed(words)[0].serve.allowed_hosts)
    for stage in ("cuda", "serve"):
        assert ("EXPOSE", str(PORT)) in stages()[stage]
        (check,) = [rest for kind, rest in stages()[stage] if kind == "HEALTHCHECK"]
        assert f"127.0.0.1:{PORT}/health'" in check
    assert document("skypilot/serve.yaml")["resources"]["ports"] == PORT
    (uid,) = [one["uid"] for one in document("grafana/datasource.yaml")["datasources"]]
    assert uid in text_of("grafana/tuneserve.json")


def test_kubernetes_objects_mean_the_same_pods() -> None:
    pod, main = container("kubernetes/deployment.yaml", "Deployment")
    template = document("kubernetes/deployment.yaml")["spec"]["template"]
    labels = template["metadata"]["labels"]
    service = document("kubernetes/service.yaml")["spec"]
    policy = document("kubernetes/networkpolicy.yaml")["spec"]
    assert service["selector"] == policy["podSelector"]["matchLabels"] == labels
    assert document("kubernetes/pdb.yaml")["spec"]["selector"]["matchLabels"] == labels
    (port,) = main["ports"]
    assert port["containerPort"] == service["ports"][0]["port"] == PORT
    assert policy["ingress"][0]["ports"][0]["port"] == PORT
    assert service["ports"][0]["targetPort"] == port["name"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert main[probe]["httpGet"]["path"] in OPEN_PATHS
        assert main[probe]["httpGet"]["port"] == port["name"]
    assert pod["terminationGracePeriodSeconds"] > ServeSettings().drain_seconds
    for folder in ("kubernetes", "kubernetes/training"):
        listed = document(f"{folder}/kustomization.yaml")["resources"]
        there = {path.name for path in (DEPLOY / folder).glob("*.yaml")}
        assert {*listed, "kustomization.yaml"} == there


def test_containers_are_not_roots_and_write_to_volumes_alone() -> None:
    users = {stage: dict(stages()[stage])["USER"] for stage in ("cuda", "serve")}
    assert set(users.values()) == {"10001:10001"}
    for stage in ("cuda", "serve"):
        of_stage = dict(stages()[stage])
        assert of_stage["VOLUME"] == of_stage["WORKDIR"] == "/work"
        environment = " ".join(rest for kind, rest in stages()[stage] if kind == "ENV")
        assert "TUNESERVE_CACHE=/work/" in environment
    for name, kind in (
        ("kubernetes/deployment.yaml", "Deployment"),
        ("kubernetes/training/job.yaml", "Job"),
    ):
        pod, main = container(name, kind)
        assert pod["securityContext"]["runAsUser"] == 10001
        assert main["securityContext"]["readOnlyRootFilesystem"] is True
        mounted = {one["mountPath"] for one in main["volumeMounts"]}
        assert {"/work", "/tmp"} <= mounted
        volumes = {one["name"] for one in pod["volumes"]}
        assert {one["name"] for one in main["volumeMounts"]} == volumes
    for one in REPLICAS:
        service = document("compose.yaml")["services"][one]
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp"]
        assert service["build"]["target"] in stages()


@pytest.mark.parametrize("name", ["Dockerfile", "compose", "kubernetes"])
def test_files_that_are_named_are_mounted(name: str, tmp_path: Path) -> None:
    if name == "kubernetes":
        _, main = container("kubernetes/deployment.yaml", "Deployment")
        places = [one["mountPath"] for one in main["volumeMounts"]]
    else:
        service = document("compose.yaml")["services"]["serve-1"]
        places = [one.split(":")[1] for one in service["volumes"]]
        places += [f"/run/secrets/{secret}" for secret in service["secrets"]]
    for words in command_lines(name, tmp_path):
        settings, params = parsed(words)
        for path in (params["model"], settings.serve.api_key_file):
            assert path is not None
            assert any(path.is_relative_to(place) for place in places), path


def test_the_images_context_is_all_that_is_built_from(
    wheel: Path, checkout: Path, tmp_path: Path
) -> None:
    """The package of the files that the image's builder gets has what the whole checkout's has."""
    kept = re.findall(r"^!(\S+)$", text_of("Dockerfile.dockerignore"), flags=re.MULTILINE)
    context = tmp_path / "context"
    context.mkdir()
    for one in kept:
        if (checkout / one).is_dir():
            shutil.copytree(checkout / one, context / one, symlinks=True)
        else:
            shutil.copy(checkout / one, context / one)
    for kind, rest in instructions("Dockerfile"):
        for path in re.findall(r"-r /src/(\S+)", rest) if kind == "RUN" else ():
            assert (context / path).is_file(), path
    made = build("wheel", context, tmp_path)
    shown = [
        subprocess.run(
            [sys.executable, "-m", "zipfile", "-l", str(one)],
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()
        for one in (wheel, made)
    ]  # fmt: skip
    names = [{line.split()[0] for line in lines[1:]} for lines in shown]
    assert names[0] == names[1]


def test_the_units_paths_agree() -> None:
    lines = unit()
    credential = lines["LoadCredential"].partition(":")[0]
    assert f"--api-key-file ${{CREDENTIALS_DIRECTORY}}/{credential} " in lines["ExecStart"]
    assert f"TUNESERVE_CACHE=/var/cache/{lines['CacheDirectory']} " in lines["Environment"]
    assert int(lines["TimeoutStopSec"]) > ServeSettings().drain_seconds
    grace = document("compose.yaml")["services"]["serve-1"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > ServeSettings().drain_seconds


def checked_by(*command: str, cwd: Path = DEPLOY) -> str:
    """What a tool says; skips where it is not installed."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    # It wants the program to be there.
    text = text_of("systemd/tuneserve.service")
    program = unit()["ExecStart"].split()[0]
    (tmp_path / "tuneserve.service").write_text(text.replace(program, sys.executable))
    said = checked_by("systemd-analyze", "verify", "./tuneserve.service", cwd=tmp_path)
    assert "Unknown" not in said


def test_their_own_tools_take_the_files() -> None:
    checks = [
        ("kubectl", "kustomize", "kubernetes"),
        ("kubectl", "kustomize", "kubernetes/training"),
        ("haproxy", "-c", "-f", "haproxy.cfg"),
        ("promtool", "check", "rules", "alerts.yaml"),
    ]
    there = [one for one in checks if shutil.which(one[0])]
    if not there:
        pytest.skip("none of kubectl, haproxy and promtool is installed")
    for one in there:
        checked_by(*one)
