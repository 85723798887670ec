"""The serverless pool of a workspace: databases of views and external tables over the lake, and one bill for all.

https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/on-demand-workspace-overview
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from localazure.sql.catalog import Setting
from localazure.sql.engine import Engine
from localazure.sql.lake_databases import not_allowed
from localazure.sql.pool import MASTER, Pool
from localazure.sql.principals import Identity
from localazure.sql.processed import Ledger
from localazure.sql.results import SqlError
from localazure.sql.rules import LAKE, SERVERLESS, PoolKind
from localazure.sql.session import Session

if TYPE_CHECKING:
    from localazure.settings import Settings
    from localazure.storage.blobs import BlobStore

_FIRST_DATABASE = 5
_KIND = "DATABASE"
_REPLICATED = "REPLICATED"


class Serverless:
    """Thread-safe. Databases are kept in master's catalogue; all share one DuckDB file and reach one another."""

    def __init__(self, settings: Settings, blobs: BlobStore | None) -> None:
        self.settings = settings
        self.blobs = blobs
        self.engine = Engine(settings.home / "sql" / "serverless" / "master.duckdb")
        self.ledger = Ledger(self.engine.connection)
        self._lock = threading.RLock()
        self.master = self._pool(MASTER, 1, "")
        self.databases = {MASTER: self.master}
        for setting in self.master.catalog.settings.values():
            if setting.kind == _KIND:
                collation = setting.options.get("COLLATE", "")
                kind = LAKE if _REPLICATED in setting.options else SERVERLESS
                self.databases[setting.name.lower()] = self._pool(setting.name, setting.object_id, collation, kind)

    def _pool(self, name: str, number: int, collation: str, kind: PoolKind = SERVERLESS) -> Pool:
        return Pool(
            self.settings,
            self.blobs,
            name,
            kind,
            engine=self.engine,
            number=number,
            server=self,
            collation=collation,
        )

    def database(self, name: str, line: int = 1) -> Pool:
        """SqlError 911 when there is no such database."""
        found = self.databases.get(name.lower())
        if found is None:
            raise SqlError(
                911,
                f"Database '{name}' does not exist. Make sure that the name is entered correctly.",
                line=line,
            )
        return found

    def session(self, login: str | Identity, application: str = "", host: str = "", database: str = "") -> Session:
        """A client's session in ``database`` (master when it names none); SqlError 4060 when there is no such one."""
        found = self.databases.get((database or MASTER).lower())
        if found is None:
            raise SqlError(
                4060,
                f'Cannot open database "{database}" requested by the login. The login failed.',
                severity=11,
            )
        return found.session(login, application, host)

    def create(self, name: str, collation: str, line: int) -> None:
        """CREATE DATABASE; SqlError 1801 when it is there."""
        with self._lock:
            if name.lower() in self.databases or name.lower() in {"tempdb", "model", "msdb"}:
                raise SqlError(
                    1801, f"Database '{name}' already exists. Choose a different database name.", state=3, line=line
                )
            self._add(name, {"COLLATE": collation} if collation else {}, SERVERLESS)

    def replicate(self, name: str, collation: str) -> Pool:
        """The lake database of this name, made if it isn't there."""
        with self._lock:
            return self.databases.get(name) or self._add(name, {"COLLATE": collation, _REPLICATED: "TRUE"}, LAKE)

    def retract(self, name: str) -> None:
        """Spark has dropped a lake database: whoever is in it loses the connection."""
        with self._lock:
            pool, setting = self.databases.get(name), self.master.catalog.setting(_KIND, name)
            if pool is None or setting is None:
                return
            for session in list(self.engine.sessions.values()):
                if session.pool is pool:
                    session.disconnect()
            self._remove(pool, setting)

    def _add(self, name: str, options: dict[str, str], kind: PoolKind) -> Pool:
        number = max([_FIRST_DATABASE - 1, *(pool.number for pool in self.databases.values())]) + 1
        with self.master.catalog.change(self.engine.connection.cursor()) as change:
            change.put_setting(Setting(_KIND, name, options, number))
        made = self._pool(name, number, options.get("COLLATE", ""), kind)
        self.databases[name.lower()] = made
        return made

    def _remove(self, pool: Pool, setting: Setting) -> None:
        with self.master.catalog.change(self.engine.connection.cursor()) as change:
            change.remove_setting(setting)
            change.run(f"DROP TABLE {pool.catalog.entries}")
        del self.databases[pool.database.lower()]

    def collate(self, name: str, collation: str, line: int) -> None:
        """ALTER DATABASE .. COLLATE."""
        with self._lock:
            pool = self.database(name, line)
            if pool.kind.replicated:
                raise not_allowed("ALTER DATABASE", line)
            if pool is self.master:
                raise SqlError(15896, "ALTER DATABASE is not supported in master database.", line=line)
            with self.master.catalog.change(self.engine.connection.cursor()) as change:
                change.put_setting(Setting(_KIND, pool.database, {"COLLATE": collation}, pool.number))
            pool.collation = collation
            pool.catalog.version += 1

    def drop(self, name: str, line: int) -> None:
        """DROP DATABASE; SqlError 3701 when there is none, 3702 while a session is in it."""
        with self._lock:
            pool = self.databases.get(name.lower())
            setting = self.master.catalog.setting(_KIND, name)
            if pool is None or setting is None:
                raise SqlError(
                    3701,
                    f"Cannot drop the database '{name}', because it does not exist or you do not have permission.",
                    line=line,
                )
            if pool.kind.replicated:
                raise not_allowed("DROP DATABASE", line)
            if any(session.pool is pool for session in list(self.engine.sessions.values())):
                raise SqlError(3702, f'Cannot drop database "{name}" because it is currently in use.', line=line)
            self._remove(pool, setting)

    def close(self) -> None:
        self.engine.close()


__all__ = ["MASTER", "Serverless"]
