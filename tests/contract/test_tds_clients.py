"""The SQL pool's wire: the same table of queries through every client library, unmodified. Evidence: sdk."""

from __future__ import annotations

import datetime as dt
import uuid
import warnings
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from tds_clients import KINDS, Client, ClientError, clients, missing

MSSQL_PYTHON = ("mssql-python", "mssql-python-rust")


def _require(kind: str) -> None:
    if reason := missing(kind):
        warnings.warn(f"the tests of {kind} are skipped: {reason}", stacklevel=2)  # a skip alone is overlooked
        pytest.skip(reason)


@pytest.fixture(scope="module", params=KINDS)
def client(request: pytest.FixtureRequest, localazure: dict[str, Any]) -> Iterator[Client]:
    _require(request.param)
    yield from clients(request.param, localazure)


@pytest.fixture(scope="module", params=MSSQL_PYTHON)
def mssql_python(request: pytest.FixtureRequest, localazure: dict[str, Any]) -> Iterator[Client]:
    _require(request.param)
    yield from clients(request.param, localazure)


@pytest.fixture(scope="module")
def numbers(localazure: dict[str, Any]) -> str:
    """A table of 200,000 rows."""
    for client in clients("mssql-python-rust", localazure):
        client.run(
            "IF OBJECT_ID('dbo.wire_numbers') IS NOT NULL DROP TABLE dbo.wire_numbers",
            "CREATE TABLE dbo.wire_digits (d int NOT NULL)",
            "INSERT INTO dbo.wire_digits (d) SELECT 0 UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 "
            "UNION ALL SELECT 4 UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 "
            "UNION ALL SELECT 9",
            "CREATE TABLE dbo.wire_numbers WITH (DISTRIBUTION = ROUND_ROBIN, HEAP) AS "
            "SELECT a.d + 10 * b.d + 100 * c.d + 1000 * e.d + 10000 * f.d + 100000 * g.d AS n, "
            "CAST(a.d + 10 * b.d AS varchar(10)) AS text, CAST(1.5 AS float) AS x, "
            "CAST('2013-01-01' AS date) AS day "
            "FROM dbo.wire_digits a CROSS JOIN dbo.wire_digits b CROSS JOIN dbo.wire_digits c "
            "CROSS JOIN dbo.wire_digits e CROSS JOIN dbo.wire_digits f CROSS JOIN dbo.wire_digits g WHERE g.d < 2",
            "DROP TABLE dbo.wire_digits",
        )
    return "dbo.wire_numbers"


def _table(client: Client, name: str, columns: str) -> str:
    table = f"dbo.wire_{name}_{client.kind.replace('-', '_')}"
    client.run(f"IF OBJECT_ID('{table}') IS NOT NULL DROP TABLE {table}", f"CREATE TABLE {table} ({columns})")
    return table


UTC = dt.UTC
NIL = "6F9619FF-8B86-D011-B42D-00C04FC964FF"
# (type, literal, value in Python)
VALUES: list[tuple[str, str, Any]] = [
    ("bit", "1", True),
    ("tinyint", "255", 255),
    ("smallint", "-32768", -32768),
    ("int", "2147483647", 2147483647),
    ("bigint", "-9223372036854775808", -(2**63)),
    ("decimal(9,2)", "-1234567.89", Decimal("-1234567.89")),
    ("decimal(19,4)", "123456789012345.6789", Decimal("123456789012345.6789")),
    ("decimal(28,0)", "1234567890123456789012345678", Decimal("1234567890123456789012345678")),
    ("decimal(38,10)", "-1234567890123456789012345678.0123456789", Decimal("-1234567890123456789012345678.0123456789")),
    ("money", "-922337203685477.5807", Decimal("-922337203685477.5807")),
    ("real", "0.5", 0.5),
    ("float", "-1.25", -1.25),
    ("char(5)", "'ab'", "ab   "),
    ("varchar(10)", "'caf\u00e9'", "caf\u00e9"),
    ("varchar(10)", "''", ""),
    ("varchar(max)", "'long'", "long"),
    ("nchar(3)", "N'\u00e9'", "\u00e9  "),
    ("nvarchar(20)", "N'\u4f60\u597d \U0001f600'", "\u4f60\u597d \U0001f600"),
    ("nvarchar(max)", "N''", ""),
    ("binary(3)", "0x010203", b"\x01\x02\x03"),
    ("varbinary(10)", "0x00FF", b"\x00\xff"),
    ("varbinary(max)", "0xDEADBEEF", b"\xde\xad\xbe\xef"),
    ("date", "'0001-01-01'", dt.date(1, 1, 1)),
    ("date", "'9999-12-31'", dt.date(9999, 12, 31)),
    ("time(7)", "'23:59:59.999999'", dt.time(23, 59, 59, 999999)),
    ("time(0)", "'12:34:56'", dt.time(12, 34, 56)),
    ("datetime", "'2013-03-08T10:11:12.347'", dt.datetime(2013, 3, 8, 10, 11, 12, 347000)),
    ("smalldatetime", "'2013-03-08T10:11:00'", dt.datetime(2013, 3, 8, 10, 11)),
    ("datetime2(6)", "'1500-02-28T23:00:00.123456'", dt.datetime(1500, 2, 28, 23, 0, 0, 123456)),
    ("datetime2(0)", "'2013-03-08T10:11:12'", dt.datetime(2013, 3, 8, 10, 11, 12)),
    ("datetimeoffset(6)", "'2013-03-08T10:11:12.5+00:00'", dt.datetime(2013, 3, 8, 10, 11, 12, 500000, UTC)),
    ("uniqueidentifier", f"'{NIL}'", uuid.UUID(NIL)),
]


@pytest.mark.parametrize(("kind", "literal", "value"), VALUES, ids=[f"{k} {v[:12]}" for k, v, _ in VALUES])
def test_a_value_and_null_of_every_type(client: Client, kind: str, literal: str, value: Any) -> None:
    rows = client.query(
        f"SELECT CAST({literal} AS {kind}) AS v, CAST(NULL AS {kind}) AS n, 7 AS last UNION ALL "
        f"SELECT CAST(NULL AS {kind}), CAST({literal} AS {kind}), 8 ORDER BY last"
    )
    assert [tuple(map(_plain, row)) for row in rows] == [(_plain(value), None, 7), (None, _plain(value), 8)]


def _plain(value: Any) -> Any:
    """Libraries differ in the class of a GUID."""
    return str(value).upper() if isinstance(value, uuid.UUID) else value


def test_column_names_and_an_empty_result(client: Client) -> None:
    sql = "SELECT 1 AS [first column], 'x' AS b, CAST(NULL AS int) AS c WHERE 1 = 0"
    assert client.columns(sql) == ["first column", "b", "c"]
    assert client.query(sql) == []


def test_several_result_sets(client: Client) -> None:
    assert client.results("SELECT 1 AS a; SELECT 2 AS b, 'x' AS c; SELECT 3 AS d WHERE 1 = 0") == [
        [(1,)],
        [(2, "x")],
        [],
    ]


PARAMETERS: list[Any] = [
    1, -5, 2**40, True, 0.5, Decimal("12345.678"), "plain", "caf\u00e9 \u4f60 \U0001f600", "it's", "", b"\x00\x01\xff",
    dt.date(2013, 3, 8), dt.datetime(2013, 3, 8, 1, 2, 3, 456000), dt.time(1, 2, 3),
]  # fmt: skip
COLUMN_OF = {
    bool: "bit", int: "bigint", float: "float", Decimal: "decimal(18,3)", str: "nvarchar(50)", bytes: "varbinary(50)",
    dt.date: "date", dt.datetime: "datetime2(6)", dt.time: "time(6)",
}  # fmt: skip


@pytest.mark.parametrize("value", PARAMETERS, ids=repr)
def test_a_parameter_of_every_type_round_trips(client: Client, value: Any) -> None:
    kind = COLUMN_OF[type(value)]
    rows = client.query(f"SELECT CAST(? AS {kind}) AS v", [value])
    assert rows == [(value,)]


def test_null_parameters_into_columns(client: Client) -> None:
    table = _table(client, "nulls", "i int, s nvarchar(10), b varbinary(10), d date")
    client.execute(f"INSERT INTO {table} (i, s, b, d) VALUES (?, ?, ?, ?)", [None, None, None, None])
    client.execute(f"INSERT INTO {table} (i, s, b, d) VALUES (?, ?, ?, ?)", [1, "x", b"\x01", dt.date(2013, 1, 1)])
    client.commit()
    rows = client.query(f"SELECT i, s, b, d FROM {table} ORDER BY i")
    assert sorted(rows, key=str) == sorted([(None,) * 4, (1, "x", b"\x01", dt.date(2013, 1, 1))], key=str)


def test_executemany(client: Client) -> None:
    table = _table(client, "many", "i int NOT NULL, s varchar(20)")
    client.many(f"INSERT INTO {table} (i, s) VALUES (?, ?)", [(i, f"row {i}") for i in range(500)])
    client.commit()
    assert client.query(f"SELECT COUNT(*), MIN(i), MAX(i) FROM {table}") == [(500, 0, 499)]


def test_row_counts(client: Client) -> None:
    table = _table(client, "counts", "i int NOT NULL")
    assert client.execute(f"INSERT INTO {table} (i) SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3") == 3
    assert client.execute(f"UPDATE {table} SET i = i + 10 WHERE i > 1") == 2
    assert client.execute(f"DELETE FROM {table} WHERE i = 1") == 1
    client.commit()


def test_transactions(client: Client) -> None:
    table = _table(client, "transactions", "i int NOT NULL")
    client.execute(f"INSERT INTO {table} (i) VALUES (1)")
    client.rollback()
    assert client.query(f"SELECT COUNT(*) FROM {table}") == [(0,)]
    client.execute(f"INSERT INTO {table} (i) VALUES (2)")
    client.commit()
    client.rollback()
    assert client.query(f"SELECT i FROM {table}") == [(2,)]
    client.rollback()


# number -> (statement, the class of DB-API)
ERRORS = {
    208: ("SELECT * FROM dbo.wire_nowhere", "ProgrammingError"),
    102: ("SELECT FROM WHERE", "ProgrammingError"),
    207: ("SELECT nothing FROM sys.objects", "ProgrammingError"),
    245: ("SELECT CAST('abc' AS int)", "DataError"),
}


@pytest.mark.parametrize("number", ERRORS)
def test_errors_have_their_class_and_the_connection_goes_on(client: Client, number: int) -> None:
    statement, wanted = ERRORS[number]
    failure = client.fails("query", statement)
    if client.kind.startswith("mssql-python") or number == 208:
        assert wanted in failure.classes, failure
    assert "DatabaseError" in failure.classes, failure
    client.rollback()
    assert client.query("SELECT 1 AS a") == [(1,)]


def test_a_thrown_error(client: Client) -> None:
    failure = client.fails("execute", "THROW 100001, 'no flights on that day', 1")
    assert "no flights on that day" in failure.text
    client.rollback()


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_password_is_18456(kind: str, localazure: dict[str, Any]) -> None:
    _require(kind)
    with pytest.raises(ClientError) as raised:
        Client(kind, localazure, password="local-only~wrong")
    assert "Login failed for user" in raised.value.failure.text
    assert "local-only~wrong" not in raised.value.failure.text


@pytest.mark.parametrize("kind", MSSQL_PYTHON)
def test_another_database_is_4060(kind: str, localazure: dict[str, Any]) -> None:
    _require(kind)
    with pytest.raises(ClientError) as raised:
        Client(kind, localazure, database="elsewhere")
    assert 'Cannot open database "elsewhere"' in raised.value.failure.text


def test_print_arrives(client: Client) -> None:
    assert any("hello from the pool" in m for m in client.messages("PRINT 'hello from the pool'"))


def test_fetch_in_pieces(client: Client, numbers: str) -> None:
    counts = client.pieces(f"SELECT n, text FROM {numbers} WHERE n < 25000", 10000)
    assert counts == [1, 10000, 10000, 4999]


def test_a_big_result(client: Client, numbers: str) -> None:
    rows, _ = client.count(f"SELECT n, text, x, day FROM {numbers}")
    assert rows == 200_000


def test_cancel_by_attention(client: Client, numbers: str) -> None:
    slow = f"SELECT COUNT_BIG(*) FROM {numbers} a CROSS JOIN {numbers} b WHERE a.n * 3 + b.n * 7 = 11 + a.n % 13"
    failure, seconds = client.cancel_after(slow, 1)
    assert seconds < 60, "the query was not cancelled"
    assert failure is not None or client.kind == "pymssql"
    client.rollback()
    assert client.query("SELECT 1 AS a") == [(1,)]


def test_fifty_connections_at_once(mssql_python: Client) -> None:
    assert mssql_python.parallel(50, "SELECT 42 AS a") == [[(42,)]] * 50


@pytest.mark.parametrize("encrypt", ["yes", "no", "strict"])
@pytest.mark.parametrize("kind", MSSQL_PYTHON)
def test_encryption_modes(kind: str, encrypt: str, localazure: dict[str, Any]) -> None:
    _require(kind)
    for client in clients(kind, localazure, encrypt=encrypt):
        assert client.query("SELECT 1 AS a") == [(1,)]


@pytest.mark.parametrize("kind", MSSQL_PYTHON)
def test_an_access_token_logs_in(kind: str, localazure: Any) -> None:
    _require(kind)
    token = localazure.credential().get_token("https://database.windows.net/.default").token
    for client in clients(kind, localazure, token=token):
        assert client.query("SELECT 1 AS a") == [(1,)]


def test_a_service_principal_gets_its_own_token(localazure: dict[str, Any]) -> None:
    # The ODBC provider asks the authority too, but trusts only what the operating system trusts.
    for client in clients("mssql-python-rust", localazure, service_principal=True):
        assert len(client.query("SELECT SUSER_SNAME() AS who")[0][0]) == 36


@pytest.mark.parametrize("kind", MSSQL_PYTHON)
def test_a_token_for_another_audience_is_refused(kind: str, localazure: Any) -> None:
    _require(kind)
    token = localazure.credential().get_token("https://management.azure.com/.default").token
    with pytest.raises(ClientError) as raised:
        Client(kind, localazure, token=token)
    assert "Login failed" in raised.value.failure.text


def test_bulk_copy(mssql_python: Client) -> None:
    table = _table(mssql_python, "bulk", "i int NOT NULL, s nvarchar(20), x float, d date, m decimal(10,2)")
    mssql_python.commit()
    day = dt.date(2013, 3, 8)
    rows = [(i, None if i % 5 == 0 else f"r\u00f6w {i}", i / 2, day, Decimal(i) / 4) for i in range(5000)]
    assert mssql_python.bulk(table, rows) == 5000
    found = mssql_python.query(f"SELECT i, s, x, d, m FROM {table} WHERE i IN (0, 7) ORDER BY i")
    assert found == [(0, None, 0.0, day, Decimal("0.00")), (7, "r\u00f6w 7", 3.5, day, Decimal("1.75"))]


def test_sqlalchemy_reflects_a_table(localazure: dict[str, Any]) -> None:
    for client in clients("sqlalchemy", localazure):
        table = _table(client, "reflected", "i int NOT NULL, s nvarchar(20) NULL, d decimal(10,2) NULL")
        client.commit()
        schema, name = table.split(".")
        assert client.inspect(schema, name) == [
            ("i", "INTEGER", False),
            ("s", 'NVARCHAR(20) COLLATE "SQL_Latin1_General_CP1_CI_AS"', True),
            ("d", "DECIMAL(10, 2)", True),
        ]


def test_sqlalchemys_inspector_finds_its_way(localazure: dict[str, Any]) -> None:
    for client in clients("sqlalchemy", localazure):
        client.run("IF SCHEMA_ID('wire') IS NULL EXEC('CREATE SCHEMA wire')")
        client.run("IF OBJECT_ID('wire.seen') IS NOT NULL DROP VIEW wire.seen")
        client.run("IF OBJECT_ID('wire.keyed') IS NOT NULL DROP TABLE wire.keyed")
        client.run(
            "CREATE TABLE wire.keyed (i int NOT NULL PRIMARY KEY NONCLUSTERED NOT ENFORCED, s varchar(20)) WITH (HEAP)",
            "CREATE INDEX keyed_s ON wire.keyed (s)",
            "CREATE VIEW wire.seen AS SELECT i FROM wire.keyed",
        )
        client.commit()
        assert client.inspect_all("wire", "keyed") == {
            "schemas": True,
            "tables": True,
            "views": ["seen"],
            "key": ["i"],
            "foreign": [],
            "indexes": [["s"]],
            "there": True,
            "elsewhere": False,
        }
