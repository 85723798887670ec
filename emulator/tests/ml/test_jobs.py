"""Command jobs from submission to their end, with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from localazure.core.service import ServiceContext
from localazure.core.store import Store
from localazure.ml import states


def command(text: str, **more: Any) -> dict[str, Any]:
    return {
        "jobType": "Command",
        "command": text,
        "computeId": "/x/computes/cpu-cluster",
        "environmentId": "azureml://registries/azureml/environments/sklearn-1.5/versions/3",
        "experimentName": "nightly",
        **more,
    }


DATA = {"jobInputType": "uri_folder", "uri": "azureml://datastores/workspaceblobstore/paths/data/"}


def test_a_job_reads_its_inputs_writes_its_outputs_and_goes_through_every_state(
    with_client: Any, blobs: Any, runs: Any, context: ServiceContext
) -> None:
    async def test(client: Any) -> None:
        text = "cat ${{inputs.rows}}/*.csv > ${{outputs.copy}}/c.csv; echo $[[--x ${{inputs.x}}]] said $AZUREML_RUN_ID"
        body = command(text, inputs={"rows": DATA}, outputs={"copy": {"jobOutputType": "uri_folder"}})
        created = await client.put("jobs/one", **body)
        assert created["properties"]["status"] == "Starting"
        job = await client.finished("one")
        assert job["properties"]["status"] == "Completed"
        details = await client.ok("GET", f"/history/v1.0{client.settings.workspace_id}/runs/one/details")
        assert details["outputs"]["copy"]["type"] == "uri_folder"
        asset = details["outputs"]["copy"]["assetId"]
        found = await client.ok(
            "POST",
            f"/data/v1.0{client.settings.workspace_id}/dataversion/batchGetResolvedUris",
            {"values": [asset]},
        )
        assert found["values"][asset]["uri"].endswith("/datastores/workspaceblobstore/paths/azureml/one/copy/")
        assert list(details["logFiles"]) == ["user_logs/std_log.txt"]

    with_client(test)
    assert (blobs.root / "azureml/azureml/one/copy/c.csv").read_text() == "a\n1\n"
    log = (blobs.root / "azureml/ExperimentRun/dcid.one/user_logs/std_log.txt").read_text()
    assert "said one" in log
    assert "--x" not in log
    document = context.store.get("ml.jobs", "one")
    assert document is not None
    seen = [state for state, _ in document["run"]["states"]]
    assert seen == ["Starting", "Preparing", "Running", "Finalizing", "Completed"]
    assert (runs.created, runs.ended) == ({"one": "nightly"}, {"one": "Completed"})


def test_code_is_unpacked_and_run_artifacts_are_kept(with_client: Any, blobs: Any) -> None:
    blobs.write("code-1", "src/run.py", b"open('outputs/m.txt', 'w').write('x')")

    async def test(client: Any) -> None:
        uri = f"{client.settings.blob_url}/code-1/src"
        await client.put("codes/c/versions/1", codeUri=uri, properties={"hash_sha256": "abc"})
        body = command("python run.py", codeId=f"{client.settings.workspace_id}/codes/c/versions/1")
        await client.put("jobs/code", **body)
        assert (await client.finished("code"))["properties"]["status"] == "Completed"
        # What a run made can be registered.
        model = await client.put("models/m/versions/1", modelUri="azureml://jobs/code/outputs/artifacts/paths/outputs/")
        assert model["properties"]["modelUri"].endswith("/paths/ExperimentRun/dcid.code/outputs/")
        assert model["properties"]["jobName"] == "code"
        found = await client.ok("GET", "codes/other/versions?hash=abc&hashVersion=202208")
        assert len(found["value"]) == 1

    with_client(test)


def test_what_a_run_logged_is_an_artifact_of_its_job(with_client: Any, blobs: Any, runs: Any, tmp_path: Path) -> None:
    (tmp_path / "logged").mkdir()
    (tmp_path / "logged" / "MLmodel").write_text("x")
    runs.logged["model"] = tmp_path / "logged"

    async def test(client: Any) -> None:
        await client.put("jobs/log", **command("true"))
        await client.finished("log")
        for number, reference in enumerate(("runs:/log/model", "azureml://jobs/log/outputs/artifacts/paths/model/")):
            model = await client.put(f"models/logged/versions/{number}", modelUri=reference)
            assert "/workspaceartifactstore/paths/ExperimentRun/dcid.log/model" in model["properties"]["modelUri"]
        answer = await client.send("PUT", "models/logged/versions/9", {"properties": {"modelUri": "runs:/log/other"}})
        assert answer.status_code == 400
        assert "There is nothing at 'runs:/log/other'" in answer.json()["error"]["message"]

    with_client(test)


def test_an_input_is_the_jobs_own_copy_and_only_a_writable_mount_goes_back(
    with_client: Any, blobs: Any, context: ServiceContext
) -> None:
    blobs.write("azureml", "edit/keep.csv", b"keep")
    blobs.write("azureml", "edit/old.csv", b"old")
    edited = {"jobInputType": "uri_folder", "uri": "azureml://datastores/workspaceblobstore/paths/edit/"}

    async def test(client: Any) -> None:
        text = (
            "chmod -R u+w ${{inputs.rows}}; echo spoiled > ${{inputs.rows}}/rows.csv; cd ${{inputs.edit}};"
            " echo new > sub.csv; rm old.csv; echo more >> keep.csv; echo ${{inputs.flag}} ${{inputs.number}}"
        )
        inputs = {
            "rows": DATA,
            "edit": {**edited, "mode": "ReadWriteMount"},
            "flag": {"jobInputType": "literal", "value": "True"},
            "number": {"jobInputType": "literal", "value": "3"},
        }
        await client.put("jobs/own", **command(text, inputs=inputs))
        assert (await client.finished("own"))["properties"]["status"] == "Completed"

    with_client(test)
    assert (blobs.root / "azureml/data/rows.csv").read_text() == "a\n1\n"
    found = {path.name: path.read_text() for path in (blobs.root / "azureml/edit").iterdir()}
    assert found == {"keep.csv": "keepmore\n", "sub.csv": "new\n"}
    assert not (context.settings.home / "jobs/own/inputs").exists()


def test_what_was_mounted_is_kept_when_a_job_fails(with_client: Any, blobs: Any) -> None:
    async def test(client: Any) -> None:
        outputs = {
            "mounted": {"jobOutputType": "uri_folder", "mode": "ReadWriteMount"},
            "sent": {"jobOutputType": "uri_folder", "mode": "Upload"},
        }
        text = "mkdir outputs; for o in outputs ${{outputs.mounted}} ${{outputs.sent}}; do echo 1 > $o/x; done; exit 1"
        await client.put("jobs/half", **command(text, outputs=outputs))
        await client.finished("half", "Failed")

    with_client(test)
    assert (blobs.root / "azureml/azureml/half/mounted/x").exists()
    assert (blobs.root / "azureml/ExperimentRun/dcid.half/outputs/x").exists()
    assert not (blobs.root / "azureml/azureml/half/sent").exists()


def test_a_distributed_job_runs_its_processes_as_nodes(with_client: Any, blobs: Any) -> None:
    async def test(client: Any) -> None:
        distribution = {"distributionType": "PyTorch", "processCountPerInstance": 2}
        text = "echo rank $RANK of $WORLD_SIZE on node $NODE_RANK as $LOCAL_RANK at $MASTER_ADDR"
        body = command(text, distribution=distribution, resources={"instanceCount": 2})
        await client.put("jobs/torch", **body)
        assert (await client.finished("torch"))["properties"]["status"] == "Completed"
        details = await client.ok("GET", f"/history/v1.0{client.settings.workspace_id}/runs/torch/details")
        assert "user_logs/std_log_process_3.txt" in details["logFiles"]
        # A parameter server never ends; the first worker that fails ends the job.
        distribution = {"distributionType": "TensorFlow", "workerCount": 2, "parameterServerCount": 1}
        text = 'case "$TF_CONFIG" in *\'"type": "ps"\'*) sleep 60;; *\'"index": 1\'*) exit 7;; *) sleep 60;; esac'
        await client.put("jobs/tf", **command(text, distribution=distribution))
        assert (await client.finished("tf"))["properties"]["status"] == "Failed"
        assert "the worker 1 exited with code 7. Last lines of user_logs/std_log_worker_1.txt" in await client.error(
            "tf"
        )

    with_client(test)
    logs = blobs.root / "azureml/ExperimentRun/dcid.torch/user_logs"
    assert (logs / "std_log_process_3.txt").read_text() == "rank 3 of 4 on node 1 as 1 at 127.0.0.1\n"


def test_a_service_that_is_not_there_is_shown_so_and_the_job_runs(with_client: Any, blobs: Any) -> None:
    async def test(client: Any) -> None:
        asked = {"s": {"jobServiceType": "SSH", "properties": {"sshPublicKeys": "k"}}}
        await client.put("jobs/ssh", **command("true", services=asked))
        job = await client.finished("ssh")
        assert job["properties"]["status"] == "Completed"
        assert job["properties"]["services"]["s"]["status"] == "Failed"
        path = f"/history/v1.0{client.settings.workspace_id}/runs/ssh/serviceinstances/0"
        instance = (await client.ok("GET", path))["instances"]["s"]
        assert "runs no interactive services" in instance["error"]["error"]["message"]

    with_client(test)
    log = (blobs.root / "azureml/ExperimentRun/dcid.ssh/user_logs/std_log.txt").read_text()
    assert "service 's': localazure runs no interactive services" in log


def test_a_managed_identity_gets_tokens_while_the_job_runs(with_client: Any, context: ServiceContext) -> None:
    async def test(client: Any) -> None:
        text = "echo $MSI_ENDPOINT | sed s,.*/msi,/msi, > ${{outputs.o}}; echo $MSI_SECRET >> ${{outputs.o}}; sleep 60"
        outputs = {"o": {"jobOutputType": "uri_file"}}
        await client.put("jobs/id", **command(text, outputs=outputs, identity={"identityType": "Managed"}))
        file = context.settings.home / "jobs/id/outputs/o"
        while not (file.exists() and file.read_text().count("\n") == 2):
            await asyncio.sleep(0.02)
        path, secret = file.read_text().split()
        url = f"{path}?api-version=2017-09-01&resource=https%3A%2F%2Fstorage.azure.com"
        answer = await client.send("GET", url, headers={"secret": secret})
        assert context.tokens.verify(answer.json()["access_token"], "storage").subject == context.tokens.object_id
        assert (
            await client.send("GET", url.replace("storage", "nothing"), headers={"secret": secret})
        ).status_code == 400
        await client.send("POST", "jobs/id/cancel")
        await client.finished("id")
        assert (await client.send("GET", url, headers={"secret": secret})).status_code == 401
        assert (await client.send("GET", url)).status_code == 401

    with_client(test)


def test_a_failure_tells_the_exit_code_and_the_last_lines(with_client: Any) -> None:
    async def test(client: Any) -> None:
        await client.put("jobs/bad", **command("echo first; echo 'no such column' >&2; exit 3"))
        assert (await client.finished("bad"))["properties"]["status"] == "Failed"
        message = await client.error("bad")
        assert "exited with code 3" in message
        assert message.endswith("first\nno such column")

    with_client(test)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": {"rows": {**DATA, "uri": "azureml://datastores/lake/paths/none/"}}}, "'azureml://datastores/lake/paths/none/'"),
        ({"inputs": {"rows": {**DATA, "uri": "azureml://jobs/none/outputs/o"}}}, "The job 'none' was not found"),
        ({"inputs": {"rows": {**DATA, "jobInputType": "uri_file"}}}, "declared as uri_file"),
        ({"inputs": {"rows": {**DATA, "jobInputType": "mltable"}}}, "there is no file MLTable"),
        ({"inputs": {"rows": {**DATA, "jobInputType": "mlflow_model"}}}, "no file MLmodel"),
        ({"command": "echo ${{inputs.nothing}}"}, "the job declares no such name"),
    ],
)  # fmt: skip
def test_what_can_not_be_prepared_fails_the_job_by_name(with_client: Any, change: dict[str, Any], message: str) -> None:
    async def test(client: Any) -> None:
        await client.put("jobs/bad", **command("echo ${{inputs.rows}}") | change)
        await client.finished("bad", "Failed")
        assert message in await client.error("bad")

    with_client(test)


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"jobType": "Labeling"}, 501, "jobType Labeling"),
        ({"jobType": "Nothing"}, 400, "jobType must be one of"),
        ({"command": " "}, 400, "needs a command"),
        ({"computeId": "/x/computes/none"}, 400, "The compute 'none' was not found; the workspace has aks"),
        ({"computeId": "/x/computes/synapse-spark"}, 400, "type SynapseSpark"),
        ({"environmentId": "/w/workspaces/w/environments/none/versions/1"}, 400, "'none:1' was not found"),
        ({"limits": {"timeout": "5 minutes"}}, 400, "ISO 8601"),
        ({"outputs": {"o": {"uri": "azureml://datastores/none/paths/x/"}}}, 400, "no datastore 'none'"),
        ({"resources": {"instanceCount": 3}}, 501, "instanceCount 3"),
        ({"distribution": {"distributionType": "Ray"}}, 501, "distribution Ray"),
        ({"distribution": {"distributionType": "Gloo"}}, 400, "PyTorch, Mpi, TensorFlow"),
        ({"distribution": {"distributionType": "Mpi", "processCountPerInstance": 99}}, 400, "99 processes"),
        ({"services": {"s": {"jobServiceType": "Telnet"}}}, 400, "there are JupyterLab, SSH"),
        ({"identity": {"identityType": "Other"}}, 400, "identity.type must be one of"),
        ({"inputs": {"i": {"jobInputType": "table", "uri": "x"}}}, 400, "there are literal, uri_file"),
        ({"inputs": {"i": {**DATA, "mode": "EvalMount"}}}, 400, "for inputs of type mltable"),
        ({"inputs": {"i": {**DATA, "mode": "Upload"}}}, 400, "The mode of inputs.i is 'Upload'"),
        ({"outputs": {"o": {"jobOutputType": "uri_folder", "mode": "Download"}}}, 400, "The mode of outputs.o"),
        ({"outputs": {"o": {"jobOutputType": "uri_folder", "pathOnCompute": "/x"}}}, 501, "outputs.o.pathOnCompute"),
    ],
)
def test_what_can_not_run_is_refused_at_submission(
    with_client: Any, change: dict[str, Any], status: int, message: str
) -> None:
    async def test(client: Any) -> None:
        answer = await client.send("PUT", "jobs/no", {"properties": command("echo") | change})
        assert answer.status_code == status
        assert message in answer.json()["error"]["message"]
        assert (await client.send("GET", "jobs/no")).status_code == 404

    with_client(test)


def test_one_name_is_one_job(with_client: Any) -> None:
    async def test(client: Any) -> None:
        await client.put("jobs/same", **command("echo 1", tags={"a": "1"}))
        await client.finished("same")
        again = await client.send("PUT", "jobs/same", {"properties": command("echo 1", tags={"b": "2"})})
        assert (again.status_code, again.json()["properties"]["tags"]) == (200, {"b": "2"})
        # As the SDK sends a job it has read: with everything the server added.
        job = await client.ok("GET", "jobs/same")
        assert (await client.send("PUT", "jobs/same", {"properties": job["properties"]})).status_code == 200
        other = await client.send("PUT", "jobs/same", {"properties": command("echo 2")})
        assert other.status_code == 400
        error = other.json()["error"]
        assert error["code"] == "UserError"
        assert error["innererror"]["innererror"]["code"] == "JobPropertyImmutable"

    with_client(test)


def test_cancelling_ends_the_whole_process_group(with_client: Any, tmp_path: Path) -> None:
    async def test(client: Any) -> None:
        pid_file = tmp_path / "pid"
        await client.put("jobs/long", **command(f"sleep 60 & echo $! > {pid_file}; wait"))
        await client.finished("long", "Running")
        while not (pid_file.exists() and pid_file.read_text().strip()):
            await asyncio.sleep(0.02)
        answer = await client.send("POST", "jobs/long/cancel")
        assert answer.status_code == 202
        assert (await client.finished("long"))["properties"]["status"] == "Canceled"
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid_file.read_text()), 0)
        # A second request changes nothing.
        assert (await client.send("POST", "jobs/long/cancel")).status_code == 202
        assert (await client.finished("long"))["properties"]["status"] == "Canceled"

    with_client(test)


@pytest.mark.parametrize(
    ("end", "state"), [("exit 0", "Completed"), ("exit 1", "Failed"), ("wait", "Canceled"), ("sleep 60", "Canceled")]
)
def test_nothing_is_left_running_however_a_job_ends(with_client: Any, end: str, state: str) -> None:
    def left() -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if b"AZUREML_RUN_ID=leaver" in (process / "environ").read_bytes().split(b"\0"):
                    found.append((process / "cmdline").read_text().replace("\0", " "))
        return found

    async def test(client: Any) -> None:
        # In its group, in a session of its own, and one that a shell forgot.
        text = f"sleep 60 & setsid sleep 61 & (setsid sh -c 'sleep 62 & sleep 63' &) ; {end}"
        limits = {"timeout": "PT1S"} if end == "sleep 60" else {}
        await client.put("jobs/leaver", **command(text, limits=limits))
        if end == "wait":
            await client.finished("leaver", "Running")
            while len(left()) < 5:
                await asyncio.sleep(0.02)
            await client.send("POST", "jobs/leaver/cancel")
        assert (await client.finished("leaver"))["properties"]["status"] == state
        assert left() == []

    with_client(test)


def test_a_time_out_cancels_the_job_and_says_so(with_client: Any) -> None:
    async def test(client: Any) -> None:
        await client.put("jobs/slow", **command("echo begun; sleep 60", limits={"timeout": "PT0.5S"}))
        assert (await client.finished("slow"))["properties"]["status"] == "Canceled"
        assert "longer than its time-out" in await client.error("slow")

    with_client(test)


def test_a_compute_runs_as_many_jobs_as_it_has_nodes(with_client: Any) -> None:
    async def test(client: Any) -> None:
        for name in ("a", "b", "c"):
            await client.put(f"jobs/{name}", **command("sleep 0.6"))
        await client.finished("b", "Running")
        assert (await client.finished("c", "Queued"))["properties"]["status"] == "Queued"
        # A queued job can be cancelled as well.
        await client.send("POST", "jobs/c/cancel")
        assert (await client.finished("c"))["properties"]["status"] == "Canceled"
        assert (await client.finished("a"))["properties"]["status"] == "Completed"

    with_client(test)


def test_lists_are_filtered_and_paged(with_client: Any) -> None:
    async def test(client: Any) -> None:
        for number in range(3):
            body = command("true", tags={"even": "1"} if number % 2 == 0 else {}, properties={"n": str(number)})
            await client.put(f"jobs/j{number}", **body)
            await client.finished(f"j{number}")

        async def names(query: str) -> list[str]:
            return [job["name"] for job in (await client.ok("GET", f"jobs?{query}"))["value"]]

        assert await names("jobType=Command") == ["j2", "j1", "j0"]
        assert await names("jobType=AutoML") == []
        assert await names("tag=even") == ["j2", "j0"]
        assert await names("properties=n%3D1") == ["j1"]
        first = await client.ok("GET", "jobs?$top=2")
        assert [job["name"] for job in first["value"]] == ["j2", "j1"]
        assert "%24skip=2" in first["nextLink"]
        run = f"/history/v1.0{client.settings.workspace_id}/experiments/nightly/runs/j1"
        await client.ok("PATCH", run, {"hidden": True, "tags": {"x": "y"}})
        assert await names("") == ["j2", "j0"]
        assert await names("listViewType=ArchivedOnly") == ["j1"]
        assert (await client.ok("GET", "jobs/j1"))["properties"]["tags"] == {"x": "y"}

    with_client(test)


def test_what_an_earlier_process_left_running_is_failed_by_name(with_client: Any, context: ServiceContext) -> None:
    properties = {"status": "Running", "jobType": "Command", "services": {}, "tags": {}, "properties": {}}
    resource = {"id": "/x/jobs/orphan", "name": "orphan", "properties": properties}
    resource["systemData"] = {"createdAt": "2026-01-01T00:00:00Z"}
    context.store.put("ml.jobs", "orphan", {"resource": resource, "request": {}, "run": {"states": [], "outputs": {}}})

    async def test(client: Any) -> None:
        assert (await client.finished("orphan"))["properties"]["status"] == "Failed"
        assert "'orphan'" in await client.error("orphan")

    with_client(test)


def test_stopping_the_service_ends_jobs_and_says_why(with_client: Any, context: ServiceContext, runs: Any) -> None:
    async def test(client: Any) -> None:
        await client.put("jobs/cut", **command("sleep 60"))
        await client.finished("cut", "Running")

    with_client(test)
    document = Store(context.settings.store_file).get("ml.jobs", "cut")
    assert document is not None
    assert document["resource"]["properties"]["status"] == "Failed"
    assert "stopped" in document["run"]["error"]["message"]
    assert runs.ended == {"cut": "Failed"}


def test_a_named_output_becomes_an_asset(with_client: Any) -> None:
    async def test(client: Any) -> None:
        outputs = {"o": {"jobOutputType": "uri_folder", "assetName": "features"}}
        await client.put("jobs/named", **command("echo 1 > ${{outputs.o}}/x", outputs=outputs))
        await client.finished("named")
        data = await client.ok("GET", "data/features/versions/1")
        assert data["properties"]["dataUri"].endswith("azureml/named/o/")

    with_client(test)


def test_transitions_that_are_not_declared_raise() -> None:
    job = {"resource": {"name": "j", "properties": {"status": "Completed"}}, "run": {"states": []}}
    with pytest.raises(states.IllegalTransition, match="Completed -> Running"):
        states.advance(job, states.RUNNING)
    assert all(after in states.TRANSITIONS for follow in states.TRANSITIONS.values() for after in follow)
