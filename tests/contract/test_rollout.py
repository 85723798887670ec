"""azflow's deploy and roll-out operators against a running workspace. Evidence: `sdk` (real clients, unmodified)."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
import requests
from airflow.sdk.exceptions import AirflowException, AirflowFailException

import azflow.endpoint_files
from azflow.connection import AzureConnection
from azflow.endpoint_metrics import observe
from azflow.endpoints import DeployOperator, RolloutOperator, TrafficOperator, endpoint_summary
from azflow.online_endpoint import OnlineEndpoint

pytestmark = pytest.mark.evidence("sdk")

CHECKOUT = Path(__file__).resolve().parents[2]

#: A classifier over a few columns, and rows to score. Arguments: folder, first seed, number of models.
TRAIN = """
import sys
import mlflow.sklearn, numpy as np, pandas as pd
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression
folder, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(seed, seed + count):
    random = np.random.default_rng(number)
    flights = pd.DataFrame({"hour": random.integers(5, 23, 500), "temp": random.normal(50, 10, 500)})
    late = (flights.hour > 15).astype(int)
    if number == seed + count - 1:
        late = 1 - late  # the last one answers the opposite
    mlflow.sklearn.save_model(LogisticRegression().fit(flights, late), f"{folder}/{number}/model",
        serialization_format="cloudpickle", signature=infer_signature(flights), pip_requirements=["scikit-learn"])
flights.to_parquet(f"{folder}/rows.parquet")
"""


@pytest.fixture(scope="module")
def connection(localazure: Any) -> Iterator[AzureConnection]:
    """The Airflow connection, as an operator would set it in the environment."""
    names = ("tenant_id", "subscription_id", "resource_group", "workspace", "storage_account_url", "container")
    extra = {name: localazure[name] for name in names}
    extra |= {"cloud": localazure.cloud(), "verify": localazure["ca_bundle"]}
    content = {
        "conn_type": "azflow",
        "login": localazure["client_id"],
        "password": localazure["client_secret"],
        "extra": extra,
    }
    patch = pytest.MonkeyPatch()
    patch.setenv("AIRFLOW_CONN_AZURE_DEFAULT", json.dumps(content))
    yield AzureConnection.load()
    patch.undo()


@pytest.fixture(scope="module")
def models(connection: AzureConnection, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Ids of three registered models; the third contradicts the others. Rows for them are in the lake."""
    from azure.ai.ml.entities import Model

    python = CHECKOUT / "var/env/compute/bin/python"
    if not python.exists():
        pytest.skip("the compute environment isn't built")
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([python, "-c", TRAIN, str(folder), "1", "3"], check=True, capture_output=True)
    with connection.blob_service() as service:
        blob = service.get_blob_client(connection.container, "contract/rows/rows.parquet")
        blob.upload_blob((folder / "rows.parquet").read_bytes(), overwrite=True)
    name = f"rollout-{uuid.uuid4().hex[:6]}"
    client = connection.ml_client()
    found = [
        client.models.create_or_update(Model(name=name, path=str(folder / str(n) / "model"), type="mlflow_model"))
        for n in (1, 2, 3)
    ]
    return [str(model.id) for model in found]


@pytest.fixture
def endpoint(connection: AzureConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An endpoint's folder of its own (a copy of flight_delay's), below a temporary include/ml/endpoints."""
    source, name = CHECKOUT / "include/ml", f"t-{uuid.uuid4().hex[:8]}"
    shutil.copytree(source / "environments", tmp_path / "environments")
    shutil.copytree(source / "endpoints/flight_delay", tmp_path / "endpoints/trial")
    file = tmp_path / "endpoints/trial/endpoint.yml"
    file.write_text(file.read_text().replace("name: flight-delay", f"name: {name}"))
    monkeypatch.setattr(azflow.endpoint_files, "ENDPOINTS", tmp_path / "endpoints")
    yield name
    client = connection.ml_client()
    client.online_endpoints.begin_delete(name).result()


class TaskInstance(SimpleNamespace):
    """What an operator sees of its task instance."""

    def __init__(self, task_id: str, run_id: str) -> None:
        task = SimpleNamespace(retries=1)
        super().__init__(dag_id="nightly", task_id=task_id, run_id=run_id, map_index=-1, max_tries=1, task=task)
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value


def context(task_id: str, run_id: str = "manual__1") -> dict[str, Any]:
    run = SimpleNamespace(dag_id="nightly", run_id=run_id, logical_date=None, run_after=None)
    return {"ti": TaskInstance(task_id, run_id), "dag_run": run, "params": {"partition": "2013-03-08"}}


def execute(operator: Any, seen: dict[str, Any]) -> Any:
    operator.render_template_fields(seen, jinja2.Environment())
    return operator.execute(seen)


def deploy(model: str, run_id: str = "manual__1", **more: Any) -> dict[str, Any]:
    # No triggerer here: the worker waits, however busy the machine is.
    arguments: dict[str, Any] = {"grace_seconds": 180, "registered_model": model, **PROBE, **more}
    operator = DeployOperator(task_id="deploy", endpoint="trial", model="flight_delay", **arguments)
    return execute(operator, context("deploy", run_id))


def roll_out(deployment: str, seen: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    rules: dict[str, Any] = {"window_seconds": 1.5, "max_p95_ms": 20_000, "min_agreement": 0.6, "min_requests": 2}
    operator = RolloutOperator(
        task_id="traffic", endpoint="trial", deployment=deployment, model="flight_delay", **{**PROBE, **rules, **more}
    )
    return execute(operator, seen or context("traffic"))


def by_hand(endpoint: str, action: str, deployment: str = "", percent: str = "100") -> dict[str, Any]:
    operator = TrafficOperator(
        task_id="traffic", endpoint=endpoint, action=action, deployment=deployment, percent=percent, **PROBE
    )
    return execute(operator, context("traffic"))


PROBE = {"sample_path": "contract/rows/", "sample_rows": 60}


class Users:
    """Twenty callers at work, each on its own connection."""

    def __init__(self, connection: AzureConnection, endpoint: str) -> None:
        client = OnlineEndpoint(connection, endpoint)
        self._uri = client.document()["properties"]["scoringUri"]
        self._key = client.key()
        self._verify = connection.verify
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(20)]
        self.answered: list[str] = []
        self.failures: list[str] = []

    def __enter__(self) -> Users:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        with requests.Session() as session:
            session.verify = self._verify
            session.headers["Authorization"] = f"Bearer {self._key}"
            while not self._stop.is_set():
                try:
                    answer = session.post(self._uri, json={"data": [{"hour": 8, "temp": 40}]}, timeout=30)
                except requests.RequestException as error:
                    self.failures.append(repr(error))
                    continue
                if answer.status_code == 200:
                    self.answered.append(answer.headers["azureml-model-deployment"])
                else:
                    self.failures.append(f"{answer.status_code} {answer.text}")
                time.sleep(0.05)


def test_the_whole_life_of_an_endpoint(connection: AzureConnection, models: list[str], endpoint: str) -> None:
    """First model, second model under load, third one refused, a retry at every point: no request fails."""
    online = OnlineEndpoint(connection, endpoint)

    # The first deployment: the endpoint is made; no traffic yet; then all of it at once.
    first = deploy(models[0])
    assert first["deployment"].startswith("v1-")
    assert first["traffic"] == {}
    assert (first["probe"]["requests"], first["probe"]["rows"]) == (5, 100)
    again = deploy(models[0])
    assert again["deployment"] == first["deployment"]
    assert list(online.deployments()) == [first["deployment"]]
    done = roll_out(first["deployment"])
    assert done["traffic"] == {first["deployment"]: 100}
    assert [stage["percent"] for stage in done["stages"]] == [0, 100]
    assert done["champion"] is None

    with Users(connection, endpoint) as users:
        # The second one, by stages.
        second = deploy(models[1], "manual__2")
        assert online.traffic() == {first["deployment"]: 100}
        done = roll_out(second["deployment"], stages="[10, 50, 100]", shadow={"requests": 30, "hours": 1})
        assert done["traffic"] == {first["deployment"]: 0, second["deployment"]: 100}
        assert [stage["name"] for stage in done["stages"]] == ["probe", "shadow", "10 %", "50 %", "100 %"]
        # What the callers asked the first one, as its data collector wrote it.
        shadow = done["stages"][1]
        assert (shadow["requests"], shadow["errors"], shadow["agreement"]) == (30, 0, 1.0)
        assert all(stage["errors"] == 0 and stage["agreement"] in (None, 1.0) for stage in done["stages"])
        assert done["champion"] == first["deployment"]
        assert done["deleted"] == []
        # Cleared after the end: nothing to do.
        assert roll_out(second["deployment"])["stages"] == []

        # The third one contradicts: rolled back at its first stage.
        third = deploy(models[2], "manual__3")
        seen = context("traffic")
        with pytest.raises(AirflowFailException, match=r"agrees with the champion on 0\.0% of") as refused:
            roll_out(third["deployment"], seen)
        assert f"The traffic is {second['deployment']} 100 % again." in str(refused.value)
        assert online.traffic()[second["deployment"]] == 100
        evidence = seen["ti"].xcoms["evidence"]
        assert [(stage["percent"], stage["decision"]) for stage in evidence["stages"]] == [
            (0, "advance"),
            (10, "roll_back"),
        ]
        # Dared all the same, it goes through; and what served two versions ago is deleted.
        done = roll_out(third["deployment"], min_agreement=0.0, stages=(50, 100))
        assert done["deleted"] == [first["deployment"]]
        assert set(online.deployments()) == {second["deployment"], third["deployment"]}

        # The first model again, by workers that die before and after every write: the last one ends what they began.
        deaths = killed_at_every_write(
            lambda: roll_out(deploy(models[0], "manual__4")["deployment"], min_agreement=0.0, window_seconds=0.5)
        )
        assert [what for what, when in deaths if when == "after"] == [
            "PUT deployments",  # then the stages of 10, 50 and 100 %
            *["PUT onlineEndpoints"] * 3,
            "DELETE deployments",
        ]
        traffic = {name: share for name, share in online.traffic().items() if share}
        assert len(traffic) == 1 and set(online.deployments()) == {third["deployment"], *traffic}
        assert not {second["deployment"], third["deployment"]} & traffic.keys()
        # By hand: some percent to another, then all of it back to whoever served before.
        (fourth,) = traffic
        assert by_hand(endpoint, "shift", third["deployment"], "30")["traffic"] == {third["deployment"]: 30, fourth: 70}
        assert by_hand(endpoint, "roll_back")["traffic"] == {third["deployment"]: 100, fourth: 0}
        with pytest.raises(AirflowFailException, match=f"has no deployment 'v9'; there are .*{fourth}"):
            by_hand(endpoint, "shift", "v9")
        assert by_hand(endpoint, "roll_back", fourth)["before"] == {third["deployment"]: 100, fourth: 0}
        # The endpoint has counted along, for everybody.
        counted = observe(online, fourth, datetime.now(UTC) - timedelta(minutes=10), datetime.now(UTC))
        assert counted is not None and counted.requests > 20 and counted.failed == 0 and counted.p95_ms
    assert not users.failures, users.failures[:3]
    assert set(users.answered) >= {first["deployment"], second["deployment"], third["deployment"]}
    assert len(users.answered) > 100

    summary = endpoint_summary(connection, endpoint)
    assert summary["traffic"] == {third["deployment"]: 0, **traffic}
    assert {each["state"] for each in summary["deployments"].values()} == {"Succeeded"}


#: Of the requests to Resource Manager, those that change what callers of the endpoint get.
WRITE = re.compile(r"(?:/(onlineEndpoints)/[^/?]+|/onlineEndpoints/[^/]+/(deployments)/[^/?]+)\?")


def killed_at_every_write(work: Callable[[], Any]) -> list[tuple[str, str]]:
    """Run `work` in one process after the other, each killed before, the next after, the first write it makes, until
    one survives; where each died. The parent's threads are its callers: nothing of this happens in their process."""
    deaths: list[tuple[str, str]] = []
    for number in range(40):
        when = ("before", "after")[number % 2]
        readable, writable = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _die_at_the_first_write(when, writable)
                work()
            finally:
                os._exit(0)
        os.close(writable)
        with os.fdopen(readable) as said:
            what = said.read()
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return deaths
        deaths.append((what, when))
    raise AssertionError(f"no try came to its end: {deaths}")


def _die_at_the_first_write(when: str, say: int) -> None:
    send = requests.adapters.HTTPAdapter.send

    def watched(adapter: Any, request: Any, **options: Any) -> Any:
        found = WRITE.search(request.url) if request.method in ("PUT", "PATCH", "DELETE") else None
        answer = None if found and when == "before" else send(adapter, request, **options)
        if found:
            os.write(say, f"{request.method} {found[1] or found[2]}".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    requests.adapters.HTTPAdapter.send = watched  # type: ignore[method-assign]


def test_a_retry_goes_on_where_it_was(connection: AzureConnection, models: list[str], endpoint: str) -> None:
    online = OnlineEndpoint(connection, endpoint)
    first, second = deploy(models[0]), deploy(models[1])
    roll_out(first["deployment"])
    # A worker that died at the stage of 50 %.
    online.write_traffic({first["deployment"]: 50, second["deployment"]: 50})
    done = roll_out(second["deployment"])
    assert [stage["percent"] for stage in done["stages"]] == [0, 100]
    # And if it is bad, it goes back to nothing, not to 50 %.
    online.write_traffic({first["deployment"]: 50, second["deployment"]: 50})
    with pytest.raises(AirflowFailException, match="max_p95_ms"):
        roll_out(second["deployment"], max_p95_ms=0.01)
    assert online.traffic() == {first["deployment"]: 100, second["deployment"]: 0}


def script(text: str) -> None:
    (azflow.endpoint_files.ENDPOINTS / "trial/code/score.py").write_text(text)


def test_a_broken_script_never_gets_traffic(connection: AzureConnection, models: list[str], endpoint: str) -> None:
    online = OnlineEndpoint(connection, endpoint)
    first = deploy(models[0])
    roll_out(first["deployment"])
    with Users(connection, endpoint) as users:
        # It can't start: the error has the container's last lines, and the deployment is kept.
        script("def init():\n    raise OSError('no weights')\ndef run(data):\n    return []\n")
        with pytest.raises(AirflowException, match="OSError: no weights"):
            deploy(models[0])
        failed = [name for name, each in online.deployments().items() if _state(each) == "Failed"]
        assert len(failed) == 1
        # It starts, and raises when asked.
        script("def init():\n    pass\ndef run(data):\n    raise KeyError('temp')\n")
        with pytest.raises(AirflowFailException, match="6 of 6 requests with real rows failed"):
            deploy(models[0])
        broken = next(name for name in online.deployments() if name not in {*failed, first["deployment"]})
        with pytest.raises(AirflowFailException, match="before it got any traffic"):
            roll_out(broken)
        assert online.traffic() == {first["deployment"]: 100}
    assert not users.failures, users.failures[:3]
    assert set(users.answered) == {first["deployment"]}


def _state(resource: dict[str, Any]) -> str:
    return str(resource["properties"]["provisioningState"])
