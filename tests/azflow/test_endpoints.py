"""Deployments, canary and roll-out against an endpoint that is faked over HTTPS, nowhere else."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from azflow import canary
from azflow.connection import AzureConnection
from azflow.endpoint_files import render_files
from azflow.endpoints import (
    STATES,
    DeployOperator,
    OnlineDeployments,
    RolloutOperator,
    TrafficOperator,
    endpoint_summary,
    telling,
)
from azflow.errors import ConfigurationError, SpecError
from azflow.online_endpoint import OnlineEndpoint
from fake_endpoint import NAME, FakeEndpoint, broken, late_after
from rollout_bench import HOURS, context, fake, include, roll_out, server, two

__all__ = ["fake", "include", "server", "two"]


# The roll-out.


def test_all_stages(two: FakeEndpoint) -> None:
    two.add("later", late_after(15))
    two.deployments = {"ancient": two.deployments["old"] | {"name": "ancient"}, **two.deployments}
    two.deployments["ancient"]["systemData"] = {"createdAt": "2020-01-01"}
    two.add("foreign", late_after(15), tags={})
    two.deployments["foreign"]["systemData"] = {"createdAt": "2020-01-01"}
    seen = context()
    done = roll_out(seen=seen, stages="[10, 50, 100]")
    assert two.writes == [{"old": 90, "new": 10}, {"old": 50, "new": 50}, {"old": 0, "new": 100}]
    assert done["traffic"] == {"old": 0, "new": 100}
    assert [(stage["percent"], stage["decision"]) for stage in done["stages"]] == [
        (0, "advance"),
        (10, "advance"),
        (50, "advance"),
        (100, "advance"),
    ]
    assert done["stages"][1]["agreement"] == 1.0
    assert done["champion"] == "old"
    # Ours and older than the new one: only that is deleted. Not the champion, not others', not what came later.
    assert done["deleted"] == ["ancient"]
    assert set(two.deployments) == {"old", "new", "later", "foreign"}
    assert seen["ti"].xcoms["evidence"]["traffic"] == {"old": 0, "new": 100}
    assert f"/endpoints/realtime/{NAME}/" in done["url"]
    assert json.loads(json.dumps(done)) == done
    # Once more, after the end: nothing is written, nothing deleted.
    assert roll_out()["stages"] == []
    assert len(two.writes) == 3


def test_the_first_deployment_gets_everything_after_the_probe(fake: FakeEndpoint, include: Path) -> None:
    fake.add("new", late_after(15))
    done = roll_out()
    assert fake.writes == [{"new": 100}]
    assert [stage["percent"] for stage in done["stages"]] == [0, 100]


BREACHES = [
    ("no_predictions", broken(200, {"result": 1}), {}, "no list of predictions"),
    ("null", lambda rows: (200, {"predictions": [None] * len(rows)}), {}, "prediction 0: prediction is null"),
    ("nan", lambda rows: (200, b'{"predictions": [NaN]}'), {"sample_rows": 1}, "prediction 0: prediction is nan"),
    ("too_few", lambda rows: (200, {"predictions": [0] * (len(rows) - 1)}), {}, r"\d+ predictions for \d+ rows"),
    ("turned_away", broken(429, "busy"), {}, "HTTP 429: .*raise instance_count or max_concurrent_requests_per_inst"),
    ("errors", broken(502), {}, "HTTP 502"),
    ("slow", late_after(15), {"max_p95_ms": 0.01}, "max_p95_ms"),
    ("not_json", broken(200, b"<html>"), {}, "isn't JSON"),
]


@pytest.mark.parametrize(("behaviour", "rules", "said"), [each[1:] for each in BREACHES], ids=[b[0] for b in BREACHES])
def test_what_is_bad_from_the_start_never_gets_traffic(
    two: FakeEndpoint, behaviour: Any, rules: dict[str, Any], said: str
) -> None:
    two.models["new"] = behaviour
    seen = context()
    with pytest.raises(AirflowFailException, match=said) as refused:
        roll_out(seen=seen, **rules)
    assert "before it got any traffic" in str(refused.value)
    assert "The traffic is old 100 % again." in str(refused.value)
    assert two.writes == []
    assert seen["ti"].xcoms["evidence"]["stages"][0]["decision"] == "roll_back"


def test_disagreement_restores_the_traffic_in_one_write(two: FakeEndpoint) -> None:
    two.models["new"] = late_after(3)
    with pytest.raises(
        AirflowFailException, match=r"agrees with the champion on \d\d\.\d% of \d+ rows \(min_agreement is 60\.0%\)"
    ):
        roll_out(min_agreement=0.6, sample_rows=24)
    assert two.writes == [{"old": 90, "new": 10}, {"old": 100}]


def test_a_model_that_breaks_at_the_second_stage(two: FakeEndpoint) -> None:
    def break_at_half(count: int) -> None:
        if two.traffic.get("new") == 50:
            two.models["new"] = broken(500)

    two.on_score = break_at_half
    seen = context()
    with pytest.raises(AirflowFailException, match=r"at 50 %, \d+ of"):
        roll_out(seen=seen, stages=[10, 50, 100])
    assert two.writes[-1] == {"old": 100}
    assert [stage["percent"] for stage in seen["ti"].xcoms["evidence"]["stages"]] == [0, 10, 50]


def test_traffic_always_sums_to_100_with_more_than_two(two: FakeEndpoint) -> None:
    two.add("third", late_after(15))
    two.deployments["third"]["systemData"]["createdAt"] = "2020"
    two.traffic = {"old": 67, "third": 33, "new": 0}
    roll_out(stages=(10, 45, 100))
    assert [sum(write.values()) for write in two.writes] == [100, 100, 100]
    assert two.writes[0] == {"old": 60, "third": 30, "new": 10}
    # Served before, not as champion: it has no traffic any more, and is azflow's own.
    assert set(two.deployments) == {"old", "new"}


def test_a_restore_that_fails_says_what_to_do(two: FakeEndpoint) -> None:
    def then_refuse(count: int) -> None:
        if two.writes:
            two.models["new"] = broken()
            two.fail_writes = 99

    two.on_score = then_refuse
    with pytest.raises(AirflowFailException, match=r"COULD NOT BE RESTORED .*set it to old 100 % by hand"):
        roll_out()


def test_a_conflict_is_waited_out(two: FakeEndpoint) -> None:
    two.conflicts = 2
    assert roll_out()["traffic"] == {"old": 0, "new": 100}


def test_a_write_whose_answer_is_lost_is_taken_back(two: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    write = OnlineEndpoint.write_traffic

    def lose_the_answer(self: OnlineEndpoint, traffic: dict[str, int]) -> None:
        write(self, traffic)
        if len(two.writes) == 1:
            raise ConnectionResetError("the connection broke")

    monkeypatch.setattr(OnlineEndpoint, "write_traffic", lose_the_answer)
    with pytest.raises(AirflowFailException, match="the connection broke"):
        roll_out()
    assert two.writes == [{"old": 90, "new": 10}, {"old": 100}]


def test_a_deployment_without_traffic_may_vanish_meanwhile(two: FakeEndpoint) -> None:
    two.traffic = {"old": 100, "older": 0}

    def vanish(count: int) -> None:
        two.traffic.pop("older", None)

    two.on_score = vanish
    assert roll_out()["traffic"] == {"old": 0, "new": 100}


def test_somebody_elses_change_is_left_alone(two: FakeEndpoint) -> None:
    def meddle(count: int) -> None:
        if len(two.writes) == 1:
            two.traffic = {"old": 70, "new": 30}

    two.on_score = meddle
    with pytest.raises(AirflowFailException, match="somebody changed the traffic meanwhile, from old 90 %, new 10 %"):
        roll_out()
    assert two.traffic == {"old": 70, "new": 30}
    assert len(two.writes) == 1


def test_a_stopped_task_gives_the_traffic_back(two: FakeEndpoint) -> None:
    operator = RolloutOperator(
        task_id="traffic", endpoint="trial", deployment="new", sample_path="rows", window_seconds=60
    )
    two.on_score = lambda count: operator.on_kill() if two.writes else None
    seen = context()
    operator.render_template_fields(seen, jinja2.Environment())
    with pytest.raises(AirflowFailException, match="the task was stopped"):
        operator.execute(seen)
    assert two.traffic == {"old": 100}


def test_an_endpoint_that_is_gone(two: FakeEndpoint) -> None:
    two.exists = False
    with pytest.raises(AirflowFailException, match=f"no online endpoint '{NAME}' in workspace 'ws'"):
        roll_out()


@pytest.mark.parametrize("stages", ["[10, 50]", "ten", [50, 10, 100], [], [0, 100]])
def test_bad_stages_are_refused_before_anything_happens(two: FakeEndpoint, stages: Any) -> None:
    with pytest.raises(AirflowFailException, match="stages must"):
        roll_out(stages=stages)
    assert two.scored == []


def test_a_wrong_answer_to_a_named_request_counts_as_an_error(two: FakeEndpoint) -> None:
    scorer = canary.Scorer(f"{two.url}/score", "the-key", verify=str(two.certificate))
    two.models["new"] = late_after(15)
    assert scorer.score(HOURS, "new").problem == ""
    assert scorer.score(HOURS, "nobody").problem.startswith("HTTP 404")
    # Nothing of one request stays for the next, as it does in the SDK's invoke.
    assert scorer.score(HOURS).deployment == "old"
    unreachable = canary.Scorer("https://localhost:9/score", "k", timeout=2)
    assert unreachable.score(HOURS, "new").problem.startswith("no answer: ")


# Rows.


def test_rows_are_read_from_every_kind_of_file(fake: FakeEndpoint) -> None:
    connection = AzureConnection.load()
    frame = pandas.DataFrame(
        {"hour": [1, 2, 3, 4], "temp": [1.5, None, 2.5, 3.5], "day": pandas.to_datetime(["2013-01-01"] * 4)}
    )
    table, parquet = pyarrow.Table.from_pandas(frame), io.BytesIO()
    pyarrow.parquet.write_table(table, parquet)
    fake.blobs = {
        "p/a.parquet": parquet.getvalue(),
        "c/a.csv": frame.drop(columns="day").to_csv(index=False).encode(),
        "j/a.json": json.dumps({"data": HOURS}).encode(),
        "empty/_SUCCESS": b"",
        "empty/readme.txt": b"no rows",
    }
    rows = canary.sample_rows(connection, "/p/", 2)
    assert rows == [
        {"hour": 1, "temp": 1.5, "day": "2013-01-01T00:00:00"},
        {"hour": 3, "temp": 2.5, "day": "2013-01-01T00:00:00"},
    ]
    assert canary.sample_rows(connection, "p", 9)[1]["temp"] is None
    assert canary.sample_rows(connection, "c", 2)[0] == {"hour": 1, "temp": 1.5}
    assert len(canary.sample_rows(connection, "j", 100)) == 24
    with pytest.raises(ConfigurationError, match="lake/empty holds no"):
        canary.sample_rows(connection, "empty/", 5)


@pytest.mark.parametrize(
    ("one", "other", "agreed"),
    [
        ([{"probability": 0.9, "late": True}], [{"probability": 0.6, "late": True}], 1),
        ([{"probability": 0.51, "late": True}], [{"probability": 0.49, "late": False}], 0),
        ([1.00], [1.05], 1),
        ([1.00], [1.50], 0),
        (["a", "b"], ["a", "c"], 1),
        ([{"score": 0.5}], [{"score": 0.52}], 1),
        ([{"score": 0.5}], [{"other": 0.5}], 0),
    ],
)
def test_agreement(one: list[Any], other: list[Any], agreed: int) -> None:
    assert canary.agreement(one, other) == (len(one), agreed)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"predictions": [1, 2]}', ""),
        ("[1, 2]", ""),
        ("[1]", "1 predictions for 2 rows"),
        ('{"predictions": [{"probability": 1.2}, {"probability": 0}]}', "probability is 1.2"),
        ('{"predictions": [NaN, 1]}', "prediction is nan"),
        ('{"predictions": "no"}', "no list of predictions"),
        ('{"predictions": []}', "0 predictions for 2 rows"),
        ('{"predictions": [1, null]}', "prediction 1: prediction is null"),
        ('{"predictions": [{"probability": "high"}, {"probability": 0}]}', "probability is 'high', not a number"),
        ('{"predictions": [{"probability": true}, {"probability": 0}]}', "probability is True, not a number"),
        ('{"predictions": [[0.1, Infinity], [0.1, 0.2]]}', "prediction 0: prediction is inf"),
        ('{"predictions": [{"of": {"x": NaN}}, 1]}', "prediction 0: of is nan"),
        ('"{\\"predictions\\": [1, 2]}"', "run() must return the value, not json.dumps of it"),
        ("", "the answer isn't JSON: ''"),
        ("[" * 100_000, "the answer isn't JSON"),
    ],
)
def test_predictions(text: str, problem: str) -> None:
    predictions, found = canary.predictions_of(text, 2)
    assert (problem in found) and bool(found) == bool(problem)
    assert (len(predictions) == 2) == (not problem)


# Deployments as remote runs.


def deployments(name: str = "v1-abc") -> OnlineDeployments:
    return OnlineDeployments(AzureConnection.load(), NAME, name, "/nowhere")


def test_what_is_there_is_found_by_content(fake: FakeEndpoint) -> None:
    runs = deployments()
    assert runs.lookup("try-0") is None
    fake.add("v1-abc", late_after(1), tags={"azflow.name": "another-task", "azflow.payload": "d"})
    found = runs.lookup("try-0")
    assert found is not None
    assert (found.id, found.state.succeeded, found.payload_digest) == ("v1-abc", True, "d")
    result = runs.result("v1-abc")
    assert result["deployment"] == "v1-abc"
    assert result["scoring_uri"] == f"{fake.url}/score"
    fake.exists = False
    assert runs.lookup("try-0") is None


def test_a_failed_deployment_is_left_alone_and_another_name_used(fake: FakeEndpoint) -> None:
    runs = deployments()
    fake.add("v1-abc", late_after(1), tags={"azflow.name": "try-0"}, state="Failed")
    found = runs.lookup("try-0")
    assert found is not None
    assert found.state.phase == "failed"
    # The loop's next try, and a person's, look elsewhere.
    assert runs.lookup("try-1") is None
    other = runs._name("try-1")
    assert other.startswith("v1-abc-")
    assert len(other) <= 32
    fake.add(other, late_after(1), tags={"azflow.name": "try-1"}, state="Creating")
    found = runs.lookup("try-1")
    assert found is not None
    assert (found.id, found.state.is_terminal) == (other, False)


def test_a_failure_shows_the_log(fake: FakeEndpoint) -> None:
    fake.add("v1-abc", late_after(1), state="Failed")
    failure = deployments().failure("v1-abc")
    assert failure.log_tail == ["line one", "ValueError: last line"]
    assert not failure.retry_helps
    assert "kept for inspection" in failure.cause


@pytest.mark.parametrize("after", [0, 5, 37, 38, 60, 300])
def test_the_cause_is_shown_however_much_the_server_says_after_it(after: int) -> None:
    cause = ["E azmlinfsrv - Traceback (most recent call last):", "  File score.py", "OSError: no weights"]
    last = [f"gunicorn {number}" for number in range(after)]
    shown = telling([*(f"begins {number}" for number in range(100)), *cause, *last])
    assert "OSError: no weights" in shown and shown[-1] == (last or cause)[-1]
    assert len(shown) <= 41


def test_a_log_without_a_traceback_shows_its_end() -> None:
    lines = [f"line {number}" for number in range(100)]
    assert telling(lines) == lines[60:]
    assert telling([]) == []


def test_cancelling_deletes_what_is_being_made(fake: FakeEndpoint) -> None:
    fake.add("v1-abc", late_after(1), state="Creating")
    runs = deployments()
    runs.cancel("v1-abc")
    assert fake.deployments == {}
    runs.cancel("v1-abc")  # gone already: no error
    assert runs.state("v1-abc").raw == "deleted"


async def test_the_triggerer_polls_without_blocking(fake: FakeEndpoint) -> None:
    runs = deployments()
    fake.add("v1-abc", late_after(1), state="Updating")
    assert (await runs.astate("v1-abc")).phase == "active"
    fake.deployments["v1-abc"]["properties"]["provisioningState"] = "Succeeded"
    assert (await runs.astate("v1-abc")).succeeded
    del fake.deployments["v1-abc"]
    assert (await runs.astate("v1-abc")).phase == "cancelled"
    await runs.aclose()
    runs.close()


@pytest.mark.parametrize("word", ["Creating", "Deleting", "Scaling", "Updating", "Succeeded", "Failed", "Canceled"])
def test_every_state_of_the_service_is_known(word: str) -> None:
    """https://learn.microsoft.com/rest/api/azureml/online-deployments/get (DeploymentProvisioningState)"""
    assert STATES.of(word).raw == word


def deploy(**more: Any) -> Any:
    arguments: dict[str, Any] = {"registered_model": "azureml:m:3", "sample_path": "rows/", **more}
    operator = DeployOperator(task_id="deploy", endpoint="trial", **arguments)
    seen = context()
    operator.render_template_fields(seen, jinja2.Environment())
    return operator, operator.execute, seen


def test_an_existing_deployment_is_attached_to_and_probed(fake: FakeEndpoint, include: Path) -> None:
    operator, execute, seen = deploy()
    fake.add(operator.files.deployment, late_after(15))
    done = execute(seen)
    assert done["deployment"] == operator.files.deployment
    assert done["deployment"].startswith("v3-")
    assert (done["probe"]["requests"], done["traffic"]) == (5, {})
    # What the docstring promises of the XCom, word for word.
    promised = re.search(r'"probe": (\{.*?\})', DeployOperator.__doc__ or "", re.DOTALL)
    assert promised and set(re.findall(r'"(\w+)"', promised.group(1))) == set(done["probe"])
    assert set(fake.scored) == {operator.files.deployment}
    assert seen["ti"].xcoms["_link_EndpointLink"] == operator.run_url


def test_a_deployment_that_fails_its_probe(fake: FakeEndpoint, include: Path) -> None:
    operator, execute, seen = deploy()
    fake.add(operator.files.deployment, broken(502, "no such column"))
    with pytest.raises(AirflowFailException, match=r"6 of 6 requests with real rows failed.*no such column"):
        execute(seen)


# The user's files.


def rendered(model: str = "azureml:m:3") -> Any:
    return render_files("trial", jinja2.Environment(), {"night": "x"}, model)


def test_the_name_stands_for_the_content(include: Path) -> None:
    first = rendered()
    assert rendered() == first
    assert first.deployment.startswith("v3-")
    assert rendered("azureml:m:4").deployment != first.deployment
    (include / "code/score.py").write_text("def run(data): return 1\n")
    changed = rendered()
    assert changed.deployment != first.deployment
    arm = rendered("/subscriptions/s/models/m/versions/12")
    assert arm.deployment.startswith("v12-")
    assert "model: azureml:/subscriptions" in arm.deployment_yaml


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("endpoint.yml", "auth_mode: key", r"trial/endpoint.yml: name: is missing"),
        ("endpoint.yml", "- a", r"trial/endpoint.yml: must be a mapping"),
        (
            "deployment.yml",
            "name: blue\nendpoint_name: flights",
            r"trial/deployment.yml: name: must be '{{ deployment }}'",
        ),
        ("deployment.yml", "name: {{ deployment }}", r"trial/deployment.yml: endpoint_name: must be '{{ endpoint }}'"),
        ("deployment.yml", "name: {{ nobody }}", r"trial/deployment.yml: isn't a good template: 'nobody' is undefined"),
        ("deployment.yml", "name: {{ deployment }}\n\tx", r"trial/deployment.yml: isn't YAML"),
    ],
)
def test_a_wrong_file_is_named(include: Path, file: str, text: str, said: str) -> None:
    (include / file).write_text(text)
    with pytest.raises(SpecError, match=said):
        rendered()


@pytest.mark.parametrize("folder", ["nobody", "../models", "/etc"])
def test_a_wrong_folder_is_named(include: Path, folder: str) -> None:
    with pytest.raises(SpecError, match="is no folder below include/ml/endpoints"):
        render_files(folder, jinja2.Environment(), {}, "azureml:m:1")


def test_the_projects_own_files_render() -> None:
    found = render_files("flight_delay", jinja2.Environment(), {"model": "flight_delay"}, "azureml:flight_delay:1")
    assert found.name == "flight-delay"
    assert "code: code" in found.deployment_yaml


# For the report.


# -- by hand -----------------------------------------------------------------------------------------------------------


def by_hand(action: str, **more: Any) -> dict[str, Any]:
    operator = TrafficOperator(task_id="traffic", endpoint=NAME, action=action, sample_path="rows/", **more)
    found: dict[str, Any] = operator.execute(context())
    return found


def test_a_person_shifts_traffic(two: FakeEndpoint) -> None:
    found = by_hand("shift", deployment="new", percent="20")
    assert (found["before"], found["traffic"]) == ({"old": 100}, {"old": 80, "new": 20})
    assert two.writes == [{"old": 80, "new": 20}]
    assert set(two.scored) == {"new"}  # asked by name before it got anything
    assert by_hand("shift", deployment="new", percent=20)["traffic"] == {"old": 80, "new": 20}
    assert len(two.writes) == 1  # as it was: nothing to write


def test_rolling_back_goes_to_who_served_before(two: FakeEndpoint) -> None:
    two.add("newest", late_after(18))
    two.traffic = {"old": 0, "new": 0, "newest": 100}
    assert by_hand("roll_back")["traffic"] == {"old": 0, "newest": 0, "new": 100}
    assert by_hand("roll_back", deployment="newest")["deployment"] == "newest"
    two.deployments["new"]["properties"]["provisioningState"] = "Failed"
    assert by_hand("roll_back")["deployment"] == "old"


@pytest.mark.parametrize(
    ("action", "more", "says"),
    [
        ("shift", {}, "Which deployment\\? There are new, old"),
        ("shift", {"deployment": "nex", "percent": 5}, "has no deployment 'nex'; there are new, old"),
        ("shift", {"deployment": "new", "percent": "many"}, "percent is 'many'"),
        ("shift", {"deployment": "new", "percent": 101}, "from 0 to 100"),
        ("shift", {"deployment": "old", "percent": 40}, "nobody else has traffic"),
        ("roll_back", {}, "no older deployment to go back to"),
        ("push", {}, "must be shift or roll_back"),
    ],
)
def test_what_cant_be_shifted_is_left_as_it_is(two: FakeEndpoint, action: str, more: Any, says: str) -> None:
    with pytest.raises(AirflowException, match=says):
        by_hand(action, **more)
    assert two.writes == []


def test_a_broken_deployment_gets_nothing_by_hand_either(two: FakeEndpoint) -> None:
    two.models["new"] = broken()
    with pytest.raises(AirflowException, match=r"new gets no traffic: asked by name .* HTTP 502"):
        by_hand("shift", deployment="new", percent=10)
    assert two.writes == []


def test_a_pattern_means_the_newest_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    days = {"export/m/2013-03-09/a/score/": 2, "export/m/2013-03-08/b/score/": 3, "export/m/2013-03-09/a/train/": 9}
    blobs = [SimpleNamespace(name=f"{folder}part.parquet", last_modified=day) for folder, day in days.items()]
    found = canary._newest_folder(blobs, "export/m/*/*/score")
    assert [blob.name for blob in found] == ["export/m/2013-03-08/b/score/part.parquet"]
    assert canary._newest_folder(blobs, "export/other/*/score") == []


def test_summary(two: FakeEndpoint) -> None:
    two.traffic = {"old": 90, "new": 10}
    found = endpoint_summary(AzureConnection.load(), NAME)
    assert found["traffic"] == {"old": 90, "new": 10}
    assert found["deployments"]["new"] == {"state": "Succeeded", "model": "model-of-new", "share": 10}


def test_traffic_that_doesnt_sum_to_100_is_never_sent(two: FakeEndpoint) -> None:
    endpoint = OnlineEndpoint(AzureConnection.load(), NAME)
    for wrong in ({"old": 0}, {"old": 90}, {"old": 90, "new": 40}):
        with pytest.raises(ValueError, match="must sum to 100"):
            endpoint.write_traffic(wrong)
    assert two.writes == []


def test_errors_of_the_service_reach_airflow_in_its_words(two: FakeEndpoint) -> None:
    two.fail_writes = 99
    with pytest.raises(AirflowException, match="not now"):
        roll_out()
