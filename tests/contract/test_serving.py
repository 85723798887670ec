"""Azure ML's SDK and azflow's operators against online endpoints. Evidence: `sdk` (the real client, unmodified).

The model is a real one, with the project's own scoring script; requests go to the scoring URI as any client's would.
"""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.ai.ml import MLClient
from azure.ai.ml.entities import (
    CodeConfiguration,
    DataCollector,
    DeploymentCollection,
    Environment,
    KubernetesOnlineDeployment,
    KubernetesOnlineEndpoint,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    Model,
    TargetUtilizationScaleSettings,
)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.blob import ContainerClient

CHECKOUT = Path(__file__).resolve().parents[2]
SCORING = CHECKOUT / "include/ml/endpoints/flight_delay/code"

#: A classifier over a few of the flights' columns, saved as the training job saves it. Arguments: folder, seed.
TRAIN = """
import sys
import lightgbm, mlflow.sklearn, numpy as np, pandas as pd
from mlflow.models import infer_signature
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder
folder, seed = sys.argv[1], int(sys.argv[2])
random = np.random.default_rng(seed)
flights = pd.DataFrame({
    "carrier": random.choice(["UA", "AA", "DL"], 2000), "origin": random.choice(["EWR", "JFK", "LGA"], 2000),
    "sched_dep_hour": random.integers(5, 23, 2000), "temp": random.normal(50, 10, 2000)})
late = ((flights.sched_dep_hour > 15) ^ (random.random(2000) < 0.1)).astype(int)
encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
model = make_pipeline(
    make_column_transformer((encoder, ["carrier", "origin"]), remainder="passthrough"),
    lightgbm.LGBMClassifier(n_estimators=20, n_jobs=1, verbose=-1)).fit(flights, late)
mlflow.sklearn.save_model(model, folder + "/model", serialization_format="cloudpickle",
    signature=infer_signature(flights, model.predict(flights)), pip_requirements=["scikit-learn"])
flights.head(200).to_parquet(folder + "/rows.parquet")
"""

ROWS = [
    {"carrier": "UA", "origin": "EWR", "sched_dep_hour": 20, "temp": 50.0, "unknown": "ignored"},
    {"carrier": "XX", "origin": "JFK", "sched_dep_hour": 7, "temp": None},
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model` and `rows.parquet`."""
    folder = tmp_path_factory.mktemp("trained")
    python = CHECKOUT / "var/env/compute/bin/python"
    if not python.exists():
        pytest.skip("the compute environment isn't built")
    subprocess.run([python, "-c", TRAIN, str(folder), "1"], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def client(localazure: Any) -> MLClient:
    cloud = localazure.cloud()
    return MLClient(
        localazure.credential(),
        localazure["subscription_id"],
        localazure["resource_group"],
        localazure["workspace"],
        cloud=cloud["name"],
        cloud_metadata={
            "azure_portal": cloud["portal"],
            "resource_manager": cloud["resource_manager"] + "/",
            "active_directory": cloud["authority"],
            "aml_resource_id": cloud["aml_resource_id"],
            "storage_endpoint": cloud["storage_endpoint"],
            "registry_discovery_endpoint": cloud["resource_manager"] + "/",
        },
        show_progress=False,
        enable_telemetry=False,
    )


@pytest.fixture(scope="module")
def model(client: MLClient, trained: Path) -> Model:
    return client.models.create_or_update(
        Model(name="contract-flights", path=str(trained / "model"), type="mlflow_model")
    )


@pytest.fixture
def endpoint(client: MLClient) -> Iterator[KubernetesOnlineEndpoint]:
    """A Kubernetes endpoint, deleted at the end."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    wanted = KubernetesOnlineEndpoint(name=name, compute="azureml:aks-scoring", auth_mode="key", tags={"a": "b"})
    yield client.online_endpoints.begin_create_or_update(wanted).result()
    client.online_endpoints.begin_delete(name).result()


def deployment(endpoint: str, name: str, model: Model, code: Path = SCORING, **more: Any) -> KubernetesOnlineDeployment:
    arguments: dict[str, Any] = {
        "name": name,
        "endpoint_name": endpoint,
        "model": model.id,
        "code_configuration": CodeConfiguration(code=str(code), scoring_script="score.py"),
        "environment": Environment(
            image="mcr.microsoft.com/azureml/minimal-ubuntu22.04-py311-cpu-inference:latest",
            conda_file={"dependencies": [{"pip": ["scikit-learn", "lightgbm"]}]},
        ),
        "instance_count": 1,
    }
    return KubernetesOnlineDeployment(**arguments | more)


def score(client: MLClient, endpoint: str, rows: Any = ROWS, **headers: str) -> requests.Response:
    credentials = client.online_endpoints.get_keys(endpoint)
    key = getattr(credentials, "primary_key", None) or credentials.access_token
    uri = client.online_endpoints.get(endpoint).scoring_uri
    sent = {"Authorization": f"Bearer {key}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.post(uri, json={"data": rows}, headers=sent, timeout=30)


def test_blue_and_green(client: MLClient, endpoint: KubernetesOnlineEndpoint, model: Model) -> None:
    name = endpoint.name
    for color in ("blue", "green"):
        made = client.online_deployments.begin_create_or_update(deployment(name, color, model)).result()
        assert (made.name, made.provisioning_state) == (color, "Succeeded")
    assert {each.name for each in client.online_deployments.list(name)} == {"blue", "green"}
    # Without traffic nobody is asked, but each answers to its name.
    assert score(client, name).status_code == 404
    answer = score(client, name, azureml_model_deployment="green")
    assert answer.headers["azureml-model-deployment"] == "green"
    late, early = answer.json()["predictions"]
    assert late["late"] is True
    assert late["probability"] > 0.7
    assert early["late"] is False

    found = client.online_endpoints.get(name)
    assert found.tags == {"a": "b"}
    found.traffic = {"blue": 90, "green": 10}
    client.online_endpoints.begin_create_or_update(found).result()
    assert client.online_endpoints.get(name).traffic == {"blue": 90, "green": 10}
    who = Counter(score(client, name).headers["azureml-model-deployment"] for _ in range(20))
    assert who == {"blue": 18, "green": 2}

    with pytest.raises(HttpResponseError, match="90 %"):
        client.online_deployments.begin_delete("blue", name).result()
    found.traffic = {"blue": 0, "green": 100}
    client.online_endpoints.begin_create_or_update(found).result()
    client.online_deployments.begin_delete("blue", name).result()
    with pytest.raises(ResourceNotFoundError):
        client.online_deployments.get("blue", name)
    assert score(client, name).status_code == 200


def metrics(localazure: Any, resource: str, asked: dict[str, str]) -> list[dict[str, Any]]:
    token = localazure.credential().get_token(f"{localazure['api_url']}/.default").token
    url = f"{localazure['api_url']}{resource}/providers/microsoft.insights/metrics"
    answer = requests.get(url, params=asked, headers={"Authorization": f"Bearer {token}"}, timeout=30)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["value"]
    return found


def test_keys_input_and_metrics(
    localazure: Any, client: MLClient, endpoint: KubernetesOnlineEndpoint, model: Model
) -> None:
    name = endpoint.name
    client.online_deployments.begin_create_or_update(deployment(name, "blue", model)).result()
    headers = {"azureml_model_deployment": "blue"}
    uri = client.online_endpoints.get(name).scoring_uri
    assert requests.post(uri, json={"data": ROWS}, timeout=30).status_code == 401
    before = client.online_endpoints.get_keys(name)
    client.online_endpoints.begin_regenerate_keys(name, key_type="primary").result()
    after = client.online_endpoints.get_keys(name)
    assert (after.primary_key != before.primary_key, after.secondary_key) == (True, before.secondary_key)
    assert score(client, name, **headers).status_code == 200
    before_asked = time.time()
    refused = score(client, name, [{"carrier": "UA"}], **headers)
    assert refused.status_code == 400
    assert "no value for origin, sched_dep_hour, temp" in refused.json()["error"]["message"]
    assert score(client, name, azureml_model_deployment="purple").status_code == 404

    # What Azure Monitor counted of it, asked for as its REST API is.
    endpoint_id = client.online_endpoints.get(name).id
    ends = (before_asked - 60, time.time() + 60)
    span = "/".join(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)) for at in ends)
    asked = {
        "api-version": "2023-10-01",
        "timespan": span,
        "metricnames": "RequestsPerMinute,RequestLatency_P95",
        "aggregation": "total,average",
        "interval": "FULL",
        "$filter": "deployment eq 'blue'",
    }
    counted, slow = metrics(localazure, endpoint_id, asked)
    assert counted["timeseries"][0]["data"][0]["total"] >= 2
    assert 0 < slow["timeseries"][0]["data"][0]["average"] < 30_000
    asked |= {"metricnames": "RequestsPerMinute", "$filter": "deployment eq 'blue' and statusCode eq '400'"}
    (counted,) = metrics(localazure, endpoint_id, asked)
    assert [series["data"][0]["total"] for series in counted["timeseries"]] == [1]
    asked = {"api-version": "2023-10-01", "timespan": span, "metricnames": "DeploymentCapacity", "interval": "FULL"}
    (capacity,) = metrics(localazure, f"{endpoint_id}/deployments/blue", asked)
    assert capacity["timeseries"][0]["data"][0]["average"] == 1


def test_what_is_asked_and_answered_is_collected(
    localazure: Any, client: MLClient, endpoint: KubernetesOnlineEndpoint, model: Model
) -> None:
    name = endpoint.name
    collector = DataCollector(
        collections={
            "model_inputs": DeploymentCollection(enabled="true"),
            "model_outputs": DeploymentCollection(enabled="true"),
            "request": DeploymentCollection(enabled="true"),
            "response": DeploymentCollection(enabled="true"),
        }
    )
    scale = TargetUtilizationScaleSettings(
        min_instances=1, max_instances=2, polling_interval=10, target_utilization_percentage=90
    )
    made = deployment(name, "blue", model, data_collector=collector, scale_settings=scale)
    client.online_deployments.begin_create_or_update(made).result()
    assert client.online_deployments.get("blue", name).scale_settings == scale
    assert client.online_deployments.get("blue", name).data_collector.collections["model_inputs"].enabled == "true"
    # A roll-out's own request says so in its id: score.py doesn't collect it, and payload logging keeps the id.
    probe = {"x_request_id": "azflow-probe-1", "x_ms_client_request_id": "azflow-probe-1"}
    assert score(client, name, azureml_model_deployment="blue", **probe).status_code == 200
    answer = score(client, name, azureml_model_deployment="blue")
    asset = client.data.get(f"{name}-blue-model_inputs", "1")
    assert asset.path.endswith(f"/datastores/workspaceblobstore/paths/modelDataCollector/{name}/blue/model_inputs")
    container = ContainerClient(
        localazure["storage_account_url"], "azureml", localazure.credential(), connection_verify=localazure["ca_bundle"]
    )
    end = time.monotonic() + 15

    def collected() -> list[list[dict[str, Any]]]:
        names = sorted(container.list_blob_names(name_starts_with=f"modelDataCollector/{name}/"))
        return [[json.loads(line) for line in container.download_blob(each).readall().splitlines()] for each in names]

    while list(map(len, found := collected())) != [1, 1, 2, 2]:
        assert time.monotonic() < end, found
        time.sleep(0.2)
    assert [events[0]["xrequestid"] for events in found[2:]] == ["azflow-probe-1"] * 2
    inputs, outputs, request, response = (events[-1] for events in found)
    assert inputs["data"] == [{**ROWS[0]}, {**ROWS[1], "unknown": None}]
    assert outputs["data"] == answer.json()["predictions"]
    assert inputs["correlationid"] == outputs["correlationid"]
    assert (request["type"], request["method"]) == ("azureml.inference.request", "POST")
    assert request["data"] == {"data": ROWS}
    assert (response["type"], response["data"]) == ("azureml.inference.response", answer.json())
    assert request["xrequestid"] == response["xrequestid"] == answer.headers["x-request-id"]
    assert client.data.get(f"{name}-blue-request", "1").path.endswith(f"/modelDataCollector/{name}/blue/request")


def test_a_broken_container_shows_its_log(
    client: MLClient, endpoint: KubernetesOnlineEndpoint, model: Model, tmp_path: Path
) -> None:
    (tmp_path / "score.py").write_text("def init():\n    import no_such_module\ndef run(data):\n    return 1\n")
    poller = client.online_deployments.begin_create_or_update(deployment(endpoint.name, "blue", model, tmp_path))
    with pytest.raises(HttpResponseError, match="No module named 'no_such_module'"):
        poller.result()
    assert client.online_deployments.get("blue", endpoint.name).provisioning_state == "Failed"
    logs = client.online_deployments.get_logs("blue", endpoint.name, lines=60)
    assert "no_such_module" in logs
    starter = client.online_deployments.get_logs("blue", endpoint.name, lines=60, container_type="storage-initializer")
    assert "contract-flights" in starter


def test_an_environment_that_cant_be_built_is_named(
    client: MLClient, endpoint: KubernetesOnlineEndpoint, model: Model
) -> None:
    wanted = Environment(image="x", conda_file={"dependencies": [{"pip": ["lightgbm==1.0"]}]})
    poller = client.online_deployments.begin_create_or_update(
        deployment(endpoint.name, "blue", model, environment=wanted)
    )
    with pytest.raises(HttpResponseError, match=r"(?s)can't be had. .*no version of lightgbm==1\.0"):
        poller.result()


def test_what_a_deployment_lists_is_what_runs(client: MLClient, model: Model, tmp_path: Path) -> None:
    """An environment that is built for a script, and the one that an MLflow model without a script brings along."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key")).result()
    try:
        (tmp_path / "score.py").write_text(
            "import humanize, sys\ndef init():\n    pass\ndef run(data):\n"
            "    return [humanize.__version__, sys.prefix, 'pandas' in sys.modules]\n"
        )
        common = {"endpoint_name": name, "instance_type": "Standard_DS3_v2", "instance_count": 1}
        built = ManagedOnlineDeployment(
            name="built",
            code_configuration=CodeConfiguration(code=str(tmp_path), scoring_script="score.py"),
            environment=Environment(image="x", conda_file={"dependencies": [{"pip": ["humanize==4.9.0"]}]}),
            **common,
        )
        generated = ManagedOnlineDeployment(name="generated", model=model.id, **common)
        for wanted in (built, generated):
            client.online_deployments.begin_create_or_update(wanted).result()
        version, prefix, loaded = score(client, name, azureml_model_deployment="built").json()
        assert (version, loaded, "/environments/" in prefix) == ("4.9.0", False, True)
        uri, key = client.online_endpoints.get(name).scoring_uri, client.online_endpoints.get_keys(name).primary_key
        headers = {"Authorization": f"Bearer {key}", "azureml-model-deployment": "generated"}
        rows = [{key: value for key, value in row.items() if key != "unknown"} for row in ROWS]
        answer = requests.post(uri, json={"input_data": rows}, headers=headers, timeout=30)
        assert (answer.status_code, answer.json()[0]) == (200, 1), answer.text
        # Kubernetes endpoints have no such thing on Azure either.
        with pytest.raises(HttpResponseError, match="only managed online endpoints"):
            kubernetes = f"{name}k"
            endpoint = KubernetesOnlineEndpoint(name=kubernetes, compute="azureml:aks-scoring", auth_mode="key")
            client.online_endpoints.begin_create_or_update(endpoint).result()
            try:
                bare = deployment(kubernetes, "blue", model, code_configuration=None, environment=None)
                client.online_deployments.begin_create_or_update(bare).result()
            finally:
                client.online_endpoints.begin_delete(kubernetes).result()
    finally:
        client.online_endpoints.begin_delete(name).result()


def test_managed(client: MLClient, model: Model) -> None:
    name = f"t-{uuid.uuid4().hex[:8]}"
    # Entra's tokens in place of keys, which the SDK takes by itself.
    client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="aad_token")).result()
    try:
        made = ManagedOnlineDeployment(
            name="blue",
            endpoint_name=name,
            model=model.id,
            code_configuration=CodeConfiguration(code=str(SCORING), scoring_script="score.py"),
            environment=Environment(image="x", conda_file={"dependencies": ["python"]}),
            instance_type="Standard_DS3_v2",
            instance_count=2,
        )
        assert client.online_deployments.begin_create_or_update(made).result().instance_count == 2
        # Managed endpoints answer 424 for whatever the model answers but 200.
        refused = score(client, name, [{}], azureml_model_deployment="blue")
        assert (refused.status_code, refused.headers["ms-azureml-model-error-statuscode"]) == (424, "400")
        answer = client.online_endpoints.invoke(name, deployment_name="blue", request_file=_request_file(ROWS))
        assert len(json.loads(answer)["predictions"]) == 2
        # The endpoint's own tokens.
        found = client.online_endpoints.get(name)
        assert found.auth_mode == "aad_token"
        found.auth_mode = "aml_token"
        client.online_endpoints.begin_create_or_update(found).result()
        token = client.online_endpoints.get_keys(name)
        assert time.time() < token.refresh_after_time_utc < token.expiry_time_utc
        answer = client.online_endpoints.invoke(name, deployment_name="blue", request_file=_request_file(ROWS))
        assert len(json.loads(answer)["predictions"]) == 2
    finally:
        client.online_endpoints.begin_delete(name).result()


def _request_file(rows: list[dict[str, Any]]) -> str:
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump({"data": rows}, file)
    return file.name


def test_endpoints_survive_down_and_up(
    localazure: Any, client: MLClient, endpoint: KubernetesOnlineEndpoint, model: Model
) -> None:
    name = endpoint.name
    client.online_deployments.begin_create_or_update(deployment(name, "blue", model)).result()
    found = client.online_endpoints.get(name)
    found.traffic = {"blue": 100}
    client.online_endpoints.begin_create_or_update(found).result()
    before = score(client, name)
    key = client.online_endpoints.get_keys(name).primary_key
    localazure.run("down")
    localazure.run("up")
    end = time.monotonic() + 120
    while (answer := score(client, name)).status_code == 503 and time.monotonic() < end:
        time.sleep(0.5)
    assert answer.json() == before.json()
    assert client.online_endpoints.get_keys(name).primary_key == key
    assert client.online_deployments.get("blue", name).provisioning_state == "Succeeded"
