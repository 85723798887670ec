"""One DuckDB file and what ran on it: what the databases of one SQL endpoint share.

The file is opened without access to files or network and with its configuration locked: rows come in and go out as
Arrow tables that this process reads and writes itself, so no SQL text can reach the machine.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from localazure.sql import macros, python_functions
from localazure.sql.requests import RequestLog
from localazure.sql.result_cache import ResultCache

if TYPE_CHECKING:
    from localazure.sql.pool import Session

_FIRST_SPID = 51
_CACHED_STATEMENTS = 512


class Engine:
    """Thread-safe. ``prepare`` the catalogues between opening and ``lock``."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.connection = duckdb.connect(
            str(file),
            config={
                "default_collation": "NOCASE",
                "enable_external_access": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "python_enable_replacements": "false",
            },
        )
        self.connection.execute("SET GLOBAL TimeZone = 'UTC'")
        python_functions.install(self.connection)
        macros.install(self.connection)
        self.connection.execute("SET lock_configuration = true")
        self.requests = RequestLog()
        self.results = ResultCache()
        self.data_version = 0
        self.sessions: dict[int, Session] = {}
        self._cache: OrderedDict[object, object] = OrderedDict()
        self._lock = threading.Lock()
        self._spids = itertools.count(_FIRST_SPID)
        # the first Arrow batch costs seconds of imports: now, not at a client's query
        pa.table({"warm": [1]}).to_batches()

    def new_spid(self) -> int:
        with self._lock:
            return next(self._spids)

    def enter(self, session: Session) -> None:
        with self._lock:
            self.sessions[session.spid] = session

    def forget(self, session: Session) -> None:
        with self._lock:
            self.sessions.pop(session.spid, None)

    def kill(self, spid: int, by: int) -> None:
        """End what another session runs; an unknown session is nobody's error, as in a dedicated pool."""
        with self._lock:
            found = self.sessions.get(spid)
        if found is not None and spid != by:
            found.disconnect()

    def cached(self, key: object) -> object | None:
        with self._lock:
            found = self._cache.get(key)
            if found is not None:
                self._cache.move_to_end(key)
            return found

    def remember(self, key: object, compiled: object) -> None:
        with self._lock:
            self._cache[key] = compiled
            while len(self._cache) > _CACHED_STATEMENTS:
                self._cache.popitem(last=False)

    def close(self) -> None:
        for session in list(self.sessions.values()):
            session.close()
        self.connection.close()
