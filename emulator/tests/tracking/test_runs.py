"""The runs that localazure keeps in MLflow: what is asked of its server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from localazure.settings import Settings
from localazure.tracking.runs import TrackingRuns


class Server:
    """MLflow's answers, and what was asked. `deleted` experiments are refused."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.deleted: set[str] = set()
        self.experiments: dict[str, str] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/2.0/mlflow/")
        content = json.loads(request.content) if request.content else dict(request.url.params)
        self.asked.append((path, content))
        if path == "experiments/create":
            if content["name"] in self.experiments:
                return httpx.Response(400, json={"error_code": "RESOURCE_ALREADY_EXISTS"})
            self.experiments[content["name"]] = str(len(self.experiments))
            return httpx.Response(200, json={"experiment_id": self.experiments[content["name"]]})
        if path == "experiments/get-by-name":
            found = self.experiments[content["experiment_name"]]
            stage = "deleted" if found in self.deleted else "active"
            return httpx.Response(200, json={"experiment": {"experiment_id": found, "lifecycle_stage": stage}})
        if path == "experiments/restore":
            self.deleted.discard(content["experiment_id"])
            return httpx.Response(200, json={})
        if path == "runs/create" and content["experiment_id"] in self.deleted:
            return httpx.Response(400, json={"error_code": "INVALID_PARAMETER_VALUE", "message": "must be active"})
        if path == "metrics/get-history":
            later = content.get("page_token") == "t"
            metric = {"key": "m", "value": 2.0 if later else 1.0, "step": int(later), "timestamp": 5}
            return httpx.Response(200, json={"metrics": [metric]} | ({} if later else {"next_page_token": "t"}))
        return httpx.Response(200, json={"run": {}})

    def paths(self) -> list[str]:
        asked = [path for path, _ in self.asked]
        self.asked.clear()
        return asked


def test_an_experiment_is_looked_up_once_and_again_when_it_is_gone(certified: Settings) -> None:
    server = Server()
    runs = TrackingRuns(certified)
    runs._client = httpx.AsyncClient(transport=httpx.MockTransport(server), base_url="http://mlflow")

    async def scenario() -> None:
        first = await runs.create("a", "nightly", "A", {})
        assert server.paths() == ["experiments/create", "runs/create"]
        assert await runs.create("a_0", "nightly", "child", {"x": "y"}, parent="a", root="top") == first
        ((path, content),) = server.asked
        assert path == "runs/create"
        tags = {tag["key"]: tag["value"] for tag in content["tags"]}
        assert (tags["mlflow.parentRunId"], tags["mlflow.rootRunId"], tags["azureml.runId"]) == ("a", "top", "a_0")
        server.paths()
        server.deleted.add(first)
        assert await runs.create("b", "nightly", "B", {}) == first
        assert server.paths() == [
            "runs/create", "experiments/create", "experiments/get-by-name", "experiments/restore", "runs/create",
        ]  # fmt: skip
        assert await runs.metric_history("a", "m") == [(0, 1.0, 5), (1, 2.0, 5)]
        await runs.close()

    asyncio.run(scenario())
