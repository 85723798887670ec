"""The model data collector with Microsoft's own package as the sender, and what it refuses."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import port_leases
import pytest
import pytest_asyncio

from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.serving import resources
from localazure.serving.data_collector import Collected, DataCollector, event
from localazure.settings import Settings
from localazure.storage.locations import Location

DEPLOYMENT = "flights/blue"
ASKED = {
    "collections": {
        "model_inputs": {"dataCollectionMode": "enabled", "dataId": "/data/inputs/versions/1"},
        "model_outputs": {"dataCollectionMode": "enabled", "samplingRate": 1},
        "off": {"dataCollectionMode": "disabled"},
    }
}
# What a scoring script does; the package comes from the compute environment.
SENDER = """
import pandas as pd
from azureml.ai.monitoring import Collector
from azureml.ai.monitoring.init import teardown
inputs, outputs = (Collector(name=name) for name in ("model_inputs", "model_outputs"))
context = inputs.collect(pd.DataFrame([{"carrier": "UA", "hour": 7}, {"carrier": "AA", "hour": None}]))
outputs.collect(pd.DataFrame([{"probability": 0.25}, {"probability": 0.5}]), context)
teardown(wait_for_flush=True)
"""


class Appended:
    """Storage that only remembers."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.broken = False

    def append(self, container: str, name: str, data: bytes) -> None:
        if self.broken:
            raise OSError("storage is away")
        key = f"{container}/{name}"
        self.blobs[key] = self.blobs.get(key, b"") + data

    def write(self, container: str, name: str, data: bytes, content_type: str = "") -> None:
        self.blobs[f"{container}/{name}"] = data

    def lines(self) -> dict[str, list[dict[str, Any]]]:
        return {name: [json.loads(line) for line in data.splitlines()] for name, data in self.blobs.items()}


class Places:
    def location(self, reference: str) -> Location:
        assert reference == "/data/inputs/versions/1"
        return Location("lake", "captured/inputs")


@pytest_asyncio.fixture
async def collector(certified: Settings) -> AsyncIterator[tuple[DataCollector, Appended]]:
    storage = Appended()
    collector = DataCollector(replace(certified, port_base=port_leases.lease()), storage, Places())  # type: ignore[arg-type]
    await collector.start()
    yield collector, storage
    await collector.stop()


def enabled(collector: DataCollector, folder: Path) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    return collector.environment(DEPLOYMENT, "/deployments/blue", Collected.parse(ASKED), folder)


@pytest.mark.asyncio
async def test_microsofts_package_sends_and_files_are_azures(
    collector: tuple[DataCollector, Appended], certified: Settings, tmp_path: Path
) -> None:
    service, storage = collector
    if not certified.compute_python.exists():
        pytest.skip("the compute environment isn't built")
    environment = enabled(service, tmp_path / "v1")
    sent = await asyncio.to_thread(
        subprocess.run,
        [certified.compute_python, "-c", SENDER],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert sent.returncode == 0, sent.stderr
    await service.flush()
    hour = datetime.now(UTC).strftime("%Y/%m/%d/%H")
    found = storage.lines()
    assert set(found) == {
        f"lake/captured/inputs/{hour}/v1.jsonl",
        f"azureml/modelDataCollector/flights/blue/model_outputs/{hour}/v1.jsonl",
    }
    (inputs,), (outputs,) = found.values()
    assert inputs["data"] == [{"carrier": "UA", "hour": 7.0}, {"carrier": "AA", "hour": None}]
    assert (inputs["type"], outputs["type"]) == ("azureml.inference.model_inputs", "azureml.inference.model_outputs")
    assert inputs["correlationid"] == outputs["correlationid"]
    assert inputs["source"] == "/deployments/blue"
    assert inputs["collectdatatype"] == "pandas.core.frame.DataFrame"


async def post(environment: dict[str, str], body: bytes = b"[]", **headers: str) -> int:
    user, _, _ = environment["AZUREML_MDC_HOST"].rpartition("@")
    sent = {
        "authorization": "Basic " + base64.b64encode(user.encode()).decode(),
        "ce-type": "azureml.inference.model_inputs",
        "ce-time": "1700000000",
    }
    async with httpx.AsyncClient(trust_env=False) as client:
        address = f"http://127.0.0.1:{environment['AZUREML_MDC_PORT']}/modeldata/log"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await client.post(address, content=body, headers=sent | named)).status_code


@pytest.mark.asyncio
async def test_only_a_deployments_own_password_writes(
    collector: tuple[DataCollector, Appended], tmp_path: Path
) -> None:
    service, storage = collector
    environment = enabled(service, tmp_path / "v1")
    assert await post(environment) == 202
    assert await post(environment, authorization="Basic " + base64.b64encode(b"flights.blue:guess").decode()) == 401
    assert await post(environment, authorization="Bearer x") == 401
    assert await post(environment, ce_type="azureml.inference.off") == 400
    assert await post(environment, b"no json") == 400
    assert await post(environment, b"[" + b"1," * 3_000_000 + b"1]") == 413
    service.forget(DEPLOYMENT)
    assert await post(environment) == 401
    await service.flush()
    assert list(storage.blobs) == ["lake/captured/inputs/2023/11/14/22/v1.jsonl"]


@pytest.mark.asyncio
async def test_whole_requests_and_responses_are_lines_or_files(
    collector: tuple[DataCollector, Appended], tmp_path: Path
) -> None:
    service, storage = collector
    asked = Collected.parse(
        {"collections": {name: {"dataCollectionMode": "enabled", "samplingRate": 0.5} for name in ("request", "other")}}
    )
    (tmp_path / "v1").mkdir()
    environment = service.environment(DEPLOYMENT, "/deployments/blue", asked, tmp_path / "v1")
    assert json.loads(environment["LOCALAZURE_PAYLOAD"]) == {"collections": {"request": 50}}
    assert list(json.loads(Path(environment["AZUREML_MDC_CONFIG_PATH"]).read_text())["collections"]) == ["other"]
    told = {"ce_type": "azureml.inference.request", "ce_path": "/score", "ce_method": "POST", "ce_x_request_id": "me"}
    assert await post(environment, b'{"data":[1]}', content_type="application/json", **told) == 202
    assert await post(environment, b"\xff\xd8 a picture", content_type="image/jpeg", trace_id="p", **told) == 202
    large = b"[" + b"1," * 3_000_000 + b"1]"
    assert await post(environment, large, content_type="application/json", trace_id="l", **told) == 202
    await service.flush()
    folder = "azureml/modelDataCollector/flights/blue/request/2023/11/14/22"
    assert set(storage.blobs) == {f"{folder}/{name}" for name in ("v1.jsonl", "p", "l")}
    assert storage.blobs[f"{folder}/p"] == b"\xff\xd8 a picture"
    small, picture, big = (json.loads(line) for line in storage.blobs[f"{folder}/v1.jsonl"].splitlines())
    assert small == {
        "specversion": "1.0",
        "id": small["id"],
        "source": "/deployments/blue",
        "type": "azureml.inference.request",
        "datacontenttype": "application/json",
        "time": "2023-11-14T22:13:20Z",
        "data": {"data": [1]},
        "path": "/score",
        "method": "POST",
        "contentrange": "bytes 0-11/12",
        "correlationid": "me",
        "xrequestid": "me",
    }
    assert (picture["datainblob"], picture["datacontenttype"]) == ("true", "image/jpeg")
    assert big["data"].endswith(f"/{folder}/l")
    assert sum(service.counted.values()) == 3


@pytest.mark.asyncio
async def test_events_outlive_storage_that_is_away(collector: tuple[DataCollector, Appended], tmp_path: Path) -> None:
    service, storage = collector
    environment = enabled(service, tmp_path / "v1")
    storage.broken = True
    assert await post(environment, b"[1]") == 202
    await service.flush()
    assert storage.blobs == {}
    storage.broken = False
    assert await post(environment, b"[2]") == 202
    await service.flush()
    (lines,) = storage.lines().values()
    assert [line["data"] for line in lines] == [[1], [2]]


def test_the_configuration_tells_the_package_what_to_collect(certified: Settings, tmp_path: Path) -> None:
    service = DataCollector(certified, Appended(), Places())  # type: ignore[arg-type]
    environment = enabled(service, tmp_path / "v1")
    configuration = json.loads(Path(environment["AZUREML_MDC_CONFIG_PATH"]).read_text())
    assert configuration["collections"] == {
        "model_inputs": {"enabled": True, "sampleRatePercentage": 100},
        "model_outputs": {"enabled": True, "sampleRatePercentage": 100},
    }
    # A redeployment of the same goes on with the same password: its instances needn't be started again.
    assert enabled(service, tmp_path / "v1") == environment
    assert service.environment(DEPLOYMENT, "", None, tmp_path) == {}


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"collections": {"a": {"dataCollectionMode": "Enabled", "samplingRate": 2}}}, BadRequest),
        ({"collections": {"a": {"dataCollectionMode": "Enabled"}}, "rollingRate": "week"}, BadRequest),
        ({"collections": {}, "requestLogging": {"captureHeaders": ["x"]}}, NotImplementedOperation),
    ],
)
def test_what_cant_be_collected_is_refused(given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        resources.data_collector(given)


def test_azure_spells_the_mode() -> None:
    shown = resources.data_collector(ASKED)
    assert {name: entry["dataCollectionMode"] for name, entry in shown["collections"].items()} == {
        "model_inputs": "Enabled",
        "model_outputs": "Enabled",
        "off": "Disabled",
    }
    assert Collected.parse({"collections": {"off": {"dataCollectionMode": "Disabled"}}}) is None


def test_an_event_is_a_cloud_event() -> None:
    line, time = event({"ce-time": "1700000000", "ce-type": "azureml.inference.x", "trace-id": "t"}, b'{"a":1}', "/d")
    assert time == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    written = json.loads(line)
    assert line.endswith(b"\n")
    assert (written["specversion"], written["time"], written["data"]) == ("1.0", "2023-11-14T22:13:20Z", {"a": 1})
    assert written["contentrange"] == "bytes 0-6/7"
