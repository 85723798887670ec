"""Azure ML's operators: jobs, spending, data assets, the gate. Azure is fake at the HTTP edge only."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException

import azflow.ml
from azflow import exports
from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError
from azflow.ml import AzureMLJobOperator, DataAssetOperator, EvaluationGate, RegisterModelOperator, lake_folder
from azflow.remote import DIGEST_TAG, RunIdentity
from azure_edge import Edge, edge
from workspace_edge import NIGHT, context_of, include

__all__ = ["edge", "include"]


def test_a_jobs_payload_is_the_same_for_every_try_and_is_stamped(
    include: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AzureMLJobOperator, "include", include)
    monkeypatch.setenv("AZFLOW_GIT_COMMIT", "abc123")

    def made() -> Any:
        operator = AzureMLJobOperator(
            task_id="t",
            job="jobs/j.yml",
            inputs={"a": "{{ ti.xcom_pull('data')['id'] }}", "b": "{{ params.who }}"},
            settings={"command": "echo ${{inputs.b}} {{ params.who }}"},
        )
        context = context_of(operator, {"data": {"id": "azureml:d:9"}}, who="me")
        return operator, operator.payload(context)

    operator, payload = made()
    assert made()[1] == payload
    assert payload["content"]["inputs"] == {"a": {"type": "uri_folder", "path": "azureml:d:9"}, "b": "me"}
    assert payload["content"]["command"] == "echo ${{inputs.b}} me"
    tags = operator._tags(RunIdentity("nightly", "manual__1", "t", -1, 0), "digest")
    assert tags[DIGEST_TAG] == "digest"
    assert (tags["git_commit"], tags["partition"], tags["azflow.input.a"]) == ("abc123", "2013-03-08", "azureml:d:9")


class Runs:
    """What `AzureMLJobOperator` asks of the service around a run."""

    def __init__(self, night: float = 0.0) -> None:
        self.night = night
        self.lines = [["first"], ["second", "third"]]

    def night_seconds(self, night: str) -> float:
        assert night == NIGHT.key
        return self.night

    def shown(self, payload: Any) -> str:
        return "include/ml/jobs/j.yml"

    def follow(self, run_id: str, progress: dict[str, Any]) -> list[str]:
        progress["calls"] = progress.get("calls", 0) + 1
        return self.lines.pop(0)

    def cost(self, run_id: str) -> tuple[float, float]:
        return 3600.0, 7200.0


def spender(**spend: float) -> tuple[Any, Any]:
    operator = AzureMLJobOperator(task_id="t", job="jobs/j.yml", spend=spend)
    return operator, context_of(operator)


COMMAND = {"type": "command", "resources": {"instance_count": 2}}


def test_a_job_gets_the_time_that_its_limits_leave() -> None:
    operator, context = spender(max_node_hours_per_night=2)
    operator.before_submit(context, Runs(night=3600), {"content": COMMAND})
    assert operator.timeout_minutes == pytest.approx(30)
    # The process that goes on after a deferral says the same.
    later, _ = spender()
    later.progress = json.loads(json.dumps(operator.progress))
    said = str(later._timed_out("j", ""))
    assert "its deadline of 30 minutes" in said and "Raise spend.max_node_hours_per_night, or" in said
    free, context = spender()
    free.before_submit(context, None, {"content": COMMAND})
    assert free.timeout_minutes == 360


def test_a_job_above_its_limits_is_not_submitted() -> None:
    operator, context = spender(max_node_hours_per_night=1)
    with pytest.raises(
        ConfigurationError, match=r"j\.yml isn't submitted: the night's jobs have taken 2 node hours of 1"
    ):
        operator.before_submit(context, Runs(night=7200), {"content": COMMAND})
    with pytest.raises(ValueError, match="spend has no key hours"):
        spender(hours=1)


def test_a_job_that_failed_was_paid_for(capsys: pytest.CaptureFixture[str]) -> None:
    operator, context = spender(max_node_hours_per_job=1)
    operator.after_failure(context, Runs(), "j")
    pushed = context["ti"].pushed["spend"]
    assert (pushed["name"], pushed["node_seconds"]) == ("j", 7200.0)
    assert pushed["spend"]["over"] == ["2 node hours taken, spend.max_node_hours_per_job is 1"]
    assert "2 node hours taken, spend.max_node_hours_per_job is 1" in capsys.readouterr().out


def test_what_a_job_prints_is_shown_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(azflow.ml, "_LOG_LINES", 2)
    operator, _ = spender()
    runs = Runs()
    operator.follow(runs, "j")
    operator.follow(runs, "j")
    said = capsys.readouterr().out
    assert "| first" in said and "| third" in said and "| second" not in said and "(1 lines are left out" in said
    assert operator.progress == {"calls": 2}


def test_a_bad_job_file_fails_the_task_without_retries(include: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AzureMLJobOperator, "include", include)
    operator = AzureMLJobOperator(task_id="t", job="jobs/j.yml", inputs={"a": "x"})
    with pytest.raises(AirflowFailException, match=r"include/ml/jobs/j\.yml"):
        operator.execute(context_of(operator, who="me"))


def parquet(rows: int, **more: Any) -> bytes:
    import pandas as pd

    buffer = io.BytesIO()
    pd.DataFrame({"flight_id": list(range(rows)), "late": [True] * rows, **more}).to_parquet(buffer, index=False)
    return buffer.getvalue()


def connection() -> AzureConnection:
    return AzureConnection.load("azure_default")


def test_an_export_is_known_by_its_footers(edge: Edge) -> None:
    edge.blobs = {
        "lake/e/train/a.parquet": parquet(3),
        "lake/e/train/b.parq.snappy": parquet(4),
        "lake/e/train/_SUCCESS": b"",
        "lake/e/train2/c.parquet": parquet(5),
    }
    export = exports.inspect(connection(), "/e/train/")
    assert (export.folder, export.rows, export.columns) == ("e/train", 7, ("flight_id", "late"))
    assert len(export.files) == 2
    edge.blobs["lake/e/other/a.parquet"] = parquet(1, distance=[1.0])
    assert exports.inspect(connection(), "e/other").schema_hash != export.schema_hash


def test_a_footer_larger_than_the_first_look(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "_FIRST_LOOK", 20)
    edge.blobs["lake/e/a.parquet"] = parquet(1000)
    assert exports.inspect(connection(), "e").rows == 1000


@pytest.mark.parametrize(
    ("blobs", "said"),
    [
        ({"lake/e/_SUCCESS": b""}, "lake/e holds no Parquet file"),
        ({"lake/e/a.parquet": b"id,late\n1,0\n"}, r"lake/e/a\.parquet is no Parquet file"),
        ({"lake/e/a.parquet": parquet(0)}, "lake/e holds no rows"),
        ({"lake/e/a.parquet": parquet(1), "lake/e/b.parquet": parquet(1, x=[1])}, "have different columns"),
    ],
)
def test_a_bad_export_is_named(edge: Edge, blobs: dict[str, bytes], said: str) -> None:
    edge.blobs = blobs
    with pytest.raises(ConfigurationError, match=said):
        exports.inspect(connection(), "e")


def test_a_data_asset_is_a_pointer_with_what_it_points_at(edge: Edge) -> None:
    edge.on("PUT", "/data/m_train/versions/", lambda match, body: (201, body))
    edge.blobs = {"lake/e/train/a.parquet": parquet(3)}

    def run() -> Any:
        arguments = {"name": "{{ model }}_train", "model": "m", "path": "e/train/", "tags": {"x": "y"}}
        operator = DataAssetOperator(task_id="train", **arguments)
        return operator.execute(context_of(operator))

    result = run()
    version = f"2013-03-08-{NIGHT.key}"
    assert result["id"] == f"azureml:m_train:{version}"
    ((url, asset),) = [(url, body["properties"]) for method, url, body in edge.asked if "/data/" in url]
    assert url.endswith(f"/data/m_train/versions/{version}")
    assert asset["dataType"] == "mltable"
    assert asset["dataUri"].endswith("/datastores/lake/paths/e/train.mltable/")
    assert asset["referencedUris"][0].endswith("/datastores/lake/paths/e/train/")
    assert {key: asset["tags"][key] for key in ("row_count", "watermark", "suite_result", "x")} == {
        "row_count": "3",
        "watermark": "2013-03-08",
        "suite_result": "none",
        "x": "y",
    }
    # The file lies beside the export, not in it.
    table = yaml.safe_load(edge.blobs["lake/e/train.mltable/MLTable"])
    assert table["paths"][0]["pattern"].endswith("/datastores/lake/paths/e/train/*.parq*")
    assert run() == result


EVIDENCE = {
    "metric": "roc_auc",
    "rows": 5000,
    "challenger": {"value": 0.75, "low": 0.7, "high": 0.8, "calibration": [{"predicted": 0.1}]},
    "champion": None,
    "difference": None,
    "slices": [{"column": "carrier"}],
}


def gate(edge: Edge, evidence: Any, *, job_result: Any = None, **more: Any) -> Any:
    edge.on("GET", "/datastores/lake$", (200, {"properties": {"accountName": "lakeaccount", "containerName": "lake"}}))
    edge.blobs["lake/evaluation/x/evidence.json"] = json.dumps(evidence).encode()
    arguments = {"metric": "roc_auc", "max_loss": 0.01, "floor": 0.6, "min_rows": 1000, **more}
    operator = EvaluationGate(task_id="verdict", evaluation="evaluate.job", **arguments)
    found = {"outputs": {"evidence": "azureml://datastores/lake/paths/evaluation/x/"}}
    return operator.execute(context_of(operator, {"evaluate.job": job_result or found}, force_promotion=True))


def test_the_gate_writes_its_verdict_beside_the_evidence(edge: Edge) -> None:
    verdict = gate(edge, EVIDENCE)
    assert (verdict["promote"], verdict["forced"]) == (True, False)
    assert verdict["slices"] == EVIDENCE["slices"]
    assert json.loads(edge.blobs["lake/evaluation/x/verdict.json"]) == json.loads(json.dumps(verdict))


def test_a_no_is_a_verdict_and_can_be_overruled(edge: Edge) -> None:
    assert gate(edge, EVIDENCE, floor=0.9)["promote"] is False
    forced = gate(edge, EVIDENCE, floor=0.9, force="{{ params.force_promotion }}")
    assert (forced["promote"], forced["forced"]) == (True, True)


def test_the_gate_refuses_what_it_cannot_judge(edge: Edge) -> None:
    with pytest.raises(AirflowFailException, match=r"judges 'accuracy'.*'roc_auc'"):
        gate(edge, EVIDENCE, metric="accuracy")
    with pytest.raises(AirflowFailException, match="can't be judged"):
        gate(edge, {"metric": "roc_auc"})
    with pytest.raises(AirflowFailException, match=r"evaluate\.job left no output"):
        gate(edge, EVIDENCE, job_result={"outputs": {"other": "x"}})
    with pytest.raises(AirflowFailException, match="force is 'perhaps'"):
        gate(edge, EVIDENCE, force="perhaps")


def test_a_folder_elsewhere_is_refused(edge: Edge) -> None:
    edge.on("GET", "/datastores/far$", (200, {"properties": {"accountName": "other", "containerName": "c"}}))
    edge.on("GET", "/datastores/none$", (404, {}))
    with pytest.raises(ConfigurationError, match="storage account 'other'"):
        lake_folder(connection(), "azureml://datastores/far/paths/x")
    with pytest.raises(ConfigurationError, match="no datastore 'none'"):
        lake_folder(connection(), "azureml://datastores/none/paths/x")
    with pytest.raises(ConfigurationError, match="isn't the address of a folder"):
        lake_folder(connection(), "azureml://jobs/x/outputs/y")


def test_registering_needs_the_training_job() -> None:
    operator = RegisterModelOperator(task_id="model", name="m", path="azureml://x")
    with pytest.raises(AirflowFailException, match=r"train\.job left no job"):
        operator.execute(context_of(operator))
