"""From Synapse's `sessionOptions` to the configuration of a local Spark session. Pure.

Sizes are bounded (`executors.spark_local`), not refused, so that a notebook's options serve both. What would change
what the notebook computes is applied or refused, never dropped.
https://spark.apache.org/docs/3.5.9/configuration.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.executors.spark_local import BASE, CORES, MEMORY_MB, REFUSED, SIZES, bounded_megabytes

#: Session options that would need another driver.
_UNSUPPORTED = ("jars", "pyFiles", "files", "archives", "proxyUser")
#: SQL configuration that is fixed once a session is there.
_STATIC_SQL = re.compile(
    r"^spark\.sql\.(warehouse\.dir|extensions|catalogImplementation|globalTempDatabase|streaming\.ui|ui\.|queryExecutionListeners"
    r"|streaming\.streamingQueryListeners|codegen\.cache\.maxEntries|catalog\.)"
)


@dataclass(frozen=True)
class SessionPlan:
    """What a session is started with (`static`) and what is set when a run takes it (`runtime`)."""

    static: dict[str, str]
    runtime: dict[str, str]

    @property
    def is_standard(self) -> bool:
        """Whether any started session serves."""
        return self.static == BASE


def plan(*layers: Mapping[str, Any] | None) -> SessionPlan:
    """Merge session options, later layers over earlier ones (the notebook's own, then the run's).

    Raises BadRequest for a malformed one, NotImplementedOperation for one that can't be honoured.
    """
    merged: dict[str, Any] = {}
    conf: dict[str, str] = {}
    for layer in layers:
        for key, value in (layer or {}).items():
            if key == "conf":
                if value is not None and not isinstance(value, dict):
                    raise BadRequest("sessionOptions.conf must be an object.", "sessionOptions.conf")
                conf.update({name: str(item) for name, item in (value or {}).items()})
            elif value is not None:
                merged[key] = value
    for key in _UNSUPPORTED:
        if merged.get(key):
            raise NotImplementedOperation(f"RunNotebook_CreateRun with sessionOptions.{key}")
    static = dict(BASE)
    cores = _number(merged, "driverCores", CORES)
    static["spark.master"] = f"local[{max(1, min(CORES, cores))}]"
    _number(merged, "executorCores", CORES)
    _number(merged, "numExecutors", 1)
    _megabytes(merged, "executorMemory")
    static["spark.driver.memory"] = f"{_megabytes(merged, 'driverMemory')}m"
    runtime: dict[str, str] = {}
    for key, text in conf.items():
        if REFUSED.match(key):
            raise NotImplementedOperation(f"RunNotebook_CreateRun with sessionOptions.conf[{key!r}]")
        if SIZES.match(key):
            continue
        if key.startswith("spark.sql.") and not _STATIC_SQL.match(key):
            runtime[key] = text
        else:
            static[key] = text
    return SessionPlan(static, runtime)


def _number(options: Mapping[str, Any], key: str, default: int) -> int:
    value = options.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadRequest(f"sessionOptions.{key} must be a whole number, not {value!r}.", f"sessionOptions.{key}")
    return value


def _megabytes(options: Mapping[str, Any], key: str) -> int:
    value = options.get(key)
    if value is None:
        return MEMORY_MB
    size = bounded_megabytes(value) if isinstance(value, str) else None
    if size is None:
        raise BadRequest(f'sessionOptions.{key} must be a size like "28g", not {value!r}.', f"sessionOptions.{key}")
    return size
