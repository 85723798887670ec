"""Schedules over the API, with a clock that the test sets."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from localazure.core.clock import Clock
from localazure.core.service import ServiceContext
from localazure.settings import Settings

FIVE = datetime(2027, 3, 1, 5, tzinfo=UTC)
ENVIRONMENT = "azureml://registries/azureml/environments/sklearn-1.5/versions/3"
JOB = {"jobType": "Command", "command": "echo ${{inputs.at}}", "environmentId": ENVIRONMENT,
       "inputs": {"at": {"jobInputType": "literal", "value": "${{creation_context.trigger_time}}"}}}  # fmt: skip


@pytest.fixture
def clock(home: Settings) -> Clock:
    clock = Clock(home.clock_file)
    clock.set_time(FIVE)
    return clock


def schedule(trigger: dict[str, Any], job: dict[str, Any] = JOB, **more: Any) -> dict[str, Any]:
    return {"action": {"actionType": "CreateJob", "jobDefinition": job}, "trigger": trigger, **more}


SIX = {"triggerType": "Cron", "expression": "0 6 * * *", "timeZone": "UTC"}


async def triggered(client: Any, name: str, count: int) -> list[dict[str, Any]]:
    """The schedule's jobs, once there are `count`."""
    for _ in range(200):
        found = (await client.ok("GET", f"jobs?scheduled=true&scheduleId={name}"))["value"]
        if len(found) >= count:
            return sorted((job["properties"] for job in found), key=lambda job: job["displayName"])
        await asyncio.sleep(0.02)
    raise AssertionError(f"{name} made {len(found)} job(s)")


def test_a_schedule_fires_when_the_clock_gets_there_and_not_before(with_client: Any, clock: Clock) -> None:
    async def test(client: Any) -> None:
        created = await client.put("schedules/nightly", **schedule(SIX))
        assert created["properties"]["isEnabled"] is True
        assert created["properties"]["provisioningState"] == "Succeeded"
        await asyncio.sleep(0.1)
        assert (await client.ok("GET", "jobs"))["value"] == []
        clock.set_time(FIVE + timedelta(minutes=59, seconds=59.8))
        (job,) = await triggered(client, "nightly", 1)
        assert job["displayName"] == "nightly-20270301T060000Z"
        assert job["experimentName"] == "nightly"
        assert job["properties"]["azureml.scheduleid"] == "nightly"
        assert job["inputs"]["at"]["value"] == "2027-03-01T06:00:00Z"
        # A leap over three mornings fires once: what nobody waited for isn't made up for.
        clock.set_time(FIVE + timedelta(days=3, hours=2))
        jobs = await triggered(client, "nightly", 2)
        await asyncio.sleep(0.2)
        assert [job["displayName"] for job in await triggered(client, "nightly", 2)] == [
            "nightly-20270301T060000Z", "nightly-20270302T060000Z"]  # fmt: skip
        assert len(jobs) == 2

    with_client(test)


def test_a_disabled_schedule_sleeps_and_only_such_a_one_is_deleted(with_client: Any, clock: Clock) -> None:
    async def test(client: Any) -> None:
        await client.put("schedules/off", **schedule(SIX, isEnabled=False))
        clock.set_time(FIVE + timedelta(hours=2))
        await asyncio.sleep(0.1)
        assert (await client.ok("GET", "jobs"))["value"] == []
        assert (await client.send("POST", "schedules/off/trigger", {})).status_code == 400
        listed = [
            [each["name"] for each in (await client.ok("GET", f"schedules?listViewType={view}"))["value"]]
            for view in ("EnabledOnly", "DisabledOnly", "All")
        ]
        assert listed == [[], ["off"], ["off"]]
        await client.put("schedules/off", **schedule(SIX))  # enabled: from now on, without what was due meanwhile
        await asyncio.sleep(0.1)
        assert (await client.ok("GET", "jobs"))["value"] == []
        refused = await client.send("DELETE", "schedules/off")
        assert "disable it" in refused.json()["error"]["message"]
        await client.put("schedules/off", **schedule(SIX, isEnabled=False))
        assert (await client.send("DELETE", "schedules/off")).status_code == 200
        assert (await client.send("GET", "schedules/off")).status_code == 404

    with_client(test)


def test_a_fast_clock_a_restart_and_a_schedule_that_begins_at_once(
    with_client: Any, clock: Clock, context: ServiceContext
) -> None:
    hourly = {"triggerType": "Recurrence", "frequency": "Hour", "interval": 1}

    async def first(client: Any) -> None:
        clock.set_time(FIVE, rate=18_000)  # five hours a second
        await client.put("schedules/hourly", **schedule(hourly))
        # The first one at once: a busy machine's "at once" is some hours of this clock.
        assert (await triggered(client, "hourly", 3))[0]["displayName"].startswith("hourly-2027030")

    async def again(client: Any) -> None:
        await asyncio.sleep(0.1)
        before = await triggered(client, "hourly", 3)
        known = context.store.get("ml.schedules", "hourly")
        assert known is not None
        # Two days passed without localazure. The next firing keeps the pace, and nothing is made up for.
        assert datetime.fromisoformat(known["run"]["next"]) > clock.now()
        assert len(before) == len(known["run"]["history"])

    with_client(first)
    clock.set_time(FIVE + timedelta(days=9))
    context._provided.clear()
    with_client(again)


def test_a_job_that_exists_is_triggered_again_with_changes(
    with_client: Any, clock: Clock, context: ServiceContext
) -> None:
    async def test(client: Any) -> None:
        await client.put(
            "jobs/source", **{**JOB, "outputs": {"out": {"jobOutputType": "uri_folder"}}, "tags": {"a": "1"}}
        )
        changes = {"jobType": "Command", "sourceJobId": f"{client.settings.workspace_id}/jobs/source", "jobs": {},
                   "experimentName": "", "inputs": {"more": {"jobInputType": "literal", "value": "2"}},
                   "outputs": {"out": {"jobOutputType": "uri_folder",
                                       "uri": "azureml://datastores/lake/paths/out/${{name}}/"}}}  # fmt: skip
        await client.put("schedules/again", **schedule(SIX, changes))
        when = "2027-03-01T05:00:00.123456+00:00"
        answer = await client.ok("POST", "schedules/again/trigger", {"scheduleTime": when})
        assert answer["scheduleActionType"] == "CreateJob"
        # The same moment is the same job.
        assert await client.ok("POST", "schedules/again/trigger", {"scheduleTime": when}) == answer
        job = (await client.ok("GET", f"jobs/{answer['submissionId']}"))["properties"]
        assert job["command"] == JOB["command"]
        assert sorted(job["inputs"]) == ["at", "more"]
        assert job["outputs"]["out"]["uri"] == f"azureml://datastores/lake/paths/out/{answer['submissionId']}/"
        assert job["experimentName"] == "again"

    with_client(test)


def test_what_cant_be_scheduled_is_refused_at_once_and_what_fails_later_is_remembered(
    with_client: Any, clock: Clock, context: ServiceContext
) -> None:
    async def test(client: Any) -> None:
        for action, status, message in (
            ({"actionType": "CreateMonitor", "monitorDefinition": {}}, 400, "runs on serverless Spark"),
            ({"actionType": "CreateMonitor"}, 400, "A monitor needs a definition"),
            ({"actionType": "ImportData"}, 501, "actionType ImportData"),
            ({"actionType": "Nap"}, 400, "not 'Nap'"),
            ({"actionType": "CreateJob"}, 400, "job definition"),
            ({"actionType": "CreateJob", "jobDefinition": {**JOB, "command": ""}}, 400, "needs a command"),
            (
                {"actionType": "CreateJob", "jobDefinition": {"jobType": "Command", "sourceJobId": "/jobs/no"}},
                400,
                "'no' was not found",
            ),
        ):
            answer = await client.send("PUT", "schedules/bad", {"properties": {"action": action, "trigger": SIX}})
            assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True), answer.text
        assert (await client.send("GET", "schedules/bad")).status_code == 404
        over = {**SIX, "startTime": "2027-01-01T00:00:00", "endTime": "2027-01-02T00:00:00"}
        answer = await client.send("PUT", "schedules/bad", {"properties": schedule(over)})
        assert "has passed" in answer.json()["error"]["message"]

        definition = {**JOB, "environmentId": f"{client.settings.workspace_id}/environments/e/versions/1"}
        await client.put("environments/e/versions/1", image="img")
        await client.put("schedules/later", **schedule(SIX, definition))
        context.store.delete("ml.environments", "e/1")
        clock.set_time(FIVE + timedelta(hours=1))
        for _ in range(100):
            known = context.store.get("ml.schedules", "later")
            assert known is not None
            if known["run"]["history"]:
                break
            await asyncio.sleep(0.03)
        assert "'e:1' was not found" in known["run"]["history"][0]["error"]["message"]
        assert known["run"]["next"].startswith("2027-03-02T06:00:00")

    with_client(test)


def test_the_clock_is_the_machines_until_it_is_set(home: Settings) -> None:
    machine = [FIVE]
    clock, other = Clock(home.clock_file, lambda: machine[0]), Clock(home.clock_file, lambda: machine[0])
    assert clock.now() == FIVE
    other.set_time(FIVE + timedelta(days=1), rate=60)
    machine[0] += timedelta(seconds=2)
    assert clock.now() == FIVE + timedelta(days=1, minutes=2)
    other.reset()
    assert clock.now() == machine[0]
    with pytest.raises(ValueError, match="needs a zone"):
        clock.set_time(datetime(2027, 1, 1))
    with pytest.raises(ValueError, match="rate"):
        clock.set_time(rate=0)
