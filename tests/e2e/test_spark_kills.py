"""`kill -9` of worker, triggerer and localazure while a notebook and a Spark batch run: one run of each does the work,
and it is right after the retry. And a person who stops the tasks stops the runs."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from azure.identity import ClientSecretCredential
from azure.storage.blob import BlobServiceClient
from azure.synapse.artifacts import ArtifactsClient
from azure.synapse.spark import SparkClient
from workbench import Workbench, kill_workers_of

import local_azure

TASKS = ("notebook", "batch")


class Seen:
    """What localazure has of the runs, by Microsoft's own clients."""

    def __init__(self, local: dict[str, Any]) -> None:
        self.local = local
        self.credential = ClientSecretCredential(
            *(local[name] for name in ("tenant_id", "client_id", "client_secret")),
            authority=local["api_url"],
            disable_instance_discovery=True,
        )

    def files(self, folder: str) -> dict[str, int]:
        """How many runs of each task left their file below a folder of the lake."""
        with BlobServiceClient(self.local["storage_account_url"], self.credential) as service:
            lake = service.get_container_client(self.local["container"])
            names = {
                task: [blob.name for blob in lake.list_blobs(name_starts_with=f"{folder}/{task}/")] for task in TASKS
            }
        return {task: len([name for name in found if name.endswith(".parquet")]) for task, found in names.items()}

    def go(self, folder: str) -> None:
        """The word that the runs of a folder wait for."""
        with BlobServiceClient(self.local["storage_account_url"], self.credential) as service:
            service.get_blob_client(self.local["container"], f"{folder}/go").upload_blob(b"go")

    def states(self, ids: dict[str, str]) -> dict[str, str]:
        """Task -> the service's word for its run."""
        endpoint = self.local["synapse_endpoint"]
        with (
            ArtifactsClient(self.credential, endpoint) as artifacts,
            SparkClient(self.credential, endpoint, self.local["spark_pool"]) as livy,
        ):
            return {
                "notebook": str(artifacts.run_notebook.get_status(ids["notebook"]).result.run_status),
                "batch": str(livy.spark_batch.get_spark_batch_job(int(ids["batch"])).state),
            }


@pytest.fixture
def seen(workbench: Workbench, monkeypatch: pytest.MonkeyPatch) -> Seen:
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, workbench.local["ca_bundle"])
    return Seen(workbench.local)


class Nightly:
    """One run of a DAG of spark_kills.py."""

    def __init__(self, workbench: Workbench, where: str) -> None:
        local = workbench.local
        self.bench = replace(workbench, dag=f"spark_kills_{where}")
        self.folder = f"kills/{where}-{time.time_ns()}"
        root = f"abfss://{local['container']}@{local['storage_account']}.dfs.core.windows.net"
        self.run = self.bench.start(out=f"{root}/{self.folder}")

    def submitted(self) -> dict[str, str]:
        """Task -> the id of its remote run, once both have one."""
        found: dict[str, Any] = {}
        deadline = time.monotonic() + 240
        while len(found) < len(TASKS):
            assert time.monotonic() < deadline, f"only {sorted(found)} submitted: {self.bench.states(self.run)}"
            for task in TASKS:
                if stored := self.bench.api.xcom(self.bench.dag, self.run, task, "azflow_run"):
                    found[task] = stored["id"]
            time.sleep(0.3)
        return found

    def triggers(self, task: str) -> list[Path]:
        """The logs of a task's triggers: there is one from the moment when the triggerer has begun."""
        logs = self.bench.home.parent / "airflow" / "logs" / f"dag_id={self.bench.dag}" / f"run_id={self.run}"
        return list((logs / f"task_id={task}").glob("*.trigger.*"))

    def did(self) -> dict[str, tuple[str, int]]:
        """Task -> (the id of the run that did the work, how many tries it took)."""
        tasks = self.bench.tasks(self.run)
        results = {task: self.bench.xcom(self.run, task) for task in TASKS}
        ids = {"notebook": results["notebook"]["run_id"], "batch": str(results["batch"]["id"])}
        return {task: (ids[task], tasks[task]["try_number"]) for task in TASKS}


def test_killed_workers_and_a_killed_triggerer(workbench: Workbench, seen: Seen) -> None:
    """At the same time: the tasks of one run wait in workers, those of the other in the triggerer."""
    workers, triggerer = Nightly(workbench, "worker"), Nightly(workbench, "triggerer")
    before = {run.folder: run.submitted() for run in (workers, triggerer)}
    for task in TASKS:
        triggerer.bench.wait_for(triggerer.run, task, "deferred")
    os.killpg(workbench.components.running()["triggerer"], signal.SIGKILL)
    for task in TASKS:
        kill_workers_of(workers.bench.tasks(workers.run)[task]["id"])
    workbench.components.start()
    for run in (workers, triggerer):
        seen.go(run.folder)
    for run, tries in ((workers, 2), (triggerer, 1)):
        assert run.bench.finish(run.run) == "success", run.bench.why(run.run)
        assert run.did() == {task: (before[run.folder][task], tries) for task in TASKS}
        assert seen.files(run.folder) == {"notebook": 1, "batch": 1}


def test_a_killed_localazure_loses_its_runs_and_the_retry_does_the_work(workbench: Workbench, seen: Seen) -> None:
    night = Nightly(workbench, "triggerer")
    before = night.submitted()
    wait_until(lambda: under_way(seen.states(before)))
    servers, sparks = processes(workbench.home)
    for pid in sorted(servers):  # the supervisor first: it would start the others again
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    # Nobody records any more what they do: they mustn't go on.
    wait_until(lambda: not sparks.keys() & processes(workbench.home)[1].keys(), 30)
    port = urllib.parse.urlsplit(workbench.local["api_url"]).port
    local_azure.command("up", home=workbench.home, port_base=port, quiet=True)
    seen.go(night.folder)
    assert night.bench.finish(night.run) == "success", night.bench.why(night.run)
    did = night.did()
    assert {task: tries for task, (_, tries) in did.items()} == dict.fromkeys(TASKS, 2)
    assert all(did[task][0] != before[task] for task in TASKS)
    assert seen.states(before) == {"notebook": "Failed", "batch": "dead"}
    assert seen.files(night.folder) == {"notebook": 1, "batch": 1}


def test_tasks_that_a_person_fails_have_their_runs_cancelled(
    workbench: Workbench, seen: Seen, record_property: Callable[[str, object], None]
) -> None:
    """The batch's as soon as it is deferred, when no triggerer may have begun its trigger; the notebook's later."""
    night = Nightly(workbench, "triggerer")
    runs = night.submitted()
    for task, ended in (("batch", "killed"), ("notebook", "Cancelled")):
        night.bench.wait_for(night.run, task, "deferred")
        if task == "notebook":
            wait_until(lambda: bool(night.triggers("notebook")))
        run = urllib.parse.quote(night.run, safe="")
        path = f"/dags/{night.bench.dag}/dagRuns/{run}/taskInstances/{task}"
        night.bench.api.call("PATCH", path, {"new_state": "failed"})
        asked = time.monotonic()
        wait_until(lambda task=task, ended=ended: seen.states(runs)[task] == ended, 120)  # type: ignore[misc]
        record_property(f"seconds until the {task} was cancelled", round(time.monotonic() - asked, 1))
    assert seen.files(night.folder) == {"notebook": 0, "batch": 0}


def under_way(states: dict[str, str]) -> bool:
    """Whether both are being worked on."""
    assert states["notebook"] in ("Starting", "Running") and states["batch"] in ("not_started", "starting", "running")
    return states["notebook"] == "Running" and states["batch"] != "not_started"


def processes(home: Path) -> tuple[dict[int, str], dict[int, str]]:
    """localazure's own, and those that compute for it: command lines by process id. An endpoint's servers are neither:
    they end by themselves, within seconds."""
    servers: dict[int, str] = {}
    sparks: dict[int, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        if str(home) in line and int(process.name) != os.getpid() and "inference_server" not in line:
            computes = any(word in line for word in ("localazure_compute", "ipykernel", "java"))
            (sparks if computes else servers)[int(process.name)] = line
    return servers, sparks


def wait_until(holds: Callable[[], bool], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it didn't come about within {seconds:.0f} s"
        time.sleep(0.2)
