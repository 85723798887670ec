"""The dedicated pool's life as Resource Manager keeps it: paused or online, and its size. Shared through the store.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/sql-data-warehouse-manage-compute-overview
The API process writes what was asked for; the TDS process reads it at every log-in and about once a second.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from localazure.sql.results import SqlError

if TYPE_CHECKING:
    from localazure.core.store import Store

KIND = "sql-pool"
ACTIVITY = "sql-pool-activity"
ONLINE, PAUSED, PAUSING, RESUMING, SCALING = "Online", "Paused", "Pausing", "Resuming", "Scaling"
# https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/memory-concurrency-limits
OBJECTIVES = tuple(
    f"DW{size}c"
    for size in (100, 200, 300, 400, 500, 1000, 1500, 2000, 2500, 3000, 5000, 6000, 7500, 10000, 15000, 30000)
)
DEFAULT_OBJECTIVE = OBJECTIVES[0]


class Capacity:
    """One pool's document: {"status", "objective", "tags"}."""

    def __init__(self, store: Store | None, name: str) -> None:
        """Without a store the pool is always online: for tests of the engine alone."""
        self._store = store
        # The store keeps a connection for every thread that ever asked; sessions have threads of their own that end.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="capacity") if store is not None else None
        self._name = name
        self._alone: dict[str, Any] = {"status": ONLINE, "objective": DEFAULT_OBJECTIVE, "tags": {}}

    def document(self) -> dict[str, Any]:
        return self._get(KIND) or dict(self._alone)

    @property
    def status(self) -> str:
        return str(self.document()["status"])

    @property
    def objective(self) -> str:
        return str(self.document()["objective"])

    def write(self, **changes: Any) -> None:
        document = self.document() | changes
        if self._store is None:
            self._alone = document
        self._put(KIND, document)

    def scale(self, objective: str, line: int) -> None:
        """ALTER DATABASE .. MODIFY (SERVICE_OBJECTIVE = ..); SqlError 40852-like text for an unknown size."""
        known = {name.lower(): name for name in OBJECTIVES}
        if objective.lower() not in known:
            raise SqlError(
                40804,
                f"The specified service objective '{objective}' is invalid. There are {', '.join(OBJECTIVES)}.",
                line=line,
            )
        self.write(objective=known[objective.lower()])

    def admit(self) -> None:
        """Refuse a log-in while the pool is paused (42108) or on its way (42109).

        https://learn.microsoft.com/en-us/sql/relational-databases/errors-events/mssqlserver-42108-database-engine-error
        """
        status = self.status
        if status in {PAUSED, PAUSING}:
            raise SqlError(
                42108,
                "Can not connect to the SQL pool since it is paused. Please resume the SQL pool and try again.",
                severity=14,
            )
        if status in {RESUMING, SCALING}:
            raise SqlError(42109, "The SQL pool is warming up. Please try again.", severity=14)

    def report(self, active: int) -> None:
        """How many requests run: what dataWarehouseUserActivities tells."""
        self._put(ACTIVITY, {"active": active})

    def active(self) -> int:
        found = self._get(ACTIVITY)
        return int(found["active"]) if found else 0

    def _get(self, kind: str) -> dict[str, Any] | None:
        if self._store is None or self._thread is None:
            return None
        return self._thread.submit(self._store.get, kind, self._name).result()

    def _put(self, kind: str, document: dict[str, Any]) -> None:
        if self._store is not None and self._thread is not None:
            self._thread.submit(self._store.put, kind, self._name, document).result()
