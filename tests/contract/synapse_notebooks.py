"""Notebooks of the development endpoint, as the contract tests make, submit and await them."""

from __future__ import annotations

import time
import uuid
from typing import Any

from azure.synapse.artifacts import ArtifactsClient
from azure.synapse.artifacts.models import NotebookResource, RunNotebookParameter, RunNotebookRequest

DEADLINE_SECONDS = 600


def code(source: str, *tags: str) -> dict[str, Any]:
    """A code cell."""
    return {
        "cell_type": "code",
        "metadata": {"tags": list(tags)} if tags else {},
        "source": source.splitlines(True),
        "outputs": [],
        "execution_count": None,
    }


def notebook(*cells: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A PySpark notebook."""
    metadata = {
        "kernelspec": {"name": "synapse_pyspark", "display_name": "Synapse PySpark"},
        "language_info": {"name": "python"},
    }
    return {"nbformat": 4, "nbformat_minor": 2, "metadata": metadata, "cells": list(cells), **more}


def publish(client: ArtifactsClient, name: str, content: dict[str, Any]) -> Any:
    """Create or replace a notebook."""
    resource = NotebookResource.deserialize({"name": name, "properties": content})
    return client.notebook.begin_create_or_update_notebook(name, resource).result()


def submit(
    client: ArtifactsClient,
    pool: str,
    name: str,
    run: str | None = None,
    *,
    parameters: dict[str, dict[str, Any]] | None = None,
    **request: Any,
) -> str:
    """Start a run; its id. `parameters`: {name: {"type", "value"}}."""
    run = run or str(uuid.uuid4())
    typed = {key: RunNotebookParameter(**value) for key, value in (parameters or {}).items()} or None
    body = RunNotebookRequest(notebook=name, spark_pool=pool, parameters=typed, **request)
    client.run_notebook.begin_create_run(run, body).result()
    return run


def ended(client: ArtifactsClient, run: str, within: float = DEADLINE_SECONDS) -> Any:
    """The run's result, once it has ended; `within` seconds."""
    end = time.monotonic() + within
    while (result := client.run_notebook.get_status(run).result).run_status in ("Starting", "Running"):
        assert time.monotonic() < end, f"the run is still {result.run_status}"
        time.sleep(0.2)
    return result
