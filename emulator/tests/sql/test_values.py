"""What expressions are worth and which type they have: T-SQL's rules, not DuckDB's."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from localazure.sql.pool import Session
from localazure.sql.results import ResultSet, SqlError

from .conftest import make_pool, rows, run


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One pool for all: these tests change nothing."""
    folder: Path = tmp_path_factory.mktemp("values")
    pool = make_pool(folder)
    session = pool.session("tester")
    run(
        session,
        "CREATE TABLE dbo.t (i int, s varchar(10), c char(4), n nvarchar(10), d decimal(10,2), f float, b bit, dt "
        "date, "
        "ts datetime2(3), m money, ti tinyint, bi bigint, si smallint, r real, dd datetime); "
        "INSERT INTO dbo.t VALUES (7, 'Ab ', 'x', N'né', 12.34, 1.5, 1, '2024-02-29', '2024-02-29 10:11:12.345', "
        "3.5, 200, "
        "5000000000, -5, 0.5, '2024-02-29 10:11:12'), "
        "(NULL, 'cd', NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    )
    yield session
    session.close()
    pool.close()


D = Decimal
CASES: list[tuple[str, Any, str]] = [
    # arithmetic and its types
    ("7 / 2", 3, "int"),
    ("-7 / 2", -3, "int"),
    ("7 % -3", 1, "int"),
    ("i / 2", 3, "int"),
    ("i / 2.0", D("3.500000"), "decimal(17,6)"),
    ("1.0 / 3", D("0.333333"), "decimal(7,6)"),
    ("2.0 / 3", D("0.666666"), "decimal(7,6)"),
    ("CAST(1 AS decimal(15,4)) / CAST(-3 AS decimal(15,4))", D("-0.33333333333333333333"), "decimal(35,20)"),
    ("CAST(-7 AS decimal(9,2)) / 9", D("-0.777777"), "decimal(13,6)"),
    ("d * d", D("152.2756"), "decimal(21,4)"),
    ("d + 1", D("13.34"), "decimal(11,2)"),
    ("d % 5", D("2.34"), "decimal(3,2)"),
    ("f / 2", 0.75, "float"),
    ("i * f", 10.5, "float"),
    ("ti + 100", 300, "int"),
    ("bi + i", 5000000007, "bigint"),
    ("m * 2", D("7.0000"), "money"),
    ("si / 2", -2, "int"),
    ("b + 1", 2, "int"),
    ("i & 3", 3, "int"),
    ("i | 8", 15, "int"),
    ("i ^ 2", 5, "int"),
    ("~i", -8, "int"),
    ("'5' + 3", 8, "int"),
    ("'5' * 2", 10, "int"),
    ("3000000000", D("3000000000"), "decimal(10,0)"),
    ("1e2", 100.0, "float"),
    # strings
    ("s + '|'", "Ab|", "varchar(11)"),
    ("c + '|'", "x   |", "varchar(5)"),
    ("n + s", "néAb", "nvarchar(20)"),
    ("LEN(s + 'x  ')", 3, "int"),
    ("DATALENGTH(n)", 4, "int"),
    ("CASE WHEN s = 'aB' THEN 1 ELSE 0 END", 1, "int"),
    ("CASE WHEN s = 'ab   ' THEN 1 ELSE 0 END", 1, "int"),
    ("CASE WHEN c = 'X' THEN 1 ELSE 0 END", 1, "int"),
    ("CASE WHEN s LIKE 'a_' THEN 1 ELSE 0 END", 1, "int"),
    ("CASE WHEN s NOT LIKE '%[0-9]%' THEN 1 ELSE 0 END", 1, "int"),
    ("CASE WHEN '50%' LIKE '%!%' ESCAPE '!' THEN 1 ELSE 0 END", 1, "int"),
    ("CASE WHEN s LIKE c + '%' OR s LIKE '[a-' + 'c]b' THEN 1 ELSE 0 END", 1, "int"),
    ("CASE WHEN 'a_b' LIKE s + '!' OR 'a_b' LIKE LOWER('A!_') + '%' ESCAPE '!' THEN 1 ELSE 0 END", 1, "int"),
    ("CASE WHEN 'a' IN ('B', 'A ') THEN 1 ELSE 0 END", 1, "int"),
    ("CASE WHEN s IN (SELECT 'AB') THEN 1 ELSE 0 END", 1, "int"),
    ("CASE WHEN s NOT IN ('zz') THEN 1 ELSE 0 END", 1, "int"),
    ("SUBSTRING('abcdef', 0, 3)", "ab", "varchar(6)"),
    ("LEFT('abc', 2)", "ab", "varchar(2)"),
    ("CHARINDEX('C', 'abcabc', 4)", 6, "int"),
    ("CHARINDEX('z', 'abc')", 0, "int"),
    ("STUFF('abc', 2, 1, NULL)", "ac", "varchar(8000)"),
    ("REPLACE('aXbx', 'x', '$1\\')", "a$1\\b$1\\", "varchar(8000)"),
    ("PATINDEX('%b[0-9]%', 'ab1')", 2, "int"),
    ("CONCAT('a', NULL, 5)", "a5", None),
    ("CONCAT_WS('-', 'a', NULL, 'b')", "a-b", None),
    ("QUOTENAME('a]b')", "[a]]b]", "nvarchar(258)"),
    ("REVERSE('abc')", "cba", "varchar(3)"),
    ("STR(3.14159, 6, 2)", "  3.14", "varchar(6)"),
    ("ISNUMERIC('1.5e3')", 1, "int"),
    ("ISNUMERIC('x')", 0, "int"),
    ("HASHBYTES('MD5', N'a')", bytes.fromhex("4144e195f46de78a3623da7364d04f11"), "varbinary(16)"),
    ("HASHBYTES('SHA1', 'abc')", bytes.fromhex("a9993e364706816aba3e25717850c26c9cd0d89d"), "varbinary(20)"),
    ("DATALENGTH(HASHBYTES('SHA2_512', s))", 64, "int"),
    ("SOUNDEX('Robert')", "R163", "varchar(5)"),
    ("DIFFERENCE('Smith', 'Smythe')", 4, "int"),
    ("PARSENAME('[my db].dbo.t', 3)", "my db", "nvarchar(128)"),
    ("UPPER(n)", "NÉ", "nvarchar(10)"),
    ("TRIM('  a ')", "a", "varchar(4)"),
    # conversions
    ("CAST(12.9 AS int)", 12, "int"),
    ("CAST(-12.9 AS int)", -12, "int"),
    ("CAST(1.005 AS decimal(5,2))", D("1.01"), "decimal(5,2)"),
    ("CAST(d AS decimal(5,1))", D("12.3"), "decimal(5,1)"),
    ("CAST('  42 ' AS int)", 42, "int"),
    ("CAST('1e3' AS float)", 1000.0, "float"),
    ("CAST(b AS int)", 1, "int"),
    ("CAST(b AS varchar(5))", "1", "varchar(5)"),
    ("CAST(5 AS bit)", True, "bit"),
    ("CAST('TRUE' AS bit)", True, "bit"),
    ("CAST(1234567 AS varchar(3))", "*", "varchar(3)"),
    ("CAST(1.50 AS varchar(10))", "1.50", "varchar(10)"),
    ("CAST(CAST(0.1 AS float) AS varchar(20))", "0.1", "varchar(20)"),
    ("CAST(CAST(1234567 AS float) AS varchar(20))", "1.23457e+006", "varchar(20)"),
    ("CAST(dt AS varchar(10))", "2024-02-29", "varchar(10)"),
    ("CAST(dd AS varchar(30))", "Feb 29 2024 10:11AM", "varchar(30)"),
    ("CAST(ts AS varchar(30))", "2024-02-29 10:11:12.345", "varchar(30)"),
    ("CONVERT(varchar(30), dd, 121)", "2024-02-29 10:11:12.000", "varchar(30)"),
    ("CONVERT(varchar(30), dd, 126)", "2024-02-29T10:11:12.000", "varchar(30)"),
    ("CONVERT(varchar(8), dt, 112)", "20240229", "varchar(8)"),
    ("CONVERT(varchar(30), dt, 107)", "Feb 29, 2024", "varchar(30)"),
    ("CAST('Feb 29 2024' AS date)", dt.date(2024, 2, 29), "date"),
    ("CAST('02/29/2024' AS datetime)", dt.datetime(2024, 2, 29), "datetime"),
    ("CAST('2024-02-29T10:00:00Z' AS datetime2(0))", dt.datetime(2024, 2, 29, 10), "datetime2(0)"),
    ("TRY_CAST('x' AS float)", None, "float"),
    ("TRY_CAST('2024-02-30' AS date)", None, "date"),
    ("TRY_CONVERT(int, '1.5')", None, "int"),
    ("CAST(ts AS date)", dt.date(2024, 2, 29), "date"),
    ("CAST(ts AS datetime2(0))", dt.datetime(2024, 2, 29, 10, 11, 12), "datetime2(0)"),
    ("CAST('2024-01-01 10:00:00.005' AS datetime)", dt.datetime(2024, 1, 1, 10, 0, 0, 7000), "datetime"),
    ("CAST('abc' AS varbinary(5))", b"abc", "varbinary(5)"),
    ("CONVERT(varchar(10), 0x0AFF, 1)", "0x0AFF", "varchar(10)"),
    ("CONVERT(varbinary(4), '0x0AFF', 1)", b"\x0a\xff", "varbinary(4)"),
    ("CAST(258 AS binary(4))", b"\x00\x00\x01\x02", "binary(4)"),
    ("CAST(0x0102 AS int)", 258, "int"),
    ("CAST('6f9619ff-8b86-d011-b42d-00c04fc964ff' AS uniqueidentifier)", "6F9619FF-8B86-D011-B42D-00C04FC964FF", "uniqueidentifier"),
    # dates
    ("DATEADD(month, 1, CAST('2024-01-31' AS date))", dt.date(2024, 2, 29), "date"),
    ("DATEADD(minute, -5, ts)", dt.datetime(2024, 2, 29, 10, 6, 12, 345000), "datetime2(3)"),
    ("DATEADD(day, 1, '2024-02-29')", dt.datetime(2024, 3, 1), "datetime"),
    ("DATEDIFF(month, '2024-01-31', '2024-02-01')", 1, "int"),
    ("DATEDIFF(day, '1900-01-01', dt) % 7 + 1", 4, "int"),
    ("DATEPART(quarter, dt)", 1, "int"),
    ("DATENAME(weekday, dt)", "Thursday", "nvarchar(30)"),
    ("EOMONTH(dt, 1)", dt.date(2024, 3, 31), "date"),
    ("DATEDIFF(second, dd, ts)", 0, "int"),
    ("YEAR(dt) * 100 + MONTH(dt)", 202402, "int"),
    ("dd + 1", dt.datetime(2024, 3, 1, 10, 11, 12), "datetime"),
    ("CAST('12:34:56.789' AS time(0))", dt.time(12, 34, 57), "time(0)"),
    ("CAST(TODATETIMEOFFSET('2024-01-01 12:00', '+02:00') AS varchar(34))", "2024-01-01 12:00:00.0000000 "
                                                                            "+02:00", "varchar(34)"),
    ("CAST(SWITCHOFFSET(CAST('2024-01-01 12:00 +02:00' AS datetimeoffset(0)), '-05:30') AS "
     "varchar(34))", "2024-01-01 04:30:00 -05:30", "varchar(34)"),
    ("DATEPART(tz, TODATETIMEOFFSET('2024-01-01', 90))", 90, "int"),
    ("CAST(DATETIMEOFFSETFROMPARTS(2024, 1, 2, 3, 4, 5, 5, 1, 0, 1) AS datetime2(1))", dt.datetime(2024, 1, 2, 3, 4, 5, 500000), "datetime2(1)"),
    ("CAST('2024-01-01 12:00:00 -08:00' AS datetimeoffset)", dt.datetime(2024, 1, 1, 20, tzinfo=dt.UTC), "datetimeoffset(7)"),
    # NULL and choice
    ("ISNULL(NULL, 5)", 5, "int"),
    ("ISNULL(c, 'zzzzzz')", "x   ", "char(4)"),
    ("COALESCE(NULL, 1, 2.5)", D("1.0"), "decimal(11,1)"),
    ("NULLIF(i, 7)", None, "int"),
    ("IIF(i > 5, 'yes', 'no')", "yes", "varchar(3)"),
    ("CASE i WHEN 7 THEN 1 WHEN 8 THEN 2.5 END", D("1.0"), "decimal(11,1)"),
    ("ABS(-2.5)", D("2.5"), "decimal(2,1)"),
    ("ROUND(123.456, -1)", D("120.000"), "decimal(6,3)"),
    ("ROUND(15, -1)", 20, "int"),
    ("FLOOR(2.7)", D("2"), "decimal(2,0)"),
    ("POWER(2, 3)", 8, "int"),
    ("SQRT(16)", 4.0, "float"),
    ("SIGN(-2.5)", D("-1.0"), "decimal(2,1)"),
    ("CAST('2024-07-01 12:00' AS datetime2(0)) AT TIME ZONE 'UTC' AT TIME ZONE 'Pacific Standard Time'",
     dt.datetime(2024, 7, 1, 12, tzinfo=dt.UTC), "datetimeoffset(7)"),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "value", "kind"), CASES, ids=[case[0] for case in CASES])
def test_expression(shared: Session, expression: str, value: Any, kind: str | None) -> None:
    result = run(shared, f"SELECT {expression} AS v FROM dbo.t WHERE i = 7")[0]
    assert isinstance(result, ResultSet)
    found = result.table.column(0)[0].as_py()
    assert found == value and type(found) is type(value)
    if isinstance(value, Decimal):
        assert found.as_tuple().exponent == value.as_tuple().exponent
    if kind is not None:
        assert str(result.columns[0].type) == kind


AGGREGATES: list[tuple[str, list[tuple[Any, ...]], list[str]]] = [
    ("SELECT COUNT(*), COUNT(i), COUNT_BIG(*), SUM(i), AVG(i) FROM dbo.t", [(2, 1, 2, 7, 7)], ["int", "int", "bigint", "int", "int"]),
    ("SELECT SUM(d), AVG(d), SUM(f), SUM(bi) FROM dbo.t", [(D("12.34"), D("12.340000"), 1.5, 5000000000)],
     ["decimal(38,2)", "decimal(38,6)", "float", "bigint"]),
    ("SELECT SUM(i) FROM dbo.t WHERE 1 = 0", [(None,)], ["int"]),
    ("SELECT SUM(CASE WHEN i IS NULL THEN 1 ELSE 0 END) FROM dbo.t", [(1,)], ["int"]),
    ("SELECT MIN(s), MAX(dt) FROM dbo.t", [("Ab", dt.date(2024, 2, 29))], ["varchar(10)", "date"]),
    ("SELECT x, COUNT(*) FROM (VALUES ('a'),('A'),('b')) v(x) GROUP BY x ORDER BY 2 DESC", [("a", 2), ("b", 1)], ["varchar(1)", "int"]),
    ("SELECT x, COUNT(*) FROM (VALUES ('a'),('A '),('b')) v(x) GROUP BY x HAVING x <> 'B' ORDER BY x", [("a", 2)], []),
    ("SELECT DISTINCT x FROM (VALUES ('a '),('a')) v(x)", [("a",)], []),
    ("SELECT COUNT(*) FROM (SELECT 'a' AS x UNION SELECT 'A  ') u", [(1,)], []),
    ("SELECT x + '|', COUNT(*) OVER (PARTITION BY x) FROM (VALUES ('a '),('a')) v(x) ORDER BY 1", [("a |", 2), ("a|", 2)], []),
    ("SELECT COUNT(DISTINCT x) FROM (VALUES ('a'),('A'),('b')) v(x)", [(2,)], ["int"]),
    ("SELECT CAST(x AS int), COUNT(*) FROM (VALUES ('1'),('1'),('2')) v(x) GROUP BY CAST(x AS int) ORDER BY "
     "1", [(1, 2), (2, 1)], ["int", "int"]),
    ("SELECT LEFT(x, 1), SUBSTRING(x, 2, 1) FROM (VALUES ('ab'),('ab')) v(x) GROUP BY LEFT(x, 1), SUBSTRING(x, 2, "
     "1)", [("a", "b")], []),
    ("SELECT i FROM dbo.t ORDER BY i", [(None,), (7,)], ["int"]),
    ("SELECT i FROM dbo.t ORDER BY i DESC", [(7,), (None,)], ["int"]),
    ("SELECT ROW_NUMBER() OVER (ORDER BY s), LAG(s) OVER (ORDER BY s) FROM dbo.t", [(1, None), (2, "Ab")], ["bigint", "varchar(10)"]),
    ("SELECT x FROM (VALUES (1),(2),(2)) v(x) UNION SELECT 3 ORDER BY x DESC", [(3,), (2,), (1,)], ["int"]),
    ("SELECT x FROM (VALUES ('a'),('b')) v(x) INTERSECT SELECT 'B'", [("b",)], ["varchar(1)"]),
    ("SELECT TOP 1 s FROM dbo.t ORDER BY s DESC", [("cd",)], ["varchar(10)"]),
    ("SELECT PERCENTILE_DISC(0.5) WITHIN GROUP (ORDER BY x) OVER () FROM (VALUES (1),(2),(3)) v(x)", [(2,), (2,), (2,)], ["int"]),
    ("SELECT STRING_AGG(x, '-') WITHIN GROUP (ORDER BY x DESC) FROM (VALUES ('a'),('b')) v(x)", [("b-a",)], ["varchar(8000)"]),
    ("SELECT 1 WHERE EXISTS (SELECT 1 FROM dbo.t a WHERE a.i = 7 AND a.s = (SELECT MIN(s) FROM "
     "dbo.t))", [(1,)], ["int"]),
    ("SELECT a.i, b.i FROM dbo.t a FULL JOIN dbo.t b ON a.i = b.i AND a.i = 7 ORDER BY 1, 2", [(None, None), (None, None), (7, 7)], ["int", "int"]),
    ("WITH a AS (SELECT i FROM dbo.t), b (x) AS (SELECT i FROM a WHERE i IS NOT NULL) SELECT x FROM "
     "b", [(7,)], ["int"]),
    ("SELECT * FROM (SELECT 1 AS [my col], 2 AS [SELECT]) [x y]", [(1, 2)], ["int", "int"]),
    ("SELECT CASE WHEN 1 = 0 THEN 1 / 0 ELSE 5 END", [(5,)], ["int"]),
    ("SELECT i FROM dbo.t WHERE ISNULL(i, 0) <> 0 AND 10 / i = 1", [(7,)], ["int"]),
]  # fmt: skip


@pytest.mark.parametrize(("query", "expected", "kinds"), AGGREGATES, ids=[case[0][:60] for case in AGGREGATES])
def test_query(shared: Session, query: str, expected: list[tuple[Any, ...]], kinds: list[str]) -> None:
    result = run(shared, query)[0]
    assert isinstance(result, ResultSet)
    assert rows(shared, query) == expected
    if kinds:
        assert [str(column.type) for column in result.columns] == kinds


@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("SELECT i FROM dbo.t GROUP BY s", 8120),
        ("SELECT CAST(99999 AS smallint)", 8115),
        ("SELECT SUM(b) FROM dbo.t", 8117),
        ("SELECT SQRT(-1)", 3623),
        ("SELECT LEFT('a', i - 10) FROM dbo.t WHERE i = 7", 536),
        ("SELECT COALESCE(NULL, NULL)", 4127),
        ("SELECT DATEADD(fortnight, 1, dt) FROM dbo.t", 155),
        ("SELECT ROW_NUMBER() OVER () FROM dbo.t", 4112),
        ("SELECT DISTINCT s FROM dbo.t ORDER BY i", 145),
        ("SELECT * FROM dbo.t WHERE i", 4145),
        ("SELECT CAST(dt AS int) FROM dbo.t", 529),
    ],
)
def test_refusals(shared: Session, statement: str, number: int) -> None:
    with pytest.raises(SqlError) as caught:
        run(shared, statement)
    assert caught.value.number == number, str(caught.value)
