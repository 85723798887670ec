"""Registered models: versions and roles over REST, and what says that two versions are the same model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from azure.core.exceptions import ResourceNotFoundError

from azflow.connection import AzureConnection
from azflow.errors import AzflowError
from azflow.registry import ModelRegistry
from azflow.sharing import SOURCE_TAG, ShareModelOperator, files_of, is_same
from azure_edge import Edge, edge
from workspace_edge import WORKSPACE, context_of

__all__ = ["edge"]


class Models:
    """The workspace's versions of the model `m`, at the HTTP edge."""

    def __init__(self, edge: Edge, *known: dict[str, Any]) -> None:
        self.versions = {each["name"]: each for each in known}
        edge.on(
            "GET", f"{WORKSPACE}/models/m/versions$", lambda match, body: (200, {"value": [*self.versions.values()]})
        )
        edge.on("GET", f"{WORKSPACE}/models/m/versions/(.+)$", self._get)
        edge.on("PUT", f"{WORKSPACE}/models/m/versions/(.+)$", self._put)
        self.taken_by_another = 0

    def _get(self, match: Any, body: Any) -> Any:
        return (200, self.versions[match[1]]) if match[1] in self.versions else (404, {})

    def _put(self, match: Any, body: Any) -> Any:
        if self.taken_by_another:
            self.taken_by_another -= 1
            self.versions[match[1]] = version(match[1], job="another")
            return 409, {"error": {"code": "Conflict", "message": "exists"}}
        self.versions[match[1]] = {"name": match[1], "properties": body["properties"]}
        return 201, self.versions[match[1]]


def version(name: str, **tags: str) -> dict[str, Any]:
    return {"name": name, "properties": {"modelUri": "azureml://x", "modelType": "mlflow_model", "tags": tags}}


def registry() -> ModelRegistry:
    return ModelRegistry(AzureConnection.load("azure_default"), "m")


def roles(models: Models) -> dict[str, str]:
    return {name: each["properties"]["tags"].get("role", "") for name, each in models.versions.items()}


def test_a_job_is_one_version_and_the_newest_challenger_is_the_only_one(edge: Edge) -> None:
    models = Models(edge, version("9", job="old", role="challenger"), version("blue"))
    first = registry().register("j", "azureml://jobs/j/outputs/model", "mlflow_model", {"data": "azureml:d:1"})
    assert (first.version, first.role, first.job) == ("10", "challenger", "j")
    assert registry().register("j", "azureml://elsewhere", "mlflow_model", {}) == first
    assert roles(models) == {"9": "retired", "blue": "", "10": "challenger"}
    assert models.versions["10"]["properties"]["jobName"] == "j"
    # What a version is doesn't change with its tags.
    assert models.versions["9"]["properties"]["modelUri"] == "azureml://x"


def test_a_version_that_another_night_took_is_left_to_it(edge: Edge) -> None:
    models = Models(edge)
    models.taken_by_another = 2
    assert registry().register("j", "azureml://x", "custom_model", {}).version == "3"
    models.taken_by_another = 100
    with pytest.raises(AzflowError, match="no free version"):
        registry().register("k", "azureml://x", "custom_model", {})


def test_one_champion(edge: Edge) -> None:
    models = Models(edge, version("1", role="champion", deployment="blue"), version("2", role="challenger"))
    assert registry().promote("2", "green").deployment == "green"
    assert roles(models) == {"1": "retired", "2": "champion"}
    champion = registry().champion()
    assert champion is not None and champion.id == "azureml:m:2"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"job": "a"}, {"job": "a", "role": "champion"}, True),
        ({"job": "a"}, {"job": "b"}, False),
        ({"job": "a"}, {}, False),
        ({SOURCE_TAG: "x"}, {SOURCE_TAG: "x"}, True),
        ({"team": "x"}, {"team": "x"}, True),
        ({"team": "x"}, {}, False),
    ],
)
def test_which_versions_are_the_same_model(one: dict[str, str], other: dict[str, str], same: bool) -> None:
    assert is_same(one, other) is same


@pytest.mark.parametrize(
    ("files", "root"),
    [
        (["m/1/model/MLmodel", "m/1/model/data/x"], "m/1/model"),
        (["m/weights/a", "m/weights/b"], "m/weights"),
        (["a"], ""),
    ],
)
def test_where_a_models_files_are(tmp_path: Path, files: list[str], root: str) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("x")
    assert files_of(tmp_path) == tmp_path / root


def share(monkeypatch: pytest.MonkeyPatch, there: Any, **arguments: Any) -> tuple[Any, list[Any]]:
    shared: list[Any] = []

    def get(name: str, version: str) -> Any:
        if there is None:
            raise ResourceNotFoundError("no")
        return SimpleNamespace(tags=there)

    own = SimpleNamespace(name="m", version="3", tags={"job": "a"})
    client = SimpleNamespace(
        models=SimpleNamespace(get=lambda *_: own, share=lambda *given, **more: shared.append((given, more)))
    )
    target = SimpleNamespace(models=SimpleNamespace(get=get))
    monkeypatch.setattr(AzureConnection, "ml_client", lambda self: client)
    monkeypatch.setattr(AzureConnection, "registry_client", lambda self, registry: target)
    operator = ShareModelOperator(task_id="share", name="m", version="3", **arguments)
    return operator.execute(context_of(operator)), shared


def test_a_version_is_shared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, shared = share(monkeypatch, None, registry="r")
    assert answer["id"] == "azureml://registries/r/models/m/versions/3" and answer["shared"] is True
    assert shared == [(("m", "3"), {"share_with_name": "m", "share_with_version": "3", "registry_name": "r"})]
    answer, shared = share(monkeypatch, {"job": "a"}, registry="r")
    assert (answer["shared"], shared) == (False, [])


def test_another_model_under_that_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AirflowFailException, match=r"another model m, version 3 \(of job b, not a\)"):
        share(monkeypatch, {"job": "b"}, registry="r")
    with pytest.raises(AirflowFailException, match="needs either registry or to_connection"):
        share(monkeypatch, None)
