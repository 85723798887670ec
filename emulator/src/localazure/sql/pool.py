"""A database of a SQL pool: its catalogue, and the sessions on it.

A dedicated pool is one database with a file of its own. A serverless pool is many databases without rows, which share
one file and reach one another: see ``localazure.sql.serverless``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from localazure.sql.capacity import Capacity
from localazure.sql.catalog import Catalog
from localazure.sql.engine import Engine
from localazure.sql.principals import Identity
from localazure.sql.results import SqlError
from localazure.sql.rules import DEDICATED, PoolKind
from localazure.sql.session import Session

if TYPE_CHECKING:
    from localazure.settings import Settings
    from localazure.sql.serverless import Serverless
    from localazure.storage.blobs import BlobStore


COLLATION = "SQL_Latin1_General_CP1_CI_AS"
MASTER = "master"
_MASTER_ID = 1
_DATABASE_ID = 5


class Pool:
    """One database. Thread-safe; each session is used by one thread at a time, ``cancel`` by any."""

    def __init__(
        self,
        settings: Settings,
        blobs: BlobStore | None,
        database: str | None = None,
        kind: PoolKind = DEDICATED,
        *,
        engine: Engine | None = None,
        number: int = 0,
        server: Serverless | None = None,
        collation: str = "",
    ) -> None:
        """``engine``, ``number``, ``server``: of a serverless pool's database (``number`` is its DB_ID)."""
        self.settings = settings
        self.blobs = blobs
        self.kind = kind
        self.database = database or settings.sql_database
        self.engine = engine or Engine(settings.home / "sql" / f"{self.database}.duckdb")
        self.catalog = Catalog(self.engine.connection, number)
        self.server = server
        self.number = number or _DATABASE_ID
        self.collation = collation or COLLATION
        self.capacity = Capacity(None, self.database)
        self.master: Pool | None = None
        if engine is None and kind.tables:  # a server's log-ins are in its master database
            self.master = Pool(settings, blobs, MASTER, kind, engine=self.engine, number=_MASTER_ID)
            self.master.master = self.master

    @property
    def master_pool(self) -> Pool:
        """The server's master database, maybe this one."""
        found = self.server.master if self.server is not None else self.master
        return self if found is None else found

    def databases(self) -> list[tuple[str, int, str]]:
        """(name, DB_ID, collation) of every database that a session here can see."""
        if self.server is None:
            own = [(self.database, self.number, self.collation)] if self is not self.master else []
            return [(MASTER, _MASTER_ID, COLLATION), *own]
        return [(pool.database, pool.number, pool.collation) for pool in self.server.databases.values()]

    def session(self, login: str | Identity, application: str = "", host: str = "", database: str = "") -> Session:
        """A session in this database, or in master. A bare name is the administrator's.

        SqlError 42108 or 42109 while the pool is paused or on its way, 4060 when the log-in is nobody here.
        """
        if database.lower() == MASTER and self.master is not None and self.master is not self:
            return self.master.session(login, application, host)
        self.capacity.admit()
        identity = Identity(login, administrator=True) if isinstance(login, str) else login
        session = Session(self, self.engine.new_spid(), identity, application, host)
        try:
            session.access()
        except SqlError as error:
            session.close()
            raise SqlError(
                4060,
                f'Cannot open database "{self.database}" requested by the login. The login failed.',
                severity=11,
            ) from error
        self.engine.enter(session)
        return session

    def close(self) -> None:
        self.engine.close()


__all__ = ["Pool", "Session"]
