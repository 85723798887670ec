"""Longer batches of the kinds that administrators of pools write: loops over the catalogue, generated statements."""

from __future__ import annotations

from typing import Any

import pytest

from localazure.sql.pool import Session
from localazure.sql.results import Message, ResultSet, SqlError

from .conftest import rows, run

TABLES = """
CREATE SCHEMA ml;
CREATE TABLE ml.features (id bigint NOT NULL, carrier varchar(2), amt decimal(10,2), late bit, at datetime2(3) NOT NULL,
  CONSTRAINT pk_features PRIMARY KEY NONCLUSTERED (id) NOT ENFORCED) WITH (DISTRIBUTION = HASH(id), CLUSTERED COLUMNSTORE INDEX);
CREATE TABLE dbo.small (a int, b nvarchar(10)) WITH (DISTRIBUTION = REPLICATE, CLUSTERED INDEX (a));
CREATE STATISTICS s_id ON ml.features (id);
"""


def test_statistics_for_every_column_that_has_none(session: Session) -> None:
    run(session, TABLES)
    found = run(
        session,
        """
        IF OBJECT_ID('tempdb..#todo') IS NOT NULL
          BEGIN
            DROP TABLE #todo;
          END;
        CREATE TABLE #todo WITH (DISTRIBUTION = HASH([n]), LOCATION = USER_DB) AS
        WITH missing AS (
          SELECT s.[name] AS [schema_name], t.[name] AS [table_name], c.[name] AS [column_name],
                 ROW_NUMBER() OVER (ORDER BY (SELECT NULL)) AS [n]
          FROM sys.tables t
            JOIN sys.schemas s ON t.[schema_id] = s.[schema_id]
            JOIN sys.columns c ON t.[object_id] = c.[object_id]
            LEFT JOIN sys.stats_columns l ON l.[object_id] = c.[object_id] AND l.[column_id] = c.[column_id] AND l.[stats_column_id] = 1
          WHERE l.[object_id] IS NULL)
        SELECT [n], CAST('CREATE STATISTICS ' + QUOTENAME('s_' + table_name + '_' + column_name) + ' ON ' + QUOTENAME(schema_name) + '.'
          + QUOTENAME(table_name) + ' (' + QUOTENAME(column_name) + ') WITH SAMPLE ' + CONVERT(varchar(4), 20) + ' PERCENT' AS varchar(8000)) AS ddl
        FROM missing;
        DECLARE @i int = 1, @t int = (SELECT COUNT(*) FROM #todo), @ddl nvarchar(4000) = N'';
        WHILE @i <= @t
          BEGIN
            SET @ddl = (SELECT ddl FROM #todo WHERE n = @i);
            PRINT @ddl
            EXEC sp_executesql @ddl
            SET @i+=1;
          END
        DROP TABLE #todo;
        """,
    )
    assert len([message for message in found if isinstance(message, Message)]) == 6
    assert rows(session, "SELECT COUNT(*) FROM sys.stats") == [(7,)]


def test_a_create_statement_built_from_the_catalogue(session: Session) -> None:
    run(session, TABLES)
    run(
        session,
        """CREATE PROC [dbo].[describe] @schema [VARCHAR](50), @table [VARCHAR](255), @sql [VARCHAR](8000) OUT AS
        BEGIN
          DECLARE @column AS VARCHAR(255);
          DECLARE @list AS VARCHAR(8000);
          DECLARE @ordinal AS INT;
          SET @list = '(';
          SET @column = '';
          SET @ordinal = 0;
          WHILE @column IS NOT NULL
          BEGIN
            IF @ordinal > 1
              SET @list = @list + ', ';
            IF @ordinal > 0
              SET @list = @list + @column;
            SET @ordinal = @ordinal + 1;
            SET @column = (SELECT '[' + [COLUMN_NAME] + '] [' + [DATA_TYPE] + ']'
                + CASE WHEN [DATA_TYPE] LIKE '%char%' THEN ISNULL('(' + CAST([CHARACTER_MAXIMUM_LENGTH] AS VARCHAR(10)) + ')','') ELSE '' END
                + CASE WHEN [DATA_TYPE] in ('datetime2') THEN ISNULL('(' + CAST([DATETIME_PRECISION] AS VARCHAR(10)) + ')','') ELSE '' END
                + CASE WHEN [IS_NULLABLE] = 'YES' THEN ' NULL' ELSE ' NOT NULL' END
              FROM INFORMATION_SCHEMA.COLUMNS
              WHERE [TABLE_SCHEMA] = @schema AND [TABLE_NAME] = @table AND [ORDINAL_POSITION] = @ordinal);
          END
          SET @list = @list + + ')';
          DECLARE @policy varchar(60) = (
            SELECT d.[distribution_policy_desc] FROM sys.pdw_table_distribution_properties d
              INNER JOIN sys.tables t ON d.[object_id] = t.[object_id] INNER JOIN sys.schemas s ON t.[schema_id] = s.[schema_id]
            WHERE t.[name] = @table AND s.[name] = @schema)
          SET @sql = 'CREATE TABLE [' + @schema + '].[' + @table + '] ' + @list + ' WITH (DISTRIBUTION = ' + @policy + ')';
        END""",
    )
    assert rows(session, "DECLARE @s varchar(8000); EXEC dbo.describe 'dbo', 'small', @s OUT; SELECT @s") == [
        ("CREATE TABLE [dbo].[small] ([a] [int] NULL, [b] [nvarchar](10) NULL) WITH (DISTRIBUTION = REPLICATE)",)
    ]


def test_a_loop_that_declares_and_makes_temporary_tables(session: Session) -> None:
    run(session, TABLES)
    found = run(
        session,
        """
        SET NOCOUNT ON
        SELECT *, row_number() over (order by (select 0)) as number INTO #names
        FROM (SELECT obj.name as object_name, obj.object_id FROM sys.tables obj inner join sys.schemas sch on obj.schema_id = sch.schema_id
              WHERE is_external = 0 and obj.name not like '%[_]tmp%' and NOT(obj.name LIKE '%Source%')) A
        DECLARE @total int
        DECLARE @counter int
        SET @total = (SELECT count(*) FROM #names);
        SET @counter = 1
        while (@counter <= @total)
        begin
          DECLARE @current nvarchar(max);
          DECLARE @seen int = 0;
          SET @current = (SELECT object_name FROM #names WHERE number = @counter);
          SELECT sys.columns.name, sys.columns.user_type_id INTO #columns
          FROM sys.columns JOIN sys.tables ON sys.columns.object_id = sys.tables.object_id
          WHERE sys.tables.name = @current;
          select @seen = count(*) from #columns
          print @current + ' ' + CONVERT(varchar(10), @seen)
          if (@seen <> 0) select @seen as 'columns of it', 0. as zero
          drop table #columns;
          set @counter = @counter + 1;
        end
        DROP table #names;
        """,
    )
    assert sorted(message.text for message in found if isinstance(message, Message)) == ["features 5", "small 2"]
    assert [result.columns[0].name for result in found if isinstance(result, ResultSet)] == ["columns of it"] * 2


def test_the_catalogue_as_clients_ask_for_it(session: Session) -> None:
    run(session, TABLES)
    assert rows(
        session,
        "SELECT SCHEMA_NAME(), DB_NAME(), DATABASEPROPERTYEX(DB_NAME(), 'Edition'), SERVERPROPERTY('EngineEdition')",
    ) == [("dbo", "dw", "DataWarehouse", 6)]
    assert "SQL Data Warehouse" in rows(session, "SELECT @@VERSION")[0][0]
    assert rows(
        session,
        "SELECT i.type_desc, c.name FROM sys.indexes i LEFT JOIN sys.index_columns ic ON ic.object_id = i.object_id "
        "AND ic.index_id = i.index_id "
        "LEFT JOIN sys.columns c ON c.object_id = ic.object_id AND c.column_id = ic.column_id WHERE i.object_id = "
        "OBJECT_ID('dbo.small')",
    ) == [("CLUSTERED", "a")]
    assert rows(session, "SELECT name, type, is_enforced FROM sys.key_constraints") == [("pk_features", "PK", False)]
    assert rows(session, "SELECT t.name, c.max_length, c.precision, c.scale FROM sys.columns c JOIN sys.types t ON "
                         "t.user_type_id = c.user_type_id "
                         "WHERE c.object_id = OBJECT_ID('ml.features') ORDER BY c.column_id") == [
        ("bigint", 8, 19, 0), ("varchar", 2, 0, 0), ("decimal", 9, 10, 2), ("bit", 1, 1, 0), ("datetime2", 7, 23, 3),
    ]  # fmt: skip
    assert rows(
        session,
        "SELECT DATA_TYPE, NUMERIC_PRECISION, NUMERIC_SCALE FROM INFORMATION_SCHEMA.COLUMNS WHERE COLUMN_NAME = 'AMT'",
    ) == [("decimal", 10, 2)]
    assert rows(session, "SELECT OBJECT_NAME(object_id), SCHEMA_NAME(schema_id) FROM sys.objects WHERE type = 'U' "
                         "ORDER BY 1") == [
        ("features", "ml"), ("small", "dbo"),
    ]  # fmt: skip
    assert rows(session, "SELECT COUNT(*) FROM sys.system_views")[0][0] > 40
    assert rows(
        session,
        "SELECT COL_LENGTH('ml.features', 'carrier'), TYPE_NAME(56), "
        "COLUMNPROPERTY(OBJECT_ID('ml.features'), 'id', 'AllowsNull')",
    ) == [(2, "int", 0)]
    assert rows(session, "EXEC sp_pkeys @table_name = 'features'") == [("dw", "ml", "features", "id", 1, "pk_features")]
    assert [row[2] for row in rows(session, "EXEC [sys].sp_tables @table_name = N'%a%'")] == ["small", "features"]


def test_every_catalogue_view_answers(session: Session) -> None:
    from localazure.sql.catalog_views import _VIEWS

    run(session, TABLES)
    run(session, "CREATE VIEW dbo.v AS SELECT a FROM dbo.small")
    run(session, "CREATE PROC dbo.p @x int AS SELECT @x")
    for name in _VIEWS:
        assert isinstance(run(session, f"SELECT * FROM {name}")[0], ResultSet), name


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ("SELECT t.a FROM dbo.small AS t WHERE t.a > ALL (SELECT 0 UNION ALL SELECT 1)", [(2,), (3,)]),
        ("UPDATE dbo.small SET b = b + N'!' WHERE a = 1; SELECT b FROM dbo.small WHERE a = 1", [("x!",)]),
        ("UPDATE s SET b = q.n FROM dbo.small s JOIN (SELECT a, N'n' + CAST(a AS nvarchar(5)) AS n FROM dbo.small) "
         "q ON q.a = s.a; "
         "SELECT b FROM dbo.small ORDER BY a", [("n1",), ("n2",), ("n3",)]),
        ("DELETE s FROM dbo.small s WHERE NOT EXISTS (SELECT 1 FROM dbo.small o WHERE o.a = s.a + 1); SELECT "
         "COUNT(*) FROM dbo.small", [(2,)]),
        ("WITH c AS (SELECT a FROM dbo.small WHERE a < 3) DELETE FROM dbo.small WHERE a IN (SELECT a FROM c); "
         "SELECT a FROM dbo.small", [(3,)]),
        ("INSERT dbo.small (b, a) SELECT b, MAX(a) + 10 FROM dbo.small GROUP BY b; SELECT COUNT(*) FROM "
         "dbo.small", [(6,)]),
        ("SELECT x.a, y.n FROM dbo.small x CROSS APPLY (SELECT COUNT(*) AS n FROM dbo.small i WHERE i.a <= x.a) y "
         "ORDER BY 1", [(1, 1), (2, 2), (3, 3)]),
        ("SELECT CASE WHEN GROUPING(b) = 1 THEN N'all' ELSE b END, SUM(a) FROM dbo.small GROUP BY ROLLUP (b) ORDER "
         "BY 2", [("x", 1), ("y", 2), ("z", 3), ("all", 6)]),
        ("SELECT a FROM dbo.small WHERE a BETWEEN 2 AND 3 AND NOT (a = 3)", [(2,)]),
        ("SELECT (SELECT MAX(i.b) FROM dbo.small i WHERE i.a < o.a) FROM dbo.small o ORDER BY o.a", [(None,), ("x",), ("y",)]),
        ("IF EXISTS (SELECT b FROM dbo.small GROUP BY b HAVING COUNT(*) > 1) SELECT 'twice' ELSE SELECT "
         "'once'", [("once",)]),
        ("DECLARE @d date = '2024-01-31'; SELECT DATEADD(MONTH, 1, @d), DATENAME(MONTH, @d), CONVERT(char(8), @d, "
         "112)", None),
        ("SELECT TOP (2) WITH TIES a / 2 AS h FROM dbo.small ORDER BY h", [(0,), (1,), (1,)]),
        ("SELECT s.a, s.b FROM (SELECT *, RANK() OVER (ORDER BY a DESC) AS r FROM dbo.small) s WHERE s.r = "
         "1", [(3, "z")]),
        ("SELECT a FROM dbo.small EXCEPT SELECT 2 ORDER BY a", [(1,), (3,)]),
        ("EXEC('SELECT a FROM dbo.small WHERE b = N''y''')", [(2,)]),
        ("SELECT COUNT(*) FROM dbo.small a, dbo.small b WHERE a.a = b.a", [(3,)]),
        ("SELECT MAX(a) - MIN(a) AS [range of it] FROM dbo.small HAVING COUNT(*) > 2", [(2,)]),
        ("SELECT SUM(a) OVER (PARTITION BY b ORDER BY a ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM dbo.small "
         "ORDER BY 1", [(1,), (2,), (3,)]),
    ],
)  # fmt: skip
def test_queries_and_changes(session: Session, batch: str, expected: list[tuple[Any, ...]] | None) -> None:
    run(session, TABLES + "INSERT INTO dbo.small VALUES (1, N'x'), (2, N'y'), (3, N'z')")
    found = rows(session, batch)
    assert expected is None or found == expected


def test_alter_table(session: Session) -> None:
    run(session, "CREATE TABLE dbo.t (a int, b varchar(5)) WITH (HEAP); INSERT INTO dbo.t VALUES (1, 'x')")
    run(session, "ALTER TABLE dbo.t ADD c int NOT NULL DEFAULT 7, d date")
    run(session, "ALTER TABLE dbo.t ALTER COLUMN a bigint NOT NULL")
    run(session, "ALTER TABLE dbo.t ADD CONSTRAINT u UNIQUE (a) NOT ENFORCED")
    run(session, "INSERT INTO dbo.t (a) VALUES (2)")
    assert rows(session, "SELECT * FROM dbo.t ORDER BY a") == [(1, "x", 7, None), (2, None, 7, None)]
    run(session, "ALTER TABLE dbo.t DROP COLUMN b; RENAME OBJECT dbo.t COLUMN d TO day; RENAME OBJECT dbo.t TO u")
    assert [column.name for column in session.describe("SELECT * FROM dbo.u")] == ["a", "c", "day"]
    run(session, "ALTER TABLE dbo.u DROP CONSTRAINT u")
    with pytest.raises(SqlError):
        run(session, "ALTER TABLE dbo.u ALTER COLUMN a tinyint; INSERT INTO dbo.u (a) VALUES (300)")


def test_views_are_bound_when_made_and_when_read(session: Session) -> None:
    run(session, TABLES)
    run(session, "CREATE VIEW ml.v (k, v) AS SELECT a, COUNT(*) FROM dbo.small GROUP BY a")
    assert [(column.name, str(column.type)) for column in session.describe("SELECT * FROM ml.v")] == [
        ("k", "int"),
        ("v", "int"),
    ]
    with pytest.raises(SqlError):
        run(session, "CREATE VIEW ml.w AS SELECT nothing FROM dbo.small")
    run(session, "DROP TABLE dbo.small")
    with pytest.raises(SqlError) as caught:
        run(session, "SELECT * FROM ml.v")
    assert caught.value.number == 4413


def test_long_conditions_and_sums(session: Session) -> None:
    tests = " OR ".join(f"a = {number}" for number in range(3000))
    total = " + ".join(["1"] * 400)
    run(session, TABLES + "INSERT INTO dbo.small VALUES (2999, N'x')")
    assert rows(session, f"SELECT {total} FROM dbo.small WHERE {tests}") == [(400,)]
    values = ", ".join(f"({number}, N'v{number}')" for number in range(1000))
    run(session, f"INSERT INTO dbo.small VALUES {values}")
    assert rows(session, f"SELECT COUNT(*) FROM dbo.small WHERE a IN ({', '.join(map(str, range(2000)))})") == [(1000,)]
