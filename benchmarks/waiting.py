"""What does it cost to wait for 200 Azure ML jobs?

    var/env/airflow/bin/python benchmarks/waiting.py [--connection <home>/connection.json] [--jobs 200]

The jobs are real: they queue for the one node of a cluster in localazure (without --connection, one of our own in a
temporary folder). They are waited for twice:

* by azflow: Airflow's own `TriggerRunner`, the process in which a triggerer runs its triggers, has one
  `RemoteRunTrigger` a job (handed to it here, not from a database). Its requests are counted where they are sent; then
  the jobs are cancelled, and it counts how long until every trigger has fired.
* as a blocking operator waits (the style of Microsoft's provider: a worker process with the SDK in it polls
  `jobs.get`): some such processes are measured, and the sum for all jobs is computed from their mean.

Memory is the private part of a process (proc(5), smaps_rollup), so that nothing shared counts: for a trigger the growth
from one waiting trigger to all of them. Prints a table; the exit code is 1 if an aim is missed. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rollout_under_load import CHECKOUT, connection_of, resolve_localhost, running

from azflow.connection import AzureConnection

WATCHED_SECONDS = 40
WARM_POLLS = 5
BLOCKING_PROCESSES = 4
MOST_MEGABYTES_A_WAIT = 0.3
MOST_POLLS_A_SECOND = 11  # ten, and one that falls on the border
ENVIRONMENT = "azureml://registries/azureml/environments/sklearn-1.5/labels/latest"


class Jobs:
    """The jobs: one runs and keeps the node, the others queue."""

    def __init__(self, connection: AzureConnection, count: int) -> None:
        import requests

        self._connection = connection
        self._http = requests.Session()
        self._http.headers["Authorization"] = f"Bearer {connection.token(connection.arm_scope)}"
        self._compute = f"waiting-{uuid.uuid4().hex[:6]}"
        self.names = [f"{self._compute}-{number:03d}" for number in range(count)]

    @contextmanager
    def queued(self) -> Iterator[None]:
        """Submitted; cancelled at the end."""
        size = {"vmSize": "STANDARD_DS3_V2", "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 1}}
        self._send("PUT", f"computes/{self._compute}", {
            "location": "local", "properties": {"computeType": "AmlCompute", "properties": size}})  # fmt: skip
        self.wait_for_compute()
        job = {"jobType": "Command", "command": "sleep 3600", "environmentId": ENVIRONMENT, "experimentName": "waiting",
               "computeId": f"{self._connection.ml_workspace_id}/computes/{self._compute}"}  # fmt: skip
        keeper = f"{self._compute}-keeper"
        try:
            for name in (keeper, *self.names):
                self._send("PUT", f"jobs/{name}", {"properties": job})
            yield
        finally:
            self.cancel([*self.names, keeper])

    def wait_for_compute(self) -> None:
        """Until the cluster is there."""
        while self._send("GET", f"computes/{self._compute}")["properties"]["provisioningState"] != "Succeeded":
            time.sleep(0.2)

    def cancel(self, names: list[str]) -> None:
        """Asks for the end of every job; one that is over stays as it is."""
        for name in names:
            self._send("POST", f"jobs/{name}/cancel")

    def _send(self, method: str, path: str, content: Any = None) -> Any:
        url = f"{self._connection.ml_workspace_url}/{path}?api-version=2024-04-01"
        answer = self._http.request(method, url, json=content, verify=self._connection.verify, timeout=60)
        answer.raise_for_status()
        return answer.json() if answer.content else None


class Waiting:
    """The processes that wait, as programs of their own: nothing of this one is in their memory."""

    def __init__(self, file: Path, connection: AzureConnection) -> None:
        kept = ("tenant_id", "subscription_id", "resource_group", "workspace", "storage_account_url", "container")
        assert connection.cloud is not None
        cloud = {name: getattr(connection.cloud, name) for name in connection.cloud.__dataclass_fields__}
        extra = {**{name: getattr(connection, name) for name in kept}, "cloud": cloud, "verify": connection.verify}
        content = {"conn_type": "azflow", "login": connection.client_id, "password": connection.client_secret,
                   "extra": extra}  # fmt: skip
        self._airflow = tempfile.TemporaryDirectory()
        own = {"AIRFLOW_HOME": self._airflow.name, "PYTHONPATH": str(CHECKOUT / "plugins")}
        self._environment = os.environ | own | {"AIRFLOW_CONN_AZURE_DEFAULT": json.dumps(content)}
        self._file = file

    def start(self, role: str, names: list[str]) -> subprocess.Popen[str]:
        """One process; it prints a JSON object a line."""
        argv = [sys.executable, __file__, "--connection", str(self._file), "--role", role, "--names", ",".join(names)]
        return subprocess.Popen(argv, env=self._environment, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


def heard(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next thing a process said."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise SystemExit(f"the waiting process ended with exit code {process.wait()}")


def private_megabytes() -> float:
    """This process' own memory."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def say(**content: Any) -> None:
    """One line for the process that asked."""
    print(json.dumps(content), flush=True)


async def trigger(names: list[str]) -> None:
    """azflow's way. Says its memory with one and with all waits, its polls, and when every trigger had fired."""
    from azflow.ml_jobs import AzureMLJobs

    sent: list[float] = []
    at_once = most = 0
    astate = AzureMLJobs.astate

    async def counted(self: AzureMLJobs, id: str) -> Any:
        nonlocal at_once, most
        sent.append(time.monotonic())
        at_once += 1
        most = max(most, at_once)
        try:
            return await astate(self, id)
        finally:
            at_once -= 1

    AzureMLJobs.astate = counted  # type: ignore[method-assign]

    runner = triggerer()
    running = asyncio.ensure_future(runner.arun())
    runner.hand(names[:1])
    while len(sent) < WARM_POLLS or at_once:  # the first one imports an SDK
        await asyncio.sleep(0.1)
    before = private_megabytes()
    begun = time.monotonic()
    used = time.process_time()
    runner.hand(names[1:])
    await asyncio.sleep(WATCHED_SECONDS)
    used = time.process_time() - used
    seconds = [int(moment - begun) for moment in sent if moment >= begun]
    by_second = [seconds.count(second) for second in range(WATCHED_SECONDS)]
    say(one=before, all=private_megabytes(), burst=max(by_second[:5]), steady=max(by_second[5:]), at_once=most,
        cpu=used / WATCHED_SECONDS, waiting=len(runner.triggers), fired=len(runner.fired))  # fmt: skip
    while len(runner.fired) < len(names):
        await asyncio.sleep(0.1)
    runner.stop = True
    await running
    say(states=sorted(set(runner.fired)))


def triggerer() -> Any:
    """Airflow's runner of triggers, with this program in the place of its supervisor."""
    from airflow.executors import workloads
    from airflow.executors.workloads.task import TaskInstanceDTO
    from airflow.jobs.triggerer_job_runner import TriggerRunner, messages
    from airflow.models.trigger import Trigger

    class Runner(TriggerRunner):
        def __init__(self) -> None:
            super().__init__()
            self._handed: list[workloads.RunTrigger] = []
            self.fired: list[str] = []

        def hand(self, names: list[str]) -> None:
            """A trigger a job, as a deferred task leaves it in the database."""
            for name in names:
                arguments = {"factory": "azflow.ml_jobs.AzureMLJobs", "arguments": {}, "conn_id": "azure_default",
                             "service": "Azure ML job", "run_id": name, "started": time.time(),
                             "deadline": time.time() + 3600}  # fmt: skip
                task = TaskInstanceDTO(
                    id=uuid.uuid4(), dag_version_id=uuid.uuid4(), task_id=name, dag_id="waiting", run_id="one",
                    try_number=1, map_index=-1, pool_slots=1, priority_weight=1, queue="default",
                )  # fmt: skip
                self._handed.append(workloads.RunTrigger(
                    id=len(self.triggers) + len(self._handed) + 1, classpath="azflow.watch.RemoteRunTrigger",
                    encrypted_kwargs=Trigger.encrypt_kwargs(arguments), ti=task))  # fmt: skip

        async def init_comms(self) -> None:
            never = asyncio.ensure_future(asyncio.Event().wait())
            self.comms_decoder = SimpleNamespace(_reader_task=never)

        async def asend(self, msg: messages.TriggerStateChanges) -> messages.TriggerStateSync:
            self.fired += [entry.event.payload["state"] for entry in msg.events or []]
            handed, self._handed = self._handed, []
            return messages.TriggerStateSync(to_create=handed, to_cancel=set())

    return Runner()


def block(name: str) -> None:
    """A blocking operator's way: the SDK in a worker's process, asking until the job is over."""
    import airflow.sdk  # noqa: F401 - a worker has it

    resolve_localhost()
    client = AzureConnection.load("azure_default").ml_client()
    while True:
        status = client.jobs.get(name).status
        say(status=status, own=private_megabytes())
        if status in ("Completed", "Failed", "Canceled"):
            return
        time.sleep(10)


def compare(file: Path, count: int) -> int:
    """Both ways, and the table. 1 if an aim is missed."""
    connection = connection_of(file)
    jobs, waiting = Jobs(connection, count), Waiting(file, connection)
    with jobs.queued():
        blocking = [waiting.start("block", [name]) for name in jobs.names[:BLOCKING_PROCESSES]]
        each = [heard(process) for process in blocking]
        assert {found["status"] for found in each} <= {"Queued", "Starting", "Preparing"}, each
        for process in blocking:
            process.terminate()
            process.wait()
        triggerer = waiting.start("trigger", jobs.names)
        found = heard(triggerer)
        assert (found["waiting"], found["fired"]) == (count, 0), found
        jobs.cancel(jobs.names)
        ended = time.monotonic()
        states = heard(triggerer)["states"]
        late = time.monotonic() - ended
        triggerer.wait()
    a_wait = (found["all"] - found["one"]) / (count - 1)
    a_process = statistics.mean(each_one["own"] for each_one in each)
    rows = [
        ("", "azflow", "blocking"),
        ("processes", "1", str(count)),
        ("memory of one more wait, MB", f"{a_wait:.3f}", f"{a_process:.0f}"),
        (f"memory of {count} waits, MB", f"{found['all']:.0f}", f"{a_process * count:.0f} (computed)"),
        ("polls in the busiest second", f"{found['steady']} (first ones: {found['burst']})", "-"),
        ("polls at the same time", str(found["at_once"]), "-"),
        ("processor of the waiting", f"{100 * found['cpu']:.0f} %", "-"),
        ("until all had seen the end, s", f"{late:.0f} ({', '.join(states)})", "-"),
    ]
    print("\n".join(f"{row[0]:34}{row[1]:>28}{row[2]:>20}" for row in rows))
    good = a_wait < MOST_MEGABYTES_A_WAIT and found["steady"] <= MOST_POLLS_A_SECOND
    print(f"\naims: under {MOST_MEGABYTES_A_WAIT} MB a wait, {MOST_POLLS_A_SECOND} polls a second: "
          f"{'met' if good else 'MISSED'}")  # fmt: skip
    return 0 if good else 1


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description="What does it cost to wait for Azure ML jobs?")
    parser.add_argument("--connection", type=Path, help="connection.json of a running localazure")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--role", choices=("trigger", "block"), help=argparse.SUPPRESS)
    parser.add_argument("--names", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        connection_of(arguments.connection)  # sets what the SDKs trust
        if arguments.role == "trigger":
            asyncio.run(trigger(arguments.names.split(",")))
        else:
            block(arguments.names)
        return 0
    resolve_localhost()
    with tempfile.TemporaryDirectory() as name, running(arguments.connection, Path(name)) as file:
        return compare(file, arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())
