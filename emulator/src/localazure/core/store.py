"""Documents that survive a restart: one SQLite file, rows of (kind, key, JSON).

SQLite in WAL mode lets several processes (the API, the TDS server) and threads read while one writes
(https://www.sqlite.org/wal.html). Every thread has a connection of its own.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Document = dict[str, Any]
# Under this name because `Store.list` hides the built-in one inside the class.
Documents = list[Document]
Connections = list[sqlite3.Connection]

# A writer waits this long for another one before SQLite answers "database is locked".
_BUSY_SECONDS = 30.0


class Store:
    """Documents by kind and key. Thread-safe; several processes may open the same file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: Connections = []
        self._closed = False
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = self._connection()
        connection.execute(
            "CREATE TABLE IF NOT EXISTS documents (kind TEXT NOT NULL, key TEXT NOT NULL, document TEXT NOT NULL,"
            " PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )
        path.chmod(0o600)

    def put(self, kind: str, key: str, document: Document) -> None:
        """Write a document, in place of the one that may be there."""
        self._connection().execute(
            "INSERT INTO documents VALUES (?, ?, ?) ON CONFLICT (kind, key) DO UPDATE SET document = excluded.document",
            (kind, key, json.dumps(document)),
        )

    def get(self, kind: str, key: str) -> Document | None:
        """The document, or None."""
        row = (
            self._connection()
            .execute("SELECT document FROM documents WHERE kind = ? AND key = ?", (kind, key))
            .fetchone()
        )
        return None if row is None else _document(row[0])

    def list(self, kind: str, prefix: str = "") -> Documents:
        """The documents of a kind whose key begins with `prefix`, in key order (by code point)."""
        # substr compares literally; LIKE would take % and _ in a name for wildcards.
        rows = self._connection().execute(
            "SELECT document FROM documents WHERE kind = ? AND key >= ? AND substr(key, 1, ?) = ? ORDER BY key",
            (kind, prefix, len(prefix), prefix),
        )
        return [_document(row[0]) for row in rows.fetchall()]

    def delete(self, kind: str, key: str) -> bool:
        """Remove a document; whether there was one."""
        cursor = self._connection().execute("DELETE FROM documents WHERE kind = ? AND key = ?", (kind, key))
        return cursor.rowcount > 0

    def update(self, kind: str, key: str, change: Callable[[Document], Document]) -> Document:
        """Replace a document by `change(document)`, atomically across threads and processes; the new document.

        Raises KeyError if there is none. `change` must be quick and must not use the store.
        """
        with self._writing() as connection:
            row = connection.execute(
                "SELECT document FROM documents WHERE kind = ? AND key = ?", (kind, key)
            ).fetchone()
            if row is None:
                raise KeyError(f"there is no {kind} {key!r}")
            document = change(_document(row[0]))
            connection.execute(
                "UPDATE documents SET document = ? WHERE kind = ? AND key = ?", (json.dumps(document), kind, key)
            )
        return document

    def insert(self, kind: str, key: str, document: Document) -> bool:
        """Write a document only if there is none under the key yet; whether it was written (atomic)."""
        cursor = self._connection().execute(
            "INSERT INTO documents VALUES (?, ?, ?) ON CONFLICT (kind, key) DO NOTHING",
            (kind, key, json.dumps(document)),
        )
        return cursor.rowcount > 0

    def close(self) -> None:
        """Close every thread's connection. The store can't be used afterwards."""
        with self._lock:
            self._closed = True
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None or self._closed:
            with self._lock:
                if self._closed:
                    raise RuntimeError(f"the store {self._path} is closed")
                # autocommit; close() may run in another thread than the one that opened the connection.
                connection = sqlite3.connect(
                    self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
                )
                self._connections.append(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            self._local.connection = connection
        return connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        # IMMEDIATE takes the write lock before the read, so that nobody writes in between.
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _document(text: str) -> Document:
    document: Document = json.loads(text)
    return document
