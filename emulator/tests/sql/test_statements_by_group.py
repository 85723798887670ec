"""Thirty and more new statements for each of the conformance file's groups, counted apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from localazure.sql.session import Session

from . import statements_definitions, statements_rows, statements_serverless
from .conftest import make_pool, make_serverless, run
from .test_more_statements import DEDICATED_FIXTURE, _check, _lake

GROUPS = {
    "ddl": statements_definitions.DDL,
    "dml": statements_rows.DML,
    "load": statements_definitions.LOAD,
    "proc": statements_rows.PROC,
    "admin": statements_definitions.ADMIN,
    "query": statements_rows.QUERY,
    "sem": statements_rows.SEM,
}
SERVERLESS = "serverless: "
LEAST = 30


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Session]]:
    """A session of each kind for each group that needs it, made when it is; a group's statements share it."""
    made: dict[str, Session] = {}
    ends: list[Any] = []

    class Pools(dict[str, Session]):
        def __missing__(self, name: str) -> Session:
            folder = tmp_path_factory.mktemp("pool")
            _lake(folder / "lake" / "lake") if name.endswith(("load", "admin", "serverless")) else None
            if name.startswith("serverless"):
                server = make_serverless(folder)
                session = server.session("tester", database="demo")
                run(session, f"CREATE EXTERNAL DATA SOURCE lake WITH (LOCATION = '{statements_serverless.ROOT}')")
                run(session, "CREATE EXTERNAL FILE FORMAT p WITH (FORMAT_TYPE = PARQUET)")
                run(
                    session,
                    "CREATE EXTERNAL TABLE dbo.ext (id int, carrier varchar(2)) WITH (LOCATION = 'flights/**', "
                    "DATA_SOURCE = lake, FILE_FORMAT = p)",
                )
                run(session, "CREATE VIEW dbo.three AS SELECT a FROM (VALUES (1),(2),(3)) v(a)")
                ends.append(server)
            else:
                pool = make_pool(folder)
                session = pool.session("tester", "pytest", "localhost")
                for batch in DEDICATED_FIXTURE:
                    run(session, batch)
                if name == "load":
                    run(session, "CREATE EXTERNAL DATA SOURCE lake WITH (TYPE = HADOOP, LOCATION = "
                        "'abfss://lake@acct.dfs.core.windows.net')")  # fmt: skip
                ends.append(pool)
            self[name] = session
            return session

    made = Pools()
    yield made
    for end in ends:
        end.close()


CASES = [
    pytest.param(group, name, batch, answer, id=f"{group}: {name}")
    for group, statements in GROUPS.items()
    for name, batch, answer in statements
]


@pytest.mark.parametrize(("group", "name", "batch", "answer"), CASES)
def test_statement(pools: dict[str, Session], group: str, name: str, batch: str, answer: Any) -> None:
    session = pools["serverless"] if name.startswith(SERVERLESS) else pools[group]
    if session.transaction_count and "TRANCOUNT" not in batch:
        session.rollback()
    _check(session, batch, answer)
    if name.startswith(SERVERLESS) and session.database != "demo":
        run(session, "USE demo")


def test_counts(capsys: pytest.CaptureFixture[str]) -> None:
    for group, statements in GROUPS.items():
        assert len(statements) >= LEAST, group
        assert len({name for name, _, _ in statements}) == len(statements), group
    with capsys.disabled():
        print("\nNew statements by group: " + ", ".join(f"{len(found)} {name}" for name, found in GROUPS.items()))
