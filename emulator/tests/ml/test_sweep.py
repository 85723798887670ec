"""Sweep jobs with real processes: trials, the best one, early termination, failure, cancelling."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

ENVIRONMENT = "azureml://registries/azureml/environments/sklearn-1.5/versions/3"


def sweep(command: str, space: dict[str, Any], **more: Any) -> dict[str, Any]:
    algorithm = more.pop("algorithm", "Grid")
    return {
        "jobType": "Sweep",
        "computeId": "/x/computes/cpu-cluster",
        "experimentName": "nightly",
        "searchSpace": space,
        "samplingAlgorithm": {"samplingAlgorithmType": algorithm},
        "objective": {"goal": "maximize", "primaryMetric": "score"},
        "trial": {"command": command, "environmentId": ENVIRONMENT},
        **more,
    }


CHOICE = {"x": ["choice", [[1, 3, 2]]]}
# MLflow's place is taken by a file of the trial: one value a line.
LOG_SCORE = "echo ${{search_space.x}} >> metrics"


@pytest.fixture(autouse=True)
def metrics(runs: Any, home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def history(name: str, key: str) -> list[tuple[int, float, int]]:
        path = Path(home.home / "jobs" / name / "wd" / "metrics")
        lines = path.read_text().splitlines() if path.exists() and key == "score" else []
        return [(0, float(line), number) for number, line in enumerate(lines)]

    monkeypatch.setattr(runs, "metric_history", history, raising=False)


async def children(client: Any, name: str) -> list[dict[str, Any]]:
    answer = await client.ok("GET", f"/history/v1.0{client.settings.workspace_id}/runs/{name}/children")
    found: list[dict[str, Any]] = answer["value"]
    return found


def test_every_trial_is_a_child_and_the_best_ones_outputs_are_the_sweeps(
    with_client: Any, blobs: Any, runs: Any
) -> None:
    async def test(client: Any) -> None:
        text = f"{LOG_SCORE}; echo $AZUREML_SWEEP_x from ${{{{inputs.where}}}} > ${{{{outputs.model}}}}/m.txt"
        inputs = {"where": {"jobInputType": "literal", "value": "here"}}
        outputs = {"model": {"jobOutputType": "uri_folder"}}
        await client.put("jobs/s", **sweep(text, CHOICE, inputs=inputs, outputs=outputs))
        job = await client.finished("s")
        properties = job["properties"]["properties"]
        assert job["properties"]["status"] == "Completed"
        wanted = {
            "best_child_run_id": "s_1",
            "score": "3.0",
            "best_metric_status": "Succeeded",
            "best_data_container_id": "dcid.s_1",
            "primary_metric_config": '{"name": "score", "goal": "maximize"}',
            "space_size": "3",
        }
        assert wanted.items() <= properties.items()
        trials = await children(client, "s")
        assert [trial["runId"] for trial in trials] == ["s_0", "s_1", "s_2"]
        assert {trial["status"] for trial in trials} == {"Completed"}
        assert trials[1]["tags"]["hyperparameters"] == '{"x": 3}'
        trial = await client.ok("GET", "jobs/s_1")
        assert trial["properties"]["command"].startswith("echo 3 >> metrics")

    with_client(test)
    assert (blobs.root / "azureml/azureml/s/model/m.txt").read_text() == "3 from here\n"
    assert runs.nested["s_2"] == ("s", "s")


def test_a_hopeless_trial_is_ended_and_shown_as_canceled(with_client: Any) -> None:
    async def test(client: Any) -> None:
        # The good one reports and waits; the bad one would run for a minute.
        text = f"{LOG_SCORE}; if [ ${{{{search_space.x}}}} = 1 ]; then sleep 60; else sleep 1.5; fi"
        policy = {"policyType": "Bandit", "slackFactor": 0.1, "evaluationInterval": 1}
        await client.put("jobs/b", **sweep(text, {"x": ["choice", [[9, 1]]]}, earlyTermination=policy))
        job = await client.finished("b")
        assert job["properties"]["status"] == "Completed"
        assert job["properties"]["properties"]["best_child_run_id"] == "b_0"
        assert [trial["status"] for trial in await children(client, "b")] == ["Completed", "Canceled"]

    with_client(test)


def test_failed_trials_are_borne_and_limits_hold(with_client: Any) -> None:
    async def test(client: Any) -> None:
        text = f"{LOG_SCORE}; [ ${{{{search_space.x}}}} != 3 ]"
        await client.put("jobs/f", **sweep(text, CHOICE))
        await client.put("jobs/l", **sweep(LOG_SCORE, CHOICE, limits={"maxTotalTrials": 1}))
        await client.put("jobs/t", **sweep(f"{LOG_SCORE}; sleep 30", CHOICE, limits={"timeout": "PT1S"}))
        one = {"x": ["choice", [[1]]]}
        await client.put("jobs/n", **sweep(f"{LOG_SCORE}; sleep 30", one, limits={"trialTimeout": "PT0.5S"}))
        job = await client.finished("f")
        assert job["properties"]["status"] == "Completed"
        assert job["properties"]["properties"]["best_child_run_id"] == "f_2"
        await client.finished("l")
        assert len(await children(client, "l")) == 1
        assert (await client.finished("t"))["properties"]["status"] == "Canceled"
        assert {trial["status"] for trial in await children(client, "t")} == {"Canceled"}
        assert (await client.finished("n"))["properties"]["status"] == "Failed"
        assert await client.error("n") == "No trial of the sweep completed: n_0 Canceled."

    with_client(test)


def test_failures_say_what_and_where(with_client: Any) -> None:
    async def test(client: Any) -> None:
        await client.put("jobs/all", **sweep("echo no column named late; exit 3", CHOICE))
        await client.put("jobs/none", **sweep("true", CHOICE))
        for name in ("all", "none"):
            assert (await client.finished(name))["properties"]["status"] == "Failed"
        message = await client.error("all")
        assert message.startswith("All 3 trials of the sweep failed and none completed. all_0: ")
        assert "no column named late" in message
        message = await client.error("none")
        assert "The primary metric 'score' was logged by none of the 3 completed trial(s) (none_0, " in message

    with_client(test)


def test_a_cancelled_sweep_takes_its_trials_along(with_client: Any) -> None:
    async def test(client: Any) -> None:
        await client.put("jobs/c", **sweep("sleep 60", CHOICE, limits={"maxConcurrentTrials": 1}))
        await client.finished("c", "Running")
        while not await children(client, "c"):
            await asyncio.sleep(0.03)
        await client.finished("c_0", "Running")
        await client.ok("POST", "jobs/c/cancel")
        assert (await client.finished("c"))["properties"]["status"] == "Canceled"
        assert [trial["status"] for trial in await children(client, "c")] == ["Canceled"]

    with_client(test)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"searchSpace": {"x": ["uniform", [0, 1]]}}, "Grid sampling can only be used with choice"),
        ({"searchSpace": {"y": ["choice", [[1]]]}}, "uses ${{search_space.x}}, but the search_space has y"),
        ({"objective": {"goal": "up", "primaryMetric": "m"}}, "objective.goal must be maximize or minimize"),
        ({"objective": {"goal": "Minimize"}}, "needs objective.primary_metric"),
        ({"limits": {"maxTotalTrials": 1001}}, "between 1 and 1000"),
        ({"samplingAlgorithm": {"samplingAlgorithmType": "Magic"}}, "must be random, grid or bayesian"),
        ({"trial": {"command": "x"}}, "needs an environment"),
        ({"trial": {}}, "needs a trial with a command"),
    ],
)
def test_what_cannot_run_is_refused_at_submission(with_client: Any, changed: dict[str, Any], message: str) -> None:
    async def test(client: Any) -> None:
        answer = await client.send("PUT", "jobs/x", {"properties": {**sweep(LOG_SCORE, CHOICE), **changed}})
        assert answer.status_code == 400
        assert message in answer.json()["error"]["message"]

    with_client(test)
