"""A pipeline component made from a pipeline job that ran: its graph, with the job's inputs and outputs as its own.

https://learn.microsoft.com/azure/machine-learning/how-to-use-batch-pipeline-from-job. Pure. The wire's form: a
component's spec is snake_case, a job's properties are camelCase.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_BINDING = re.compile(r"\$\{\{\s*parent\.inputs\.(?P<name>[A-Za-z0-9_.\-]+)\s*\}\}")


def source(spec: Mapping[str, Any]) -> str | None:
    """The name of the job that a component is to be made from; None if it has a graph of its own."""
    id = spec.get("sourceJobId") or spec.get("source_job_id")
    return str(id).rpartition("/")[2] if id and not spec.get("jobs") else None


def made(
    spec: Mapping[str, Any], job: Mapping[str, Any], component: Callable[[str], Mapping[str, Any]]
) -> dict[str, Any]:
    """The spec with everything that follows from `job`, a pipeline job's properties.

    `component` gives the spec behind an id: a literal input has the type of the step's input that it is bound to. The
    job's literals become defaults; data has none, as in the service.
    """
    if not job.get("jobs") and job.get("componentId"):
        return _of_component(spec, component(job["componentId"]), job)
    types = _types(job.get("jobs") or {}, component)
    inputs: dict[str, Any] = {}
    for name, entry in (job.get("inputs") or {}).items():
        if entry.get("jobInputType") == "literal":
            inputs[name] = {"type": types.get(name, "string"), "optional": True, "default": str(entry.get("value", ""))}
        else:
            inputs[name] = {"type": entry.get("jobInputType")}
    outputs = {
        name: {"type": (entry or {}).get("jobOutputType") or "uri_folder"}
        for name, entry in (job.get("outputs") or {}).items()
        if name != "default"
    }
    return {**spec, "type": "pipeline", "jobs": dict(job.get("jobs") or {}), "inputs": inputs, "outputs": outputs}


def _of_component(spec: Mapping[str, Any], base: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    """The component that the job was of, with the literals the job was given as defaults."""
    inputs = {name: dict(declared) for name, declared in (base.get("inputs") or {}).items()}
    for name, entry in (job.get("inputs") or {}).items():
        if name in inputs and entry.get("jobInputType") == "literal":
            inputs[name] |= {"optional": True, "default": str(entry.get("value", ""))}
    return {**spec, "type": "pipeline", "jobs": base["jobs"], "inputs": inputs, "outputs": base.get("outputs") or {}}


def _types(steps: Mapping[str, Any], component: Callable[[str], Mapping[str, Any]]) -> dict[str, str]:
    """What steps take the pipeline's inputs for, by the inputs' names."""
    found: dict[str, str] = {}
    for step in steps.values():
        id = (step.get("trial") or step).get("componentId")
        declared = (component(id).get("inputs") or {}) if id else {}
        for name, given in (step.get("inputs") or {}).items():
            value = given.get("value") if isinstance(given, Mapping) else given
            match = _BINDING.fullmatch(str(value).strip())
            if match and isinstance(declared.get(name), Mapping) and declared[name].get("type"):
                found.setdefault(match["name"], str(declared[name]["type"]))
    return found
