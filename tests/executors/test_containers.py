"""Runnable's executors that work in containers, with chunkstore in them: real commands, in mount namespaces instead of images."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

import chunkstore
from servers import S3Server, ServerMissingError, give_up

pytest.importorskip("runnable")
pytest.importorskip("docker")

from container_engine import Engine, beside, engine

PROJECT = Path(__file__).parent / "project"
RUN = "in-containers"  # runnable quotes nothing in the commands of containers
LOGS = "/tmp/run_logs/"


@contextmanager
def project(folder: Path, store: dict[str, Any], **executors: Any) -> Iterator[Engine]:
    """A project of runnable with this configuration, and an engine beside it."""
    folder = folder / "project"
    shutil.copytree(PROJECT, folder)
    (folder / "config.yaml").write_text(
        json.dumps({"run-log-store": store, "catalog": {"type": "do-nothing"}, **executors})
    )
    try:
        with engine(folder) as running:
            yield running
    except ServerMissingError as missing:
        give_up(str(missing))


def drive(running: Engine, definition: str, **environment: str) -> str:
    """Runs a definition as on a host that has a container engine; what was printed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RUNNABLE_", "AWS_"))}
    inherited |= {"RUNNABLE_RUN_ID": RUN, "RUNNABLE_CONFIGURATION_FILE": "config.yaml", **environment}
    inherited["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    folder = running.hidden[0]
    command = beside(running, [sys.executable, f"{definition}.py"])
    done = subprocess.run(command, cwd=folder, env=inherited, capture_output=True, text=True, timeout=250, check=False)
    inside = "".join(container.output.decode(errors="replace") for container in running.containers.values())
    assert done.returncode == 0, done.stdout + done.stderr + inside
    return done.stdout + done.stderr + inside


def local_container(**config: Any) -> dict[str, Any]:
    return {"type": "local-container", "config": {"docker_image": "image", **config}}


def assert_two_steps(store: chunkstore.ChunkedRunLogStore) -> None:
    run = store.get_run_log_by_id(RUN)
    assert run.status == "SUCCESS"
    assert {name: step.status for name, step in run.steps.items()} == dict.fromkeys(
        ("give", "double", "success"), "SUCCESS"
    )
    # Argo's pods have the workflow's parameters as well.
    given = {name: parameter.value for name, parameter in run.parameters.items()}
    assert {"number": 3, "doubled": 6}.items() <= given.items()
    assert [len(run.steps[name].attempts) for name in ("give", "double")] == [1, 1]


def test_steps_in_local_containers_write_into_the_hosts_folder(tmp_path: Path) -> None:
    store = {"type": "chunkstore-fs", "config": {"log_folder": "runs"}}
    with project(tmp_path, store, **{"pipeline-executor": local_container()}) as running:
        drive(running, "two")
    folder = tmp_path / "project" / "runs"
    assert [container.binds for container in running.containers.values()] == [{str(folder): LOGS}] * 2
    assert_two_steps(chunkstore.open(folder))


def test_a_job_in_a_local_container_writes_into_the_hosts_folder(tmp_path: Path) -> None:
    store = {"type": "chunkstore-fs", "config": {"log_folder": "runs"}}
    with project(tmp_path, store, **{"job-executor": local_container()}) as running:
        drive(running, "one")
    run = chunkstore.open(tmp_path / "project" / "runs").get_run_log_by_id(RUN)
    assert (run.status, run.job.status, run.parameters["sum"].value) == ("SUCCESS", "SUCCESS", 3)


def test_on_minio_nothing_is_mounted_and_variables_bring_the_credentials(
    tmp_path: Path, minio_server: S3Server
) -> None:
    url = f"s3://{minio_server.new_bucket()}/runs"
    store = {
        "type": "chunkstore",
        "config": {"url": url, "endpoint_url": minio_server.endpoint_url, "region": "us-east-1"},
    }
    access = {"AWS_ACCESS_KEY_ID": minio_server.key, "AWS_SECRET_ACCESS_KEY": minio_server.secret}
    # Runnable gives a container its variables, without their prefix, and nothing else of the host's environment.
    variables = {f"RUNNABLE_VAR_{name}": value for name, value in access.items()}
    with project(tmp_path, store, **{"pipeline-executor": local_container()}) as running:
        drive(running, "two", **access, **variables)
    assert [container.binds for container in running.containers.values()] == [{}] * 2
    assert all(access.items() <= container.environment.items() for container in running.containers.values())
    settings = {"endpoint_url": minio_server.endpoint_url, "key": minio_server.key, "secret": minio_server.secret}
    assert_two_steps(chunkstore.open(url, region="us-east-1", **settings))


class Cluster:
    """The one endpoint of a Kubernetes API that runnable calls, and what was asked of it."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        cluster = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                cluster.jobs.append(job)
                self.send_response(201)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(job).encode())

            def log_message(self, format: str, *args: object) -> None:
                """Nobody listens."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def configuration(self, file: Path) -> Path:
        """A kubeconfig that leads here."""
        here = {"name": "here", "cluster": {"server": f"http://127.0.0.1:{self.server.server_port}"}}
        context = {"name": "here", "context": {"cluster": "here", "user": "me"}}
        known = {
            "clusters": [here],
            "contexts": [context],
            "users": [{"name": "me", "user": {}}],
            "current-context": "here",
        }
        file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **known}))
        return file


K8S = {
    "mini-k8s-job": ({}, {"hostPath": {"path": "/volume/run_logs/"}}),
    "k8s-job": ({"pvc_claim_name": "claim"}, {"persistentVolumeClaim": {"claimName": "claim"}}),
}


@pytest.mark.parametrize("executor", K8S)
def test_a_kubernetes_job_mounts_the_run_logs_and_its_pod_writes_there(tmp_path: Path, executor: str) -> None:
    pytest.importorskip("kubernetes")
    config, volume = K8S[executor]
    with Cluster() as cluster:
        kubeconfig = cluster.configuration(tmp_path / "kubeconfig")
        spec = {"template": {"spec": {"container": {"image": "image", "env": [{"name": "A", "value": "b"}]}}}}
        job = {"type": executor, "config": {"config_path": str(kubeconfig), "job_spec": spec, **config}}
        store = {"type": "chunkstore-fs", "config": {"log_folder": "runs"}}
        with project(tmp_path, store, **{"job-executor": job}) as running:
            drive(running, "one")
            pod = cluster.jobs[0]["spec"]["template"]["spec"]
            volumes = {each.pop("name"): each for each in pod["volumes"]}
            container = pod["containers"][0]
            mounts = {each["mountPath"]: volumes[each["name"]] for each in container["volumeMounts"]}
            assert mounts == {LOGS: volume}
            # What the volume holds: on minikube the host's folder, mounted into it; in a cluster the claim's own.
            held = tmp_path / "project" / "runs" if executor == "mini-k8s-job" else tmp_path / "claim"
            held.mkdir(exist_ok=True)
            environment = [f"{each['name']}={each['value']}" for each in container["env"]]
            name = running.create(
                {"Cmd": container["command"], "Env": environment, "HostConfig": {"Binds": [f"{held}:{LOGS}:rw"]}}
            )
            running.start(running.containers[name])
            running.containers[name].wait()
            assert running.containers[name].code == 0, running.containers[name].output.decode()
    run = chunkstore.open(held).get_run_log_by_id(RUN)
    assert (run.status, run.job.status, run.parameters["sum"].value) == ("SUCCESS", "SUCCESS", 3)


def filled(text: str) -> str:
    """What argo makes of a template's text."""
    for name, value in {"run_id": RUN, "log_level": "INFO", "retry_run_id": "", "retry_indicator": ""}.items():
        text = text.replace(f"{{{{workflow.parameters.{name}}}}}", value)
    return text


def test_the_pods_of_an_argo_workflow_write_onto_the_claim(tmp_path: Path) -> None:
    yaml = pytest.importorskip("ruamel.yaml")
    workflow = {"metadata": {"generateName": "p-", "namespace": "default"}, "spec": {}}
    config = {"pvc_for_runnable": "claim", "defaults": {"image": "image"}, "argo_workflow": workflow}
    store = {"type": "chunkstore-fs", "config": {"log_folder": "runs"}}
    claim = tmp_path / "claim"
    claim.mkdir()
    with project(tmp_path, store, **{"pipeline-executor": {"type": "argo", "config": config}}) as running:
        drive(running, "two")
        spec = yaml.YAML(typ="safe").load(tmp_path / "project" / "argo-pipeline.yaml")["spec"]
        assert [each["persistentVolumeClaim"]["claimName"] for each in spec["volumes"]] == ["claim"]
        pods = {each["name"].partition("-")[0]: each["container"] for each in spec["templates"] if "container" in each}
        for name in ("give", "double", "success"):
            assert [mount["mountPath"] for mount in pods[name]["volumeMounts"]] == ["/tmp"]
            environment = [f"{each['name']}={filled(each['value'])}" for each in pods[name]["env"]]
            command = [filled(word) for word in pods[name]["command"]]
            pod = running.create({"Cmd": command, "Env": environment, "HostConfig": {"Binds": [f"{claim}:/tmp:rw"]}})
            running.start(running.containers[pod])
            running.containers[pod].wait()
            assert running.containers[pod].code == 0, running.containers[pod].output.decode()
    assert_two_steps(chunkstore.open(claim / "run_logs"))
