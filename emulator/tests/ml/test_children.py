"""Child jobs: a parent's calls, and what clients see of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from localazure import ml
from localazure.core.errors import BadRequest
from localazure.core.service import ServiceContext
from localazure.executors.job import Child, RunningJob

ENVIRONMENT = "azureml://registries/azureml/environments/sklearn-1.5/versions/3"


def step(command: str, **more: Any) -> dict[str, Any]:
    return {"jobType": "Command", "command": command, "environmentId": ENVIRONMENT, **more}


class Orchestrator:
    """A parent whose work is the test's own."""

    work: Callable[[RunningJob], Awaitable[None]]
    limit: float | None = None

    def __init__(self, settings: Any, assets: Any) -> None: ...

    def validate(self, properties: dict[str, Any]) -> None: ...

    def seconds(self, properties: dict[str, Any]) -> float | None:
        return self.limit

    def nodes(self, properties: dict[str, Any]) -> int:
        return 0

    async def prepare(self, job: RunningJob) -> None: ...

    async def execute(self, job: RunningJob) -> None:
        await type(self).work(job)

    async def finalize(self, job: RunningJob) -> None: ...


@pytest.fixture
def orchestrated(with_client: Any, monkeypatch: pytest.MonkeyPatch, runs: Any) -> Any:
    """Runs `test(client)` with a parent job type whose work is `work(job)`."""

    def run(work: Any, test: Any, limit: float | None = None) -> None:
        chosen = type("Chosen", (Orchestrator,), {"work": staticmethod(work), "limit": limit})
        monkeypatch.setattr(ml, "AutoMLRunner", chosen)
        with_client(test)

    return run


PARENT = {"jobType": "AutoML", "experimentName": "nightly"}


def test_children_are_jobs_below_their_parent(orchestrated: Any, runs: Any, blobs: Any) -> None:
    ended: list[Child] = []

    async def work(job: RunningJob) -> None:
        outputs = {"o": {"jobOutputType": "uri_file"}}
        good = step("echo root $AZUREML_ROOT_RUN_ID > ${{outputs.o}}", outputs=outputs)
        ended.extend(
            await asyncio.gather(
                job.children.run("p_0", good, run={"number": 0, "stepType": "train"}),
                job.children.run("p_1", step("echo no; exit 4"), run={"number": 1}),
                job.children.run("p_2", step(" "), run={"number": 2}),
            )
        )
        job.children.record("p_3", good, {"number": 3}, "Completed", ended[0].outputs)
        assert job.children.get("other") is None

    async def test(client: Any) -> None:
        await client.put("jobs/p", **PARENT)
        assert (await client.finished("p"))["properties"]["status"] == "Completed"
        history = f"/history/v1.0{client.settings.workspace_id}/runs"
        children = (await client.ok("GET", f"{history}/p/children"))["value"]
        assert [(each["runId"], each["status"]) for each in children] == [
            ("p_0", "Completed"), ("p_1", "Failed"), ("p_2", "Failed"), ("p_3", "Completed"),
        ]  # fmt: skip
        assert {(each["parentRunId"], each["rootRunId"]) for each in children} == {("p", "p")}
        assert "exited with code 4" in await client.error("p_1")
        assert "needs a command" in await client.error("p_2")
        details = await client.ok("GET", f"{history}/p_0/details")
        assert list(details["logFiles"]) == ["user_logs/std_log.txt"]
        assert details["outputs"]["o"]["type"] == "uri_file"
        # Jobs by name, but not in the workspace's list.
        assert (await client.ok("GET", "jobs/p_0"))["properties"]["parentJobName"] == "p"
        assert [job["name"] for job in (await client.ok("GET", "jobs"))["value"]] == ["p"]

    orchestrated(work, test)
    assert [(each.state, each.succeeded) for each in ended] == [
        ("Completed", True), ("Failed", False), ("Failed", False),
    ]  # fmt: skip
    assert ended[1].error is not None
    assert ended[0].outputs["o"]["uri"].endswith("/p_0/o")
    assert (blobs.root / "azureml/azureml/p_0/o").read_text() == "root p\n"
    assert runs.created == {"p": "nightly", "p_0": "nightly", "p_1": "nightly"}
    assert runs.nested["p_0"] == ("p", "p")


@pytest.mark.parametrize("how", ["cancel", "time-out", "end", "failure"])
def test_no_child_outlives_its_parent(orchestrated: Any, how: str) -> None:
    async def work(job: RunningJob) -> None:
        waiting = asyncio.create_task(job.children.run("p_0", step("sleep 60")))
        while (child := job.children.get("p_0")) is None or child.state != "Running":
            await asyncio.sleep(0.02)
        if how == "failure":
            raise BadRequest("no more")
        if how != "end":
            await waiting

    async def test(client: Any) -> None:
        await client.put("jobs/p", **PARENT)
        while not (await client.send("GET", "jobs/p_0")).is_success:
            await asyncio.sleep(0.02)
        await client.finished("p_0", "Running", "Canceled")
        if how == "cancel":
            await client.send("POST", "jobs/p/cancel")
        parent = await client.finished("p")
        expected = {"end": "Completed", "failure": "Failed"}.get(how, "Canceled")
        assert parent["properties"]["status"] == expected
        assert (await client.ok("GET", "jobs/p_0"))["properties"]["status"] == "Canceled"

    orchestrated(work, test, 1.0 if how == "time-out" else None)


def test_a_parent_cancels_one_child_and_goes_on(orchestrated: Any) -> None:
    async def work(job: RunningJob) -> None:
        waiting = asyncio.create_task(job.children.run("p_0", step("sleep 60")))
        await asyncio.sleep(0.2)
        job.children.cancel("p_0")
        assert (await waiting).state == "Canceled"

    async def test(client: Any) -> None:
        await client.put("jobs/p", **PARENT)
        assert (await client.finished("p"))["properties"]["status"] == "Completed"

    orchestrated(work, test)


def test_jobs_are_submitted_without_a_request(with_client: Any, context: ServiceContext) -> None:
    async def test(client: Any) -> None:
        submission = context.require("ml.submission")
        document = submission.submit("own", step("true"))
        assert document["resource"]["properties"]["status"] == "Starting"
        assert submission.submit("own", step("true"))["resource"]["name"] == "own"
        with pytest.raises(BadRequest, match="needs a command"):
            submission.submit("bad", step(""))
        assert (await client.finished("own"))["properties"]["status"] == "Completed"

    with_client(test)
