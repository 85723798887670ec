"""Statements for a serverless pool: (name, batch, what it answers).

The answer is the rows of the last result set, or the number of the error. Sources: the pages of
https://learn.microsoft.com/en-us/azure/synapse-analytics/sql/ that each section names.
"""

from __future__ import annotations

from typing import Any

ROOT = "https://acct.dfs.core.windows.net/lake"
PQ = f"OPENROWSET(BULK '{ROOT}/flights/year=*/month=*/*.parquet', FORMAT = 'PARQUET') AS r"
ONE = f"OPENROWSET(BULK '{ROOT}/flights/year=2013/month=1/p1.parquet', FORMAT = 'PARQUET')"


def csv(path: str, more: str = "", parser: str = "2.0") -> str:
    return f"OPENROWSET(BULK '{ROOT}/{path}', FORMAT = 'CSV', PARSER_VERSION = '{parser}'{more})"


STATEMENTS: list[tuple[str, str, Any]] = [
    # develop-openrowset, query-parquet-files
    ("count reads no column", f"SELECT COUNT(*) FROM {PQ}", [(6,)]),
    ("schema from the file", f"SELECT TOP 1 id, carrier, delay, price FROM {PQ} ORDER BY id", [(1, "AA", 5, "9.50")]),
    ("all columns", f"SELECT * FROM {ONE} AS r ORDER BY id", [(1, "AA", 5, "9.50"), (2, "UA", 4, "9.50")]),
    ("with names", f"SELECT MAX(carrier) FROM {ONE} WITH (carrier varchar(2)) AS r", [("UA",)]),
    ("with another case is null", f"SELECT COUNT(CARRIER) FROM {ONE} WITH (CARRIER varchar(2)) AS r", [(0,)]),
    ("with a path", f"SELECT MAX(c) FROM {ONE} WITH (c varchar(2) '$.carrier') AS r", [("UA",)]),
    ("with a strict path", f"SELECT * FROM {ONE} WITH (c varchar(2) 'strict $.CARRIER') AS r", 13608),
    ("with a wider type", f"SELECT SUM(delay) FROM {ONE} WITH (delay bigint) AS r", [(9,)]),
    ("with a wrong type", f"SELECT * FROM {ONE} WITH (delay varchar(10)) AS r", 15814),
    ("with too short a text", f"SELECT * FROM {ONE} WITH (carrier varchar(1)) AS r", 8152),
    ("column aliases", f"SELECT MAX(b) FROM {ONE} AS r(a, b, c, d)", [("UA",)]),
    # query-specific-files
    (
        "filepath of each wildcard",
        f"SELECT DISTINCT r.filepath(1), r.filepath(2) FROM {PQ} ORDER BY 1, 2",
        [("2013", "1"), ("2013", "2"), ("2014", "1")],
    ),
    ("filepath as a number", f"SELECT COUNT(*) FROM {PQ} WHERE CAST(r.filepath(1) AS int) = 2014", [(2,)]),
    ("filepath in a list", f"SELECT COUNT(*) FROM {PQ} WHERE r.filepath(2) IN ('2', '3')", [(2,)]),
    ("filepath between", f"SELECT COUNT(*) FROM {PQ} WHERE r.filepath(1) BETWEEN '2014' AND '2015'", [(2,)]),
    (
        "filepath grouped",
        f"SELECT r.filepath(1) AS y, COUNT(*) AS n FROM {PQ} GROUP BY r.filepath(1) ORDER BY y",
        [("2013", 4), ("2014", 2)],
    ),
    (
        "filename",
        f"SELECT DISTINCT r.filename() FROM {PQ} ORDER BY 1",
        [("p1.parquet",), ("p2.parquet",), ("p3.parquet",)],
    ),
    (
        "filepath of the file",
        f"SELECT DISTINCT r.filepath() FROM {ONE} AS r",
        [(f"{ROOT}/flights/year=2013/month=1/p1.parquet",)],
    ),
    ("filepath beyond the wildcards", f"SELECT r.filepath(5) FROM {PQ}", 15824),
    ("filepath of another alias", f"SELECT x.filepath(1) FROM {PQ}", 4104),
    (
        "a variable prunes",
        f"DECLARE @y varchar(4) = '2014'; SELECT COUNT(*) FROM {PQ} WHERE r.filepath(1) = @y",
        [(2,)],
    ),
    # query-folders-multiple-csv-files
    ("a folder without its subfolders", f"SELECT COUNT(*) FROM {csv('folder')} WITH (a int) AS r", [(1,)]),
    ("a folder with its subfolders", f"SELECT COUNT(*) FROM {csv('folder/**')} WITH (a int) AS r", [(2,)]),
    ("nothing matches, no schema", f"SELECT * FROM {csv('none/*.csv')} AS r", 15809),
    ("nothing matches, a schema", f"SELECT * FROM {csv('none/*.csv')} WITH (a int) AS r", []),
    ("a file that isn't there", f"SELECT * FROM {csv('none.csv')} WITH (a int) AS r", 13807),
    # query-single-csv-file
    ("inferred without a header", f"SELECT C1, C3 FROM {csv('people.csv')} AS r WHERE C2 = 'Ann'", [("1", "2.5")]),
    (
        "inferred with a header",
        f"SELECT id, score FROM {csv('people.csv', ', HEADER_ROW = TRUE')} AS r ORDER BY id",
        [(1, 2.5), (2, None)],
    ),
    (
        "ordinals",
        f"SELECT n FROM {csv('people.csv', ', FIRSTROW = 2')} WITH (n varchar(10) 2) AS r ORDER BY n",
        [("Ann",), ("Bo,b",)],
    ),
    (
        "another terminator",
        f"SELECT b FROM {csv('semi.txt', chr(44) + chr(32) + 'FIELDTERMINATOR = ' + repr(';'))} WITH (a int, b varchar(5)) AS r",
        [("x",), ("y",)],
    ),
    (
        "a row with fewer fields",
        f"SELECT a, c FROM {csv('ragged.csv')} WITH (a int, b int, c int) AS r ORDER BY a",
        [(1, 3), (4, None)],
    ),
    (
        "several characters between",
        f"SELECT a + b FROM {csv('double.txt', chr(44) + ' FIELDTERMINATOR = ' + repr('||'))} WITH (a int, b int) AS r",
        [(3,)],
    ),
    ("text in a number, parser 2.0", f"SELECT SUM(id) FROM {csv('people.csv')} WITH (id int) AS r", 15813),
    ("text in a number, parser 1.0", f"SELECT SUM(id) FROM {csv('people.csv', parser='1.0')} WITH (id int) AS r", 4864),
    (
        "too long, parser 1.0",
        f"SELECT MAX(n) FROM {csv('people.csv', ', FIRSTROW = 2', '1.0')} WITH (n varchar(2) 2) AS r",
        4863,
    ),
    ("errors allowed", f"SELECT SUM(id) FROM {csv('people.csv', ', MAXERRORS = 1')} WITH (id int) AS r", [(3,)]),
    ("a header needs parser 2.0", f"SELECT * FROM {csv('people.csv', ', HEADER_ROW = TRUE', '1.0')} AS r", 15869),
    (
        "compressed",
        f"SELECT COUNT(*) FROM {csv('small.csv.gz', ', DATA_COMPRESSION = ' + repr('GZIP'), '1.0')} WITH (a int) AS r",
        [(2,)],
    ),
    ("an unknown format", f"SELECT * FROM OPENROWSET(BULK '{ROOT}/people.csv', FORMAT = 'XML') AS r", 15853),
    ("an unknown option", f"SELECT * FROM {csv('people.csv', ', NONSENSE = 1')} AS r", 40517),
    # query-json-files
    (
        "json lines",
        "SELECT JSON_VALUE(doc, '$.k'), JSON_VALUE(doc, '$.t') FROM "
        f"OPENROWSET(BULK '{ROOT}/json/a.jsonl', FORMAT = 'CSV', FIELDTERMINATOR = '0x0b', FIELDQUOTE = '0x0b') "
        "WITH (doc nvarchar(max)) AS r ORDER BY 1",
        [("1", "a,b"), ("2", None)],
    ),
    (
        "a json document",
        "SELECT j.name, j.n FROM "
        f"OPENROWSET(BULK '{ROOT}/json/doc.json', FORMAT = 'CSV', FIELDTERMINATOR = '0x0b', FIELDQUOTE = '0x0b', "
        "ROWTERMINATOR = '0x0b') WITH (doc nvarchar(max)) AS r CROSS APPLY OPENJSON(doc) "
        "WITH (name varchar(20), n int '$.count') AS j ORDER BY j.n",
        [("x", 1), ("y", 2)],
    ),
    # query-parquet-nested-types
    (
        "a nested column is JSON",
        f"SELECT JSON_VALUE(tags, '$[0]') FROM OPENROWSET(BULK '{ROOT}/nested.parquet', FORMAT = 'PARQUET') AS r",
        [("a",)],
    ),
    (
        "a path into a nested column",
        f"SELECT v FROM OPENROWSET(BULK '{ROOT}/nested.parquet', FORMAT = 'PARQUET') WITH (v int '$.place.lat') AS r",
        [(7,)],
    ),
    # query-delta-lake-format
    ("delta", f"SELECT COUNT(*) FROM OPENROWSET(BULK '{ROOT}/delta', FORMAT = 'DELTA') AS r", [(3,)]),
    (
        "delta by partition",
        f"SELECT year, COUNT(*) FROM OPENROWSET(BULK '{ROOT}/delta/', FORMAT = 'DELTA') AS r WHERE year = 2014 GROUP BY year",
        [(2014, 2)],
    ),
    (
        "delta with a schema",
        f"SELECT MAX(name) FROM OPENROWSET(BULK '{ROOT}/delta', FORMAT = 'DELTA') WITH (name varchar(5)) AS r",
        [("c",)],
    ),
    ("not delta", f"SELECT * FROM OPENROWSET(BULK '{ROOT}/flights', FORMAT = 'DELTA') AS r", 13807),
    # develop-tables-external-tables, create-use-views
    (
        "an external table",
        "CREATE EXTERNAL FILE FORMAT pq WITH (FORMAT_TYPE = PARQUET); CREATE EXTERNAL TABLE dbo.x1 (carrier varchar(2), "
        "id int) WITH (LOCATION = 'flights/**', DATA_SOURCE = lake, FILE_FORMAT = pq); SELECT COUNT(*), MAX(carrier) FROM dbo.x1",
        [(6, "UA")],
    ),
    (
        "an external table of text",
        "CREATE EXTERNAL FILE FORMAT txt WITH (FORMAT_TYPE = DELIMITEDTEXT, FORMAT_OPTIONS (FIELD_TERMINATOR = ',', "
        "STRING_DELIMITER = '\"', FIRST_ROW = 2)); CREATE EXTERNAL TABLE dbo.x2 (id int, name varchar(10), score float) "
        "WITH (LOCATION = 'people.csv', DATA_SOURCE = lake, FILE_FORMAT = txt); SELECT name FROM dbo.x2 ORDER BY id",
        [("Ann",), ("Bo,b",)],
    ),
    (
        "an external table of delta",
        "CREATE EXTERNAL FILE FORMAT dlt WITH (FORMAT_TYPE = DELTA); CREATE EXTERNAL TABLE dbo.x3 (id int, year int) WITH "
        "(LOCATION = 'delta', DATA_SOURCE = lake, FILE_FORMAT = dlt); SELECT SUM(id), MAX(year) FROM dbo.x3",
        [(6, 2014)],
    ),
    (
        "a partitioned view",
        f"CREATE VIEW dbo.pv AS SELECT *, CAST(r.filepath(1) AS int) AS yr FROM {PQ}; SELECT COUNT(*) FROM dbo.pv WHERE yr = 2014",
        [(2,)],
    ),
    (
        "cetas",
        "CREATE EXTERNAL FILE FORMAT pq2 WITH (FORMAT_TYPE = PARQUET); CREATE EXTERNAL TABLE dbo.x4 WITH (LOCATION = "
        f"'out/x4', DATA_SOURCE = lake, FILE_FORMAT = pq2) AS SELECT carrier, COUNT(*) AS n FROM {PQ} GROUP BY carrier; "
        "SELECT carrier, n FROM dbo.x4 ORDER BY carrier",
        [("AA", 3), ("UA", 3)],
    ),
    (
        "cetas into a folder that is there",
        "CREATE EXTERNAL FILE FORMAT pq3 WITH (FORMAT_TYPE = PARQUET); CREATE EXTERNAL TABLE dbo.x5 WITH (LOCATION = "
        "'flights', DATA_SOURCE = lake, FILE_FORMAT = pq3) AS SELECT 1 AS a",
        15842,
    ),
    # overview-features: what there is
    (
        "offset and fetch",
        "SELECT a FROM (VALUES (1),(2),(3)) v(a) ORDER BY a OFFSET 1 ROWS FETCH NEXT 1 ROWS ONLY",
        [(2,)],
    ),
    ("choose", "SELECT CHOOSE(2, 'a', 'b')", [("b",)]),
    (
        "a recursive table",
        "WITH n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT SUM(i) FROM n",
        40517,
    ),
    (
        "a temporary table",
        "CREATE TABLE #t (a int); INSERT INTO #t VALUES (1),(2); UPDATE #t SET a = a + 1; SELECT SUM(a) FROM #t",
        [(5,)],
    ),
    (
        "select into a temporary table",
        "SELECT name INTO #s FROM sys.schemas WHERE name = 'dbo'; SELECT * FROM #s",
        [("dbo",)],
    ),
    (
        "a procedure that returns",
        "EXEC('CREATE PROCEDURE dbo.p1 @a int AS IF @a > 1 RETURN 7; RETURN 3'); DECLARE @r int; EXEC @r = dbo.p1 2; SELECT @r",
        [(7,)],
    ),
    (
        "continue",
        "DECLARE @i int = 0, @s int = 0; WHILE @i < 5 BEGIN SET @i += 1; IF @i = 3 CONTINUE; SET @s += @i END; SELECT @s",
        [(12,)],
    ),
    ("names of three parts", "SELECT COUNT(*) FROM demo.dbo.three", [(3,)]),
    ("another database", "CREATE DATABASE other; EXEC('USE other; SELECT DB_NAME()')", [("other",)]),
    (
        "a definition rolled back",
        "USE demo; BEGIN TRAN; EXEC('CREATE VIEW dbo.gone AS SELECT 1 AS a'); ROLLBACK; SELECT COUNT(*) FROM sys.views WHERE name = 'gone'",
        [(0,)],
    ),
    ("a schema", "EXEC('CREATE SCHEMA s1'); EXEC('CREATE VIEW s1.v AS SELECT 5 AS a'); SELECT a FROM s1.v", [(5,)]),
    (
        "collation of a column",
        f"SELECT COUNT(*) FROM {ONE} WITH (carrier varchar(2) COLLATE Latin1_General_100_BIN2_UTF8) AS r WHERE carrier = 'aa'",
        [(0,)],
    ),
    (
        "no collation of a column",
        f"SELECT COUNT(*) FROM {ONE} WITH (carrier varchar(2)) AS r WHERE carrier = 'aa'",
        [(1,)],
    ),
    (
        "budgets are configuration",
        "EXEC sp_set_data_processed_limit @type = N'weekly', @limit_tb = 3; SELECT value FROM sys.configurations WHERE name = 'Data processed weekly limit in TB'",
        [(3,)],
    ),
    ("a budget out of range", "EXEC sp_set_data_processed_limit @type = N'daily', @limit_tb = -1", 15848),
    (
        "what ran",
        "SELECT 41 AS looked_for; SELECT TOP 1 status, command FROM sys.dm_exec_requests_history WHERE query_text LIKE '%41 AS looked[_]for%'",
        [("Succeeded", "SELECT")],
    ),
    # overview-features: what is refused
    ("create table", "CREATE TABLE dbo.t (a int)", 15868),
    ("create table as select", "CREATE TABLE dbo.t WITH (DISTRIBUTION = ROUND_ROBIN) AS SELECT 1 AS a", 15868),
    ("select into a table", "SELECT 1 AS a INTO dbo.t", 15868),
    ("truncate", "TRUNCATE TABLE dbo.t", 15868),
    ("alter table", "ALTER TABLE dbo.t ADD b int", 15868),
    ("copy into", f"COPY INTO dbo.t FROM '{ROOT}/people.csv'", 15868),
    ("rename", "RENAME OBJECT dbo.three TO four", 15868),
    ("insert into an external table", "INSERT INTO dbo.ext VALUES (1)", 46519),
    ("update an external table", "UPDATE dbo.ext SET id = 1", 46519),
    ("delete from a view", "DELETE FROM dbo.three", 4406),
    ("merge", "MERGE INTO dbo.ext AS t USING (SELECT 1 AS id) AS s ON t.id = s.id WHEN MATCHED THEN DELETE;", 46519),
    ("a materialised view", "CREATE MATERIALIZED VIEW dbo.mv WITH (DISTRIBUTION = HASH(a)) AS SELECT 1 AS a", 15868),
    ("an index", "CREATE INDEX i ON dbo.ext (id)", 15868),
    ("a label", "SELECT 1 OPTION (LABEL = 'x')", 15874),
    ("a table hint", "SELECT * FROM dbo.three WITH (NOLOCK)", 15873),
    ("grouping sets", "SELECT a, COUNT(*) FROM dbo.three GROUP BY GROUPING SETS ((a), ())", 15868),
    ("a query in while", "WHILE (SELECT COUNT(*) FROM dbo.three) < 0 PRINT 'x'", 15876),
    (
        "files with a temporary table",
        f"CREATE TABLE #m (id int); SELECT COUNT(*) FROM {PQ} JOIN #m ON r.id = #m.id",
        15816,
    ),
    ("files into a temporary table", f"SELECT id INTO #n FROM {PQ}", 15816),
    ("files with a catalogue view", f"SELECT COUNT(*) FROM {PQ} CROSS JOIN sys.objects", 15816),
    ("statistics of two columns", "CREATE STATISTICS st ON dbo.ext (id, carrier)", 15846),
    ("an external table in master", "USE master; CREATE EXTERNAL FILE FORMAT pqm WITH (FORMAT_TYPE = PARQUET)", 15896),
    ("a database that isn't there", "USE nowhere", 911),
    ("a workload group", "USE demo; CREATE WORKLOAD GROUP g WITH (MIN_PERCENTAGE_RESOURCE = 0)", 15868),
    ("a table variable", "DECLARE @t TABLE (a int)", 103010),
    (
        "an inline table function",
        "EXEC('CREATE FUNCTION dbo.by_year (@y varchar(4)) RETURNS TABLE AS RETURN (SELECT r.id FROM "
        f"{PQ.replace(chr(39), chr(39) * 2)} WHERE r.filepath(1) = @y)'); SELECT COUNT(*) FROM dbo.by_year('2014')",
        [(2,)],
    ),
    ("no scalar function", "CREATE FUNCTION dbo.sc (@x int) RETURNS int AS BEGIN RETURN @x END", 15868),
    (
        "collation of a database",
        "CREATE DATABASE bin2 COLLATE Latin1_General_100_BIN2_UTF8; USE bin2; SELECT COUNT(*) FROM "
        f"{ONE} AS r WHERE carrier = 'aa'",
        [(0,)],
    ),
    ("deletion vectors", f"SELECT * FROM OPENROWSET(BULK '{ROOT}/vectors', FORMAT = 'DELTA') AS r", 40517),
    ("partitions without a value", f"SELECT * FROM OPENROWSET(BULK '{ROOT}/nulls', FORMAT = 'DELTA') AS r", 13807),
]
