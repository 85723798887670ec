"""Reuse of unchanged steps: what makes two runs of a step the same, and where the earlier one is written down.

https://learn.microsoft.com/azure/machine-learning/how-to-debug-pipeline-reuse-issues: a deterministic component with
the same code, environment, inputs, parameters, output settings and run settings. More than in the service: the content
behind an input's address counts as well, so that changed data runs the step again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from localazure.core.errors import AzureError
from localazure.core.store import Store
from localazure.executors.job import AssetSource, Child
from localazure.storage.blobs import BlobStore

REUSE = "ml.pipeline.reuse"
# Names and descriptions, which change nothing of what a step does.
_SAID_ABOUT = frozenset({"displayName", "description", "tags", "properties", "experimentName", "componentId"})
_NOT_OF_AN_ENVIRONMENT = frozenset({"tags", "properties", "description", "isArchived", "isAnonymous", "stage"})


@dataclass(frozen=True)
class Earlier:
    """A run whose outputs can be taken over."""

    run: str
    pipeline: str
    root: str
    outputs: dict[str, dict[str, Any]]


class Reuse:
    """The memory of steps that completed. Synchronous: it lists blobs."""

    def __init__(self, store: Store, blobs: BlobStore, assets: AssetSource) -> None:
        self._store = store
        self._blobs = blobs
        self._assets = assets

    def key(self, properties: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
        """What a step is, as a digest. `properties` are its job's; `asked` its outputs as asked for, not located."""
        what: dict[str, Any] = {key: value for key, value in properties.items() if key not in _SAID_ABOUT}
        what["outputs"] = asked
        what["inputs"] = {name: self._input(entry) for name, entry in (properties.get("inputs") or {}).items()}
        for holder in (what, trial := dict(what.get("trial") or {})):
            if holder.get("codeId"):
                holder["codeId"] = self._code(holder["codeId"])
            if holder.get("environmentId"):
                holder["environmentId"] = self._environment(holder["environmentId"])
        return _digest({**what, "trial": trial})

    def find(self, key: str) -> Earlier | None:
        """The run to take over, if its outputs are still what they were."""
        known = self._store.get(REUSE, key)
        if known is None or known["content"] != self._contents(known["outputs"]):
            return None
        return Earlier(known["run"], known["pipeline"], known["root"], known["outputs"])

    def remember(self, key: str, child: Child, pipeline: str, root: str) -> None:
        """A step that completed."""
        document = {"run": child.name, "pipeline": pipeline, "root": root, "outputs": child.outputs}
        self._store.put(REUSE, key, {**document, "content": self._contents(child.outputs)})

    def _contents(self, outputs: Mapping[str, Mapping[str, Any]]) -> str:
        return _digest({name: self.content(str(entry["uri"])) for name, entry in outputs.items()})

    def content(self, uri: str) -> list[Any]:
        """What lies at an address: its blobs and their ETags; an address elsewhere stands for itself."""
        try:
            place = self._assets.location(uri)
            blobs = self._blobs.list(place.container, place.path.partition("*")[0])
        except AzureError:
            return [uri]
        return [place.container, place.path, [[blob.name, blob.etag, blob.size] for blob in blobs]]

    def _input(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        found = {key: value for key, value in entry.items() if key != "uri"}
        return found | ({"content": self.content(str(entry["uri"]))} if entry.get("uri") else {})

    def _code(self, id: str) -> Any:
        try:
            return self.content(self._assets.uri(id))
        except AzureError:
            return id

    def _environment(self, id: str) -> Any:
        try:
            properties = self._assets.environment(id).get("properties") or {}
        except AzureError:
            return id
        said = {key: value for key, value in properties.items() if key not in _NOT_OF_AN_ENVIRONMENT}
        return said or id


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
