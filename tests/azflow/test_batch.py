"""Batch endpoints: what an invocation says, that it is found again, and how deployments are made."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

import azflow.endpoint_files
from azflow.batch import (
    NAME_PROPERTY,
    ORIGIN_TAG,
    BatchDeployOperator,
    BatchEndpointInvokeOperator,
    BatchInvocations,
    data_input,
    invocation,
)
from azflow.connection import AzureConnection
from azflow.errors import ConfigurationError, RunExists, SpecError
from azflow.runs import DIGEST_TAG
from azure_edge import Edge, edge
from workspace_edge import HISTORY, WORKSPACE, context_of, history, job, ran, tracked, workspace

__all__ = ["edge"]

ENDPOINT = f"{WORKSPACE}/batchEndpoints/flights"
SCORING = "https://flights.westeurope.inference.ml.azure.com/jobs"


@pytest.fixture
def runs(edge: Edge) -> BatchInvocations:
    workspace(edge)
    edge.on("GET", f"{ENDPOINT}$", (200, {"properties": {"scoringUri": SCORING, "defaults": {}}}))
    edge.on("PATCH", f"{HISTORY}/runs/", (200, {}))
    return BatchInvocations(AzureConnection.load("azure_default"))


PAYLOAD = {"endpoint": "flights", "deployment": "blue", "properties": {"inputData": {"data": {"uri": "azureml://x"}}}}
TAGS = {DIGEST_TAG: "d1", "azflow.night": "n1", "azflow.dag": "dag"}


def test_an_invocation_bears_our_name_and_can_be_repeated(edge: Edge, runs: BatchInvocations) -> None:
    edge.on("POST", f"{SCORING}$", (201, {"name": "mine"}))
    assert runs.submit("mine", PAYLOAD, TAGS) == "mine"
    assert runs.submit("mine", PAYLOAD, TAGS) == "mine"
    first, second = [body for method, url, body in edge.asked if url == SCORING]
    assert first == second
    assert first["properties"]["name"] == "mine"
    assert first["properties"]["properties"] == {NAME_PROPERTY: "mine", DIGEST_TAG: "d1", "azflow.night": "n1"}
    tags = next(body for method, url, body in edge.asked if method == "PATCH")
    assert tags == {"runId": "mine", "tags": TAGS}


def test_a_job_is_found_by_its_name_with_or_without_tags(edge: Edge, runs: BatchInvocations) -> None:
    job(edge, "mine", status="Running", tags={DIGEST_TAG: "d1"})
    job(edge, "bare", status="Running")
    tagged, bare = runs.lookup("mine"), runs.lookup("bare")
    assert tagged is not None and bare is not None
    assert (tagged.payload_digest, bare.payload_digest) == ("d1", None)


def test_a_job_that_the_service_named_is_found_by_its_property(edge: Edge, runs: BatchInvocations) -> None:
    edge.on("GET", f"{WORKSPACE}/jobs/mine$", (404, {}))
    theirs = {"name": "batchjob-7", "properties": {"status": "Queued", "properties": {DIGEST_TAG: "d1"}}}
    edge.on("GET", f"{WORKSPACE}/jobs$", (200, {"value": [theirs]}))
    found = runs.lookup("mine")
    assert found is not None and (found.id, found.payload_digest) == ("batchjob-7", "d1")
    edge.on("GET", f"{WORKSPACE}/jobs$", (200, {"value": []}))
    assert runs.lookup("mine") is None


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ((400, {"error": {"code": "UserError", "message": "A job with this name already exists."}}), RunExists, ""),
        (
            (400, {"error": {"code": "UserError", "message": "no input"}}),
            SpecError,
            "batch endpoint flights: .*no input",
        ),
        ((404, {"error": {"code": "NotFound", "message": "no deployment blue"}}), SpecError, "no deployment blue"),
    ],
)
def test_a_refused_invocation_is_told(
    edge: Edge, runs: BatchInvocations, answer: Any, error: type[Exception], said: str
) -> None:
    edge.on("POST", f"{SCORING}$", answer)
    with pytest.raises(error, match=said):
        runs.submit("mine", PAYLOAD, TAGS)


def test_an_endpoint_that_is_not_there_is_named(edge: Edge, runs: BatchInvocations) -> None:
    edge.on("GET", f"{WORKSPACE}/batchEndpoints/none$", (404, {}))
    with pytest.raises(ConfigurationError, match="no batch endpoint 'none'"):
        runs.submit("mine", {**PAYLOAD, "endpoint": "none"}, TAGS)


def test_predictions_are_found_where_the_service_leaves_them(edge: Edge, runs: BatchInvocations) -> None:
    job(edge, "mine", jobType="Pipeline", status="Completed", outputs={"default": {}})
    edge.on("GET", "/mlflow/runs/get$", (200, {"run": tracked("mine", {})}))
    edge.on("POST", "/mlflow/runs/search$", (200, {"runs": []}))
    history(edge, ran("mine", 60, "azureml.PipelineRun"), [ran("step", 40, displayName="batchscoring")])
    result = runs.result("mine")
    assert result["outputs"] == {"score": "azureml://jobs/step/outputs/score/paths/"}
    assert result["node_seconds"] == 40


@pytest.mark.parametrize(
    ("value", "made"),
    [
        ("azureml:rows:1", {"jobInputType": "UriFolder", "uri": "id of azureml:rows:1"}),
        ({"type": "uri_file", "path": "x.csv"}, {"jobInputType": "UriFile", "uri": "id of x.csv"}),
        (0.5, {"jobInputType": "Literal", "value": "0.5"}),
        (True, {"jobInputType": "Literal", "value": "true"}),
        ({"type": "string", "default": "a"}, {"jobInputType": "Literal", "value": "a"}),
        ({"type": "integer", "default": 3}, {"jobInputType": "Literal", "value": "3"}),
    ],
)
def test_inputs_as_the_service_wants_them(value: Any, made: dict[str, Any]) -> None:
    assert data_input(value, "id of {}".format) == made


@pytest.mark.parametrize("value", [{"type": "table", "path": "x"}, {"type": "uri_folder"}, ["x"], None])
def test_other_inputs_are_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="An input must be an address"):
        data_input(value, str)


def test_the_rest_of_an_invocation() -> None:
    settings = {"mini_batch_size": 5, "compute": {"instance_count": 2}, "retry_settings": {"max_retries": 1}}
    made = invocation({}, {"score": "azureml://datastores/lake/paths/s/"}, settings, "nightly")
    assert made == {
        "outputData": {"score": {"jobOutputType": "UriFolder", "uri": "azureml://datastores/lake/paths/s/"}},
        "properties": {"experimentName": "nightly"},
        "miniBatchSize": 5,
        "compute": {"instanceCount": 2},
        "retrySettings": {"maxRetries": 1},
    }
    with pytest.raises(ConfigurationError, match="no setting 'limits'"):
        invocation({}, {}, {"limits": {}}, "")
    with pytest.raises(ConfigurationError, match="output score must be"):
        invocation({}, {"score": {"type": "table"}}, {}, "")


def test_an_invocations_payload_is_the_same_for_every_try(edge: Edge) -> None:
    edge.on("GET", f"{WORKSPACE}/data/rows/versions/3$", (200, {"id": "/subscriptions/sub/rows/3"}))

    def made() -> dict[str, Any]:
        arguments = {"inputs": {"data": "azureml:{{ params.what }}:3"}, "deployment": "blue"}
        operator = BatchEndpointInvokeOperator(task_id="score", endpoint="flights", **arguments)
        return operator.payload(context_of(operator, what="rows"))

    first = made()
    assert first == made() and json.loads(json.dumps(first)) == first
    data = {"jobInputType": "UriFolder", "uri": "/subscriptions/sub/rows/3"}
    assert first["properties"] == {"inputData": {"data": data}}


# -- deployments -----------------------------------------------------------------------------------------------------

DEPLOYMENT = """
name: {{ deployment }}
endpoint_name: {{ endpoint }}
model: {{ registered_model }}
compute: azureml:cpu-cluster
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "ml" / "endpoints" / "flights"
    made.mkdir(parents=True)
    (made / "endpoint.yml").write_text("name: flights\n")
    (made / "deployment.yml").write_text(DEPLOYMENT)
    monkeypatch.setattr(azflow.endpoint_files, "ENDPOINTS", made.parent)
    return made


class Client:
    """The SDK's operations: what they were given."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        operations = SimpleNamespace(begin_create_or_update=self._create)
        self.batch_endpoints = self.batch_deployments = operations

    def _create(self, entity: Any) -> Any:
        self.made.append(entity)
        return SimpleNamespace(result=lambda seconds: entity)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setattr(AzureConnection, "ml_client", lambda self: made)
    return made


def deploy(**arguments: Any) -> Any:
    operator = BatchDeployOperator(task_id="deploy", endpoint="flights", **arguments)
    return operator.execute(context_of(operator))


def test_a_deployment_is_made_once_and_becomes_the_default(edge: Edge, folder: Path, client: Client) -> None:
    known: dict[str, Any] = {}
    edge.on("GET", f"{ENDPOINT}$", lambda match, body: (200, known["endpoint"]) if client.made else (404, {}))
    edge.on("GET", f"{ENDPOINT}/deployments/", (404, {}))
    known["endpoint"] = {"properties": {"defaults": {}, "scoringUri": SCORING}}
    edge.on("PUT", f"{ENDPOINT}$", lambda match, body: (200, body))
    older = [
        {"name": name, "tags": {ORIGIN_TAG: "x"} if ours else {}, "systemData": {"createdAt": f"2026-01-0{day}"}}
        for name, ours, day in (("a", True, 1), ("b", True, 2), ("theirs", False, 1), ("c", True, 3))
    ]
    edge.on("GET", f"{ENDPOINT}/deployments$", (200, {"value": older}))
    edge.on("DELETE", f"{ENDPOINT}/deployments/", (202, b""))
    found = deploy(registered_model="azureml:m:7", keep=2)
    assert found["deleted"] == ["b", "a"]
    assert [url.rpartition("/")[2] for method, url, _ in edge.asked if method == "DELETE"] == ["b", "a"]
    endpoint, deployment = client.made
    assert (endpoint.name, deployment.endpoint_name, deployment.name) == ("flights", "flights", found["deployment"])
    assert found["deployment"].startswith("v7-") and found["created"] is True
    assert deployment.tags["dag"] == "nightly"
    written = next(body for method, url, body in edge.asked if method == "PUT")
    assert written["properties"]["defaults"] == {"deploymentName": found["deployment"]}
    known["endpoint"] = written
    edge.on("GET", f"{ENDPOINT}/deployments/", (200, {"properties": {"provisioningState": "Succeeded"}}))
    edge.on("GET", f"{ENDPOINT}/deployments$", (404, {}))
    assert deploy(registered_model="azureml:m:7") == {**found, "created": False, "deleted": []}
    assert len(client.made) == 2


def test_a_bad_deployment_is_named_with_its_line(edge: Edge, folder: Path, client: Client) -> None:
    edge.on("GET", f"{ENDPOINT}", (404, {}))
    (folder / "deployment.yml").write_text(DEPLOYMENT + "mini_batch_sise: 5\n")
    with pytest.raises(AirflowFailException, match=r"flights/deployment\.yml: line 6, mini_batch_sise: Unknown field"):
        deploy(registered_model="azureml:m:7")


def test_a_component_must_be_published(edge: Edge, folder: Path, client: Client) -> None:
    edge.on("GET", f"{ENDPOINT}", (404, {}))
    (folder / "deployment.yml").write_text("type: pipeline\ncomponent: ../x.yml\n" + DEPLOYMENT)
    with pytest.raises(AirflowFailException, match="must be a published one"):
        deploy()
