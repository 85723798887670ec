"""Endpoints and deployments end to end: Resource Manager's requests, real inference servers, the real router."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import port_leases
import pytest

from localazure.core import certificates
from localazure.core.auth import Tokens
from localazure.core.errors import NotFound
from localazure.core.operations import LongRunning
from localazure.core.registry import Api
from localazure.core.service import ServiceContext
from localazure.core.store import Store
from localazure.serving import build
from localazure.serving.router import router_command
from localazure.serving.service import ServingService
from localazure.settings import Settings

API = {"api-version": "2023-04-01-preview"}

SCORE = """
import json, os, pathlib, time
def init():
    print("hello from", os.environ["FLAVOUR"])
    if os.environ["FLAVOUR"] == "broken":
        raise RuntimeError("the model is in the other coat")
def run(data):
    wish = json.loads(data)
    if wish.get("fail"):
        raise ValueError("no")
    if wish.get("die"):
        os._exit(1)
    time.sleep(wish.get("sleep", 0))
    root = pathlib.Path(os.environ["AZUREML_MODEL_DIR"])
    return {"flavour": os.environ["FLAVOUR"], "model": sorted(str(p.relative_to(root)) for p in root.rglob("*.txt"))}
"""


class Folders:
    """Assets that are folders of the test."""

    def __init__(self, root: Path) -> None:
        self._root = root
        (root / "code").mkdir(parents=True)
        (root / "code/score.py").write_text(SCORE)
        (root / "mdl").mkdir()
        (root / "mdl/weights.txt").write_text("1")

    def code_folder(self, id: str) -> Path:
        return self._root / "code"

    def model_folder(self, id: str) -> Path:
        return self._root / "mdl"

    def model(self, id: str) -> dict[str, Any]:
        if "/models/m/" not in id:
            raise NotFound(f"there is no model {id}")
        return {"id": id, "properties": {}}

    def environment(self, id: str) -> dict[str, Any]:
        wish = "cudatoolkit" if "bad" in id else "numpy"
        return {"properties": {"condaFile": f"dependencies: [{wish}]"}}

    def resolve(self, uri: str) -> Path:
        raise NotFound(f"there is nothing at {uri}")


class Client:
    """A client of Resource Manager and of the router."""

    def __init__(self, settings: Settings, store: Store, assets: Folders) -> None:
        self.settings = settings
        self.tokens = tokens = Tokens(settings)
        context = ServiceContext(settings, store, None, tokens, LongRunning(store, settings))  # type: ignore[arg-type]
        context.provide("ml.assets", assets)
        service = build(context)
        assert isinstance(service, ServingService)
        self.service = service
        api = Api([*self.service.operations(), *context.long_running.operations()], tokens)
        token = tokens.issue("tester", "https://management.azure.com")
        self.arm = httpx.AsyncClient(
            base_url=settings.api_url,
            transport=httpx.ASGITransport(api),
            params=API,
            headers={"Authorization": f"Bearer {token}"},
        )
        trust = ssl.create_default_context(cafile=str(settings.ca_bundle))
        self.edge = httpx.AsyncClient(verify=trust, trust_env=False, timeout=90)
        self.root = settings.workspace_id + "/onlineEndpoints"

    async def ended(self, response: httpx.Response) -> dict[str, Any]:
        """The end of a long-running operation: its status document."""
        assert response.status_code in {200, 201, 202}, response.text
        address = response.headers.get("Azure-AsyncOperation") or response.headers["Location"]
        while True:
            state = await self.arm.get(address)
            if state.status_code == 202 or (state.content and state.json()["status"] == "InProgress"):
                await asyncio.sleep(0.05)
                continue
            return state.json() if state.content else {"status": "Succeeded"}

    async def endpoint(self, name: str, traffic: dict[str, int] | None = None, **more: Any) -> dict[str, Any]:
        properties = {"authMode": "Key", "compute": "aks", "traffic": traffic or {}, **more}
        return await self.ended(await self.arm.put(f"{self.root}/{name}", json={"properties": properties}))

    async def deploy(self, endpoint: str, name: str, flavour: str, **more: Any) -> dict[str, Any]:
        return await self.ended(await self.put_deployment(endpoint, name, flavour, **more))

    async def put_deployment(
        self, endpoint: str, name: str, flavour: str, capacity: int = 1, **more: Any
    ) -> httpx.Response:
        workspace = self.settings.workspace_id
        properties = {
            "codeConfiguration": {"codeId": f"{workspace}/codes/c/versions/1", "scoringScript": "score.py"},
            "environmentId": f"{workspace}/environments/good/versions/1",
            "model": f"{workspace}/models/m/versions/7",
            "endpointComputeType": "Kubernetes",
            "environmentVariables": {"FLAVOUR": flavour},
            **more,
        }
        body = {"properties": properties, "sku": {"name": "Default", "capacity": capacity}}
        return await self.arm.put(f"{self.root}/{endpoint}/deployments/{name}", json=body)

    async def get(self, path: str) -> dict[str, Any]:
        return (await self.arm.get(f"{self.root}/{path}")).json()

    async def score(self, endpoint: str, body: Any = None, deployment: str = "") -> httpx.Response:
        document = await self.get(endpoint)
        key = (await self.arm.post(f"{self.root}/{endpoint}/listKeys")).json()["primaryKey"]
        headers = {"Authorization": f"Bearer {key}"} | ({"azureml-model-deployment": deployment} if deployment else {})
        return await self.edge.post(document["properties"]["scoringUri"], json=body or {}, headers=headers)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = Settings.load(tmp_path_factory.mktemp("home"), port_base=port_leases.lease())
    certificates.ensure(made)
    return made


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tmp_path_factory.mktemp("assets"))


@pytest.fixture(scope="module", autouse=True)
def router(settings: Settings) -> Iterator[None]:
    settings.logs.mkdir(parents=True, exist_ok=True)
    with (settings.logs / "router.log").open("wb") as log:
        process = subprocess.Popen(router_command(settings), stdout=log, stderr=log)
    yield
    process.terminate()
    process.wait(10)


@asynccontextmanager
async def running(settings: Settings, assets: Folders) -> AsyncIterator[Client]:
    """The service, started on what the home holds."""
    store = Store(settings.store_file)
    client = Client(settings, store, assets)
    await client.service.start()
    try:
        yield client
    finally:
        await client.service.stop()
        for document in store.list("serving.endpoints"):
            if document["name"] != "kept":
                store.delete("serving.endpoints", document["name"])
        for document in store.list("serving.deployments"):
            if "/kept/" not in document["id"]:
                store.delete("serving.deployments", "/".join(document["id"].split("/")[-3::2]))
        store.close()


def test_from_nothing_to_an_answer(settings: Settings, assets: Folders) -> None:
    async def scenario() -> None:
        async with running(settings, assets) as client:
            assert (await client.endpoint("fresh"))["status"] == "Succeeded"
            empty = await client.score("fresh")
            assert (empty.status_code, "positive traffic" in empty.text) == (404, True)

            assert (await client.deploy("fresh", "blue", "vanilla"))["status"] == "Succeeded"
            document = await client.get("fresh/deployments/blue")
            assert document["properties"]["provisioningState"] == "Succeeded"
            assert document["properties"]["containerResourceRequirements"] == {}
            assert document["sku"] == {"name": "Default", "capacity": 1}
            # At 0 %, but answering to its name.
            answer = await client.score("fresh", deployment="blue")
            assert answer.json() == {"flavour": "vanilla", "model": ["mdl/weights.txt"]}
            assert (await client.endpoint("fresh", {"blue": 100}))["status"] == "Succeeded"
            answer = await client.score("fresh")
            assert (answer.status_code, answer.headers["azureml-model-deployment"]) == (200, "blue")

            failed = await client.score("fresh", {"fail": 1})
            assert (failed.status_code, failed.headers["ms-azureml-model-error-statuscode"]) == (502, "500")
            logs = await client.arm.post(f"{client.root}/fresh/deployments/blue/getLogs", json={"tail": 50})
            assert "hello from vanilla" in logs.json()["content"]
            assert "ValueError: no" in logs.json()["content"]
            page = await client.arm.get("/endpoints/realtime/fresh/detail", headers={"Authorization": ""})
            assert "<td>100 %</td>" in page.text
            assert (await client.arm.get("/endpoints/realtime/nobody/detail")).status_code == 404

    asyncio.run(scenario())


def test_a_deployment_that_fails_says_why_and_touches_nothing(settings: Settings, assets: Folders) -> None:
    async def scenario() -> None:
        async with running(settings, assets) as client:
            await client.endpoint("sick")
            await client.deploy("sick", "blue", "vanilla")
            await client.endpoint("sick", {"blue": 100})

            ended = await client.deploy("sick", "green", "broken")
            assert ended["status"] == "Failed"
            assert ended["error"]["code"] == "ResourceNotReady"
            assert "RuntimeError: the model is in the other coat" in ended["error"]["message"]
            assert (await client.get("sick/deployments/green"))["properties"]["provisioningState"] == "Failed"
            logs = await client.arm.post(f"{client.root}/sick/deployments/green/getLogs", json={"tail": 100})
            assert "hello from broken" in logs.json()["content"]
            assert (await client.get("sick"))["properties"]["traffic"] == {"blue": 100}
            answer = await client.score("sick", deployment="green")
            assert (answer.status_code, "Failed" in answer.text) == (503, True)

            # An update that fails leaves what ran before at work.
            assert (await client.deploy("sick", "blue", "broken"))["status"] == "Failed"
            assert (await client.score("sick")).json()["flavour"] == "vanilla"

            ended = await client.deploy("sick", "red", "vanilla", environmentId="x/environments/bad/versions/1")
            assert ended["error"]["code"] == "EnvironmentNotSatisfied"
            assert "cudatoolkit (only conda has it)" in ended["error"]["message"]
            lost = await client.put_deployment("sick", "red", "vanilla", model="x/models/none/versions/1")
            assert lost.status_code == 404

    asyncio.run(scenario())


def test_what_is_refused(settings: Settings, assets: Folders) -> None:
    async def scenario() -> None:
        async with running(settings, assets) as client:
            await client.endpoint("strict")
            await client.deploy("strict", "blue", "vanilla")

            async def refused(status: int, wanted: str, **properties: Any) -> None:
                body = {"properties": {"authMode": "Key", "compute": "aks", **properties}}
                answer = await client.arm.put(f"{client.root}/strict", json=body)
                assert (answer.status_code, wanted in answer.text) == (status, True), answer.text

            await refused(400, "must be 0 or 100; it is 90", traffic={"blue": 90})
            await refused(400, "doesn't exist (there is blue)", traffic={"pink": 100})
            await refused(400, "whole number", traffic={"blue": 100.5})
            await refused(400, "Kubernetes", mirrorTraffic={"blue": 10})
            await refused(400, "managed online endpoints only", authMode="AADToken")
            await refused(400, "must be Key", authMode="Password")
            assert (await client.arm.put(f"{client.root}/a", json={"properties": {}})).status_code == 400
            assert (await client.arm.post(f"{client.root}/strict/token")).status_code == 400
            elsewhere = client.root.replace(settings.workspace, "other")
            assert (await client.arm.get(f"{elsewhere}/strict")).status_code == 404

            await client.endpoint("strict", {"blue": 100})
            answer = await client.arm.delete(f"{client.root}/strict/deployments/blue")
            assert (answer.status_code, "has 100 %" in answer.text) == (400, True)
            answer = await client.put_deployment("strict", "green", "vanilla", codeConfiguration=None)
            assert (answer.status_code, "only managed" in answer.text) == (400, True)
            await client.endpoint("strictly", compute=None)
            bare = {"codeConfiguration": None, "endpointComputeType": "Managed"}
            answer = await client.put_deployment("strictly", "green", "vanilla", **bare)
            assert (answer.status_code, "needs a model of type mlflow_model" in answer.text) == (400, True)
            answer = await client.put_deployment("strictly", "green", "vanilla", model=None, **bare)
            assert (answer.status_code, "neither codeConfiguration nor a model" in answer.text) == (400, True)
            answer = await client.put_deployment("strict", "green", "v", requestSettings={"requestTimeout": "5s"})
            assert (answer.status_code, "ISO 8601" in answer.text) == (400, True)

    asyncio.run(scenario())


def test_keys(settings: Settings, assets: Folders) -> None:
    async def scenario() -> None:
        async with running(settings, assets) as client:
            await client.endpoint("locked", keys={"primaryKey": "my-own-primary-key-1"})
            document = await client.get("locked")
            assert "my-own" not in str(document)
            keys = (await client.arm.post(f"{client.root}/locked/listKeys")).json()
            assert keys["primaryKey"] == "my-own-primary-key-1"
            regenerate = f"{client.root}/locked/regenerateKeys"
            await client.ended(await client.arm.post(regenerate, json={"keyType": "Primary"}))
            renewed = (await client.arm.post(f"{client.root}/locked/listKeys")).json()
            assert renewed["primaryKey"] != keys["primaryKey"]
            assert renewed["secondaryKey"] == keys["secondaryKey"]
            uri = document["properties"]["scoringUri"]
            for key, status in ((keys["primaryKey"], 401), (renewed["primaryKey"], 404)):
                answer = await client.edge.post(uri, headers={"Authorization": f"Bearer {key}"})
                assert answer.status_code == status

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("capacity", "traffic"), [(2, {"blue": 100}), (2, {"blue": 50, "green": 50}), (1, {"blue": 100})]
)
def test_a_killed_instance_fails_no_request(
    settings: Settings, assets: Folders, capacity: int, traffic: dict[str, int]
) -> None:
    """SIGKILL twice, with 50 requests a second arriving whatever becomes of them."""

    async def scenario() -> None:
        async with running(settings, assets) as client:
            name = f"tough{capacity}{len(traffic)}"
            await client.endpoint(name)
            # Alone, its callers wait for the restart: that isn't waiting in a queue, but what comes after it is.
            patient = {"requestTimeout": "PT60S", "maxQueueWait": "PT60S"}
            flavours = {"blue": "vanilla", "green": "chocolate"}
            for deployment in traffic:
                await client.deploy(name, deployment, flavours[deployment], capacity=capacity, requestSettings=patient)
            await client.endpoint(name, traffic)
            uri = (await client.get(name))["properties"]["scoringUri"]
            key = (await client.arm.post(f"{client.root}/{name}/listKeys")).json()["primaryKey"]
            fleet = client.service._running[f"{name}/blue"]

            async def ask() -> str:
                headers = {"Authorization": f"Bearer {key}"}
                answer = await client.edge.post(uri, json={"sleep": 0.005}, headers=headers)
                return answer.json()["flavour"] if answer.is_success else f"{answer.status_code} {answer.text}"

            asked = []
            for number in range(150):
                asked.append(asyncio.create_task(ask()))
                if number in {30, 90}:
                    victim = next(instance for instance in fleet.instances if instance.up)
                    assert victim.pid is not None
                    os.killpg(victim.pid, signal.SIGKILL)
                    if capacity == 1:
                        async with asyncio.timeout(30):
                            while not (victim.up and victim.restarts):
                                await asyncio.sleep(0.02)
                await asyncio.sleep(0.02)
            answers = Counter(await asyncio.gather(*asked))
            assert set(answers) == {flavours[deployment] for deployment in traffic}, answers
            # The split stays what it was while an instance is away (each change of the routing starts a round anew).
            assert abs(answers["vanilla"] - 150 * traffic["blue"] // 100) <= 6, answers
            async with asyncio.timeout(30):
                while not all(instance.up for instance in fleet.instances):
                    await asyncio.sleep(0.05)
            assert sum(instance.restarts for instance in fleet.instances) == 2

    asyncio.run(scenario())


def test_tokens_in_place_of_keys(settings: Settings, assets: Folders) -> None:
    async def scenario() -> None:
        async with running(settings, assets) as client:
            own, other, entra = "own-tokens", "other-tokens", "entra-tokens"
            await client.endpoint(own, authMode="AMLToken")
            await client.endpoint(other, authMode="AMLToken")
            await client.endpoint(entra, authMode="AADToken", compute=None)
            await client.deploy(own, "blue", "vanilla")
            await client.endpoint(own, {"blue": 100}, authMode="AMLToken")
            listed = await client.arm.post(f"{client.root}/{own}/listKeys")
            assert (listed.status_code, "ask for a token" in listed.text) == (400, True)
            told = (await client.arm.post(f"{client.root}/{own}/token")).json()
            assert told["refreshAfterTimeUtc"] < told["expiryTimeUtc"]
            assert told["tokenType"] == "Bearer"

            async def ask(endpoint: str, token: str) -> httpx.Response:
                uri = (await client.get(endpoint))["properties"]["scoringUri"]
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                return await client.edge.post(uri, json={}, headers=headers)

            good = told["accessToken"]
            for _ in range(2):
                assert (await ask(own, good)).json()["flavour"] == "vanilla"
            arm = client.tokens.issue("me", "https://management.azure.com")
            ml = client.tokens.issue("me", "https://ml.azure.com")
            late = client.tokens.issue("me", "https://ml.azure.com", lifetime_seconds=-3600)
            # Good where it belongs, and nowhere else. 404: the endpoint has no traffic, so the token was good.
            assert (await ask(entra, ml)).status_code == 404
            for endpoint, token in ((other, good), (own, ""), (own, ml), (own, good[:-8]), (entra, arm), (entra, late)):
                refused = await ask(endpoint, token)
                assert (refused.status_code, "error" in refused.json()) == (401, True), (endpoint, refused.text)
                assert token[20:] not in refused.text or not token
            # Another endpoint of the same name is another one.
            await client.ended(await client.arm.delete(f"{client.root}/{own}"))
            await client.endpoint(own, authMode="AMLToken")
            assert (await ask(own, good)).status_code == 401
            # The mode may change.
            await client.endpoint(own)
            assert (await client.score(own)).status_code == 404

    asyncio.run(scenario())


def test_a_request_that_kills_takes_two_instances_at_most(settings: Settings, assets: Folders) -> None:
    async def scenario() -> None:
        async with running(settings, assets) as client:
            await client.endpoint("poisoned")
            await client.deploy("poisoned", "blue", "vanilla", capacity=3, requestSettings={"requestTimeout": "PT30S"})
            await client.endpoint("poisoned", {"blue": 100})
            fleet = client.service._running["poisoned/blue"]
            # Whoever dies with the request's process is the worker; the server itself replaces it.
            answer = await client.score("poisoned", {"die": True})
            assert answer.status_code == 503
            logs = [instance.log.read_text() for instance in fleet.instances]
            starts = [log.count("ready for serving traffic") for log in logs]
            async with asyncio.timeout(20):
                while sorted(starts) != [1, 2, 2]:
                    await asyncio.sleep(0.1)
                    starts = [i.log.read_text().count("ready for serving traffic") for i in fleet.instances]
            assert (await client.score("poisoned")).status_code == 200

    asyncio.run(scenario())


def test_requests_that_queue_too_long_are_refused(settings: Settings, assets: Folders) -> None:
    async def scenario() -> None:
        async with running(settings, assets) as client:
            await client.endpoint("queueing")
            await client.deploy("queueing", "blue", "vanilla", requestSettings={"maxQueueWait": "PT0.3S"})
            await client.endpoint("queueing", {"blue": 100})
            answers = await asyncio.gather(*(client.score("queueing", {"sleep": 0.25}) for _ in range(6)))
            statuses = Counter(answer.status_code for answer in answers)
            assert set(statuses) == {200, 503}
            assert 1 <= statuses[200] <= 3
            late = next(answer for answer in answers if answer.status_code == 503)
            assert "max_queue_wait (0.3 s)" in late.json()["error"]["message"]

            # A managed deployment doesn't queue: it refuses what is more than twice what it may do at once.
            await client.endpoint("refusing", compute=None)
            await client.deploy("refusing", "blue", "vanilla", endpointComputeType="Managed")
            answers = await asyncio.gather(*(client.score("refusing", {"sleep": 0.5}, "blue") for _ in range(5)))
            assert Counter(answer.status_code for answer in answers) == {200: 2, 429: 3}

    asyncio.run(scenario())


def test_scaling_keeps_the_instances_that_are_there(settings: Settings, assets: Folders) -> None:
    async def scenario() -> None:
        async with running(settings, assets) as client:
            await client.endpoint("growing")
            for capacity in (1, 3, 2):
                before = client.service._running.get("growing/blue")
                pids = {instance.pid for instance in before.instances} if before else set()
                assert (await client.deploy("growing", "blue", "vanilla", capacity=capacity))["status"] == "Succeeded"
                now = {instance.pid for instance in client.service._running["growing/blue"].instances}
                assert len(now) == capacity
                assert now <= pids or pids <= now
            assert (await client.score("growing", deployment="blue")).status_code == 200

            # By itself, between bounds; and back only when it wasn't needed for a minute.
            scale = {"scaleType": "TargetUtilization", "maxInstances": 3, "targetUtilizationPercentage": 50}
            patient = {"maxQueueWait": "PT30S", "requestTimeout": "PT60S"}
            await client.deploy("growing", "green", "vanilla", scaleSettings=scale, requestSettings=patient)
            kept = (await client.get("growing/deployments/green"))["properties"]["scaleSettings"]
            assert kept == scale | {"minInstances": 1, "pollingInterval": "PT1S"}
            fleet = client.service._running["growing/green"]
            first = fleet.instances[0].pid
            async with asyncio.timeout(40):
                while len(fleet.instances) < 3 or not all(instance.up for instance in fleet.instances):
                    answers = await asyncio.gather(*(client.score("growing", {"sleep": 0.3}, "green") for _ in "1234"))
                    assert {answer.status_code for answer in answers} == {200}
            assert fleet.instances[0].pid == first

    asyncio.run(scenario())


def test_an_update_fails_no_request(settings: Settings, assets: Folders) -> None:
    async def scenario() -> None:
        async with running(settings, assets) as client:
            await client.endpoint("busy")
            patient = {"requestTimeout": "PT30S", "maxQueueWait": "PT30S"}
            await client.deploy("busy", "blue", "vanilla", requestSettings=patient)
            await client.endpoint("busy", {"blue": 100})
            uri = (await client.get("busy"))["properties"]["scoringUri"]
            key = (await client.arm.post(f"{client.root}/busy/listKeys")).json()["primaryKey"]
            answers: list[str] = []
            stop = threading.Event()

            def work() -> None:
                trust = ssl.create_default_context(cafile=str(settings.ca_bundle))
                with httpx.Client(verify=trust, trust_env=False, timeout=40) as own:
                    while not stop.is_set():
                        try:
                            answer = own.post(uri, json={"sleep": 0.005}, headers={"Authorization": f"Bearer {key}"})
                            answers.append(answer.json()["flavour"] if answer.is_success else answer.text)
                        except httpx.HTTPError as error:
                            answers.append(repr(error))

            threads = [threading.Thread(target=work) for _ in range(20)]
            for thread in threads:
                thread.start()
            ended = await client.deploy("busy", "blue", "chocolate", capacity=2, requestSettings=patient)
            assert ended["status"] == "Succeeded"
            # An old server may still be answering what it was asked before: the last answers are the new ones'.
            async with asyncio.timeout(30):
                while set(answers[-20:]) != {"chocolate"}:
                    await asyncio.sleep(0.05)
            stop.set()
            await asyncio.to_thread(lambda: [thread.join() for thread in threads])
            assert set(answers) == {"vanilla", "chocolate"}, set(answers)
            assert len(client.service._running["busy/blue"].instances) == 2
            # The old servers and files are gone.
            async with asyncio.timeout(60):
                while client.service._draining or len(list((settings.home / "deployments/busy/blue").iterdir())) > 1:
                    await asyncio.sleep(0.1)

    asyncio.run(scenario())


def test_endpoints_come_back(settings: Settings, assets: Folders) -> None:
    async def first() -> None:
        async with running(settings, assets) as client:
            await client.endpoint("kept")
            await client.deploy("kept", "blue", "vanilla")
            await client.deploy("kept", "green", "chocolate")
            await client.endpoint("kept", {"blue": 50, "green": 50})
            # This update fails: after a restart the one before is what runs.
            assert (await client.deploy("kept", "green", "broken"))["status"] == "Failed"

    async def second() -> None:
        async with running(settings, assets) as client:
            async with asyncio.timeout(30):
                while len(client.service._running) < 2 or (await client.score("kept")).status_code != 200:
                    await asyncio.sleep(0.1)
            flavours = {(await client.score("kept")).json()["flavour"] for _ in range(2)}
            assert flavours == {"vanilla", "chocolate"}
            await client.ended(await client.arm.delete(f"{client.root}/kept"))
            assert (await client.arm.get(f"{client.root}/kept")).status_code == 404
            assert not (settings.home / "deployments/kept/blue").exists()
            assert not client.service._running

    asyncio.run(first())
    asyncio.run(second())


def test_requests_of_past_minutes_scale_a_managed_deployment(settings: Settings, assets: Folders) -> None:
    """An autoscale setting's rule on what the router logged, carried out while somebody asks."""

    async def scenario() -> None:
        async with running(settings, assets) as client:
            await client.endpoint("busy", compute=None)
            await client.deploy("busy", "blue", "vanilla", endpointComputeType="Managed")
            await client.endpoint("busy", {"blue": 100}, compute=None)
            lines = [
                json.dumps({"ts": time.time() - 60 * ago, "status": 200, "duration": 0.01, "deployment": "blue"})
                for ago in (1, 2, 3)
                for _ in range(300)
            ]
            with client.service.log_of("busy").open("a") as log:
                log.write("\n".join([*lines, ""]))

            def rule(operator: str, threshold: float, direction: str) -> dict[str, Any]:
                trigger = {
                    "metricName": "RequestsPerMinute", "metricResourceUri": f"{client.root}/busy", "timeGrain": "PT1M",
                    "statistic": "Sum", "timeWindow": "PT5M", "timeAggregation": "Maximum", "operator": operator,
                    "threshold": threshold,
                }  # fmt: skip
                action = {"direction": direction, "type": "ChangeCount", "value": "2", "cooldown": "PT1H"}
                return {"metricTrigger": trigger, "scaleAction": action}

            group = settings.workspace_id.partition("/providers/")[0]
            setting = f"{group}/providers/Microsoft.Insights/autoscalesettings/busy"
            rules = [rule("GreaterThan", 299, "Increase"), rule("LessThan", 100, "Decrease")]
            profile = {"name": "p", "capacity": {"minimum": "1", "maximum": "7", "default": "1"}, "rules": rules}
            properties = {"targetResourceUri": f"{client.root}/busy/deployments/blue", "profiles": [profile]}
            body = {"location": "local", "properties": properties}
            assert (await client.arm.put(setting, json=body)).status_code == 201
            while len(client.service.fleets()["busy/blue"].addresses) < 3:
                assert (await client.score("busy")).status_code == 200
            # The rule is met as before, and cools down.
            await asyncio.sleep(1.5)
            assert (await client.get("busy/deployments/blue"))["sku"]["capacity"] == 3

            profile |= {"capacity": {"minimum": "1", "maximum": "1", "default": "1"}, "rules": []}
            assert (await client.arm.put(setting, json=body)).status_code == 200
            while (await client.get("busy/deployments/blue"))["sku"]["capacity"] > 1:
                assert (await client.score("busy")).status_code == 200
            await client.ended(await client.arm.delete(f"{client.root}/busy"))
            # The setting outlives what it scales, and can still be disabled.
            disabled = await client.arm.patch(setting, json={"properties": {"enabled": False}})
            assert (disabled.status_code, disabled.json()["properties"]["enabled"]) == (200, False)
            assert (await client.arm.put(setting, json=body | {"tags": {"a": "b"}})).status_code == 200
            statuses = [(await client.arm.delete(setting)).status_code for _ in range(2)]
            assert statuses == [200, 204]

    asyncio.run(scenario())
