"""The `%%configure` cell of a notebook: session options that stand in its first code cell. Pure.

https://learn.microsoft.com/azure/synapse-analytics/spark/apache-spark-development-using-notebooks#spark-session-configuration-magic-command
A value may be `{"activityParameterName": name, "defaultValue": value}`: the run's parameter of that name, or the value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from localazure.core.errors import BadRequest, NotImplementedOperation

MAGIC = "%%configure"
_KEYS = frozenset({
    "driverMemory", "driverCores", "executorMemory", "executorCores", "numExecutors", "conf", "jars", "pyFiles",
    "files", "archives", "proxyUser", "name",
})  # fmt: skip
_PARAMETER = frozenset({"activityParameterName", "defaultValue"})
_NUMBERS = frozenset({"driverCores", "executorCores", "numExecutors"})


def options(properties: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The session options of a notebook's `%%configure`, `{}` without one. `parameters`: the run's values.

    Raises BadRequest naming the cell and what is wrong with it.
    """
    for number, cell in enumerate(properties.get("cells") or []):
        source = cell.get("source")
        text = ("".join(source) if isinstance(source, list) else str(source or "")).strip()
        if cell.get("cell_type") != "code" or not text:
            continue
        return _options(text, number, parameters) if text.split(None, 1)[0] == MAGIC else {}
    return {}


def _options(text: str, number: int, parameters: Mapping[str, Any]) -> dict[str, Any]:
    where = f"cells[{number}]"
    try:
        asked = json.loads(text.partition("\n")[2])
    except ValueError as error:
        raise BadRequest(f"Cell {number}: {MAGIC} isn't JSON: {error}.", where) from None
    if not isinstance(asked, dict):
        raise BadRequest(f"Cell {number}: {MAGIC} must be an object of JSON.", where)
    if unknown := sorted(set(asked) - _KEYS):
        raise NotImplementedOperation(f"{MAGIC} (cell {number}) with {unknown[0]}")
    found = {key: _value(key, value, parameters, f"Cell {number}: {MAGIC}", where) for key, value in asked.items()}
    found.pop("name", None)
    conf = found.get("conf")
    if isinstance(conf, dict):
        found["conf"] = {k: _value(k, v, parameters, f"Cell {number}: {MAGIC}", where) for k, v in conf.items()}
    return found


def _value(key: str, value: Any, parameters: Mapping[str, Any], what: str, where: str) -> Any:
    if not isinstance(value, dict) or key == "conf":
        return value
    if not set(value) <= _PARAMETER or "activityParameterName" not in value:
        raise BadRequest(f"{what}: {key} must be a value or {{activityParameterName, defaultValue}}.", where)
    name = value["activityParameterName"]
    if name not in parameters and "defaultValue" not in value:
        raise BadRequest(f"{what}: {key} is the parameter {name!r}, which the run doesn't give.", where)
    chosen = parameters.get(name, value.get("defaultValue"))
    if key in _NUMBERS and isinstance(chosen, str) and chosen.isdecimal():
        return int(chosen)
    return chosen
