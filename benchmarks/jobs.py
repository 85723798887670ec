"""localazure's own weight: how soon it is ready, what it takes at rest, what a job costs that does nothing.

    var/env/airflow/bin/python benchmarks/jobs.py [--repeat 5]

It starts a localazure of its own in a temporary folder and drives it with Microsoft's SDK (azure-ai-ml), unmodified.
Times are wall clock, a job's from the submission's first request to the first answer that says Completed (asked every
50 ms). Memory is the proportional set size (proc(5), smaps_rollup) of the supervisor and every process below it, shared
pages counted once; at rest means half a minute after `up`, before any job. Prints a table with the aims; the exit code
is 1 if one is missed. Linux only.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from rollout_under_load import resolve_localhost

CHECKOUT = Path(__file__).resolve().parents[1]
BASE_PORT = 23800
RESTING_SECONDS = 30
STEPS = 10
# Our own work loads a machine of two cores to about this much a core.
BUSY = 1.5
ENVIRONMENT = "azureml://registries/azureml/environments/sklearn-1.5/labels/latest"
FINAL = ("Completed", "Failed", "Canceled")


class Localazure:
    """One of our own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self._command = [CHECKOUT / "var/env/localazure/bin/python", "-m", "localazure", "--home", self.home]

    def run(self, *arguments: str) -> float:
        """Runs a command of its command line; the seconds it took."""
        begun = time.monotonic()
        environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "emulator/src")}
        subprocess.run([*self._command, *arguments], env=environment, check=True, capture_output=True)
        return time.monotonic() - begun

    def connection(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / "connection.json").read_text())
        return found

    def memory(self) -> dict[str, int]:
        """Proportional set size in kB of every process, by a short name."""
        state = json.loads((self.home / "pids.json").read_text())
        names = {child["pid"]: name for name, child in state["processes"].items()} | {state["supervisor"]: "supervisor"}
        parents = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
        found: dict[str, int] = {}
        for pid in parents:
            above = pid
            while above not in names and above in parents:
                above = parents[above]
            if above in names:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                size = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
                found[names[above]] = found.get(names[above], 0) + size
        return found


def client_of(connection: dict[str, Any]) -> Any:
    """The SDK's client of the workspace."""
    from azure.ai.ml import MLClient
    from azure.identity import ClientSecretCredential

    os.environ["REQUESTS_CA_BUNDLE"] = os.environ["SSL_CERT_FILE"] = connection["ca_bundle"]
    url = connection["api_url"]
    port = connection["storage_account_url"].split(":")[2].partition("/")[0]
    credential = ClientSecretCredential(
        connection["tenant_id"],
        connection["client_id"],
        connection["client_secret"],
        authority=url,
        disable_instance_discovery=True,
    )
    metadata = dict.fromkeys(
        ("azure_portal", "resource_manager", "active_directory", "registry_discovery_endpoint"), url
    ) | {"aml_resource_id": "https://ml.azure.com", "storage_endpoint": f"core.localhost:{port}"}
    names = (connection[name] for name in ("subscription_id", "resource_group", "workspace"))
    return MLClient(credential, *names, cloud="local", cloud_metadata=metadata)


def completed(client: Any, job: Any) -> float:
    """Seconds from the submission to Completed. Raises if it ends otherwise."""
    job.name = f"bench-{uuid.uuid4().hex[:12]}"
    begun = time.monotonic()
    name = client.jobs.create_or_update(job).name
    while (status := client.jobs.get(name).status) not in FINAL:
        time.sleep(0.05)
    if status != "Completed":
        raise RuntimeError(f"{name} ended as {status}")
    return time.monotonic() - begun


def command() -> Any:
    from azure.ai.ml import command as build

    return build(command="true", environment=ENVIRONMENT, compute="cpu-cluster", experiment_name="benchmark")


def pipeline() -> Any:
    """Ten steps that do nothing, each after the one before it."""
    from azure.ai.ml import Input, Output, dsl
    from azure.ai.ml import command as build

    step = build(
        name="step",
        command="echo 1 > ${{outputs.done}}/done",
        environment=ENVIRONMENT,
        inputs={"before": Input(type="uri_folder", optional=True)},
        outputs={"done": Output(type="uri_folder")},
    )

    @dsl.pipeline(default_compute="cpu-cluster", force_rerun=True)  # type: ignore[untyped-decorator]
    def ten_steps() -> None:
        last = step()
        for _ in range(STEPS - 1):
            last = step(before=last.outputs.done)

    built = ten_steps()
    built.experiment_name = "benchmark"
    return built


def measured(repeat: int) -> list[tuple[str, float, float, str]]:
    """Rows: what, figure, aim, unit."""
    with tempfile.TemporaryDirectory() as name:
        local = Localazure(Path(name))
        try:
            first = local.run("--port-base", str(BASE_PORT), "up")
            local.run("down")
            ready = local.run("up")
            time.sleep(RESTING_SECONDS)
            memory = local.memory()
            client = client_of(local.connection())
            cold = completed(client, command())
            client.jobs.get(client.jobs.create_or_update(command()).name)
            # The tracking server starts with the first job; the others find it up.
            time.sleep(RESTING_SECONDS)
            jobs = [completed(client, command()) for _ in range(repeat)]
            steps = [completed(client, pipeline()) for _ in range(max(1, repeat // 2))]
        finally:
            local.run("down")
    print("at rest, MB: " + ", ".join(f"{each} {size / 1024:.0f}" for each, size in sorted(memory.items())))
    return [
        ("ready, a new home (certificates, keys, databases)", first, 6, "s"),
        ("ready, a home that was up before", ready, 6, "s"),
        ("memory at rest", sum(memory.values()) / 1024, 400, "MB"),
        ("no-op command job, the first one (tracking server not up)", cold, 2, "s"),
        (f"no-op command job, median of {repeat}", statistics.median(jobs), 2, "s"),
        (f"{STEPS}-step no-op pipeline, median of {max(1, repeat // 2)}", statistics.median(steps), 8, "s"),
    ]


def main() -> int:
    """The exit code: 0 if every aim is met."""
    parser = argparse.ArgumentParser(description="localazure's own weight, measured.")
    parser.add_argument("--repeat", type=int, default=5, help="jobs measured (default: 5)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    resolve_localhost()
    rows = measured(arguments.repeat)
    width = max(len(row[0]) for row in rows)
    for what, figure, aim, unit in rows:
        print(f"{what:{width}}  {figure:7.2f} {unit:2}  (aim: under {aim} {unit}){'' if figure < aim else '  MISSED'}")
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores * BUSY:
        print(f"the machine was busy (load {load:.1f} on {cores} cores): its times are others', too")
    return 0 if all(figure < aim for _, figure, aim, _ in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
