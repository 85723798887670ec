"""MLflow's registry calls over the workspace's models."""

from __future__ import annotations

from typing import Any

import pytest

ADDRESS = "azureml://datastores/workspaceblobstore/paths/data/"


class Registry:
    """MLflow's REST client, in few lines."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._base = f"/mlflow/v1.0{client.settings.workspace_id}/api/2.0"

    async def send(self, method: str, call: str, /, **asked: Any) -> Any:
        query = ""
        if method == "GET":
            query = "?" + "&".join(f"{key}={value}" for key, value in asked.items())
        url = f"{self._base}/{call}{query}"
        return await self._client.send(method, url, None if method == "GET" else asked)

    async def ok(self, method: str, path: str, **asked: Any) -> Any:
        answer = await self.send(method, f"mlflow/{path}", **asked)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def refused(self, method: str, path: str, **asked: Any) -> str:
        answer = await self.send(method, f"mlflow/{path}", **asked)
        assert answer.status_code != 200
        return f"{answer.json()['error_code']}: {answer.json()['message']}"


def test_models_are_registered_found_changed_and_removed(with_client: Any) -> None:
    async def test(client: Any) -> None:
        registry = Registry(client)
        tags = [{"key": "team", "value": "x"}]
        made = await registry.ok("POST", "registered-models/create", name="m", tags=tags)
        assert made["registered_model"]["tags"] == tags
        exists = await registry.refused("POST", "registered-models/create", name="m")
        assert exists.startswith("RESOURCE_ALREADY_EXISTS")
        for source in (ADDRESS, "models:/m/1"):
            made = await registry.ok("POST", "model-versions/create", name="m", source=source, tags=tags)
        assert (made["model_version"]["version"], made["model_version"]["status"]) == ("2", "READY")
        assert (await client.ok("GET", "models/m/versions/2"))["properties"]["modelUri"] == ADDRESS
        one = {"name": "m", "version": "1"}
        await registry.ok("POST", "model-versions/transition-stage", **one, stage="production")
        await registry.ok(
            "POST", "model-versions/transition-stage", name="m", version="2", stage="Production",
            archive_existing_versions=True,
        )  # fmt: skip
        assert (await registry.ok("GET", "model-versions/get", **one))["model_version"]["current_stage"] == "Archived"
        await registry.ok("POST", "model-versions/set-tag", **one, key="role", value="champion")
        await registry.ok("DELETE", "model-versions/delete-tag", **one, key="team")
        shown = (await registry.ok("PATCH", "model-versions/update", **one, description="good"))["model_version"]
        assert (shown["tags"], shown["description"]) == ([{"key": "role", "value": "champion"}], "good")
        latest = await registry.ok("POST", "registered-models/get-latest-versions", name="m")
        assert {each["version"]: each["current_stage"] for each in latest["model_versions"]} == {
            "2": "Production",
            "1": "Archived",
        }
        page = await registry.ok("GET", "model-versions/search", filter="name='m'", max_results=1)
        assert [each["version"] for each in page["model_versions"]] == ["2"]
        rest = await registry.ok("GET", "model-versions/search", max_results=1, page_token=page["next_page_token"])
        assert "next_page_token" not in rest
        for wanted, numbers in (
            ("tags.role='champion'", ["1"]),
            ("tag.`mlflow.prompt.is_prompt` != 'true' AND name LIKE 'm%25'", ["1", "2"]),
            ("name ILIKE 'M'", ["1", "2"]),
            ("name LIKE 'n%25'", []),
        ):
            page = await registry.ok("GET", "model-versions/search", filter=wanted, order_by="version_number ASC")
            assert [each["version"] for each in page["model_versions"]] == numbers
        await registry.ok("DELETE", "model-versions/delete", **one)
        missing = await registry.refused("GET", "model-versions/get", **one)
        assert missing == "RESOURCE_DOES_NOT_EXIST: Model Version (name=m, version=1) not found"
        await registry.ok("DELETE", "registered-models/delete", name="m")
        assert (await registry.ok("GET", "registered-models/search"))["registered_models"] == []

    with_client(test)


def test_files_of_a_model_are_listed_and_read(with_client: Any, blobs: Any) -> None:
    blobs.write("azureml", "data/deep/a.txt", b"deep")

    async def test(client: Any) -> None:
        registry = Registry(client)
        await client.put("models/m/versions/7", modelUri=ADDRESS, modelType="custom_model")
        place = await registry.ok("GET", "model-versions/get-download-uri", name="m", version="7")
        assert place == {"artifact_uri": "mlflow-artifacts:/azureml-models/m/7"}
        files = "mlflow-artifacts/artifacts"
        listed = (await registry.send("GET", files, path="azureml-models/m/7")).json()["files"]
        assert listed == [
            {"path": "deep", "is_dir": True},
            {"path": "rows.csv", "is_dir": False, "file_size": 4},
        ]
        inside = (await registry.send("GET", files, path="azureml-models/m/7/deep")).json()["files"]
        assert [each["path"] for each in inside] == ["a.txt"]
        assert (await registry.send("GET", f"{files}/azureml-models/m/7/deep/a.txt")).content == b"deep"
        outside = await registry.send("GET", f"{files}/azureml-models/m/7/%2e%2e/other")
        assert outside.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"

    with_client(test)


@pytest.mark.parametrize(
    ("method", "path", "asked", "message"),
    [
        ("POST", "registered-models/alias", {"name": "m", "alias": "a", "version": "1"}, "NOT_IMPLEMENTED: MLflow's"),
        ("POST", "registered-models/rename", {"name": "m", "new_name": "n"}, "NOT_IMPLEMENTED: MLflow's"),
        ("GET", "model-versions/search", {"filter": "source='b'"}, "NOT_IMPLEMENTED: The filter 'source"),
        ("GET", "model-versions/search", {"order_by": "size"}, "INVALID_PARAMETER_VALUE: Invalid order_by clause"),
        ("POST", "model-versions/create", {"name": "m"}, "RESOURCE_DOES_NOT_EXIST: Registered Model"),
        ("GET", "registered-models/get", {"x": "y"}, "INVALID_PARAMETER_VALUE: Missing value for required"),
    ],
)
def test_what_is_refused_is_said_in_mlflows_form(
    with_client: Any, method: str, path: str, asked: dict[str, str], message: str
) -> None:
    async def test(client: Any) -> None:
        assert (await Registry(client).refused(method, path, **asked)).startswith(message)

    with_client(test)
