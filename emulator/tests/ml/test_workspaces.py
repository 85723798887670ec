"""Two workspaces over one store: each has its own, registries are everybody's, names of jobs are shared."""

from __future__ import annotations

from typing import Any

import pytest

from localazure.core.errors import BadRequest, NotFound, NotImplementedOperation
from localazure.core.service import ServiceContext
from localazure.ml.resources import require_workspace
from localazure.ml.workspaces import WorkspaceStore


def test_documents_belong_to_one_workspace_and_registries_to_all(context: ServiceContext) -> None:
    first = WorkspaceStore(context.store, "prod", first=True)
    second = WorkspaceStore(context.store, "Dev", first=False)
    first.put("ml.models", "m/1", {"of": "prod"})
    assert second.get("ml.models", "m/1") is None
    second.put("ml.models", "m/1", {"of": "dev"})
    assert (first.list("ml.models"), second.list("ml.models", "m/")) == ([{"of": "prod"}], [{"of": "dev"}])
    assert second.update("ml.models", "m/1", lambda old: {**old, "seen": True}) == {"of": "dev", "seen": True}
    assert second.delete("ml.models", "m/1")
    assert first.get("ml.models", "m/1") == {"of": "prod"}
    second.put("ml.registries.shared.models", "m/1", {"of": "all"})
    assert first.get("ml.registries.shared.models", "m/1") == {"of": "all"}


def test_a_jobs_name_is_taken_in_every_workspace(context: ServiceContext) -> None:
    first = WorkspaceStore(context.store, "prod", first=True)
    second = WorkspaceStore(context.store, "dev", first=False)
    assert first.insert("ml.jobs", "train", {})
    assert not first.insert("ml.jobs", "train", {})
    with pytest.raises(BadRequest, match="The workspace 'prod' has a job 'train'"):
        second.insert("ml.jobs", "train", {})
    assert second.insert("ml.jobs", "other", {})


def test_what_the_second_workspace_has_not_is_named(home: Any) -> None:
    params = {"subscription": home.subscription_id, "group": home.resource_group, "workspace": home.second_workspace}
    with pytest.raises(NotImplementedOperation, match="An endpoint in the second workspace"):
        require_workspace(home, params)
    with pytest.raises(NotFound, match="The workspace 'other' was not found"):
        require_workspace(home, {**params, "workspace": "other"})


def test_the_workspace_in_the_path_answers(with_client: Any) -> None:
    async def test(client: Any) -> None:
        dev = client.settings.workspace_id.replace(client.settings.workspace, client.settings.second_workspace)
        assert (await client.ok("GET", dev))["name"] == client.settings.second_workspace
        body = {
            "properties": {"dataUri": "azureml://datastores/workspaceblobstore/paths/data/", "dataType": "uri_folder"}
        }
        made = await client.ok("PUT", f"{dev}/data/rows/versions/1", body)
        assert made["id"] == f"{dev}/data/rows/versions/1"
        assert (await client.send("GET", "data/rows/versions/1")).status_code == 404
        elsewhere = await client.send("GET", dev.replace(client.settings.second_workspace, "nowhere"))
        assert "localazure has 'ml-azflow'" in elsewhere.json()["error"]["message"]

    with_client(test)
