"""What a roll-out is judged by beside its own requests: the champion's captured ones, the endpoint's metrics; and what
a breach leaves for whoever looks into it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from azflow.canary import is_probe
from azflow.guardrails import Observed, RolloutRules, Sample, judge_stage, with_observed
from fake_endpoint import NAME, FakeEndpoint, broken, late_after
from rollout_bench import context, fake, include, roll_out, server, two

__all__ = ["fake", "include", "server", "two"]

# Its own metrics.


def counted(ok: float, failed: float = 0, status: str = "500", p95: float = 20.0) -> Callable[[str, str], Any]:
    """Azure Monitor's answer: so many requests a minute, over two minutes of which one isn't known yet."""

    def series(value: float, **dimensions: str) -> dict[str, Any]:
        named = [{"name": {"value": name.lower()}, "value": each} for name, each in dimensions.items()]
        data = [{"timeStamp": "2026-01-01T00:00:00Z", "average": value}, {"timeStamp": "2026-01-01T00:01:00Z"}]
        return {"metadatavalues": named, "data": data}

    def answer(name: str, wanted: str) -> tuple[int, Any]:
        assert "deployment eq 'new'" in wanted
        if name == "RequestsPerMinute":
            assert wanted.endswith("and statusCode eq '*'")
            found = [series(ok, statusCode="200"), series(failed, statusCode=status)]
        else:
            assert name == "RequestLatency_P95"
            found = [series(p95, deployment="new")]
        return 200, {"value": [{"name": {"value": name}, "unit": "Count", "timeseries": found}]}

    return answer


def test_the_endpoints_own_metrics_are_heard(two: FakeEndpoint) -> None:
    two.metrics = counted(300, 1)
    done = roll_out(stages=(50, 100))
    assert done["stages"][1]["observed"] == {"requests": 301, "failed": 1, "p95_ms": 20.0}
    assert "by the endpoint's own metrics 301 requests, 1 failed, p95 20 ms" in done["stages"][1]["reasons"]
    assert done["stages"][0]["observed"] is None  # nobody was sent to it yet


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        (counted(90, 10), r"by the endpoint's own metrics 10 of 100 requests to new failed \(10\.0%; max_error_rate"),
        (counted(90, 10, "429"), r"by the endpoint's own metrics 10 of 100 requests"),
        (counted(90, 10, "424"), r"by the endpoint's own metrics 10 of 100 requests"),
        (counted(100, p95=4000), r"by the endpoint's own metrics 95 % of new's answers took up to 4000 ms"),
    ],
)
def test_what_only_others_saw_restores_the_traffic(two: FakeEndpoint, metrics: Any, says: str) -> None:
    two.metrics = metrics
    with pytest.raises(AirflowFailException, match=says):
        roll_out()
    assert two.writes == [{"old": 90, "new": 10}, {"old": 100}]


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        (None, "can't be read, our requests decide: (ResourceNotFound) no metrics here"),
        (
            lambda name, wanted: (501, {"error": {"code": "NotImplementedOperation", "message": "x"}}),
            "decide: (NotImplementedOperation) x",
        ),
        (lambda name, wanted: (200, {"value": []}), "tell nothing of new yet, our requests decide"),
        (lambda name, wanted: (200, b"<html>"), "tell nothing of new yet, our requests decide"),
        (counted(0), "tell nothing of new yet, our requests decide"),
        (counted(1, 1), "100 %: advance"),
        (counted(90, 10, "400"), "by the endpoint's own metrics 100 requests, 0 failed"),
    ],
    ids=["absent", "not there", "empty", "not JSON", "late", "too few", "callers' mistakes"],
)
def test_metrics_that_tell_nothing_speak_for_nobody(
    two: FakeEndpoint, metrics: Any, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    two.metrics = metrics
    assert roll_out(stages=(50, 100), min_requests=3)["traffic"] == {"old": 0, "new": 100}
    assert says in capsys.readouterr().out


def test_observed_cannot_pass_what_our_requests_refused() -> None:
    rules = RolloutRules(min_requests=2)
    refused = judge_stage([Sample("new", True, 1.0, "HTTP 500")] * 5, "new", rules, window_over=True)
    judged = with_observed(refused, Observed(1000, 0, 1.0), "new", rules)
    assert judged.decision == "roll_back" and judged.reasons == refused.reasons
    assert judged.as_dict()["observed"] == {"requests": 1000, "failed": 0, "p95_ms": 1.0}


# Its shadow.

SHADOW = {"requests": 50, "hours": 24}


def capture(
    endpoint: FakeEndpoint,
    pairs: list[tuple[Any, Any]],
    *,
    age: timedelta = timedelta(minutes=5),
    ids: Sequence[str] = (),
) -> None:
    """What the data collector wrote of the deployment `old`: requests and responses by correlation id."""
    at = datetime.now(UTC) - age
    folder = f"azureml/modelDataCollector/{NAME}/old/%s/{at:%Y/%m/%d/%H}/instance.jsonl"
    for collection, which in (("request", 0), ("response", 1)):
        lines = [
            {"specversion": "1.0", "type": f"azureml.inference.{collection}", "time": at.isoformat(),
             "data": pair[which], "correlationid": ids[number] if ids else str(number)}
            for number, pair in enumerate(pairs) if pair[which] is not None
        ]  # fmt: skip
        endpoint.blobs[folder % collection] = "\n".join(json.dumps(line) for line in lines).encode()


def said(hours: list[int], from_hour: int = 15) -> dict[str, Any]:
    return {"predictions": [{"probability": 0.5, "late": hour >= from_hour} for hour in hours]}


def asked(hours: list[int]) -> dict[str, Any]:
    return {"data": [{"hour": hour} for hour in hours]}


def test_what_the_champion_was_asked_is_asked_of_the_new_one(two: FakeEndpoint) -> None:
    capture(two, [(asked([hour, 20]), said([hour, 20])) for hour in range(24)])
    done = roll_out(shadow=SHADOW, min_agreement=0.9)
    shadow = done["stages"][1]
    assert (shadow["name"], shadow["decision"], shadow["requests"], shadow["agreement"]) == ("shadow", "advance", 24, 1)
    assert [stage["name"] for stage in done["stages"]] == ["probe", "shadow", "10 %", "50 %", "100 %"]
    # Only the newest, and no request goes to anybody but the new one.
    assert roll_out_again(two, {"requests": 5, "hours": 1})["stages"][1]["requests"] == 5


def roll_out_again(endpoint: FakeEndpoint, shadow: dict[str, Any]) -> dict[str, Any]:
    endpoint.traffic = {"old": 100}
    return roll_out(shadow=shadow)


def test_a_shadow_that_contradicts_never_gets_traffic(two: FakeEndpoint) -> None:
    capture(two, [(asked([hour]), said([hour], from_hour=3)) for hour in range(24)])
    with pytest.raises(
        AirflowFailException, match=r"before it got any traffic, asked what the champion was asked, new"
    ):
        roll_out(shadow=SHADOW, min_agreement=0.9)
    assert two.writes == []


def test_a_model_that_breaks_on_what_callers_really_send(two: FakeEndpoint) -> None:
    capture(two, [({"data": [{"hour": 1, "vip": True}]}, said([1]))] * 10)

    def only_what_it_knows(rows: list[dict[str, Any]]) -> tuple[int, Any]:
        return (500, "KeyError: 'vip'") if "vip" in rows[0] else late_after(15)(rows)

    two.models["new"] = only_what_it_knows
    with pytest.raises(AirflowFailException, match=r"3 of 3 requests to new failed .*HTTP 500: .KeyError: 'vip'"):
        roll_out(shadow=SHADOW)
    assert two.writes == []


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [(asked([1]), None)],  # no answer yet
        [(asked([1]), {"error": "the champion failed as well"})],
        [("not what score.py takes", "<html>")],
    ],
    ids=["nothing", "unanswered", "champion's error", "no JSON"],
)
def test_without_captured_requests_the_roll_out_goes_on(
    two: FakeEndpoint, pairs: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    capture(two, pairs)
    done = roll_out(shadow=SHADOW)
    assert [stage["name"] for stage in done["stages"]] == ["probe", "10 %", "50 %", "100 %"]
    assert "No shadow: nothing that old was asked lately was captured" in capsys.readouterr().out


def test_every_request_of_a_roll_out_says_that_it_is_one(two: FakeEndpoint) -> None:
    capture(two, [(asked([hour]), said([hour])) for hour in range(3)])
    two.ids.clear()
    two.scored.clear()
    roll_out(shadow=SHADOW)
    assert len(two.ids) == len(two.scored) > 10  # one each, in both headers
    assert all(is_probe({"xrequestid": id, "data": {}}) for id in two.ids)


@pytest.mark.parametrize(
    ("more", "probe"),
    [
        ({"xrequestid": "azflow-probe-1"}, True),
        ({"correlationid": "azflow-probe-1"}, True),
        ({"headers": {"x-ms-client-request-id": ["azflow-probe-1"]}}, True),  # request_logging.capture_headers
        ({"xrequestid": "7f3a", "data": {"data": [{"note": "azflow-probe-1"}]}}, False),
        ({}, False),
    ],
)
def test_a_probe_is_known_by_its_id_alone(more: dict[str, Any], probe: bool) -> None:
    assert is_probe({"specversion": "1.0", "data": {}, **more}) is probe


def test_what_a_roll_out_asked_is_no_shadow_of_the_next(two: FakeEndpoint) -> None:
    pairs = [(asked([hour]), said([hour])) for hour in range(8)]
    capture(two, pairs, ids=["azflow-probe-7", "a", "b", *["azflow-probe-8"] * 5])
    assert roll_out(shadow=SHADOW)["stages"][1]["requests"] == 2


def test_old_requests_and_a_retry_have_no_shadow(two: FakeEndpoint) -> None:
    capture(two, [(asked([1]), said([1]))] * 5, age=timedelta(hours=30))
    assert roll_out(shadow=SHADOW)["stages"][1]["name"] == "10 %"
    capture(two, [(asked([1]), said([1]))] * 5)
    two.traffic = {"old": 50, "new": 50}  # a worker that died here: it has been asked before
    assert [stage["name"] for stage in roll_out(shadow=SHADOW)["stages"]] == ["probe", "100 %"]


def test_a_body_that_is_text_is_sent_as_it_was(two: FakeEndpoint) -> None:
    capture(two, [(json.dumps(asked([hour])), json.dumps(said([hour]))) for hour in range(4)])
    assert roll_out(shadow=SHADOW)["stages"][1]["requests"] == 4


# What a breach leaves.


def test_a_breach_keeps_the_deployment_and_shows_its_log(two: FakeEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    two.on_score = lambda count: two.models.update(new=broken(500)) if two.writes else None
    seen = context()
    with pytest.raises(AirflowFailException, match="new is kept for inspection; its last log lines are above"):
        roll_out(seen=seen)
    assert "new" in two.deployments
    evidence = seen["ti"].xcoms["evidence"]
    assert evidence["log"] == ["line one", "ValueError: last line"]
    assert evidence["problem"].startswith("at 10 %, ")
    assert evidence["traffic"] == {"old": 100, "new": 0} or evidence["traffic"] == {"old": 100}
    assert "ValueError: last line" in capsys.readouterr().out
