"""Batches that drivers send about the connection and not to the engine: USE, and FMTONLY probes before a bulk copy.

https://learn.microsoft.com/en-us/sql/t-sql/language-elements/use-transact-sql
https://learn.microsoft.com/en-us/sql/t-sql/statements/set-fmtonly-transact-sql
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

import pyarrow as pa

from localazure.sql.results import Column, Result, ResultSet, SqlError, SqlType
from localazure.tds.session import Session
from localazure.tds.tokens import EnvChange, Token, make_env_change, make_message
from localazure.tds.types import COLLATION

_USE: Final = re.compile(
    r"^\s*USE\s+(?:\[(?P<a>(?:[^\]]|\]\])+)\]|\"(?P<b>[^\"]+)\"|(?P<c>[\w@#$]+))\s*;?\s*$",
    re.IGNORECASE,
)
_FMTONLY: Final = re.compile(
    r"^(?P<before>.*?)\bSET\s+FMTONLY\s+ON\b\s*;?(?P<query>.*?)\bSET\s+FMTONLY\s+OFF\b\s*;?(?P<after>.*)$",
    re.IGNORECASE | re.DOTALL,
)
_COLLATIONS: Final = re.compile(
    r"^\s*EXEC(?:UTE)?\s+(?:[\w\[\]]*\.)*sp_tablecollations_\d+\s+N?'(?P<table>[^']+)'\s*;?\s*$",
    re.IGNORECASE,
)


# What mssql-python's bulk copy sends: it lists the columns by dynamic SQL, so as to leave out those of graph tables,
# which no pool has. The list is always that of SELECT *.
_LISTS_COLUMNS: Final = re.compile(
    r"^\s*SELECT\s+@@TRANCOUNT\s*;\s*DECLARE\s+@Column_Names\b.*"
    r"SELECT\s+@Column_Names\s*=\s*COALESCE\(@Column_Names,\s*'\*'\)\s*;\s*$",
    re.IGNORECASE | re.DOTALL,
)
_LISTED: Final = re.compile(
    r"^\s*EXEC\s*\(\s*N?'SELECT '\s*\+\s*@Column_Names\s*\+\s*N?' FROM (?P<table>[^']+)'\s*\)\s*;?\s*$", re.IGNORECASE
)


def parse_use(batch: str) -> str | None:
    """The database that a batch consisting of USE alone names."""
    match = _USE.match(batch)
    return (match["a"] or match["b"] or match["c"]).replace("]]", "]") if match else None


def use(wanted: str, database: str) -> bytes:
    """Tokens of a USE: fine when the client is there already, as drivers make sure; else error 40508, as in Azure."""
    if wanted.lower() != database.lower():
        raise SqlError(
            40508,
            "USE statement is not supported to switch between databases. Use a new connection to connect to a "
            "different database.",
        )
    info = make_message(Token.INFO, 5701, 1, 0, f"Changed database context to '{database}'.")
    return make_env_change(EnvChange.DATABASE, database, database) + info


def run(session: Session, batch: str) -> Iterable[Result]:
    """Results of a batch; of queries between SET FMTONLY ON and OFF the columns alone."""
    match = _FMTONLY.match(batch)
    return session.execute(batch) if match is None else _probe(session, match)


def _probe(session: Session, match: re.Match[str]) -> Iterator[Result]:
    before, query = match["before"], match["query"]
    listed = _LISTED.match(query) if _LISTS_COLUMNS.match(before) else None
    if listed is not None:
        before, query = "SELECT @@TRANCOUNT", f"SELECT * FROM {listed['table']}"
    if before.strip(" ;\r\n\t"):
        yield from session.execute(before)
    columns = session.describe(query)
    yield ResultSet(columns, pa.table([pa.nulls(0)] * len(columns), names=[c.name for c in columns]))
    if not match["after"].strip(" ;\r\n\t"):
        return
    collations = _COLLATIONS.match(match["after"])
    if collations is None:
        yield from session.execute(match["after"])
    else:
        yield table_collations(session, collations["table"])


def table_collations(session: Session, table: str) -> ResultSet:
    """sp_tablecollations_100: what bulk copy asks about each column: id, name, collation (bytes and name)."""
    columns = session.describe(f"SELECT * FROM {table.lstrip('.')}")
    texts = [c.type.name in {"char", "varchar", "nchar", "nvarchar"} for c in columns]
    name = "SQL_Latin1_General_CP1_CI_AS"
    return ResultSet(
        (
            Column("colid", SqlType("int")),
            Column("name", SqlType("nvarchar", length=128)),
            Column("tds_collation", SqlType("binary", length=5)),
            Column("collation", SqlType("nvarchar", length=128)),
        ),
        pa.table(
            [
                pa.array(range(1, len(columns) + 1), pa.int32()),
                pa.array([c.name for c in columns], pa.string()),
                pa.array([COLLATION if t else None for t in texts], pa.binary()),
                pa.array([name if t else None for t in texts], pa.string()),
            ],
            names=["colid", "name", "tds_collation", "collation"],
        ),
    )
