"""The workspace's databases and tables, as a Spark process asks for them (`localazure.synapse.lake_databases`).

The process environment says where, and the process's secret is the one of its tokens:

    LOCALAZURE_CATALOGUE_ENDPOINT   address of the catalogue
    LOCALAZURE_TOKEN_SECRET         this process's secret, never shown
"""

from __future__ import annotations

import os
import threading
from typing import Any
from urllib.parse import quote

import requests
from pyspark.errors import AnalysisException

Document = dict[str, Any]
_HTTP_NOT_FOUND = 404
#: Spark's classes of what the service refuses, by its codes.
#: https://spark.apache.org/docs/3.5.9/sql-error-conditions-sqlstates.html
_CLASSES = {
    "DatabaseNotFound": "SCHEMA_NOT_FOUND",
    "DatabaseAlreadyExists": "SCHEMA_ALREADY_EXISTS",
    "DatabaseNotEmpty": "SCHEMA_NOT_EMPTY",
    "TableNotFound": "TABLE_OR_VIEW_NOT_FOUND",
    "TableAlreadyExists": "TABLE_OR_VIEW_ALREADY_EXISTS",
}


class CatalogueError(OSError):
    """The catalogue doesn't answer; the message says what was asked."""


class Catalogue:
    """Thread-safe. What isn't there is None when it is asked for, and AnalysisException when it is to be changed."""

    def __init__(self, endpoint: str, secret: str) -> None:
        self._endpoint, self._secret = endpoint, secret
        self._local = threading.local()

    @classmethod
    def from_environment(cls) -> Catalogue | None:
        """The workspace's; None in a process that has none."""
        endpoint, secret = (os.environ.get(f"LOCALAZURE_{n}", "") for n in ("CATALOGUE_ENDPOINT", "TOKEN_SECRET"))
        return cls(endpoint, secret) if endpoint and secret else None

    def databases(self) -> list[Document]:
        found: list[Document] = (self._ask("GET", "databases") or {})["value"]
        return found

    def database(self, name: str) -> Document | None:
        return self._ask("GET", _path(name), missing_ok=True)

    def create_database(self, name: str, document: Document) -> Document:
        return self._ask("PUT", _path(name), document) or {}

    def alter_database(self, name: str, document: Document) -> None:
        self._ask("PATCH", _path(name), document)

    def drop_database(self, name: str, *, cascade: bool) -> Document:
        """What there was, with its tables."""
        return self._ask("DELETE", f"{_path(name)}?cascade={str(cascade).lower()}") or {}

    def table(self, database: str, name: str) -> Document | None:
        return self._ask("GET", _path(database, name), missing_ok=True)

    def create_table(self, database: str, name: str, document: Document) -> None:
        self._ask("PUT", _path(database, name), document)

    def alter_table(self, database: str, name: str, document: Document) -> None:
        self._ask("PATCH", _path(database, name), document)

    def rename_table(self, database: str, name: str, document: Document) -> None:
        self._ask("POST", f"{_path(database, name)}/rename", document)

    def drop_table(self, database: str, name: str) -> Document:
        """What there was."""
        return self._ask("DELETE", _path(database, name)) or {}

    def _ask(
        self, method: str, path: str, document: Document | None = None, *, missing_ok: bool = False
    ) -> Document | None:
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
        try:
            response = session.request(
                method, f"{self._endpoint}/{path}", json=document, headers={"secret": self._secret}, timeout=60
            )
        except requests.RequestException as error:
            raise CatalogueError(
                f"{method} {path}: the workspace's catalogue didn't answer ({type(error).__name__})"
            ) from None
        if response.status_code == _HTTP_NOT_FOUND and missing_ok:
            return None
        answer: Document = response.json()
        if not response.ok:
            code, message = answer["error"]["code"], answer["error"]["message"]
            if code not in _CLASSES:
                raise CatalogueError(f"{method} {path}: the workspace's catalogue answered {code}: {message}")
            refused = AnalysisException(message)
            refused.error_class = _CLASSES[code]
            raise refused
        return answer


def _path(database: str, table: str = "") -> str:
    return f"databases/{quote(database, safe='')}" + (f"/tables/{quote(table, safe='')}" if table else "")
