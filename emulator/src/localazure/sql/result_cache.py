"""The result set cache of a dedicated pool: the same query over unchanged tables is answered without running.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql-data-warehouse/performance-tuning-result-set-caching
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from localazure.sql.results import ResultSet

HIT, MISS = 1, 0
# sys.dm_pdw_exec_requests.result_cache_hit: reasons add up, and are shown negative.
OFF_IN_DATABASE, OFF_IN_SESSION, NO_TABLES, SYSTEM_OR_TEMPORARY, NOT_DETERMINISTIC, TOO_LARGE = 1, 2, 4, 16, 32, 64
_MOST = 256 << 20


class ResultCache:
    """Thread-safe, least recently used first to go. Keys name the state of the data, so that nothing is ever stale."""

    def __init__(self) -> None:
        self._results: OrderedDict[object, ResultSet] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes = 0

    def get(self, key: object) -> ResultSet | None:
        with self._lock:
            found = self._results.get(key)
            if found is not None:
                self._results.move_to_end(key)
            return found

    def put(self, key: object, result: ResultSet) -> bool:
        """Whether it was kept: not when it alone is larger than the cache."""
        if result.table.nbytes > _MOST:
            return False
        with self._lock:
            if key not in self._results:
                self._bytes += result.table.nbytes
            self._results[key] = result
            while self._bytes > _MOST:
                _, old = self._results.popitem(last=False)
                self._bytes -= old.table.nbytes
        return True

    def clear(self) -> None:
        with self._lock:
            self._results.clear()
            self._bytes = 0

    @property
    def kilobytes(self) -> int:
        return -(-self._bytes // 1024)
