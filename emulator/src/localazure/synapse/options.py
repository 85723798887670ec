"""From Synapse's `sessionOptions` to the configuration of a local Spark session. Pure.

Sizes are bounded (`executors.spark_local`), not refused, so that a notebook's options serve both; what exceeds its pool
is (`capacity`). What would change what the notebook computes is applied or refused, never dropped.
https://spark.apache.org/docs/3.5.9/configuration.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.executors.spark_local import BASE, CORES, REFUSED, SIZES, bounded_megabytes
from localazure.synapse import livy_requests
from localazure.synapse.capacity import Size

#: Session options that would need another driver.
_UNSUPPORTED = ("jars", "pyFiles", "files", "archives", "proxyUser")
#: SQL configuration that is fixed once a session is there.
_STATIC_SQL = re.compile(
    r"^spark\.sql\.(warehouse\.dir|extensions|catalogImplementation|globalTempDatabase|streaming\.ui|ui\.|queryExecutionListeners"
    r"|streaming\.streamingQueryListeners|codegen\.cache\.maxEntries|catalog\.)"
)


@dataclass(frozen=True)
class SessionPlan:
    """What a session is started with (`static`), what is set when a run takes it (`runtime`), and what it takes of its
    pool (`size`: as asked, not as this machine bounds it).
    """

    static: dict[str, str]
    runtime: dict[str, str]
    size: Size

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
    size = livy_requests.size(merged, conf, "sessionOptions.")
    static = dict(BASE)
    static["spark.master"] = f"local[{min(CORES, size.driver_cores)}]"
    static["spark.driver.memory"] = f"{bounded_megabytes(f'{size.driver_mb}m')}m"
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
    return SessionPlan(static, runtime, size)
